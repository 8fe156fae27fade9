"""A thousand random configurations, in memory and in files, and arguments of loading: each works, or one sentence."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from support.common import CHECKPOINT
from support.tiny_backbones import tiny_config

from moee_hf import MoEEConfig, MoEEModel

FIELDS = [*MoEEConfig.__annotations__, "model_type", "dtype", "use_cache", "architectures", "id2label", "num_labels"]
BACKBONE_FIELDS = [*tiny_config("olmoe").to_dict(), "no_such_field"]
VALUES = [
    *(None, True, False, 0, 1, -1, 2, 7, 10**400, 1.5, -0.5, float("nan"), float("inf"), 1e308),
    *(
        "",
        "a",
        "mean",
        "clr",
        "sum",
        "False",
        "{text}",
        "\ud800",
        "olmoe",
        "moee",
        "float32",
        "flnat32",
        "../x",
        "a/b",
    ),
    *(
        [],
        [0],
        [0, 0],
        [-1],
        ["a"],
        [None],
        [1e400],
        [[0]],
        (0, 1),
        {},
        {"a": 1},
        {"a": "{text}"},
        {"model_type": "moee"},
    ),
    *(np.int64(1), np.float32(1.5), np.bool_(True), np.array([0, 1]), np.array("a"), torch.float32, torch.ones(1)),
    *(b"bytes", object, {1: 2}, {1, 2}, range(2)),
]
IN_JSON = [
    value
    for value in VALUES
    if not isinstance(value, np.generic | np.ndarray | torch.Tensor | bytes | set | range | type)
]
IN_JSON = [value for value in IN_JSON if value is not torch.float32]


def is_one_sentence(error: Exception) -> bool:
    message = str(error)
    return (
        isinstance(error, ValueError | TypeError | OSError) and bool(message) and not isinstance(error, UnicodeError)
    )


def attempt(function, *args, **kwargs):
    """What a call gives; None if it is refused as it should be."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        assert is_one_sentence(error), (type(error), str(error), args, kwargs)  # noqa: PT017
        return None


def random_fields(choices, values) -> dict:
    fields = {name: choices.choice(values) for name in choices.sample(FIELDS, choices.randint(0, 2))}
    if choices.random() < 0.6 or not fields:
        names = choices.sample(BACKBONE_FIELDS, choices.randint(1, 2))
        fields["backbone_config"] = tiny_config("olmoe").to_dict() | {name: choices.choice(values) for name in names}
    return fields


@pytest.mark.filterwarnings("ignore")
def test_configurations_in_memory(tmp_path):
    choices, built = random.Random(0), 0
    for _ in range(400):
        fields = random_fields(choices, VALUES)
        if (config := attempt(MoEEConfig, **fields)) is None:
            continue
        config.save_pretrained(tmp_path)
        if "backbone_config" in fields and (model := attempt(MoEEModel.without_weights, config)) is not None:
            attempt(lambda model=model: model.config.embedding_size)
            built += 1
    assert 20 < built < 380


@pytest.mark.filterwarnings("ignore")
def test_configurations_in_files(tmp_path):
    choices, read = random.Random(1), 0
    path, beside = tmp_path / "config.json", tmp_path / "moee_config.json"
    for _ in range(400):
        fields = random_fields(choices, IN_JSON)
        kind = choices.choice(["moee", "plain", "beside", "damaged"])
        backbone = fields.get("backbone_config") or tiny_config("olmoe").to_dict()
        beside.unlink(missing_ok=True)
        if kind == "moee":
            text = json.dumps({"model_type": "moee", "backbone_config": backbone} | fields)
        elif kind == "damaged":
            text = json.dumps({"model_type": "moee"} | fields)
            text = text[: choices.randrange(len(text))]
        else:
            text = json.dumps(backbone)
        if kind == "beside":
            beside.write_text(json.dumps({name: value for name, value in fields.items() if name != "backbone_config"}))
        path.write_text(text)
        config = attempt(MoEEConfig.from_pretrained, tmp_path)
        read += config is not None
        if config is not None and isinstance(config.backbone_config.hidden_size, int):
            attempt(MoEEModel.without_weights, config)
    assert 20 < read < 380


@pytest.mark.filterwarnings("ignore")
def test_arguments_of_loading(tmp_path):
    folder = shutil.copytree(CHECKPOINT, tmp_path / "model")
    # what only changes where or how things are run is another matter
    names = [
        *MoEEConfig.__annotations__,
        *tiny_config("olmoe").to_dict(),
        "dtype",
        "device_map",
        "revision",
        "subfolder",
    ]
    names += [
        "attn_implementation",
        "experts_implementation",
        "variant",
        "gguf_file",
        "verify_weights",
        "foo",
        "poling",
    ]
    choices, loaded = random.Random(2), 0
    for _ in range(200):
        name = choices.choice(names)
        model = attempt(MoEEModel.from_pretrained, folder, **{name: choices.choice(VALUES)})
        if model is not None and model.config.max_length is None:
            vector = attempt(model.encode, "A text.")
            assert vector is None or np.isfinite(vector).all()
            loaded += 1
    assert 10 < loaded < 190
