"""Random calls of `forward` and `encode`: what can be read gives what the plain call gives, all else one sentence."""

import copy
import random

import numpy as np
import pandas
import pytest
import torch

NUM_CALLS = 500
BATCH_SIZE, LENGTH = 3, 6
# with few tokens any integer type holds them
IDS = torch.randint(2, 100, (BATCH_SIZE, LENGTH), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * LENGTH, [0, 0] + [1] * (LENGTH - 2), [1] * (LENGTH - 1) + [0]])

GOOD_IDS = [
    IDS,
    IDS.tolist(),
    IDS.numpy(),
    *(IDS.to(dtype) for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32)),
    IDS.numpy().astype(np.uint32),
    [row.tolist() for row in IDS],
    list(IDS.numpy()),
    tuple(map(tuple, IDS.tolist())),
]
BAD_IDS = [
    IDS.float(),
    IDS.bool(),
    IDS.to(torch.complex64),
    IDS[0],
    IDS[:0],
    IDS[:, :0],
    IDS[None, None],
    torch.tensor(5),
    IDS + 10_000,
    -IDS,
    IDS.clone().index_fill_(1, torch.tensor([3]), 2**40),
    [[1, 2, 3], [4]],
    [[1, 2], "text"],
    [["1", "2"]],
    [[1, None]],
    [[2**70]],
    np.array([["a", 1]], dtype=object),
    np.array([[1.5, 2.0]]),
    "A text.",
    b"bytes",
    {"input_ids": IDS},
    5,
    object(),
    [],
    [[]],
    [object()],
    IDS.to_sparse(),
]
GOOD_MASKS = [MASK, MASK.bool(), MASK.tolist(), MASK.numpy(), MASK.float(), MASK.to(torch.int8), MASK.bool().numpy()]
BAD_MASKS = [
    MASK[:, 1:],
    MASK[1:],
    MASK[0],
    MASK[None],
    MASK * 0,
    MASK * 2,
    -MASK,
    MASK * 0.5,
    torch.where(MASK == 0, torch.nan, 1.0),
    torch.where(MASK == 0, -torch.inf, 0.0),
    [[1, 1], [1]],
    "mask",
    {"mask": MASK},
    1,
    [[None]],
    MASK.to(torch.complex64) * 1j,
    object(),
]
GOOD_OPTIONS = [{}, {"combination": "hs"}, {"combination": "concat"}, {"alpha": np.float32(0.5)}, {"alpha": 2}]
BAD_OPTIONS = [
    {"combination": "both"},
    {"combination": 3},
    {"combination": ["hs"]},
    {"alpha": -1},
    {"alpha": float("nan")},
    {"alpha": "1"},
    {"alpha": 10**400},
    {"alpha": True},
    {"standardize": True},  # there are no statistics
    {"standardize": "no"},
    {"prompt_indices": [[0]]},
    {"prompt_indices": [[1]] * BATCH_SIZE},
    {"prompt_indices": "first"},
    {"prompt_indices": [[0.5]] * BATCH_SIZE},
]


def embeddings_of(model) -> tuple[list, list]:
    """Token embeddings that can be read, and others."""
    values = model.get_input_embeddings()(IDS).detach()
    good = [values, values.double(), values.tolist(), values.numpy()]
    bad = [
        values[..., 1:],
        values[0],
        values[:0],
        values.long(),
        values.bool(),
        values.to(torch.complex64),
        torch.full_like(values, torch.nan),
        values / 0,
        "text",
        [[["a"]]],
        {"a": 1},
        object(),
        1.0,
        [],
    ]
    return good, bad


def draw(choices, good, bad, share_of_bad=0.4):
    """One of the values, and whether it is a good one."""
    is_good = choices.random() >= share_of_bad
    return choices.choice(good if is_good else bad), is_good


def test_forward(model):
    choices = random.Random(0)
    embeddings = embeddings_of(model)
    expected = {}
    counts = {True: 0, False: 0}
    with torch.inference_mode():
        for number in range(NUM_CALLS):
            name = choices.choice(["input_ids", "inputs_embeds"])
            values, *are_good = draw(choices, *((GOOD_IDS, BAD_IDS) if name == "input_ids" else embeddings))
            mask, is_good = draw(choices, GOOD_MASKS, BAD_MASKS)
            options, *more = draw(choices, GOOD_OPTIONS, BAD_OPTIONS, 0.15)
            call = {name: values, "attention_mask": mask} | options
            if is_good := all([*are_good, is_good, *more]):
                key = repr(options)
                if key not in expected:
                    expected[key] = model(input_ids=IDS, attention_mask=MASK, **options).embeddings
                torch.testing.assert_close(
                    model(**call).embeddings, expected[key], msg=lambda m, n=number: f"{n}: {m}"
                )
            else:
                with pytest.raises((TypeError, ValueError)) as error:
                    model(**call)
                assert str(error.value).partition(":")[0] in {*call, "MoEEConfig.standardize", "MoEEModel"}, call
                assert "expected" in str(error.value), call
            counts[is_good] += 1
    assert min(counts.values()) > NUM_CALLS / 4


TEXTS = ["A man.", "Two dogs run.", "x"]
GOOD_TEXTS = [
    TEXTS,
    tuple(TEXTS),
    np.array(TEXTS),
    np.array(TEXTS, dtype=object),
    pandas.Series(TEXTS, index=[7, 8, 9]),
    dict.fromkeys(TEXTS).keys(),
    [np.str_(text) for text in TEXTS],
]
BAD_TEXTS = [
    None,
    5,
    b"bytes",
    [b"bytes"],
    [None],
    ["a", 5],
    [["a", "b"]],
    [float("nan")],
    ["\ud800"],
    {"a": "b"},
    {"a"},
    object(),
    [object()],
    np.array([["a"]]),
    np.array([1.5]),
    np.array("a"),
    pandas.DataFrame({"a": TEXTS}),
    torch.ones(3),
    [{"text": "a"}],
]
GOOD_CALLS = [
    *({}, {"batch_size": np.int64(1)}, {"batch_size": 2}, {"prompt_name": "none"}, {"prompt": "{text} :"}),
    *({"combination": "rw"}, {"normalize_embeddings": np.True_}, {"alpha": 0}, {"prompt_name": ["none", "prompteol"]}),
]
BAD_CALLS = [
    *({"batch_size": value} for value in (0, -1, 1.0, "2", True, [1])),
    *({"prompt_name": value} for value in ("no such", 5, [], ["none", "none"], [5], {"a": 1})),
    *({"prompt": value} for value in ("no place", "{text}{text}", 5, [], ["{text}", "{text}"], [5], "\ud800{text}")),
    *({"combination": value} for value in ("both", 5, ["hs"])),
    *({"alpha": value} for value in (-1, "1", float("nan"), 10**400, True, [1])),
    *({flag: "no"} for flag in ("normalize_embeddings", "convert_to_numpy", "convert_to_tensor", "standardize")),
    *({"precision": value} for value in ("int4", 5, "int8")),  # the model has no ranges for the last
    {"show_progress_bar": "no"},
    {"standardize": True},
]


def test_encode(model):
    choices = random.Random(1)
    expected = {}
    counts = {True: 0, False: 0}
    for number in range(NUM_CALLS):
        texts, *are_good = draw(choices, GOOD_TEXTS, BAD_TEXTS)
        call, *more = draw(choices, GOOD_CALLS, BAD_CALLS)
        if is_good := all([*are_good, *more]):
            if (key := repr(call)) not in expected:
                expected[key] = model.encode(TEXTS, **call)
            np.testing.assert_allclose(model.encode(texts, **call), expected[key], rtol=1e-4, atol=1e-5)
        else:
            with pytest.raises((TypeError, ValueError)) as error:
                model.encode(texts, **call)
            assert not isinstance(error.value, UnicodeError), (number, call)
            assert ": expected" in str(error.value), (number, call)
        counts[is_good] += 1
    assert min(counts.values()) > NUM_CALLS / 4


def test_what_padding_holds_is_not_read(model):
    expected = model(input_ids=IDS, attention_mask=MASK).embeddings
    ids = torch.where(MASK == 1, IDS, -100)
    torch.testing.assert_close(model(input_ids=ids, attention_mask=MASK).embeddings, expected)
    embeds = model.get_input_embeddings()(IDS).masked_fill(MASK[..., None] == 0, torch.nan)
    torch.testing.assert_close(model(inputs_embeds=embeds, attention_mask=MASK).embeddings, expected)


def test_overflow_is_an_error(model):
    half = copy.deepcopy(model).half()
    half.model.norm.weight.data.fill_(6e4)
    with pytest.raises(ValueError, match="embeddings: expected finite numbers; got nan or infinity"):
        half(input_ids=IDS)
