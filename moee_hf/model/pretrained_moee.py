"""Loading and saving a MoEE model: the backbone's weights, and what makes embeddings of them."""

from __future__ import annotations

import copy
import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights

from .adapters_moee import has_adapters, without_adapters
from .arguments_moee import check_arguments, check_fields, in_one_sentence, set_backbone_fields
from .backbone_moee import backbone_class
from .configuration_moee import CHOICE_FIELDS, MoEEConfig, resolve_config
from .digests_moee import check_files, check_weights_of
from .experts_moee import use_fast_experts
from .fitted_moee import check_calibrated
from .functional_moee import check_flag
from .hub_moee import resolve_commit, resolve_source
from .inputs_moee import input_device
from .quantization_moee import check_quantization, check_saving, make_picklable, ready_made, warn_of_whole_experts
from .repository_moee import check_base, check_push, push_files, read_statistics, write_repository
from .saving_moee import files_in, written_aside
from .tokenizer_moee import DamagedTokenizerError, TokenizerNotFoundError, load_tokenizer
from .weights_moee import load_backbone

_HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_PUSH_KWARGS = ("repo_id", "private", "token", "revision", "create_pr", "commit_message", "commit_description")
_tokenizer_lock = threading.Lock()


@dataclass(frozen=True)
class Origin:
    """Where a model was loaded from; all is empty for one that was made in memory.

    Args:
        source: Folder or Hub id.
        hub_kwargs: How the Hub was asked (`revision`, `token`, `cache_dir`, ...), for files that are fetched later.
        base: The repository on the Hub whose root holds exactly the weights, and its commit. None: there is none.
        files: Which weights of the source were asked for, where these are not the usual ones.
    """

    source: str = ""
    hub_kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)  # a token is among them
    base: tuple[str, str] | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def revision(self) -> str | None:
        """Commit of the source on the Hub. None: it is a folder."""
        return self.hub_kwargs.get("revision")


class MoEEPreTrainedModel(PreTrainedModel):
    """Loading and saving: the backbone's weights go in and out as transformers has them for the backbone itself."""

    config_class = MoEEConfig
    base_model_prefix = "model"
    model_tags = ["moee", "mixture-of-experts", "feature-extraction"]
    # whatever is asked of the wrapper, the backbone checks for itself
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: MoEEConfig, backbone: PreTrainedModel | None = None):
        super().__init__(config)
        if backbone is None:
            self.without_weights(config)  # what MoEE refuses is refused before memory is spent on it
            backbone = backbone_class(config.backbone_config)._from_config(config.backbone_config)
        self.model = backbone
        self.supports_gradient_checkpointing = backbone.supports_gradient_checkpointing
        config.backbone_config = backbone.config
        self.origin = Origin()
        self._loaded_weights: dict[str, tuple[int, int]] | None = {}
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # transformers looks for an experts class in this module's source; it is in the backbone's
        return True

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        config: Any = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a MoEE repository, or any plain MoE checkpoint, from a folder or the Hub.

        Args:
            pretrained_model_name_or_path: Folder or Hub id, or a name that an installed package registered for a
                folder of its own.
            config: In place of the configuration at the source: a `MoEEConfig`, that of a backbone, or where to find
                either.
            output_loading_info: Whether to return transformers' report on the weights too.
            kwargs: Those that transformers takes for the backbone, whose names of modules and weights they use
                (`dtype`, `device_map`, `attn_implementation`, `experts_implementation`, `quantization_config`,
                `revision`, ...), fields of the backbone's configuration, and choices of `MoEEConfig`.
                `quantization_config` may also be a name, `"nf4"`, `"fp8"` or `"int8"`: experts in 4 or 8 bits. With
                `verify_weights=True` weights are compared with their digests too, as other files of a saved model
                always are; those of a reference with what the Hub knows of them.

        Raises:
            UnsupportedBackboneError: If the checkpoint has no routers that MoEE can read.
            OSError: If the source is not there, cannot be fetched, or is damaged.
            ValueError: If the checkpoint lacks weights of the backbone, no argument has such a name, or one has no
                such value.
        """
        source = resolve_source(pretrained_model_name_or_path)
        verify_weights = kwargs.pop("verify_weights", False)
        check_flag("verify_weights", verify_weights)
        check_flag("output_loading_info", output_loading_info)
        # configuration, weights, statistics and tokenizer come from one commit, whatever is pushed meanwhile
        kwargs["revision"] = resolve_commit(source, **kwargs)
        hub_kwargs = {name: kwargs[name] for name in _HUB_KWARGS if name in kwargs}
        files = {name: str(kwargs[name]) for name in ("gguf_file", "subfolder", "variant") if kwargs.get(name)}
        if config is None:
            config = resolve_config(source, **hub_kwargs)
            digests = config.digests
        else:  # a config given as path or id is resolved without this source's revision
            config = resolve_config(config, **hub_kwargs | {"revision": None})
            digests = config.digests if str(config.name_or_path) == source else None  # AutoModel gives the source's
        if verify_weights and not digests:
            raise ValueError(f"verify_weights: expected digests in the config.json of {source!r}; there are none.")
        check_files(source, digests or {}, verify_weights, **hub_kwargs)
        config.digests = None  # which are of the files, not of this model
        config.choose(**{name: kwargs.pop(name) for name in sorted(CHOICE_FIELDS & kwargs.keys())})
        if config.standardize:
            check_calibrated(config.calibrated)
        set_backbone_fields(config.backbone_config, kwargs)
        check_arguments(kwargs, config.backbone_config, CHOICE_FIELDS)
        check_fields("from_pretrained", kwargs)
        quantization, experts = kwargs.get("quantization_config"), kwargs.get("experts_implementation")
        check_quantization(quantization, config.backbone_config, experts)
        config.name_or_path = source
        hub_kwargs["trust_remote_code"] = kwargs.get("trust_remote_code")
        try:
            tokenizer = load_tokenizer(source, **hub_kwargs)
        except DamagedTokenizerError:
            raise
        except (TokenizerNotFoundError, OSError):  # which is said when it is asked for
            tokenizer = None
        empty = cls.without_weights(config)  # a backbone that MoEE refuses is refused before its weights are fetched
        if isinstance(quantization, str):
            kwargs["quantization_config"] = ready_made(quantization, empty.model)
        with in_one_sentence("from_pretrained: expected arguments that transformers can load a model with"):
            loaded = load_backbone(source, config, **kwargs)
        if verify_weights and config.base_model_name_or_path is not None:
            check_weights_of(config.base_model_name_or_path, config.base_model_revision, **hub_kwargs)
        make_picklable(loaded.backbone)
        warn_of_whole_experts(loaded.backbone)
        if experts is None:
            use_fast_experts(loaded.backbone)
        model = cls(config, loaded.backbone).eval()
        if config.calibrated:
            model.statistics.store(config.hidden_size, config.router_shape, **read_statistics(source, **hub_kwargs))
            model.statistics.to(input_device(model))
        model._tokenizer = tokenizer
        model.origin = Origin(source, hub_kwargs, loaded.base, files)
        model._loaded_weights = _weight_fingerprint(loaded.backbone)
        return (model, loaded.info) if output_loading_info else model

    @classmethod
    def without_weights(cls, config: MoEEConfig) -> Any:
        """Build a model on the meta device: its shapes, without memory or time for its weights."""
        config = copy.deepcopy(config)
        with torch.device("meta"), no_init_weights():
            kind = backbone_class(config.backbone_config)
            where = f"{config.name_or_path!r}: " if config.name_or_path else ""
            expected = f"{where}MoEEConfig.backbone_config: expected a configuration of which a model can be built"
            with in_one_sentence(expected):
                backbone = kind._from_config(config.backbone_config)
            return cls(config, backbone)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save weights, statistics, configuration, code and tokenizer: `AutoModel` needs this package no more.

        They take the place of a model that was saved there, all at once: a save that is killed leaves the earlier
        model, or none.

        Args:
            save_directory: The folder; made if it is not there.
            is_main_process: Whether this process writes what is not weights.
            state_dict: Weights in place of the model's own, by their names in this model.
            push_to_hub: Whether to push the files that it writes to the Hub too.
            kwargs: Those of `PreTrainedModel.save_pretrained`, and to push, `repo_id` (default: the name of the
                folder) and those of `push_to_hub`.
        """
        check_flag("push_to_hub", push_to_hub)
        if push_to_hub:
            push_kwargs = {name: kwargs.pop(name) for name in _PUSH_KWARGS if name in kwargs}
            push_kwargs["repo_id"] = push_kwargs.get("repo_id") or Path(save_directory).name
            if is_main_process:
                check_push(push_kwargs["repo_id"], push_kwargs.get("token"))
        if state_dict is not None:
            prefix = f"{self.base_model_prefix}."
            state_dict = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        if state_dict is not None and has_adapters(self.model):
            raise ValueError(
                "state_dict: expected None for a model with adapters, which are merged into its own; got weights. "
                "Leave it out, or merge the adapters with PEFT (merge_and_unload) first."
            )
        backbone, merged = without_adapters(self.model)
        check_saving(backbone)
        options = {"state_dict": state_dict if merged is None else merged, **kwargs}
        if not is_main_process:
            backbone.save_pretrained(save_directory, is_main_process=False, **options)
            return
        with written_aside(save_directory) as folder:
            backbone.save_pretrained(folder, **options)
            config = copy.deepcopy(self.config)
            config.base_model_name_or_path = config.base_model_revision = None
            config.backbone_config = copy.deepcopy(backbone.config)  # which knows the dtype of the weights
            write_repository(self, config, folder)
            names = files_in(folder)
        if push_to_hub:
            push_files(self, save_directory, names, **push_kwargs)

    def save_reference(
        self,
        save_directory: str | os.PathLike[str],
        base_model_name_or_path: str | None = None,
        base_model_revision: str | None = None,
    ) -> None:
        """Save all but the weights, which are loaded from the backbone's own repository, pinned to its current commit.

        They are whole there: a quantizer that this model was loaded with is chosen anew by who loads the reference.

        Args:
            save_directory: The folder; made if it is not there.
            base_model_name_or_path: The repository on the Hub with exactly this backbone. None: where this model was
                loaded from.
            base_model_revision: Its branch, tag or commit; stored as the commit that it is now. None: the commit that
                this model was loaded from, or with a repository given, its newest.

        Raises:
            OSError: If the Hub cannot say which commit that is.
            ValueError: If the model was loaded from a folder and no repository is given, or its weights were changed.
        """
        base, revision = base_model_name_or_path, base_model_revision
        if base is None and self.origin.base is not None:
            base, loaded = self.origin.base
            revision = revision or loaded
        if has_adapters(self.model) or (base_model_name_or_path is None and base is not None and self.weights_changed):
            raise ValueError(
                "save_reference: expected the weights as they were loaded; they were changed since, which a reference "
                "cannot hold. Use save_pretrained, or push_to_hub without reference=True."
            )
        if base is None or os.path.exists(base):
            raise ValueError(
                "save_reference: expected a model whose weights are those in the root of a repository on the Hub; "
                f"this one comes from {base or self.name_or_path or 'memory'!r}. Name the repository that has exactly "
                "these weights: base_model_name_or_path=..."
            )
        token = self.origin.hub_kwargs.get("token")
        commit = resolve_commit(base, "save_reference: ", revision=revision, token=token)
        if base_model_name_or_path is not None:  # else the weights are from there
            check_base(base, commit, token)
        config = copy.deepcopy(self.config)
        config.base_model_name_or_path, config.base_model_revision = base, commit
        # as it is there: without what was chosen, or changed by a quantizer, while loading
        config.backbone_config = resolve_config(base, revision=commit, token=token).backbone_config
        with written_aside(save_directory) as folder:
            write_repository(self, config, folder)

    def push_to_hub(self, repo_id: str, *, reference: bool = False, **kwargs: Any) -> Any:
        """Push the model to the Hub.

        Args:
            repo_id: The repository; made if it is not there.
            reference: Whether to push what `save_reference` saves, kilobytes, in place of `save_pretrained`.
            kwargs: Those of `PreTrainedModel.push_to_hub`.
        """
        check_flag("reference", reference)
        # for a reference transformers' own size of shards says nothing
        size = {"max_shard_size": kwargs.pop("max_shard_size")} if "max_shard_size" in kwargs else {}
        check_push(repo_id, kwargs.get("token"))
        with tempfile.TemporaryDirectory() as folder:
            (self.save_reference if reference else self.save_pretrained)(folder, **size)
            return push_files(self, folder, files_in(folder), repo_id, **kwargs)

    @property
    def weights_changed(self) -> bool:
        """Whether a weight was written to, or replaced, since the model was loaded."""
        return _weight_fingerprint(self.model) != self._loaded_weights

    def __getstate__(self) -> dict[str, Any]:
        # where weights lie in memory is nothing of the model: equal ones have equal pickles, by which caches know them
        return vars(self) | {"_loaded_weights": {} if self.weights_changed else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._loaded_weights is None:
            self._loaded_weights = _weight_fingerprint(self.model)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the source that the model was loaded from; another can be set.

        Raises:
            TokenizerNotFoundError: If the source has none.
            OSError: If it is damaged, or the Hub cannot be reached.
        """
        if self._tokenizer is None:
            with _tokenizer_lock:
                if self._tokenizer is None:
                    self._tokenizer = load_tokenizer(self.name_or_path, **self.origin.hub_kwargs)
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer


def _weight_fingerprint(backbone: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """Identity and in-place version of every weight, to detect changes; offloaded weights are skipped."""
    weights = backbone.named_parameters()
    return {name: (id(weight), weight._version) for name, weight in weights if not weight.is_meta}
