"""Configuration of a MoEE model: the backbone's own configuration, and every choice that changes a vector."""

from __future__ import annotations

import copy
import json
import os
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, OlmoeConfig, PreTrainedConfig, __version__

from .configuration_deepseek import DeepseekConfig
from .functional_moee import COMBINATIONS, Mix, check_choice
from .hub_moee import hub_errors, optional_file, resolve_commit, resolve_source
from .prompts_moee import PROMPTS, TEXT, check_template
from .validation_moee import check_field

# beside a plain checkpoint: fields of MoEEConfig, but for those that say which backbone it is
FIELDS_NAME = "moee_config.json"


class MoEEConfig(PreTrainedConfig):
    """Configuration of a `MoEEModel`; the defaults are the paper's.

    `MoEEConfig.from_pretrained(source)` also reads the configuration of a plain MoE checkpoint and wraps it. In a
    folder, fields of this class may lie beside that, in `moee_config.json`.

    Args:
        backbone_config: Configuration of the MoE backbone, or the dictionary of one with its `model_type`.
            None: that of OLMoE-1B-7B.
        combination: What the embedding is made of: `"hs"`, `"rw"`, `"concat"` or `"sum"` (section 3.3).
        alpha: Weight of the routing similarity in `"sum"`, >= 0.
        pooling: How token values are pooled to one vector: `"lasttoken"`, `"mean"` or `"weightedmean"`.
        hidden_layer: The hidden state that is HS, counted as in `hidden_states` of transformers: 0 are the token
            embeddings, k is the output of layer k, -1 is the last layer's after the final norm.
        router_layers: Which of the backbone's routers make up RW, counted from the first MoE layer (dense layers do
            not count), negative from the last. None: all.
        router_activation: `"softmax"`, or `"logits"` for the router's raw logits.
        router_standardization: What `standardize` does to RW: `"center"` subtracts the mean only, as dividing would
            make an expert whose weight hardly varies count as much as one that varies a lot; `"zscore"` divides, as
            in HS.
        standardize: Whether HS and RW are standardized with the statistics stored in the model.
        calibrated: Whether the model holds such statistics; set by `MoEEModel.set_statistics`.
        calibration: What `MoEEModel.calibrate` fitted them with: `prompt`, `pooling`, `hidden_layer` and
            `router_activation`. None: not known.
        prompts: Templates by name, each with `{text}` once; `prompteol` and `none` are always known.
        default_prompt_name: Name of the prompt that `encode` uses when the call names none. None: no prompt.
        max_length: The most tokens of a text with its prompt. None: what tokenizer and backbone allow.
        base_model_name_or_path: In a reference repository, the repository on the Hub that the backbone's weights are
            loaded from. None: the weights lie beside this configuration.
        base_model_revision: The commit of that repository.
        router_shape: MoE layers and experts of the backbone, `[L, E]`; set by the model, which finds them.
    """

    model_type = "moee"
    sub_configs = {"backbone_config": AutoConfig}
    # sentence-transformers reads the width of an embedding under this name
    attribute_map = {"projection_dim": "embedding_size"}

    backbone_config: Any = None
    combination: str = "sum"
    alpha: float = 1.0
    pooling: str = "lasttoken"
    hidden_layer: int = -1
    router_layers: list[int] | None = None
    router_activation: str = "softmax"
    router_standardization: str = "center"
    standardize: bool = False
    calibrated: bool = False
    calibration: dict[str, Any] | None = None
    prompts: dict[str, str] | None = None
    default_prompt_name: str | None = "prompteol"
    max_length: int | None = None
    base_model_name_or_path: str | None = None
    base_model_revision: str | None = None
    router_shape: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.backbone_config is None:
            self.backbone_config = OlmoeConfig()
        elif isinstance(self.backbone_config, dict):
            self.backbone_config = backbone_config_from_dict(self.backbone_config)
        elif not isinstance(self.backbone_config, PreTrainedConfig):
            raise ValueError(
                "MoEEConfig.backbone_config: expected the configuration of a backbone, or a dictionary of one; got "
                f"{self.backbone_config!r}."
            )
        if self.prompts is None:
            self.prompts = dict(PROMPTS)
        # an empty mapping keeps the implementations that the backbone's configuration already names
        kwargs.setdefault("attn_implementation", {})
        kwargs.setdefault("experts_implementation", {})
        super().__post_init__(**kwargs)
        self._check_default_prompt()

    def __setattr__(self, key: str, value: Any) -> None:
        check_field(key, value)
        super().__setattr__(key, float(value) if key == "alpha" else value)  # numpy's numbers do not go into json

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        source = resolve_source(pretrained_model_name_or_path)
        kwargs["revision"] = resolve_commit(source, **kwargs)
        with hub_errors(f"{source!r}: ", source, kwargs["revision"]):
            config, unused = super().get_config_dict(source, **kwargs)
        if config == {}:
            is_packed = not os.path.isdir(source) or any(file.endswith(".gguf") for file in os.listdir(source))
            hint = " A GGUF file needs that of its model beside it, and the tokenizer, or config=..." * is_packed
            raise OSError(f"{source!r}: expected a folder with a config.json; there is none in it.{hint}")
        if not isinstance(config, dict):
            raise OSError(f"{source!r}: expected a mapping in its config.json; got {config!r}.")
        if config.get("model_type") == cls.model_type:
            if not isinstance(config.get("backbone_config"), dict):
                raise OSError(f"{source!r}: expected a backbone_config in the config.json of a MoEE model; got none.")
        else:
            fields = _fields_beside(source, **kwargs) if os.path.isdir(source) else {}
            config = fields | {"model_type": cls.model_type, "backbone_config": config}
        if config.get("calibrated"):  # what was calibrated before there was this field
            config.setdefault("router_standardization", "zscore")
        return config, unused

    def to_dict(self) -> dict[str, Any]:
        # the backbone as its own config.json has it, without the defaults of every model
        return super().to_dict() | {"backbone_config": self.backbone_config.to_diff_dict()}

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        return self.backbone_config.get_text_config(decoder=decoder, encoder=encoder)

    def choose(self, **fields: Any) -> None:
        """Set fields that a caller chooses.

        Raises:
            ValueError: If there is no such field, a field has no such value, or no prompt has the default's name.
        """
        if unknown := [name for name in fields if name not in CHOICE_FIELDS]:
            known = ", ".join(sorted(CHOICE_FIELDS))
            raise ValueError(f"MoEEConfig: expected fields that can be chosen ({known}); got {unknown[0]!r}.")
        for name, value in fields.items():
            setattr(self, name, value)
        self._check_default_prompt()

    def _check_default_prompt(self) -> None:
        if (name := self.default_prompt_name) is not None and name not in self.known_prompts:
            raise ValueError(
                f"MoEEConfig.default_prompt_name: expected one of {', '.join(map(repr, self.known_prompts))}; got "
                f"{name!r}. Add a template of this name to prompts."
            )

    @property
    def known_prompts(self) -> dict[str, str]:
        """Templates by name: those of `prompts`, and the built-in ones."""
        return PROMPTS | (self.prompts or {})

    def prompt_template(self, prompt_name: str | None) -> str:
        """Return the template of a prompt.

        Args:
            prompt_name: A name in `prompts`, or a built-in one. None: no prompt.

        Raises:
            ValueError: If no prompt has this name.
        """
        prompts = self.known_prompts
        if (name := "none" if prompt_name is None else prompt_name) not in prompts:
            raise ValueError(
                f"prompt_name: expected one of {', '.join(map(repr, prompts))}; got {name!r}. Another template can be "
                "given as prompt='... {text} ...'."
            )
        return prompts[name]

    def resolve_prompt(self, prompt_name: str | None = None, prompt: str | None = None) -> str:
        """Return the template that a call asks for.

        Args:
            prompt_name: The name of a prompt. None: `default_prompt_name`.
            prompt: A template with `{text}` once, in place of a prompt by name.

        Raises:
            ValueError: If no prompt has this name, or the template is none.
        """
        if prompt is None:
            return self.prompt_template(self.default_prompt_name if prompt_name is None else prompt_name)
        check_template("prompt", prompt)
        return prompt

    def find_prompt(self, prompt: str | None) -> str:
        """Return the template that a name or a template stands for, where one argument may be either.

        Args:
            prompt: A template if it has `{text}` in it, else a name. None: `default_prompt_name`.

        Raises:
            ValueError: As `resolve_prompt`.
        """
        is_template = prompt is not None and TEXT in prompt
        return self.resolve_prompt(prompt=prompt) if is_template else self.resolve_prompt(prompt)

    def mix(
        self,
        combination: str | None = None,
        alpha: float | None = None,
        standardize: bool | None = None,
        normalize: bool = False,
    ) -> Mix:
        """Return how one call combines HS and RW: as its arguments say; None: as this configuration says.

        Raises:
            ValueError: If an argument has no such value.
        """
        return Mix(
            combination=self.combination if combination is None else combination,
            alpha=self.alpha if alpha is None else alpha,
            standardize=self.standardize if standardize is None else standardize,
            normalize=normalize,
        )

    def calibration_key(self, template: str) -> dict[str, Any]:
        """Return what the statistics of a corpus depend on: the template of a prompt, and fields of this."""
        return {
            "prompt": template,
            "pooling": self.pooling,
            "hidden_layer": self.hidden_layer,
            "router_activation": self.router_activation,
        }

    @property
    def hidden_size(self) -> int:
        """Width of HS."""
        return self.get_text_config().hidden_size

    @property
    def router_indices(self) -> list[int]:
        """The routers that make up RW, counted from 0, in the order of `router_layers`.

        Raises:
            ValueError: If `router_layers` names a router that the backbone does not have.
        """
        if self.router_shape is None:
            raise ValueError(
                "MoEEConfig.router_shape: expected the number of MoE layers and experts; got None. They are known "
                "once the model is built: MoEEModel.without_weights(config).config."
            )
        layers = self.router_shape[0]
        selected = range(layers) if self.router_layers is None else self.router_layers
        if bad := [layer for layer in selected if not -layers <= layer < layers]:
            raise ValueError(
                f"MoEEConfig.router_layers: expected numbers from {-layers} to {layers - 1}, as the backbone has "
                f"{layers} MoE layers; got {bad[0]!r}."
            )
        indices = [layer % layers for layer in selected]
        if len(set(indices)) < len(indices):
            raise ValueError(f"MoEEConfig.router_layers: expected each MoE layer once; got {self.router_layers!r}.")
        return indices

    @property
    def embedding_size(self) -> int:
        """Width of an embedding."""
        return self.embedding_size_for(self.combination)

    def embedding_size_for(self, combination: str) -> int:
        """Return the width of an embedding combined in this way."""
        check_choice("combination", combination, COMBINATIONS)
        routing_size = len(self.router_indices) * self.router_shape[1]
        return (combination != "rw") * self.hidden_size + (combination != "hs") * routing_size


# found in the backbone; set with the statistics; where the weights are, of a reference repository
_BACKBONE_FIELDS = {"backbone_config", "router_shape"}
_STATISTICS_FIELDS = {"calibrated", "calibration"}
_REFERENCE_FIELDS = {"base_model_name_or_path", "base_model_revision"}
# what a caller chooses, as arguments of `from_pretrained` or in a recipe
CHOICE_FIELDS = MoEEConfig.__annotations__.keys() - _BACKBONE_FIELDS - _STATISTICS_FIELDS - _REFERENCE_FIELDS


def resolve_config(config: PreTrainedConfig | str | os.PathLike[str], **hub_kwargs: Any) -> MoEEConfig:
    """Return a new `MoEEConfig` that the caller may change.

    Args:
        config: A `MoEEConfig`, the configuration of a backbone, or the folder or Hub id of either.
        hub_kwargs: Those of `PreTrainedConfig.from_pretrained`.
    """
    if not isinstance(config, PreTrainedConfig):
        return MoEEConfig.from_pretrained(config, **hub_kwargs)
    config = copy.deepcopy(config)
    # by model type: remote code can load one class twice
    return config if config.model_type == MoEEConfig.model_type else MoEEConfig(backbone_config=config)


def backbone_config_from_dict(config: dict[str, Any]) -> PreTrainedConfig:
    """Return the configuration object for the content of a backbone's `config.json`.

    Raises:
        ValueError: If the dictionary has no model type, or one that transformers does not know.
    """
    # what belongs to the backbone's repository and would be wrong, or run its code, in ours
    config = {key: value for key, value in config.items() if key not in ("auto_map", "_name_or_path")}
    model_type = config.get("model_type")
    if model_type == DeepseekConfig.model_type:
        return DeepseekConfig.from_dict(config)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"MoEEConfig.backbone_config: expected the model_type of an architecture in transformers {__version__}; "
            f"got {model_type!r}. Architectures that exist as remote code alone are not wrapped; a newer transformers "
            "may carry this one."
        )
    return CONFIG_MAPPING[model_type].from_dict(config)


def _fields_beside(folder: str, **kwargs: Any) -> dict[str, Any]:
    """The fields in `moee_config.json` of a folder with a plain checkpoint."""
    if (path := optional_file(folder, FIELDS_NAME, **kwargs)) is None:
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OSError(f"{path}: expected JSON; {error}. Fetch it again.") from error
    known = CHOICE_FIELDS | _STATISTICS_FIELDS
    if not isinstance(fields, dict) or not fields.keys() <= known:
        raise OSError(f"{path}: expected a mapping of {', '.join(sorted(known))}; got {fields!r}.")
    return fields
