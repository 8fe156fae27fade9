"""A tiny configuration, a few kilobytes of weights, of every architecture: its own defaults with every size shrunk."""

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel

from moee_hf import MoEEConfig, MoEEModel
from moee_hf.info import supported_backbones
from moee_hf.model.backbone_moee import text_model_of

VOCAB, HIDDEN, LAYERS, EXPERTS = 100, 32, 4, 8

# by field name, whatever the architecture
SIZES = {
    # the model
    **dict.fromkeys(("hidden_size", "d_model", "output_dim", "out_hidden_size", "projector_hidden_size"), HIDDEN),
    **dict.fromkeys(("projector_input_dim", "projector_output_dim", "vision_output_dim", "text_hidden_size"), HIDDEN),
    **dict.fromkeys(("adapter_in_dim", "adapter_out_dim", "adapter_input_size", "moe_hidden_size"), HIDDEN),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(("vocab_size", "unpadded_vocab_size", "vocab_size_per_layer_input"), VOCAB),
    **dict.fromkeys(("max_position_embeddings", "model_max_length", "max_source_positions", "rel_extent"), 64),
    **dict.fromkeys(("intermediate_size", "dense_intermediate_size", "intermediate_size_mlp", "ffn_hidden_size"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "mlp_dim", "projection_intermediate_size"), 48),
    **dict.fromkeys(("hidden_size_per_layer_input", "hc_lowrank", "projection_hidden_dim"), 8),
    **dict(depth=2, ple_embed_dim=16, merged_hidden_size=4 * HIDDEN, gated_norm_rank=4, n_layers_per_attn_res_block=2),
    **dict(ngram_vocab_size_base=50, split_ngram_parts=2, make_ngram_vocab_size_divisible_by=2, heads_per_ngram=2),
    # attention
    **dict.fromkeys(("num_attention_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("swa_num_attention_heads", "num_sliding_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "swa_head_dim", "kv_channels", "rotary_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "qk_head_dim"), 16),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_chunk_size", "index_block_size", "d_rel"), 4),
    **dict.fromkeys(("layer_group_size", "no_rope_layer_interval", "global_attn_every_n_layers", "o_groups"), 2),
    # sparse attention is exact only where the budget covers the text, or scores do not tie
    **dict(index_head_dim=16, index_n_heads=32, index_topk=64, index_topk_blocks=2, keep_window_size=16),
    # experts
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "n_group"), 2),
    **dict.fromkeys(("num_expert_group", "zero_expert_num", "encoder_sparse_step", "num_sparse_encoder_layers"), 2),
    **dict.fromkeys(("num_sparse_decoder_layers", "expert_layer_period"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "topk_group"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"), 1),
    **dict.fromkeys(("expert_layer_offset", "decoder_sparse_step"), 1),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "share_expert_dim"), 24),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_experts_intermediate_size"), 24),
    **dict.fromkeys(("moe_shared_expert_intermediate_size",), 24),
    **dict(moe_layer_end_index=LAYERS - 1, router_hidden_size=16, num_nextn_predict_layers=0),
    # state space, linear attention
    **dict.fromkeys(("linear_head_dim", "linear_key_head_dim", "linear_value_head_dim", "mamba_d_state"), 8),
    **dict.fromkeys(("linear_num_heads", "linear_num_value_heads", "mamba_n_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_chunk_size", "chunk_size", "block_size"), 16),
    **dict(linear_num_key_heads=2, mamba_dt_rank=4, ssm_state_size=8, n_groups=2),
    **dict(attn_layer_period=2, attn_layer_offset=1),
    # pictures and sounds, which no test here looks at or listens to
    **dict(image_size=28, num_position_embeddings=16, canvas_length=8, num_mel_bins=16, downsample_hidden_size=8),
    **dict(num_code_groups=2),
}
ALTERNATING = ["linear_attention", "full_attention"] * 2
OCR_TEXT = {
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
}
OCR_VISION = dict(
    downsample_channels=[16, 32],
    global_attn_indexes=[1],
    image_size=64,
    num_hidden_layers=2,
    output_channels=16,
    window_size=2,
)
MROPE = {"rope_type": "default", "rope_theta": 10000.0}
GEMMA = dict(global_head_dim=8, moe_intermediate_size=24, num_experts=EXPERTS, top_k_experts=2)

# by model_type, what the sizes alone do not settle
OVERRIDES = {
    "dbrx": {
        "attn_config": {"clip_qkv": 8.0, "kv_n_heads": 2, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 24, "hidden_size": HIDDEN, "moe_num_experts": EXPERTS, "moe_top_k": 2},
    },
    "deepseek_ocr2_sam_vision_model": OCR_VISION,
    "deepseek_ocr2_text": OCR_TEXT,
    "deepseek_v2": {"topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2},
    "diffusion_gemma_text": GEMMA,
    "doge": {"is_moe": True, "num_experts": 16},
    "dots1": {
        "first_k_dense_replace": 1,
        "n_routed_experts": EXPERTS,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
    },
    "dots3_note_text": {
        **dict(
            head_dim=16, swa_head_dim=16, swa_kv_lora_rank=16, swa_num_attention_heads=4, swa_num_key_value_heads=4
        ),
        **dict(swa_q_lora_rank=16, swa_qk_nope_head_dim=8, swa_v_head_dim=8),
    },
    "dots3_note_vision_encoder": {"mlp_layer_types": ["dense"] * 4},
    "ernie4_5_vl_moe_text": {
        "moe_intermediate_size": [24, 24],
        "rope_parameters": MROPE | {"mrope_section": [1, 1, 2]},
    },
    "flint": {"mlp_only_layers": [0]},
    "gemma4_text": GEMMA | {"enable_moe_block": True},
    "glm4v_moe_text": {"rope_parameters": MROPE | {"mrope_section": [2, 1, 1], "partial_rotary_factor": 1.0}},
    "glm5_next_text": {"index_kpool": 4, "num_key_value_heads": 4, "qk_rope_head_dim": 0},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "hunyuan_v1_moe": {"head_dim": 8},
    "hy_v4_vl_text": {"rope_parameters": MROPE | {"mrope_section": [2, 1, 1]}},
    "inkling_audio": {"mel_vocab_size": 16, "n_mel_bins": 8},
    "inkling_vision": {"patch_size": 4},
    "jetmoe": {"num_key_value_heads": 2},
    "kimi_linear": {"layer_types": ALTERNATING},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mistral4": {
        "head_dim": None,
        "rope_parameters": {
            **dict(
                rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64, beta_slow=1.0
            ),
            **dict(
                max_position_embeddings=256, beta_fast=32.0, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.1
            ),
            **dict(partial_rotary_factor=0.5),
        },
    },
    "muse_spark_audio": {"hidden_sizes": [8, 8, 16, 16]},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"],
        "mtp_layers_block_type": ["full_attention", "moe"],
    },
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 91, "vision_end_token_id": 92},
    "qwen4_exp_text": {
        **dict(indexer_budget=16, indexer_compress_ratio=4, indexer_head_dim=8, indexer_kv_heads=1, indexer_n_heads=2),
        "layer_types": ["linear_attention", "indexed_attention"] * 2,
    },
    "step3p5": {"sliding_window": 4},
    "unlimited_ocr_sam_vision_model": OCR_VISION,
    "unlimited_ocr_text": OCR_TEXT,
    "zaya": {"num_experts_per_tok": 1},
}
# positions of texts over 10 tokens are other ones
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 10,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 3, "decoder_start_token_id": 3}


# models that put any text model inside, with a mixture of experts inside
COMPOSITES = [
    *(
        "internvl[qwen3_moe]",
        "internvl[gpt_oss]",
        "llava[mixtral]",
        "llava_onevision[qwen3_moe]",
        "mistral3[mistral4]",
    ),
    *("lfm2_vl[lfm2_moe]", "kimi_k25[deepseek_v3]", "aya_vision[cohere2_moe]"),
]
SUPPORTED = [*supported_backbones(), *COMPOSITES]


def tiny_config(model_type: str, **overrides) -> PreTrainedConfig:
    """Return the tiny configuration of an architecture; `llava[mixtral]` is LLaVA around Mixtral."""
    outer, _, inner = model_type.removesuffix("]").partition("[")
    if inner:
        overrides["text_config"] = tiny_config(inner)
    return CONFIG_MAPPING[outer](**_tiny_fields(CONFIG_MAPPING[outer]) | overrides)


def tiny_model(model_type: str, **overrides) -> MoEEModel:
    """Return a MoEE model around the tiny backbone of an architecture, the same weights every time."""
    torch.manual_seed(0)  # of what is not drawn anew, such as gates
    return redraw(MoEEModel(MoEEConfig(backbone_config=tiny_config(model_type, **overrides))))


def expert_modules(model: MoEEModel) -> list[torch.nn.Module]:
    """Return those of the text model that have transformers' interface of experts."""
    return [module for module in text_model_of(model.model).modules() if hasattr(module, "_is_expert_parallel")]


def redraw(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Draw the weights anew, large enough that a wrong one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim >= 2:
                weight.copy_(noise * weight.shape[-1] ** -0.5)
            elif "norm" not in name:
                weight.add_(0.1 * noise)
    return model.eval()


def _tiny_fields(config_class: type[PreTrainedConfig]) -> dict:
    default = config_class()
    fields, places = {}, []
    for name, value in default.to_dict().items():
        if name in config_class.sub_configs:
            continue
        if name in TOKENS and value is not None:
            fields[name] = TOKENS[name]
        elif name.endswith(("token_id", "token_index")) and isinstance(value, int):
            places.append(name)
        elif name in SIZES and isinstance(value, int) and not isinstance(value, bool):
            fields[name] = SIZES[name]
    fields |= {name: VOCAB - 1 - i for i, name in enumerate(sorted(places))}
    for name in config_class.sub_configs:
        if isinstance(sub := getattr(default, name, None), PreTrainedConfig):
            fields[name] = _tiny_fields(type(sub)) | {"model_type": sub.model_type}
    if "kv_lora_rank" in fields and "num_key_value_heads" in fields:
        fields["num_key_value_heads"] = 4
    fields |= OVERRIDES.get(config_class.model_type, {})
    return {name: value for name, value in fields.items() if value is not None}
