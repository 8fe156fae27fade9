"""Flash attention over packed texts, in plain torch: each text alone, as the bounds say that come with them."""

import contextlib
import itertools
from unittest import mock

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "flash_attention_2"


@contextlib.contextmanager
def packed_attention(backbone, function=None):
    """Let a backbone attend with a function, `attend` by default, as if flash attention were installed."""
    configs = {id(config): config for module in backbone.modules() if (config := getattr(module, "config", None))}
    before = {key: config._attn_implementation for key, config in configs.items()}
    with mock.patch.dict(ALL_ATTENTION_FUNCTIONS._local_mapping, {NAME: function or attend}):
        for config in configs.values():
            config._attn_implementation_internal = NAME
        yield
    for key, config in configs.items():
        config._attn_implementation_internal = before[key]


def attend(module, query, key, value, attention_mask, **kwargs):
    """Take what transformers hands to flash attention: `[1, heads, N, size]` without a mask, and bounds of texts."""
    assert attention_mask is None
    assert len(query) == 1
    bounds = kwargs["cu_seq_lens_q"].tolist()
    longest = max(end - start for start, end in itertools.pairwise(bounds))
    assert kwargs["max_length_q"] == kwargs["max_length_k"] == longest
    outputs = []
    for start, end in itertools.pairwise(bounds):
        parts = (part[0, :, start:end] for part in (query, key, value))
        outputs.append(_of_one_text(*parts, **kwargs))
    return torch.cat(outputs)[None], None


def _of_one_text(query, key, value, scaling, sliding_window=None, softcap=None, s_aux=None, **_):
    repeats = len(query) // len(key)
    key, value = key.repeat_interleave(repeats, 0), value.repeat_interleave(repeats, 0)
    scores = query @ key.transpose(1, 2) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    distance = torch.arange(len(scores[0]))[:, None] - torch.arange(len(scores[0]))
    hidden = distance < 0
    if sliding_window is not None:
        hidden |= distance >= sliding_window
    scores = scores.masked_fill(hidden, -torch.inf)
    if s_aux is not None:
        scores = torch.cat([scores, s_aux[:, None, None].expand(-1, scores.shape[1], 1)], dim=2)
    weights = scores.softmax(dim=2)[:, :, : len(distance)]
    return (weights @ value).transpose(0, 1)
