"""What many tests share: texts, the small model, comparisons."""

import functools
import json
import os
from pathlib import Path

import numpy as np
import torch

from moee_hf import MoEEModel
from support import small_model

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
# real sets of the tasks and a corpus, which may not be redistributed, if they lie beside the checkout
EVALUATION_DATA = ROOT.parent / "shared" / "data" / "eval"
TEXTS = [
    "A man is playing a guitar.",
    "Someone performs music.",
    'He said "no", twice; {text} and {0} are not placeholders here.',
    "Naïve café — the price is 5 €\nand a second line. 🎸🙂",
    "Stock prices fell sharply on Monday, and so did the mood of everyone who had bought them the week before.",
    "x",
    "Two dogs run in the snow.",
]
# the folder of a plain checkpoint, and its files as a repository of the Hub has them
CHECKPOINT = small_model.write(Path(os.environ["HF_HOME"]) / "backbone", TEXTS)
BACKBONE = {path.name: path.read_bytes() for path in CHECKPOINT.iterdir()}
# texts in a prompt whose beginning is worth computing once
LONG_PROMPT = "Here is one of many sentences, and there is a lot to say before it comes at last : {text} . In a word :"
MANY = [f"{number} {word}" for number in range(40) for word in ("cats", "dogs and rain")]


@functools.cache
def backbone_alone() -> torch.nn.Module:
    """The backbone of the small model, in float32, for judges.

    Transformers leaves hooks that do not pickle on a model that was asked for hidden states or router logits: the one
    that tests share is never asked.
    """
    return MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.float32).model


def assert_same(got, expected, atol=1e-6) -> None:
    """What two loaded copies of the same weights compute: where they lie in memory may change the last bit."""
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-4, atol=atol)


def without_digests(content: bytes) -> bytes:
    """The content of a config.json without digests, as who changes files on purpose writes it."""
    return json.dumps(
        {name: value for name, value in json.loads(content).items() if name != "digests"}, indent=2
    ).encode()


def random_statistics(model: MoEEModel, num_prompts: int | None = None) -> dict[str, torch.Tensor]:
    """Return statistics of the shapes that a model takes; of several prompts if a number is given."""
    generator = torch.Generator().manual_seed(0)
    prompts = () if num_prompts is None else (num_prompts,)
    shapes = {"hidden": (model.config.hidden_size,), "routing": tuple(model.config.router_shape)}
    return {
        f"{part}_{moment}": torch.rand(prompts + shape, generator=generator) + 0.1
        for part, shape in shapes.items()
        for moment in ("mean", "std")
    }


def set_random_statistics(model: MoEEModel) -> None:
    model.set_statistics(**random_statistics(model))
