"""Loading and saving a MoEE model: the backbone's weights, and what makes embeddings of them."""

from __future__ import annotations

import copy
import os
import threading
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.dynamic_module_utils import custom_object_save
from transformers.initialization import no_init_weights
from transformers.utils import cached_file, logging

from .configuration_moee import MoEEConfig, resolve_config, resolve_source
from .prompts_moee import TokenizerNotFoundError, load_tokenizer
from .routing_moee import backbone_class

logger = logging.get_logger(__name__)

STATISTICS_NAME = "statistics.safetensors"
_HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# the fields of MoEEConfig that a caller chooses; the others are found in the backbone or set with the statistics
_CHOICES = MoEEConfig.__annotations__.keys() - {"backbone_config", "router_shape", "calibrated"}
_tokenizer_lock = threading.Lock()


class MoEEPreTrainedModel(PreTrainedModel):
    """Loading and saving: the backbone's weights go in and out as transformers has them for the backbone itself."""

    config_class = MoEEConfig
    base_model_prefix = "model"
    model_tags = ["moee", "mixture-of-experts", "feature-extraction"]
    # whatever is asked of the wrapper, the backbone checks for itself
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    tokenizer_kwargs: dict[str, Any]
    _tokenizer: PreTrainedTokenizerBase | None

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
            pretrained_model_name_or_path: Folder or Hub id; `"embedded"` is the small backbone in the package.
            config: In place of the configuration at the source: a `MoEEConfig`, that of a backbone, or where to find
                either.
            output_loading_info: Whether to return transformers' report on the weights too.
            kwargs: Those that transformers takes for the backbone, whose names of modules and weights they use
                (`dtype`, `device_map`, `attn_implementation`, `experts_implementation`, `quantization_config`,
                `revision`, ...), and choices of `MoEEConfig`.

        Raises:
            UnsupportedBackboneError: If the checkpoint has no routers that MoEE can read.
            ValueError: If the checkpoint lacks weights of the backbone.
        """
        source = resolve_source(pretrained_model_name_or_path)
        hub_kwargs = {name: kwargs[name] for name in _HUB_KWARGS if name in kwargs}
        fields = {name: kwargs.pop(name) for name in _CHOICES if name in kwargs}
        config = resolve_config(source if config is None else config, **hub_kwargs)
        for name, value in fields.items():
            setattr(config, name, value)
        cls.without_weights(config)  # a backbone that MoEE refuses is refused before its weights are fetched
        try:
            backbone, info = backbone_class(config.backbone_config).from_pretrained(
                source, config=config.backbone_config, output_loading_info=True, **kwargs
            )
        except SafetensorError as error:
            raise ValueError(
                f"{source}: expected whole safetensors files; got one that cannot be read ({error}). Fetch it again."
            ) from error
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"{source}: expected all weights of a {config.backbone_config.model_type} backbone; {len(missing)} "
                f"are missing, the first {missing[0]!r}, and would be random. Load the complete checkpoint that its "
                "config.json describes."
            )
        config.name_or_path = source
        model = cls(config, backbone).eval()
        if config.calibrated:
            model.set_statistics(**load_file(cached_file(source, STATISTICS_NAME, **hub_kwargs)))
        model.tokenizer_kwargs = hub_kwargs | {"trust_remote_code": kwargs.get("trust_remote_code")}
        return (model, info) if output_loading_info else model

    @classmethod
    def without_weights(cls, config: MoEEConfig) -> Any:
        """Build a model on the meta device: its shapes, without memory or time for its weights."""
        config = copy.deepcopy(config)
        with torch.device("meta"), no_init_weights():
            return cls(config, backbone_class(config.backbone_config)._from_config(config.backbone_config))

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save weights, statistics, configuration, code and tokenizer: `AutoModel` needs this package no more.

        Args:
            save_directory: The folder; made if it is not there.
            is_main_process: Whether this process writes what is not weights.
            state_dict: Weights in place of the model's own, by their names in this model.
            push_to_hub: Not here; `push_to_hub` is a method.
            kwargs: Those of `PreTrainedModel.save_pretrained`.

        Raises:
            ValueError: If `push_to_hub` is true.
        """
        if push_to_hub:
            raise ValueError("save_pretrained: expected push_to_hub=False; use model.push_to_hub(repo_id).")
        if state_dict is not None:
            prefix = f"{self.base_model_prefix}."
            state_dict = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        self.model.save_pretrained(save_directory, is_main_process=is_main_process, state_dict=state_dict, **kwargs)
        if not is_main_process:
            return
        if self.config.calibrated:
            save_file(self.statistics.state_dict(), Path(save_directory, STATISTICS_NAME), metadata={"format": "pt"})
        self.config.architectures = [type(self).__name__]
        custom_object_save(self, save_directory, config=self.config)
        self.config.save_pretrained(save_directory)
        try:
            self.tokenizer.save_pretrained(save_directory)
        except TokenizerNotFoundError as error:
            logger.warning(f"{save_directory}: saved without a tokenizer. {error}")

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the source that the model was loaded from, loaded at first use; another can be set.

        Raises:
            TokenizerNotFoundError: If the source has none.
        """
        with _tokenizer_lock:
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(self.name_or_path, **self.tokenizer_kwargs)
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
