"""From the configuration of a MoEE repository, or of a plain checkpoint, to what vLLM starts with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from vllm.config import ModelConfig, VllmConfig
from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
from vllm.platforms import current_platform
from vllm.transformers_utils.config import HFConfigParser

from moee_hf import MoEEConfig, __version__
from moee_hf.model.weights_moee import resolve_reference

from .loading import SOURCE, load_without_weights
from .plugin import ARCHITECTURE, MODE
from .refusals import backbone_architecture, refuse_engine, refuse_model


class BackboneConfigParser(HFConfigParser):
    """Reads a MoEE repository as its backbone, so that all of vLLM sees the architecture that it runs."""

    def parse(self, model: str | Path, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], PreTrainedConfig]:
        fields, config = super().parse(model, *args, **kwargs)
        if config.model_type == MoEEConfig.model_type:
            config = config.backbone_config
            config.architectures = [ARCHITECTURE]
        return fields, config


class MoEEModelConfig(VerifyAndUpdateConfig):
    """What vLLM asks of an architecture before it starts: defaults, and what is refused."""

    @staticmethod
    def verify_and_update_model_config(model_config: ModelConfig) -> None:
        """Set tokenizer, pooling and widths; of a reference, where its weights are."""
        hf_config = model_config.hf_config
        setattr(hf_config, SOURCE, [model_config.model, model_config.revision])
        model = load_without_weights(model_config)
        refuse_model(model_config, model)
        if model.config.base_model_name_or_path is not None:
            source, arguments = resolve_reference(model.config, token=model_config.hf_token)
            model_config.model, model_config.revision = source, arguments["revision"]
        model_config.tokenizer_mode = MODE
        # encode's vectors are not of length 1, unless they are asked to be
        pooler_config = model_config.pooler_config
        pooler_config.use_activation = bool(pooler_config.use_activation)
        # means are of whole texts: vLLM neither cuts texts in chunks nor reuses a prefix then
        pooler_config.seq_pooling_type = "LAST" if model.config.pooling == "lasttoken" else "MEAN"
        hf_config.embedding_size = model.config.embedding_size
        if fitted := (model.config.compression or {}).get("dimensions"):
            hf_config.matryoshka_dimensions = list(range(1, fitted + 1))
        if hook := _hook_of_backbone(hf_config):
            hook.verify_and_update_model_config(model_config)

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Refuse what would give wrong vectors, and keep compiled code apart from that of the plain backbone."""
        refuse_engine(vllm_config)
        hf_config = vllm_config.model_config.hf_config
        if isinstance(vllm_config.additional_config, dict):
            # part of the key of compiled code
            vllm_config.additional_config = vllm_config.additional_config | {"moee_hf": __version__}
        if current_platform.is_cpu() and hasattr(hf_config, "qk_rope_head_dim"):
            # the kernel for processors turns the heads of DeepSeek wrongly; PyTorch's own code does not
            vllm_config.compilation_config.custom_ops.append("-rotary_embedding")
        if hook := _hook_of_backbone(hf_config):
            hook.verify_and_update_config(vllm_config)


def _hook_of_backbone(hf_config: PreTrainedConfig) -> type[VerifyAndUpdateConfig] | None:
    return MODELS_CONFIG_MAP.get(backbone_architecture(hf_config))
