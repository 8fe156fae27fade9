"""A small model for tests that need one, made anew by every run: nothing of it is in the repository.

An OLMoE with a head, in bfloat16: hidden size 64, and 5 MoE layers of 16 experts, of which a token visits 4. Its
weights are random, and so large that texts differ in HS and in the experts that they visit. The tokenizer is a
byte-level BPE as large language models have one. `tests/test_small_model.py` tests both.
"""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast

from moee_hf.model.prompts_moee import PROMPTS

# a page of English that no change of the documents touches
LICENCE = Path(__file__).parents[2] / "LICENSE"


def write(folder: Path, texts: list[str]) -> Path:
    """Write the model into a folder, with a tokenizer that has the words of the texts in ASCII, and return it."""
    # twice, so that they come before the rare words of the licence; other scripts stay bytes
    known = 2 * [*PROMPTS.values(), *filter(str.isascii, texts)]
    tokenizer = byte_level_tokenizer([LICENCE.read_text(encoding="utf-8"), *known], 1500)
    config = OlmoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_experts=16,
        num_experts_per_tok=4,
        max_position_embeddings=512,
        initializer_range=0.1,  # with the usual 0.02, routers choose nearly evenly
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    transformers.logging.disable_progress_bar()
    OlmoeForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def byte_level_tokenizer(corpus: list[str], size: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of so many tokens, two of them special, whose ids give every text back."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    end, pad = special = ["<|endoftext|>", "<|pad|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, pad_token=pad, model_max_length=512
    )
