"""What vLLM calls in each of its processes: the entry point `vllm.general_plugins`."""

from __future__ import annotations

# the name that `--hf-overrides` gives a plain checkpoint
ARCHITECTURE = "MoEEForEmbedding"
# of tokenizer and renderer, which are chosen together; vLLM writes it in small letters
MODE = "moee"


def register() -> None:
    """Let vLLM know MoEE's repositories, model and prompts; a second call changes nothing."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry
    from vllm.transformers_utils import config

    from .configuring import BackboneConfigParser, MoEEModelConfig

    if ARCHITECTURE in ModelRegistry.get_supported_archs():
        return
    # by name: importing a model before vLLM forks its processes would start CUDA too early
    ModelRegistry.register_model(ARCHITECTURE, f"{__package__}.model:{ARCHITECTURE}")
    MODELS_CONFIG_MAP[ARCHITECTURE] = MoEEModelConfig
    # in place of the one for all of transformers' configurations, which it is for all others; `register_config_parser`
    # would warn of that in each process
    config._CONFIG_FORMAT_TO_CONFIG_PARSER["hf"] = BackboneConfigParser
    TokenizerRegistry.register(MODE, "vllm.tokenizers.hf", "CachedHfTokenizer")
    RENDERER_REGISTRY.register(MODE, f"{__package__}.prompts", "MoEERenderer")
