"""Padded or packed, a batch is pooled as each text alone."""

import pytest
import torch
from support.tiny_backbones import tiny_model

from moee_hf.model.functional_moee import pool
from moee_hf.model.inference_moee import pack, pad
from moee_hf.model.layout_moee import can_pack, layout_of
from moee_hf.model.transfer_moee import Rows

CPU = torch.device("cpu")
IDS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15]]


@pytest.mark.parametrize("batch", [pad, pack], ids=["padded", "packed"])
@pytest.mark.parametrize("pooling", ["lasttoken", "mean", "weightedmean"])
def test_pooling(batch, pooling):
    batch = batch(IDS)
    table = torch.randn(20, 7, generator=torch.Generator().manual_seed(0), dtype=torch.bfloat16)
    values = table[batch["input_ids"]]
    layout = layout_of(batch, CPU)
    for num_before in (0, 3):
        expected = [
            pool(table[torch.tensor([ids])], torch.ones(1, len(ids), dtype=torch.long), pooling, num_before)
            for ids in IDS
        ]
        for shape in (values, values.flatten(0, 1)):
            torch.testing.assert_close(layout.pool(shape, pooling, num_before), torch.cat(expected), atol=1e-6, rtol=0)
    assert torch.equal(layout.last_token(values), table[[ids[-1] for ids in IDS]])


def test_what_is_no_padding():
    padded, packed = layout_of(pad(IDS), CPU), layout_of(pack(IDS), CPU)
    assert padded.rows(20).tolist() == [0, 1, 2, 5, 10, 11, 12, 13, 14, 15, 16]
    assert padded.rows(4) is None  # of the last tokens alone
    assert layout_of(pad([[5, 6], [7, 8]]), CPU).rows(4) is None
    assert packed.rows(11) is None


@pytest.mark.parametrize(
    ("model_type", "implementation", "expected"),
    [
        ("qwen3_moe", "sdpa", False),
        ("qwen3_moe", "flash_attention_2", True),
        ("qwen3_moe", "kernels-community/vllm-flash-attn3", True),
        ("qwen3_moe", "flex_attention", False),  # not every architecture lets it know where texts begin
        ("jamba", "flash_attention_2", False),  # state spaces would go on from one text to the next
        ("openai_privacy_filter", "flash_attention_2", False),
    ],
)
def test_what_can_be_packed(model_type, implementation, expected):
    model = tiny_model(model_type)
    model.model.config._attn_implementation_internal = implementation
    assert can_pack(model.model) == expected


def test_rows_come_in_any_order():
    values = torch.arange(12.0).reshape(6, 2)
    rows = Rows(6, CPU)
    for indices in ([4, 1], [0, 5, 3], [2]):
        rows.put(indices, values[indices])
    assert rows.take([0, 3, 3, 5]).tolist() == values[[0, 3, 3, 5]].tolist()
