"""What tests of upcycling and of quantizing share: a tiny tokenizer, corpus and dense models; the scripts."""

import random
import sys
from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from support.common import ROOT
from support.small_model import byte_level_tokenizer

sys.path.append(str(ROOT / "upload_scripts"))  # as for a script that is run

from upcycling_data import TEMPLATES
from upcycling_model import Parts, Sizes

WORDS = ["the", "a", "cat", "dog", "river", "stone", "king", "letter", "old", "walked", "saw", "gave", "over", "and"]
VOCABULARY = 400
SIZES = Sizes(shared=64, experts=4, expert_size=32, experts_per_token=2)  # of the 192 neurons of an MLP
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 0,
}
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}
DENSE = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama with other heads": LlamaConfig(**SHAPE, head_dim=32, rope_parameters=LINEAR, rms_norm_eps=1e-3),
    "qwen2": Qwen2Config(**SHAPE, tie_word_embeddings=False),
}


def documents(seed: int, number: int) -> list[str]:
    """Texts of ten sentences each."""
    choose = random.Random(seed)
    sentences = [" ".join(choose.choices(WORDS, k=choose.randint(4, 12))).capitalize() for _ in range(number * 10)]
    return [". ".join(sentences[i : i + 10]) + "." for i in range(0, len(sentences), 10)]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One that has the words of the corpus and of the templates."""
    return byte_level_tokenizer([*documents(2, 40), *TEMPLATES], VOCABULARY)


def tiny_dense(name: str = "llama") -> PreTrainedModel:
    """A dense model of random weights, biases too."""
    config = DENSE[name]
    torch.manual_seed(0)
    model = (Qwen2ForCausalLM if config.model_type == "qwen2" else LlamaForCausalLM)(config).eval()
    model.requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.normal_(mean=0.5, std=0.2)
    for layer in model.model.layers:
        layer.mlp.down_proj.weight *= 4  # so that the neurons matter beside attention
    return model


def random_parts(seed: int, router: float) -> Parts:
    """An MLP's neurons split at random, and a router of random weights with this standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    neurons = torch.randperm(192, generator=generator)
    experts = neurons[SIZES.shared :].reshape(SIZES.experts, SIZES.expert_size)
    weights = router * torch.randn(SIZES.experts, SHAPE["hidden_size"], generator=generator)
    return Parts(neurons[: SIZES.shared], experts, weights)


def save_dense(folder: Path, name: str = "llama") -> Path:
    """Write a dense model with its tokenizer."""
    tiny_dense(name).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
