"""Configuration of a MoEE model: the backbone's own configuration, and every choice that changes a vector."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from .arguments_moee import (
    as_json_has_it,
    check_arguments,
    check_fields,
    check_spelling,
    in_one_sentence,
    set_backbone_fields,
    unknown_argument,
)
from .choices_moee import COMBINATIONS, check_choice, nearest_name
from .configuration_backbone_moee import MODEL_TYPE, as_backbone_config
from .configuration_reading_moee import SOURCE, errors_of, read_config_dict, saved_fields
from .digests_moee import CONFIG_NAME, digest_of_config
from .fitted_moee import check_calibrated, check_compression
from .functional_moee import Mix
from .prompts_moee import PROMPTS, TEXT, check_template
from .validation_moee import check_field, check_settable, layer_indices, listed


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
        hidden_source: What HS is read from: `"state"`, a hidden state; `"attention"`, what attention blocks add to it,
            summed over them (AlignedWVA, arXiv 2602.01572); or `"values"`, the mean of their values over blocks and
            tokens (VA, there too; tokens are weighted where `pooling` does).
        hidden_layer: The hidden state that is HS, counted as in `hidden_states` of transformers: 0 are the token
            embeddings, k is the output of layer k, -1 is the last layer's after the final norm.
        attention_layers: The attention blocks of the other two sources, counted from the first one (layers without
            attention do not count), negative from the last. None: all.
        router_layers: Which of the backbone's routers make up RW, counted from the first MoE layer (dense layers do
            not count), negative from the last. None: all.
        router_layer_weights: How much each of these counts in the similarity of two RW, >= 0; a layer of weight 0 is
            left out. None: all alike.
        router_activation: `"softmax"`, `"clr"` for the centred log-ratios of these weights, or `"logits"` for the
            router's raw logits.
        router_standardization: What `standardize` does to RW: `"center"` subtracts the mean only, as dividing would
            make an expert whose weight hardly varies count as much as one that varies a lot; `"zscore"` divides, as
            in HS.
        standardize: Whether HS and RW are standardized with the statistics stored in the model.
        calibrated: Whether the model holds such statistics; set by `MoEEModel.set_statistics`.
        calibration: What `MoEEModel.calibrate` fitted them with: `prompt`, `pooling`, `hidden_layer`,
            `router_activation`, ... None: not known.
        router_agreement: How far the routing of each MoE layer agreed with HS on the corpus, as a rank correlation;
            set by `MoEEModel.calibrate`. None: not known.
        dimensions: How many principal components of the corpus an embedding is projected on. None: it is not.
        compression: What the principal components, and the range of int8, were fitted with: `combination`, `alpha`,
            ... None: there are none.
        prompts: Templates by name, each with `{text}` once; those of `prompts_moee.PROMPTS` are always known.
        default_prompt_name: Name of the prompt that `encode` uses when the call names none, or several names, whose
            embeddings are averaged. None: no prompt.
        max_length: The most tokens of a text with its prompt. None: what tokenizer and backbone allow.
        base_model_name_or_path: In a reference repository, the repository on the Hub that the backbone's weights are
            loaded from. None: the weights lie beside this configuration.
        base_model_revision: The commit of that repository.
        digests: SHA-256 of the files beside this configuration that change embeddings, by name; set by
            `MoEEModel.save_pretrained`. None: not known.
        router_shape: MoE layers and experts of the backbone, `[L, E]`; set by the model, which finds them.
        hidden_sizes: Width of HS by `hidden_source`, of those that the backbone has; set by the model too.
    """

    model_type = MODEL_TYPE
    sub_configs = {"backbone_config": AutoConfig}
    # sentence-transformers reads the width of an embedding under this name
    attribute_map = {"projection_dim": "embedding_size"}

    backbone_config: Any = None
    combination: str = "sum"
    alpha: float = 1.0
    pooling: str = "lasttoken"
    hidden_source: str = "state"
    hidden_layer: int = -1
    attention_layers: list[int] | None = None
    router_layers: list[int] | None = None
    router_layer_weights: list[float] | None = None
    router_activation: str = "softmax"
    router_standardization: str = "center"
    standardize: bool = False
    calibrated: bool = False
    calibration: dict[str, Any] | None = None
    router_agreement: list[float] | None = None
    dimensions: int | None = None
    compression: dict[str, Any] | None = None
    prompts: dict[str, str] | None = None
    default_prompt_name: str | list[str] | None = "prompteol"
    max_length: int | None = None
    base_model_name_or_path: str | None = None
    base_model_revision: str | None = None
    digests: dict[str, str] | None = None
    router_shape: Any = None
    hidden_sizes: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.backbone_config = as_backbone_config(self.backbone_config)
        check_fields("MoEEConfig", kwargs)
        check_spelling(kwargs.keys() - vars(PreTrainedConfig).keys(), CHOICE_FIELDS)
        if self.prompts is None:
            self.prompts = {name: PROMPTS[name] for name in ("prompteol", "none")}
        # an empty mapping keeps the implementations that the backbone's configuration already names
        kwargs.setdefault("attn_implementation", {})
        kwargs.setdefault("experts_implementation", {})
        with in_one_sentence("MoEEConfig: expected fields that transformers can read and JSON can hold"):
            super().__post_init__(**kwargs)
            json.dumps(self.to_dict())
        self._check_default_prompt()

    def __setattr__(self, key: str, value: Any) -> None:
        value = as_json_has_it(value)
        check_settable(type(self), self.attribute_map.get(key, key))
        check_field(key, value)
        super().__setattr__(key, float(value) if key == "alpha" else value)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return read_config_dict(super().get_config_dict, pretrained_model_name_or_path, _FIELDS_BESIDE, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        source = kwargs.pop(SOURCE, kwargs.get("name_or_path"))  # AutoConfig has read the file itself
        choices = {name: kwargs.pop(name) for name in sorted(CHOICE_FIELDS & kwargs.keys())}
        return_unused = kwargs.pop("return_unused_kwargs", False)
        check_fields("from_pretrained", kwargs)
        with errors_of(source):
            config, unused = super().from_dict(saved_fields(source, config_dict), return_unused_kwargs=True, **kwargs)
        config.choose(**choices)
        set_backbone_fields(config.backbone_config, unused)
        if return_unused:
            return config, unused
        check_arguments(unused, config.backbone_config, CHOICE_FIELDS)
        return config

    def to_dict(self) -> dict[str, Any]:
        # the backbone as its own config.json has it, without the defaults of every model
        return super().to_dict() | {"backbone_config": self.backbone_config.to_diff_dict()}

    def to_json_string(self, *args: Any, **kwargs: Any) -> str:
        text = super().to_json_string(*args, **kwargs)
        fields = json.loads(text)
        if not fields.get("digests"):
            return text
        fields["digests"][CONFIG_NAME] = digest_of_config(fields)
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        return self.backbone_config.get_text_config(decoder=decoder, encoder=encoder)

    def choose(self, **fields: Any) -> None:
        """Set fields that a caller chooses.

        Raises:
            ValueError: If there is no such field, value or prompt, or there are no statistics to standardize with.
        """
        if unknown := [name for name in fields if name not in CHOICE_FIELDS]:
            expected = f"fields that can be chosen ({', '.join(sorted(CHOICE_FIELDS))})"
            raise unknown_argument("MoEEConfig", unknown[0], CHOICE_FIELDS, expected)
        for name, value in fields.items():
            setattr(self, name, value)
        if "standardize" in fields and self.standardize:
            check_calibrated(self.calibrated)
        self._check_default_prompt()

    def _check_default_prompt(self) -> None:
        try:
            self.resolve_prompts()
        except ValueError as error:
            problem = str(error).removeprefix("prompt_name: ")
            raise ValueError(f"MoEEConfig.default_prompt_name: {problem} Or add it to prompts.") from None

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
        name = "none" if prompt_name is None else prompt_name
        if not isinstance(name, str) or name not in prompts:
            near = nearest_name(name, prompts) if isinstance(name, str) else ""
            raise ValueError(
                f"prompt_name: expected one of {', '.join(map(repr, prompts))}; got {name!r}.{near} Another template "
                "can be given as prompt='... {text} ...'."
            )
        return prompts[name]

    def resolve_prompts(
        self, prompt_name: str | Sequence[str] | None = None, prompt: str | Sequence[str] | None = None
    ) -> list[str]:
        """Return the templates that a call asks for: one, or several whose embeddings are averaged.

        Args:
            prompt_name: The name of a prompt, or several. None: `default_prompt_name`.
            prompt: A template with `{text}` once, or several, in place of prompts by name.

        Raises:
            ValueError: If no prompt has this name, or a template is none.
        """
        if prompt is None:
            asked = self.default_prompt_name if prompt_name is None else prompt_name
            templates = [self.prompt_template(name) for name in listed(asked)]
        else:
            templates = listed(prompt)
            for template in templates:
                check_template("prompt", template)
        if not templates or len(set(templates)) < len(templates):
            raise ValueError(f"prompt: expected one template, or several different ones; got {templates!r}.")
        return templates

    def find_prompts(self, prompt: str | None) -> list[str]:
        """Return the templates that one argument stands for, which may be a name or a template.

        Args:
            prompt: A template if it has `{text}` in it; else a name, or several with `+` between them. None:
                `default_prompt_name`.

        Raises:
            ValueError: As `resolve_prompts`.
        """
        if not isinstance(prompt, str) or TEXT in prompt:
            return self.resolve_prompts(prompt=prompt)
        return self.resolve_prompts(prompt if prompt in self.known_prompts else prompt.split("+"))

    def mix(
        self,
        combination: str | None = None,
        alpha: float | None = None,
        standardize: bool | None = None,
        normalize: bool = False,
    ) -> Mix:
        """Return how one call combines HS and RW: as its arguments say; None: as this configuration says.

        Raises:
            ValueError: If an argument has no such value, or `dimensions` were fitted to other vectors.
        """
        mix = Mix(
            combination=self.combination if combination is None else combination,
            alpha=self.alpha if alpha is None else alpha,
            standardize=self.standardize if standardize is None else standardize,
            normalize=normalize,
            dimensions=self.dimensions,
        )
        if mix.dimensions is not None:
            check_compression(self, mix, "MoEEConfig.dimensions")
        return mix

    @property
    def hidden_size(self) -> int:
        """Width of HS."""
        return (self.hidden_sizes or {}).get(self.hidden_source, self.get_text_config().hidden_size)

    def check_hidden_source(self) -> None:
        """Raise `ValueError` if the backbone has no such `hidden_source`; what it has is known once it is built."""
        if self.hidden_source not in self.hidden_sizes:
            raise ValueError(
                f"MoEEConfig.hidden_source: expected one of {', '.join(map(repr, self.hidden_sizes))}, which MoEE "
                f"finds in a {self.backbone_config.model_type} backbone; got {self.hidden_source!r}."
            )

    @property
    def router_indices(self) -> list[int]:
        """The routers that make up RW, counted from 0, in the order of `router_layers`; none of weight 0.

        Raises:
            ValueError: If `router_layers` names a router that the backbone does not have.
        """
        return [index for index, weight in self._weighted_routers() if weight]

    @property
    def router_weights(self) -> list[float] | None:
        """The weight of each of `router_indices`. None: all count alike."""
        return self.router_layer_weights and [weight for _, weight in self._weighted_routers() if weight]

    def _weighted_routers(self) -> list[tuple[int, float]]:
        if self.router_shape is None:
            raise ValueError(
                "MoEEConfig.router_shape: expected the number of MoE layers and experts; got None. They are known "
                "once the model is built: MoEEModel.without_weights(config).config."
            )
        indices = layer_indices("MoEEConfig.router_layers", self.router_layers, self.router_shape[0], "MoE layers")
        weights = self.router_layer_weights or [1.0] * len(indices)
        if len(weights) != len(indices):
            raise ValueError(
                f"MoEEConfig.router_layer_weights: expected one weight for each of {len(indices)} MoE layers; got "
                f"{len(weights)}. Give as many, or None for layers that all count alike."
            )
        return list(zip(indices, weights, strict=True))

    @property
    def embedding_size(self) -> int:
        """Width of an embedding."""
        return self.embedding_size_for(self.combination) if self.dimensions is None else self.dimensions

    def embedding_size_for(self, combination: str) -> int:
        """Return the width of an embedding combined in this way, before it is projected on `dimensions`."""
        check_choice("combination", combination, COMBINATIONS)
        routing_size = len(self.router_indices) * self.router_shape[1]
        return (combination != "rw") * self.hidden_size + (combination != "hs") * routing_size


# found in the backbone; set with the statistics; of the folder, and where the weights of a reference repository are
_BACKBONE_FIELDS = {"backbone_config", "router_shape", "hidden_sizes"}
STATISTICS_FIELDS = {"calibrated", "calibration", "router_agreement", "compression"}
_FOLDER_FIELDS = {"base_model_name_or_path", "base_model_revision", "digests"}
# what a caller chooses, as arguments of `from_pretrained` or in a recipe
CHOICE_FIELDS = MoEEConfig.__annotations__.keys() - _BACKBONE_FIELDS - STATISTICS_FIELDS - _FOLDER_FIELDS
_FIELDS_BESIDE = CHOICE_FIELDS | STATISTICS_FIELDS


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
