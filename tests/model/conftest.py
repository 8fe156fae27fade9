import pytest
from support.common import BACKBONE

from moee_hf import MoEEModel


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


@pytest.fixture
def backbone(hub) -> str:
    """A plain checkpoint on the Hub."""
    hub.add("lab/backbone", BACKBONE)
    return "lab/backbone"


@pytest.fixture(scope="session")
def files_of_reference() -> dict[str, bytes]:
    """What the first test that needs a reference repository has pushed: the same every time."""
    return {}


@pytest.fixture
def reference(hub, backbone, files_of_reference) -> str:
    """A reference repository on the Hub, of the backbone."""
    name = "author/reference"
    if not files_of_reference:
        MoEEModel.from_pretrained(backbone, alpha=0.5).push_to_hub(name, reference=True)
        files_of_reference.update({path: file.content for path, file in hub.files(name).items()})
    hub.add(name, files_of_reference)
    return name
