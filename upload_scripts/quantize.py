"""Quantize a Qwen2-MoE checkpoint: its configuration, its tokenizer, and all weights in one file, model.gguf.

Matrices take 4.5 bits a weight (GGUF's Q4_0), those of the vocabulary, which rounding harms most, 8.5 (Q8_0). Routers,
the gate of the shared expert, norms and biases are small, and stay in float32, as do rows whose length is no multiple
of 32. `MoEEModel.from_pretrained(OUT)` reads the result, and so does transformers:
`AutoModelForCausalLM.from_pretrained(OUT, gguf_file="model.gguf", config=AutoConfig.from_pretrained(OUT))`.

What a GGUF file has no field for is in config.json. The vocabulary is in the tokenizer's own files alone: reading it
out of a GGUF file takes longer than reading the weights, and llama.cpp has no use for it, as its Qwen2-MoE does not
scale the weights of the chosen experts to a sum of 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, LlamaFileType, get_tensor_name_map
from gguf.constants import GGML_QUANT_VERSION
from gguf.quants import quantize as to_blocks
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from moee_hf.files.folders import check_new_folder

WEIGHTS = "model.gguf"
BLOCK = 32  # weights of a row that share a scale
VOCABULARY = ("token_embd.weight", "output.weight")
EXACT = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")  # a rounded router would choose other experts


def quantize(source: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Write a Qwen2-MoE checkpoint with weights of 4.5 bits, and return the path of the file with the weights.

    Args:
        source: A folder with a plain checkpoint and its tokenizer.
        folder: A new or empty folder.

    Raises:
        ValueError: If it is another architecture, its weights have no place in such a file, or there is something in
            `folder`.
        OSError: If the checkpoint cannot be read, or the result cannot be written.
    """
    path = check_new_folder(folder)
    config = AutoConfig.from_pretrained(source)
    if config.model_type != "qwen2_moe":
        raise ValueError(f"{source}: expected a checkpoint of model_type 'qwen2_moe'; got {config.model_type!r}.")
    tokenizer = AutoTokenizer.from_pretrained(source)
    writer = GGUFWriter(path / WEIGHTS, "qwen2moe")
    writer.add_name(Path(source).resolve().name)
    _add_sizes(writer, config)
    for name, weight in _named_weights(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)):
        if weight.ndim == 1 or weight.shape[-1] % BLOCK or name.endswith(EXACT):
            writer.add_tensor(name, weight)
        else:
            kind = GGMLQuantizationType.Q8_0 if name in VOCABULARY else GGMLQuantizationType.Q4_0
            writer.add_tensor(name, to_blocks(weight, kind), raw_dtype=kind)
    path.mkdir(parents=True, exist_ok=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config.save_pretrained(path)
    tokenizer.save_pretrained(path)
    tokenizer.backend_tokenizer.save(str(path / "tokenizer.json"), pretty=False)  # half as large
    return path / WEIGHTS


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", metavar="FOLDER", help="a plain checkpoint, as upcycle_embedded.py writes it")
    parser.add_argument("folder", metavar="OUT", help="a new folder")
    arguments = parser.parse_args(argv)
    try:
        weights = quantize(arguments.source, arguments.folder)
    except (OSError, ValueError) as error:
        print(f"quantize: {error}", file=sys.stderr)
        return 1
    print(f"{weights}: {weights.stat().st_size:,} bytes")
    return 0


def _named_weights(model: PreTrainedModel) -> Iterator[tuple[str, np.ndarray]]:
    """The weights with their names in GGUF; gate and up of the experts, one matrix in transformers, are two there."""
    names = get_tensor_name_map(MODEL_ARCH.QWEN2MOE, model.config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        stem, _, suffix = name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, "", "weight")
        if stem.endswith("experts.gate_up_proj"):
            parts = zip(("gate_proj", "up_proj"), weight.chunk(2, dim=1), strict=True)  # [E, 2M, D] to [E, M, D] twice
            named = {stem.replace("gate_up_proj", part): tensor for part, tensor in parts}
        else:
            named = {stem: weight.squeeze(0) if stem.endswith("shared_expert_gate") else weight}
        for key, tensor in named.items():
            if (gguf_name := names.get_name(key)) is None:
                raise ValueError(f"{name}: expected a weight of a mixture of experts; GGUF's Qwen2-MoE has none such.")
            yield f"{gguf_name}.{suffix}", tensor.contiguous().numpy()


def _add_sizes(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    writer.add_expert_weights_norm(config.norm_topk_prob)
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_0)
    writer.add_quantization_version(GGML_QUANT_VERSION)


if __name__ == "__main__":
    sys.exit(main())
