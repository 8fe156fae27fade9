"""Every field of the configuration is checked whenever it is set."""

import json

import numpy as np
import pytest
from support.tiny_backbones import tiny_config
from transformers import AutoConfig, OlmoeConfig

from moee_hf import MoEEConfig, MoEEModel


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("combination", "add", "combination: expected one of 'hs', 'rw', 'concat', 'sum'; got 'add'"),
        ("alpha", -0.5, "alpha: expected a finite number >= 0"),
        ("alpha", "1", "alpha: expected a finite number >= 0"),
        ("pooling", "cls", "pooling: expected one of 'lasttoken', 'mean', 'weightedmean'; got 'cls'"),
        (
            "router_activation",
            "sigmoid",
            "router_activation: expected one of 'softmax', 'logits', 'clr'; got 'sigmoid'",
        ),
        ("hidden_layer", 1.5, "hidden_layer: expected an integer; got 1.5"),
        ("router_layers", [], r"router_layers: expected a list of layers, .* got \[\]"),
        ("router_layers", 3, "router_layers: expected a list of layers"),
        ("hidden_source", "keys", "hidden_source: expected one of 'state', 'attention', 'values'; got 'keys'"),
        ("attention_layers", [], r"attention_layers: expected a list of layers, .* got \[\]"),
        ("attention_layers", [True], "attention_layers: expected a list of layers"),
        ("router_layer_weights", [], "router_layer_weights: expected a list with a finite number >= 0 for each layer"),
        ("router_layer_weights", 1.0, "router_layer_weights: expected a list with a finite number >= 0"),
        ("router_layer_weights", [0, 0.0], "router_layer_weights: expected .* not all of them 0"),
        ("router_layer_weights", [1, -0.5], "router_layer_weights: expected a list with a finite number >= 0"),
        ("router_layer_weights", [1, float("nan")], "router_layer_weights: expected a list with a finite number >= 0"),
        ("router_layer_weights", [1, float("inf")], "router_layer_weights: expected a list with a finite number >= 0"),
        ("router_layer_weights", [1, True], "router_layer_weights: expected a list with a finite number >= 0"),
        ("router_layer_weights", [1, "1"], "router_layer_weights: expected a list with a finite number >= 0"),
        ("dimensions", 0, "dimensions: expected a number of dimensions >= 1, or None; got 0"),
        ("dimensions", 2.0, "dimensions: expected a number of dimensions >= 1, or None; got 2.0"),
        ("default_prompt_name", 1, "default_prompt_name: expected the name of a prompt, a list of names, or None"),
        ("standardize", "yes", "standardize: expected True or False; got 'yes'"),
        ("prompts", {"q": "no place"}, r"prompts\['q'\]: expected a template with \{text\} exactly once"),
        ("prompts", ["{text}"], "prompts: expected a dictionary of templates by name"),
        ("max_length", 0, "max_length: expected a number of tokens >= 1, or None; got 0"),
    ],
)
def test_bad_values_are_refused_in_the_constructor_and_later(field, value, message):
    with pytest.raises(ValueError, match=f"MoEEConfig.{message}"):
        MoEEConfig(**{field: value})
    config = MoEEConfig()
    with pytest.raises(ValueError, match=f"MoEEConfig.{message}"):
        setattr(config, field, value)


def test_unknown_default_prompt_is_refused():
    with pytest.raises(ValueError, match=r"prompt_name: expected one of 'prompteol', 'none', .*, 'q'; got 'eol'"):
        MoEEConfig(prompts={"q": "Q: {text}"}, default_prompt_name="eol")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_layer": 5}, "hidden_layer: expected a number from -5 to 4, as the backbone has 4 layers; got 5"),
        ({"hidden_layer": -6}, "hidden_layer: expected a number from -5 to 4"),
        (
            {"router_layers": [0, 4]},
            "router_layers: expected numbers from -4 to 3, as the backbone has 4 MoE layers; got 4",
        ),
        (
            {"router_layer_weights": [1.0] * 3},
            "router_layer_weights: expected one weight for each of 4 MoE layers; got 3",
        ),
        (
            {"router_layers": [0, 1], "router_layer_weights": [1.0] * 4},
            "router_layer_weights: expected one weight for each of 2 MoE layers; got 4",
        ),
        (
            {"hidden_source": "attention", "attention_layers": [4]},
            "attention_layers: expected numbers from -4 to 3, as the backbone has 4 attention blocks; got 4",
        ),
        ({"attention_layers": [0, -4]}, "attention_layers: expected each layer once"),
        ({"router_layers": [3, -1]}, r"router_layers: expected each layer once; got \[3, -1\]"),
    ],
)
def test_layers_that_the_backbone_does_not_have_fail_at_construction(fields, message):
    with pytest.raises(ValueError, match=f"MoEEConfig.{message}"):
        MoEEModel(MoEEConfig(backbone_config=tiny_config("olmoe"), **fields))


def test_round_trip_through_json(tmp_path):
    config = MoEEConfig(
        backbone_config=tiny_config("mixtral"),
        combination="concat",
        alpha=0.3,
        router_layers=[0, -1],
        prompts={"q": "Q: {text}"},
    )
    config.save_pretrained(tmp_path)
    again = MoEEConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.backbone_config.model_type == "mixtral"


def test_plain_configuration_is_wrapped(tmp_path):
    tiny_config("qwen2_moe").save_pretrained(tmp_path)
    config = MoEEConfig.from_pretrained(tmp_path, alpha=2.0)
    assert (config.model_type, config.backbone_config.model_type, config.alpha) == ("moee", "qwen2_moe", 2.0)


def test_fields_beside_a_plain_checkpoint(tmp_path):
    tiny_config("olmoe").save_pretrained(tmp_path)
    beside = tmp_path / "moee_config.json"
    beside.write_text(json.dumps({"pooling": "mean", "hidden_layer": 1}))
    config = MoEEConfig.from_pretrained(tmp_path)
    assert (config.pooling, config.hidden_layer, config.combination) == ("mean", 1, "sum")
    assert MoEEConfig.from_pretrained(tmp_path, pooling="lasttoken").pooling == "lasttoken"
    assert MoEEConfig.from_pretrained(tmp_path.parent, subfolder=tmp_path.name).pooling == "mean"
    beside.write_text(json.dumps({"pooling": "cls"}))
    with pytest.raises(ValueError, match="pooling: expected one of"):
        MoEEConfig.from_pretrained(tmp_path)
    for bad in ('{"pooling"', "[]", '{"poolling": "mean"}', '{"backbone_config": {"model_type": "mixtral"}}'):
        beside.write_text(bad)
        with pytest.raises(OSError, match=r"moee_config\.json: expected"):
            MoEEConfig.from_pretrained(tmp_path)


def test_code_of_the_backbones_repository_is_not_named():
    backbone = {**tiny_config("deepseek_v3").to_dict(), "auto_map": {"AutoModel": "modeling_deepseek.DeepseekV3Model"}}
    assert not hasattr(MoEEConfig(backbone_config=backbone).backbone_config, "auto_map")


def test_implementations_named_by_the_backbone_are_kept():
    backbone = OlmoeConfig(attn_implementation="eager", experts_implementation="batched_mm")
    config = MoEEConfig(backbone_config=backbone)
    assert config.backbone_config._attn_implementation == "eager"
    assert config.backbone_config._experts_implementation == "batched_mm"


def test_sizes_follow_from_the_choices():
    config = MoEEModel(MoEEConfig(backbone_config=tiny_config("olmoe"), router_layers=[1, 2])).config
    sizes = {c: config.embedding_size_for(c) for c in ("hs", "rw", "concat", "sum")}
    assert sizes == {"hs": 32, "rw": 16, "concat": 48, "sum": 48}
    assert config.projection_dim == config.embedding_size == 48


def test_sizes_before_the_model_is_built():
    with pytest.raises(ValueError, match="router_shape: expected the number of MoE layers and experts; got None"):
        _ = MoEEConfig().embedding_size


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_length": "20"}, r"MoEEConfig\.max_length: expected a number of tokens"),
        ({"standardize": "no"}, r"MoEEConfig\.standardize: expected True or False; got 'no'"),
        ({"dtype": "flnat32"}, r"MoEEConfig\.dtype: expected a dtype of torch, such as 'bfloat16'; got 'flnat32'"),
        ({"calibration": 1.5}, r"MoEEConfig\.calibration: expected a dictionary"),
        ({"router_agreement": ["a"]}, r"MoEEConfig\.router_agreement: expected a list with a finite number"),
        ({"digests": {"../x": "0"}}, r"MoEEConfig\.digests: expected files of the repository; got '\.\./x'"),
        ({"hidden_size": 3}, r"MoEEConfig\.hidden_size: expected the name of a field; hidden_size follows from"),
        ({"projection_dim": 3}, r"MoEEConfig\.embedding_size: expected the name of a field"),
        ({"mix": 3}, r"MoEEConfig\.mix: expected the name of a field; mix is one of its methods"),
        ({"default_prompt_name": "eol"}, r"MoEEConfig\.default_prompt_name: expected one of"),
        ({"poling": "mean"}, r"got 'poling'\. Did you mean 'pooling'\?"),
        ({"backbone_config": None}, "expected a backbone_config in the config.json of a MoEE model; got none"),
        ({"backbone_config": {"model_type": "moee"}}, r"MoEEConfig\.backbone_config: expected the configuration of a"),
        ({"num_labels": 10**12}, r"MoEEConfig\.num_labels: expected at most 1,000,000"),
        ({"num_labels": "a"}, "MoEEConfig: expected fields that transformers can read"),
    ],
    ids=str,
)
def test_a_file_with_bad_fields_is_named_by_every_reader(fields, message, tmp_path):
    backbone = tiny_config("olmoe").to_dict()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "moee", "backbone_config": backbone} | fields))
    problems = []
    for reader in (MoEEConfig, AutoConfig, MoEEModel):
        with pytest.raises((ValueError, OSError), match=rf"^'{tmp_path}': .*{message}") as error:
            reader.from_pretrained(tmp_path)
        problems.append(str(error.value))
    assert len(set(problems)) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_cache": 0}, "expected the fields of a olmoe configuration; .*'use_cache' expected bool"),
        ({"dtype": "flnat32"}, "expected a dtype of torch"),
        ({"model_type": []}, "expected the model_type of an architecture"),
        ({"num_hidden_layers": 10**12}, "expected at most 10,000"),
        ({"text_config": {"num_hidden_layers": 10**12}}, "expected at most 10,000"),
        ({"vocab_size": 0}, "expected a configuration of which a model can be built"),
    ],
    ids=str,
)
def test_a_plain_file_with_bad_fields_is_named(fields, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tiny_config("olmoe").to_dict() | fields))
    with pytest.raises(ValueError, match=rf"^'{tmp_path}': MoEEConfig\.backbone_config.*: {message}"):
        MoEEModel.from_pretrained(tmp_path)


def test_what_an_earlier_version_calibrated_by_every_reader(tmp_path):
    fields = {"model_type": "moee", "backbone_config": tiny_config("olmoe").to_dict(), "calibrated": True}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    for reader in (MoEEConfig, AutoConfig):
        assert reader.from_pretrained(tmp_path).router_standardization == "zscore"


def test_numbers_of_numpy_are_saved_as_json(tmp_path):
    fields = {"alpha": np.float32(0.5), "hidden_layer": np.int64(-2), "max_length": np.int32(20)}
    fields |= {"router_layers": np.array([0, 2]), "router_layer_weights": (np.float64(1), 2), "standardize": np.False_}
    config = MoEEConfig(backbone_config=tiny_config("olmoe"), **fields)
    config.save_pretrained(tmp_path)
    again = MoEEConfig.from_pretrained(tmp_path)
    expected = {"alpha": 0.5, "hidden_layer": -2, "max_length": 20, "router_layers": [0, 2]}
    expected |= {"router_layer_weights": [1, 2], "standardize": False}
    for name, value in expected.items():
        for found in (getattr(config, name), getattr(again, name)):
            assert found == value
            assert type(found) is type(value)


@pytest.mark.parametrize("model_type", ["moee", [], None, 5, "nothing"])
def test_what_is_no_backbone_is_refused(model_type):
    with pytest.raises(ValueError, match=r"MoEEConfig\.backbone_config: expected"):
        MoEEConfig(backbone_config={"model_type": model_type})
    with pytest.raises(ValueError, match=r"MoEEConfig\.backbone_config: expected the configuration of a backbone"):
        MoEEConfig(backbone_config=MoEEConfig())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"vocab_size": 0}, "a configuration of which a model can be built"),
        ({"num_attention_heads": 0}, "a configuration of which a model can be built"),
        ({"hidden_act": "none"}, "a configuration of which a model can be built"),
        ({"num_experts_per_tok": 9}, "a token to visit 1 to 8 experts"),
    ],
)
def test_a_configuration_of_which_no_model_can_be_built(fields, expected):
    config = MoEEConfig(backbone_config=tiny_config("olmoe").to_dict() | fields)
    with pytest.raises(ValueError, match=rf"MoEEConfig\.backbone_config: expected {expected}"):
        MoEEModel(config)
