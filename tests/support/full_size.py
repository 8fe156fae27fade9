"""Configurations of full-size models as their authors publish them, by the names of the recipes where there is one."""

import json
from pathlib import Path

from transformers import CONFIG_MAPPING

from moee_hf import EMBEDDED, MoEEConfig

# of each: its architecture, and the fields in which it differs from transformers' defaults for that
FULL_SIZE = {
    "deepseek-moe-16b": ("deepseek", {}),
    "deepseek-v2-lite": (
        "deepseek_v2",
        dict(
            hidden_size=2048,
            num_hidden_layers=27,
            num_attention_heads=16,
            num_key_value_heads=16,
            q_lora_rank=None,
            kv_lora_rank=512,
            intermediate_size=10944,
            moe_intermediate_size=1408,
            n_routed_experts=64,
            n_shared_experts=2,
            num_experts_per_tok=6,
            first_k_dense_replace=1,
            vocab_size=102400,
        ),
    ),
    "deepseek-v3": (
        "deepseek_v3",
        dict(
            hidden_size=7168,
            num_hidden_layers=61,
            num_attention_heads=128,
            intermediate_size=18432,
            moe_intermediate_size=2048,
            n_routed_experts=256,
            num_experts_per_tok=8,
            first_k_dense_replace=3,
            vocab_size=129280,
        ),
    ),
    "gpt-oss-20b": (
        "gpt_oss",
        dict(
            hidden_size=2880,
            num_hidden_layers=24,
            num_attention_heads=64,
            num_key_value_heads=8,
            head_dim=64,
            num_local_experts=32,
            intermediate_size=2880,
            num_experts_per_tok=4,
            vocab_size=201088,
            quantization_config={"quant_method": "mxfp4"},
        ),
    ),
    "granite-3.1-1b-a400m": (
        "granitemoe",
        dict(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            num_key_value_heads=8,
            intermediate_size=512,
            num_local_experts=32,
            num_experts_per_tok=8,
            vocab_size=49155,
            tie_word_embeddings=True,
        ),
    ),
    "mixtral-8x7b": ("mixtral", {}),
    "olmoe-1b-7b": ("olmoe", dict(intermediate_size=1024, num_experts=64)),
    "phi-3.5-moe": (
        "phimoe",
        dict(
            hidden_size=4096,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            intermediate_size=6400,
            num_local_experts=16,
            num_experts_per_tok=2,
            vocab_size=32064,
        ),
    ),
    "qwen1.5-moe-a2.7b": ("qwen2_moe", {}),
    "qwen3-30b-a3b": (
        "qwen3_moe",
        dict(
            hidden_size=2048,
            num_hidden_layers=48,
            num_attention_heads=32,
            num_key_value_heads=4,
            head_dim=128,
            num_experts=128,
            moe_intermediate_size=768,
            num_experts_per_tok=8,
            vocab_size=151936,
        ),
    ),
}


def write(folder: Path, name: str) -> Path:
    """Write the config.json of a model into a folder, and return the folder."""
    model_type, fields = FULL_SIZE[name]
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **fields}))
    return folder


def config_of(name: str) -> MoEEConfig:
    """Return the configuration of a model; that of `embedded` is the package's own."""
    if name == "embedded":
        return MoEEConfig.from_pretrained(EMBEDDED)
    model_type, fields = FULL_SIZE[name]
    return MoEEConfig(backbone_config=CONFIG_MAPPING[model_type](**fields))
