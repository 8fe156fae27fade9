"""Hundreds of random configurations, in memory and in files, and arguments of loading: each works, or one sentence."""

import json
import random

import numpy as np
import pytest
import torch
from support.common import GOLDEN
from support.tiny_backbones import tiny_config
from transformers import AutoConfig

from moee_hf import MoEEConfig, MoEEModel

OWN_FIELDS = list(MoEEConfig.__annotations__)
OTHER_FIELDS = "model_type dtype torch_dtype use_cache architectures id2label num_labels return_dict hidden_size mix"
FIELDS = [*OWN_FIELDS, *OTHER_FIELDS.split(), "projection_dim", "poling"]
BACKBONE_FIELDS = [*tiny_config("olmoe").to_dict(), "no_such_field"]
SAVED_AS_THEY_ARE = set(OWN_FIELDS) - {"backbone_config", "digests"}
# what says where or how a model runs
LOADING = "dtype device_map revision subfolder attn_implementation experts_implementation variant gguf_file"
NUMBERS = [None, True, False, 0, 1, -1, 2, 7, 10**400, 1.5, -0.5, float("nan"), float("inf"), 1e308]
WORDS = ["a", "mean", "clr", "sum", "False", "{text}", "olmoe", "moee", "float32", "flnat32", "../x", "a/b"]
LISTS = [[], [0], [0, 0], [-1], ["a"], [None], [1e400], [[0]]]
MAPPINGS = [{}, {"a": 1}, {"a": "{text}"}, {"model_type": "moee"}, {"model_type": []}]
IN_JSON = [*NUMBERS, "", "\ud800", *WORDS, *LISTS, *MAPPINGS]
NUMPY = [np.int64(1), np.float32(1.5), np.bool_(True), np.array([0, 1]), np.array("a")]
VALUES = [*IN_JSON, *NUMPY, torch.float32, torch.ones(1), (0, 1), b"bytes", object, {1: 2}, {1, 2}, range(2)]


def attempt(function, *args, **kwargs):
    """What a call gives, and the sentence with which it is refused; None in place of the other."""
    try:
        return function(*args, **kwargs), None
    except Exception as error:
        is_sentence = isinstance(error, ValueError | TypeError | OSError) and not isinstance(error, UnicodeError)
        assert is_sentence, (type(error), str(error), args, kwargs)  # noqa: PT017
        assert len(str(error)) > 20, (type(error), str(error), args, kwargs)  # noqa: PT017
        return None, str(error)


def random_fields(choices, values) -> dict:
    fields = {name: choices.choice(values) for name in choices.sample(FIELDS, choices.randint(0, 2))}
    if choices.random() < 0.6 or not fields:
        names = choices.sample(BACKBONE_FIELDS, choices.randint(1, 2))
        fields["backbone_config"] = tiny_config("olmoe").to_dict() | {name: choices.choice(values) for name in names}
    return fields


@pytest.mark.filterwarnings("ignore")
def test_configurations_in_memory(tmp_path):
    choices, num_built = random.Random(0), 0
    for _ in range(350):
        fields = random_fields(choices, VALUES)
        config, _ = attempt(MoEEConfig, **fields)
        if config is None:
            continue
        config.save_pretrained(tmp_path)
        saved = MoEEConfig.from_pretrained(tmp_path).to_dict()
        assert all(saved[name] == getattr(config, name) for name in SAVED_AS_THEY_ARE), fields
        if "backbone_config" in fields:
            model, _ = attempt(MoEEModel.without_weights, config)
            num_built += model is not None and model.config.embedding_size > 0
    assert 20 < num_built < 330


@pytest.mark.filterwarnings("ignore")
def test_configurations_in_files(tmp_path):
    choices, num_read = random.Random(1), 0
    path, beside = tmp_path / "config.json", tmp_path / "moee_config.json"
    for _ in range(350):
        fields, kind = random_fields(choices, IN_JSON), choices.choice(["moee", "plain", "beside", "damaged"])
        backbone = fields.get("backbone_config") or tiny_config("olmoe").to_dict()
        text = json.dumps(backbone)
        if kind in ("moee", "damaged"):
            text = json.dumps({"backbone_config": backbone} | fields | {"model_type": "moee"})
        if kind == "damaged":
            text = text[: choices.randrange(len(text))]
        path.write_text(text)
        beside.unlink(missing_ok=True)
        if kind == "beside":
            fields.pop("backbone_config", None)
            beside.write_text(json.dumps(fields))
        config, sentence = attempt(MoEEConfig.from_pretrained, tmp_path)
        assert sentence is None or str(tmp_path) in sentence, (kind, fields, sentence)
        if kind == "moee":
            other, problem = attempt(AutoConfig.from_pretrained, tmp_path)
            assert problem == sentence
            assert config is None or other.to_json_string() == config.to_json_string()
        if config is not None:
            attempt(MoEEModel.without_weights, config)
        num_read += config is not None
    assert 20 < num_read < 330


@pytest.mark.filterwarnings("ignore")
def test_arguments_of_loading():
    names = [*FIELDS, *BACKBONE_FIELDS, *LOADING.split(), "verify_weights", "output_loading_info"]
    choices, num_loaded = random.Random(2), 0
    for _ in range(120):
        name, value = choices.choice(names), choices.choice(VALUES)
        result, _ = attempt(MoEEModel.from_pretrained, GOLDEN / "olmoe", **{name: value})
        model = result[0] if isinstance(result, tuple) else result
        if model is not None:
            output, _ = attempt(model, torch.tensor([[5, 6, 7, 8]]))
            assert output is None or output.embeddings.isfinite().all()
            num_loaded += 1
    assert 10 < num_loaded < 110
