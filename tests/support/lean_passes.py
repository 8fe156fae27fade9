"""A lean pass in every way that encode may take."""

import torch

from moee_hf.model import experts_moee
from moee_hf.model.inference_moee import pack, pad, run_batch, run_prefix
from moee_hf.model.layout_moee import can_pack
from moee_hf.model.prefix_moee import PrefixCache, can_cache_prefix, empty_cache
from support.packed_attention import packed_attention

GENERATOR = torch.Generator().manual_seed(2)
HEAD = [5, 6, 7, 8, 9]
IDS = [HEAD + torch.randint(4, 90, (length,), generator=GENERATOR).tolist() for length in (7, 2, 4)]


def lean_passes(model, wanted, monkeypatch):
    """The same texts in every way: as on a processor, as on a GPU, after a common prefix, packed."""
    yield run_batch(model, pad(IDS), wanted, lean=True)
    reads_all = wanted.routers == tuple(model.config.router_indices)
    if can_cache_prefix(model.model):
        prefix = run_prefix(model, HEAD, wanted)
        rest = pad([ids[len(HEAD) :] for ids in IDS])
        for _ in range(2 if reads_all else 1):  # a pass leaves the prefix as it was, whatever is read
            yield run_batch(model, rest, wanted, lean=True, prefix=prefix)
    if not reads_all:
        return
    with monkeypatch.context() as patch:
        patch.setattr(experts_moee, "has_grouped_products", lambda device: True)
        cache = PrefixCache(empty_cache(model.model)) if can_cache_prefix(model.model) else None
        yield run_batch(model, pad(IDS), wanted, lean=True, cache=cache)
        if can_cache_prefix(model.model) and model.model._supports_flash_attn:
            with packed_attention(model.model):
                assert can_pack(model.model)
                yield run_batch(model, pack(IDS), wanted, lean=True, cache=cache)
