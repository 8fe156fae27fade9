"""GGUF files of tiny models, written as llama.cpp's converter does, tensor by tensor and in float32."""

import re
from pathlib import Path

import numpy as np
from gguf import MODEL_ARCH_NAMES, GGUFWriter, get_tensor_name_map
from transformers import PreTrainedModel

NAMES = {
    "gpt_oss": "gpt-oss",
    "minimax_m2": "minimax-m2",
    "olmoe": "olmoe",
    "qwen2_moe": "qwen2moe",
    "qwen3_5_moe_text": "qwen35moe",
    "qwen3_moe": "qwen3moe",
}


def write_gguf(
    model: PreTrainedModel, path: Path, parts: int = 1, leave_out: str = "-", rename: dict[str, str] | None = None
) -> None:
    """Write the weights of a causal language model, but for those whose name in the file contains `leave_out`."""
    config = model.config
    architecture = NAMES[config.model_type]
    kinds = {name: kind for kind, name in MODEL_ARCH_NAMES.items()}
    names = get_tensor_name_map(kinds[architecture], config.num_hidden_layers)
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_uint16("split.count", parts)
    for name, weight in model.state_dict().items():
        for stored_name, values in _tensors(name, weight.float().numpy(), names, config):
            if leave_out not in stored_name:
                stored_name = (rename or {}).get(stored_name, stored_name)
                writer.add_tensor(stored_name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(name, values, names, config):
    block = re.sub(r".*layers\.(\d+)\..*", r"blk.\1", name)
    if ".experts." in name:
        ending = "bias" if name.endswith("_bias") else "weight"
        if config.model_type == "gpt_oss" and ending == "weight":
            values = values.transpose(0, 2, 1)
        if "down_proj" in name:
            return [(f"{block}.ffn_down_exps.{ending}", values)]
        interleaved = config.model_type == "gpt_oss"
        gate, up = (values[:, ::2], values[:, 1::2]) if interleaved else np.split(values, 2, axis=1)
        return [(f"{block}.ffn_gate_exps.{ending}", gate), (f"{block}.ffn_up_exps.{ending}", up)]
    if config.model_type == "qwen3_5_moe_text":
        name, values = _rearranged(name, values, config)
    if name.endswith("e_score_correction_bias"):
        return [(f"{block}.exp_probs_b.bias", values)]
    if name.endswith("dt_bias"):
        return [(f"{block}.ssm_dt.bias", values)]
    if name.endswith("A_log"):
        return [(f"{block}.ssm_a", values)]
    if name.endswith("sinks"):
        return [(f"{block}.attn_sinks.weight", values)]
    if name.endswith("shared_expert_gate.weight"):
        values = values[0]
    stem, _, ending = name.rpartition(".")
    return [(f"{names.get_name(stem)}.{ending}", values)]


def _rearranged(name, values, config):
    """Qwen3.5: norms one larger, -exp of A_log, and value heads in turn of their key heads."""
    if name.endswith("norm.weight") and "linear_attn" not in name:
        values = values + 1
    if "linear_attn" not in name:
        return name, values
    if name.endswith("A_log"):
        values = -np.exp(values)
    if name.endswith("conv1d.weight"):
        values = values[:, 0]
    heads, size = config.linear_num_key_heads, config.linear_value_head_dim
    order = np.arange(config.linear_num_value_heads).reshape(heads, -1).T.ravel()
    rows = (order[:, None] * size + np.arange(size)).ravel()
    before = 2 * heads * config.linear_key_head_dim
    if re.search(r"A_log|dt_bias|in_proj_[ab]", name):
        values = values[order]
    elif "in_proj_z" in name:
        values = values[rows]
    elif re.search(r"in_proj_qkv|conv1d", name):
        values = np.concatenate([values[:before], values[before:][rows]])
    elif "out_proj" in name:
        values = values[:, rows]
    return name, values
