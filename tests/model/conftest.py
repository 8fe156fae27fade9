import pytest


@pytest.fixture
def tokens_read(model):
    """The number of tokens that each layer gets, in the order of the calls, as (layer, rows, tokens of a row)."""
    calls = []
    hooks = [
        layer.register_forward_pre_hook(lambda m, args, i=i: calls.append((i, *args[0].shape[:2])))
        for i, layer in enumerate(model.model.layers)
    ]
    yield calls
    for hook in hooks:
        hook.remove()
