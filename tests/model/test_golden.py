"""Against what the paper authors' own modelling code computes (see golden/README.md)."""

import json

import pytest
import torch
from support.common import GOLDEN

from moee_hf import MoEEModel

FAMILIES = ["deepseek", "olmoe", "qwen"]


@pytest.fixture(scope="module", params=FAMILIES)
def golden(request):
    expected = json.loads((GOLDEN / request.param / "expected.json").read_text())
    router = torch.tensor(expected["rw_raw"])
    expected["rw"] = router if expected["rw_is_probability"] else router.softmax(-1)
    return MoEEModel.from_pretrained(GOLDEN / request.param), expected


def check(output, expected, rows):
    hs, rw = torch.tensor(expected["hs"])[rows], expected["rw"][rows]
    torch.testing.assert_close(output.pooled_hidden_state, hs, atol=2e-5, rtol=0)
    torch.testing.assert_close(output.router_weights, rw, atol=2e-5, rtol=0)


def test_alone(golden):
    model, expected = golden
    for row, ids in enumerate(expected["input_ids"]):
        with torch.no_grad():
            check(model(input_ids=torch.tensor([ids])), expected, [row])


@pytest.mark.parametrize("side", ["left", "right"])
def test_in_a_padded_batch(golden, side):
    model, expected = golden
    length = max(map(len, expected["input_ids"]))
    ids, mask = [], []
    for row in expected["input_ids"]:
        padding, ones = [3] * (length - len(row)), [1] * len(row)
        ids.append(padding + row if side == "left" else row + padding)
        mask.append([0] * len(padding) + ones if side == "left" else ones + [0] * len(padding))
    with torch.no_grad():
        check(model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)), expected, [0, 1, 2])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("experts", ["eager", "grouped_mm", "batched_mm"])
def test_every_experts_implementation(family, experts):
    expected = json.loads((GOLDEN / family / "expected.json").read_text())
    model = MoEEModel.from_pretrained(GOLDEN / family, experts_implementation=experts)
    assert model.model.config._experts_implementation == experts
    with torch.no_grad():
        output = model(input_ids=torch.tensor(expected["input_ids"][:1]))
    torch.testing.assert_close(output.pooled_hidden_state, torch.tensor(expected["hs"][:1]), atol=2e-5, rtol=0)
