"""Templates and truncation."""

import pickle

import pytest
from support.common import TEXTS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from moee_hf.model.prompts_moee import PROMPTS, TextError, tokenize

TEMPLATES = [*PROMPTS.values(), "Tail only: {text}", "{text} — head only", 'The essence of "{text}" 🙂 {0} {{x}} is:"']
HARD = [
    *TEXTS,
    *(
        '"',
        "''",
        "{text}",
        "{",
        "}}",
        "%s",
        "\\n",
        "\n\n",
        "\t tab",
        " leading",
        "trailing ",
        "…",
        "\u200b zero width",
    ),
    *("🙂" * 20, "👩‍👩‍👧‍👦 family", "مرحبا بالعالم", "漢字かな交じり文", "e\u0301 combining"),
    *("<|endoftext|>", "</s><s>", "word " * 70),
]


def metaspace_tokenizer():
    """A tokenizer of the Llama kind, which adds special tokens on both sides and has no token for padding."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<s>", "</s>", *bytes_])
    tokenizer.train_from_iterator([*TEXTS, *PROMPTS.values()], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(params=["byte-level", "metaspace"])
def tokenizer(request, loaded):
    return loaded.tokenizer if request.param == "byte-level" else metaspace_tokenizer()


@pytest.mark.parametrize("template", TEMPLATES)
def test_an_uncut_text_gets_the_ids_of_the_filled_template(tokenizer, template):
    ids, parts = tokenize(tokenizer, HARD, template, max_length=10_000)
    head, tail = template.split("{text}")
    assert ids == [tokenizer(head + text + tail)["input_ids"] for text in HARD]
    assert parts == HARD


@pytest.mark.parametrize("max_length", [20, 33, 64])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_cut_text_keeps_the_template_whole(tokenizer, template, max_length):
    """What remains is the template around the longest beginning of the text that fits."""
    head, tail = template.split("{text}")
    if max(map(len, tokenizer([head + text[0] + tail for text in HARD])["input_ids"])) > max_length:
        pytest.skip("this tokenizer needs more for the template and one character")
    ids, parts = tokenize(tokenizer, HARD, template, max_length)
    full = tokenizer([head + text + tail for text in HARD])["input_ids"]
    assert max(map(len, full)) > max_length
    assert ids == tokenizer([head + part + tail for part in parts])["input_ids"]
    for text, part, row, uncut in zip(HARD, parts, ids, full, strict=True):
        assert len(row) <= max_length
        assert text.startswith(part)
        assert (part == text) == (len(uncut) <= max_length)
        if len(uncut) > max_length:
            beginnings = tokenizer([head + text[:end] + tail for end in range(1, len(text))])["input_ids"]
            assert row in beginnings
            kept = len(beginnings) - beginnings[::-1].index(row)
            assert len(tokenizer(head + text[: kept + 1] + tail)["input_ids"]) > max_length, (
                "one more would have fitted"
            )
        else:
            assert row == uncut


def test_no_room_for_the_text_is_an_error(loaded):
    with pytest.raises(
        ValueError, match=r"max_length: expected room for the prompt and some text; got 5, .* takes 1[0-9] tokens"
    ):
        tokenize(loaded.tokenizer, ["a text"], PROMPTS["prompteol"], max_length=5)


def test_a_text_without_tokens_is_named():
    tokenizer = Tokenizer(models.WordLevel({"word": 0}, unk_token="word"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match=r"texts\[1\]: expected a text with tokens; the tokenizer finds none in '  '"):
        tokenize(PreTrainedTokenizerFast(tokenizer_object=tokenizer), ["word", "  "], "{text}", max_length=5)


def test_long_documents_are_not_tokenised_over_and_over(loaded):
    lengths = []

    def counting(texts, **options):
        lengths.extend(map(len, texts))
        return loaded.tokenizer(texts, **options)

    text = "some words " * 100_000
    tokenize(counting, [text], "{text}", max_length=100)
    assert sum(lengths) < 1.1 * len(text)


def test_tokens_beyond_the_embedding_are_named(loaded):
    import copy

    before = loaded.tokenizer
    loaded.tokenizer = copy.deepcopy(before)
    loaded.tokenizer.add_tokens(["zzz"])
    try:
        with pytest.raises(ValueError, match=r"texts\[1\]: expected token ids below 1500, .*; got 1500"):
            loaded.encode(["a", "a zzz"])
    finally:
        loaded.tokenizer = before


def test_encode_warns_once_and_counts_the_cut_texts(model, caplog):
    model.config.max_length = 20
    with caplog.at_level("WARNING"):
        model.encode(["short", "long " * 100, "longer " * 100])
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["2 of 3 texts were cut at their end to fit max_length=20 tokens."]


def test_length_is_limited_by_the_backbone(model):
    model.config.max_length = None
    assert model.encode("word " * 2000).shape == (144,)
    assert model.config.get_text_config().max_position_embeddings == 512


def test_a_tokenizer_without_padding_token_needs_none(loaded):
    tokenizer = metaspace_tokenizer()
    assert tokenizer.pad_token_id is None
    before, size = loaded.tokenizer, loaded.get_input_embeddings().num_embeddings
    loaded.tokenizer = tokenizer
    try:
        alone = [loaded.encode(text) for text in TEXTS]
        for single, embedding in zip(alone, loaded.encode(TEXTS), strict=True):
            assert abs(single - embedding).max() < 1e-5
        assert tokenizer.pad_token_id is None
        assert loaded.get_input_embeddings().num_embeddings == size
    finally:
        loaded.tokenizer = before


def test_errors_of_texts_come_back_from_other_processes():
    error = pickle.loads(pickle.dumps(TextError(3, "expected a text; got none.").renumbered(7)))
    assert (str(error), error.index) == ("texts[7]: expected a text; got none.", 7)
