"""A pass ends with the last value that is read, and its last layer reads one token a text."""

from support.common import TEXTS


def test_the_pass_ends_with_what_is_read(model, tokens_read):
    model.config.router_layers = [0, 2]
    model.encode(TEXTS, combination="rw")
    assert {layer for layer, *_ in tokens_read} == {0, 1, 2}
    tokens_read.clear()
    model.config.hidden_layer = 1
    model.encode(TEXTS, combination="hs")
    assert {layer for layer, *_ in tokens_read} == {0}  # what it leaves is what the next one would get
    tokens_read.clear()
    model.encode(TEXTS, combination="sum")
    assert {layer for layer, *_ in tokens_read} == {0, 1, 2}


def test_the_last_layer_is_computed_for_one_token(model):
    shapes = []
    last = model.model.layers[-1]
    hooks = [
        module.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape[:2])))
        for module in (last.self_attn.o_proj, last.mlp)
    ]
    model.encode(TEXTS)
    assert shapes == [(len(TEXTS), 1)] * 2
    for hook in hooks:
        hook.remove()
