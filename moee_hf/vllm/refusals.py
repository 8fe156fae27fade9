"""What would give wrong vectors, refused in one sentence before anything is computed."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from vllm import ModelRegistry
from vllm.config import ModelConfig, VllmConfig

from moee_hf import MoEEModel
from moee_hf.model.backbone_moee import UnsupportedBackboneError, layer_to_read
from moee_hf.model.repository_moee import STATISTICS_NAME


def backbone_architecture(hf_config: PreTrainedConfig) -> str:
    """Return vLLM's name of a backbone's architecture.

    Raises:
        UnsupportedBackboneError: If vLLM has none.
    """
    # transformers does not know DeepSeekMoE
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(hf_config.model_type, f"{hf_config.model_type}ForCausalLM")
    # and of some vLLM writes other letters large
    known = {architecture.lower(): architecture for architecture in ModelRegistry.get_supported_archs()}
    if name.lower() not in known:
        raise UnsupportedBackboneError(
            f"vLLM: expected a backbone of text that it has a model of; got {hf_config.model_type!r}. Use "
            "MoEEModel.encode, or `moee serve`."
        )
    return known[name.lower()]


def refuse_model(model_config: ModelConfig, model: MoEEModel) -> None:
    """Raise `ValueError` unless vLLM can give what a model makes its embeddings of.

    Args:
        model_config: That of vLLM.
        model: The model, without weights.
    """
    config = model.config
    name = backbone_architecture(model_config.hf_config)
    info = ModelRegistry.inspect_model_cls([name], model_config)[0]
    if info.supports_multimodal or info.is_hybrid or info.is_attention_free or not model.is_causal:
        raise UnsupportedBackboneError(
            f"vLLM: expected a causal decoder of text with attention in every layer; got {name}. Use "
            "MoEEModel.encode, or `moee serve`."
        )
    if model_config.runner_type != "pooling":
        raise ValueError(f"runner: expected 'pooling' for embeddings; got {model_config.runner_type!r}.")
    if config.hidden_source != "state":
        raise ValueError(
            f"MoEEConfig.hidden_source: expected 'state', as vLLM gives hidden states only; got "
            f"{config.hidden_source!r}. Use MoEEModel.encode, or `moee serve`."
        )
    if layer_to_read(config.hidden_layer, model.readable.num_layers) is not None:
        raise ValueError(
            f"MoEEConfig.hidden_layer: expected -1, as vLLM gives the last hidden state only; got "
            f"{config.hidden_layer}. Use MoEEModel.encode, or `moee serve`."
        )
    if len(templates := config.resolve_prompts()) > 1:
        raise ValueError(
            f"MoEEConfig.default_prompt_name: expected one prompt, as a request to vLLM is one; got {templates!r}. "
            'Choose one: --hf-overrides \'{"moee": {"default_prompt_name": "prompteol"}}\'.'
        )
    if model_config.pooler_config.enable_chunked_processing:
        raise ValueError(
            "pooler_config.enable_chunked_processing: expected False, as a mean over parts of a text is not its "
            "embedding; got True. Texts that are too long are cut at their end."
        )
    if config.base_model_name_or_path is None:
        _refuse_gguf(Path(model_config.model))


def _refuse_gguf(folder: Path) -> None:
    weights = {path.name for path in folder.glob("*.safetensors")} - {STATISTICS_NAME}
    if not weights and any(folder.glob("*.gguf")):
        raise ValueError(
            f"{str(folder)!r}: expected weights in safetensors; got GGUF. Save them so, and serve that folder: "
            f"MoEEModel.from_pretrained({str(folder)!r}).save_pretrained('folder')."
        )


def refuse_engine(vllm_config: VllmConfig) -> None:
    """Raise `ValueError` for ways to run a model in which a process does not see all routers of all tokens."""
    parallel, scheduler = vllm_config.parallel_config, vllm_config.scheduler_config
    alone = {
        "pipeline_parallel_size": parallel.pipeline_parallel_size,
        "data_parallel_size": parallel.data_parallel_size,
        "prefill_context_parallel_size": parallel.prefill_context_parallel_size,
        "decode_context_parallel_size": parallel.decode_context_parallel_size,
    }
    for name, size in alone.items():
        if size > 1:
            raise ValueError(
                f"{name}: expected 1, as one process must see the routers of all layers and tokens; got {size}. "
                "Use tensor_parallel_size, or several servers."
            )
    if parallel.use_ubatching:
        raise ValueError("enable_dbo: expected False, as the halves of a batch would share one buffer; got True.")
    if parallel.enable_hc_sp:
        raise ValueError("enable_hc_sp: expected False, as each process would see a part of the tokens; got True.")
    is_mean = vllm_config.model_config.pooler_config.seq_pooling_type == "MEAN"
    for owner, name in ((scheduler, "enable_chunked_prefill"), (vllm_config.cache_config, "enable_prefix_caching")):
        if is_mean and getattr(owner, name):
            raise ValueError(
                f"{name}: expected False with MoEEConfig.pooling 'mean' or 'weightedmean', which take whole texts; "
                "got True. Leave it out."
            )
