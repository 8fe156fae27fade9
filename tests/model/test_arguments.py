"""Arguments of loading: choices of MoEEConfig, fields of the backbone, and what is neither; through every door."""

import shutil

import pytest
import torch
from sentence_transformers import SentenceTransformer
from support.common import CHECKPOINT, TEXTS
from support.tiny_backbones import redraw, tiny_config
from transformers import AutoModel, Qwen2MoeForCausalLM, pipeline

from moee_hf import MoEEConfig, MoEEModel
from moee_hf.model import fitted_moee

IDS = torch.tensor([[5, 6, 7, 8]])


def embeddings(model):
    with torch.no_grad():
        return model(input_ids=IDS).embeddings


def test_fields_of_the_configuration_pass_through():
    model = MoEEModel.from_pretrained(CHECKPOINT, combination="rw", router_layers=[0, -1], max_length=20)
    assert model.encode("text").shape == (2 * 16,)
    assert model.config.max_length == 20
    with pytest.raises(ValueError, match=r"MoEEConfig.pooling: expected one of .* got 'last'"):
        MoEEModel.from_pretrained(CHECKPOINT, pooling="last")
    with pytest.raises(
        ValueError, match=r"MoEEConfig\.default_prompt_name: expected one of 'prompteol', 'none', .*; got 'eol'"
    ):
        MoEEModel.from_pretrained(CHECKPOINT, default_prompt_name="eol")


@pytest.mark.parametrize("fields", [{"num_experts_per_tok": 2}, {"rms_norm_eps": 0.5}, {"num_hidden_layers": 3}])
def test_fields_of_the_backbone_are_what_auto_model_makes_of_them(saved, fields):
    plain = AutoModel.from_pretrained(CHECKPOINT, dtype=torch.float32, **fields)
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = plain(input_ids=ids).last_hidden_state[0, -1]
    loaders = [
        MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.float32, **fields),
        MoEEModel.from_pretrained(saved, **fields),
        MoEEModel.from_pretrained(saved, config=MoEEConfig.from_pretrained(saved, **fields)),
        AutoModel.from_pretrained(saved, trust_remote_code=True, **fields),
        pipeline("moee-embedding", model=str(saved), trust_remote_code=True, model_kwargs=dict(fields)).model,
        *(
            SentenceTransformer(str(saved), trust_remote_code=True, device="cpu", **{door: dict(fields)})[0].model
            for door in ("model_kwargs", "config_kwargs")
        ),
    ]
    for model in loaders:
        torch.testing.assert_close(model(input_ids=ids).pooled_hidden_state[0], expected)
        assert fields.items() <= model.with_config(alpha=2.0).config.backbone_config.to_dict().items()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("poling", "pooling"), ("num_experts_per_token", "num_experts_per_tok"), ("device_mapp", "device_map")],
)
def test_unknown_names_are_refused_with_the_nearest(saved, name, nearest):
    doors = {
        "MoEEModel": lambda fields: MoEEModel.from_pretrained(CHECKPOINT, **fields),
        "saved": lambda fields: MoEEModel.from_pretrained(saved, **fields),
        "AutoModel": lambda fields: AutoModel.from_pretrained(saved, trust_remote_code=True, **fields),
        "pipeline": lambda fields: pipeline("moee-embedding", model=str(saved), model_kwargs=fields),
        "sentences": lambda fields: SentenceTransformer(str(saved), trust_remote_code=True, model_kwargs=fields),
        "MoEEConfig": lambda fields: MoEEConfig.from_pretrained(saved, **fields),
    }
    for door, load in doors.items():
        if (door, name) == ("MoEEConfig", "device_mapp"):  # which takes no such argument
            continue
        with pytest.raises(ValueError, match=rf"got '{name}'\. Did you mean '{nearest}'\?"):
            load({name: 2})


def test_misspelt_choices_are_refused(model):
    for choose in (MoEEConfig, model.with_config):
        with pytest.raises(ValueError, match=r"got 'poling'\. Did you mean 'pooling'\?"):
            choose(poling="mean")
    assert MoEEConfig(some_other_tool={"a": 1}).some_other_tool == {"a": 1}


def test_statistics_that_are_not_there(saved, model, tmp_path):
    problem = r"MoEEConfig\.standardize: expected a model with statistics of a corpus; this one has none"
    folder = shutil.copytree(CHECKPOINT, tmp_path / "model")
    (folder / "moee_config.json").write_text('{"standardize": true}')
    doors = [
        lambda: MoEEModel.from_pretrained(saved, standardize=True),
        lambda: MoEEModel.from_pretrained(folder),
        lambda: AutoModel.from_pretrained(saved, trust_remote_code=True, standardize=True),
        lambda: MoEEConfig.from_pretrained(saved, standardize=True),
        lambda: model.with_config(standardize=True),
    ]
    for door in doors:
        with pytest.raises(ValueError, match=problem):
            door()
    model.calibrate(TEXTS)
    assert model.with_config(standardize=True).config.standardize


def test_more_tokens_than_a_model_is_made_for(model, caplog):
    fitted_moee.logger.warning_once.cache_clear()
    positions = model.config.get_text_config().max_position_embeddings
    assert model.with_config(max_length=positions).max_length == positions
    assert not caplog.records
    assert [model.with_config(max_length=positions + 1).max_length for _ in range(2)] == [positions + 1] * 2
    (record,) = caplog.records
    assert f"max_length: expected at most {positions} tokens" in record.getMessage()


@pytest.mark.parametrize("name", ["verify_weights", "output_loading_info"])
def test_words_are_not_taken_for_true(name):
    with pytest.raises(TypeError, match=f"{name}: expected True or False; got 'False'"):
        MoEEModel.from_pretrained(CHECKPOINT, **{name: "False"})


@pytest.mark.parametrize(
    "fields",
    [
        {"output_hidden_states": "no"},
        {"use_cache": 0},
        {"id2label": 3},
        {"num_labels": {1, 2}},
        {"problem_type": {1, 2}},
        {"model_type": []},
        {"vocab_size": 0},
        {"num_hidden_layers": 10**12},
        {"num_experts_per_tok": 99},
        {"dtype": "flnat32"},
        {"revision": 5},
        {"subfolder": 5},
    ],
    ids=str,
)
def test_values_that_a_backbone_cannot_have(fields):
    (name,) = fields
    where = {"vocab_size": "backbone_config", "num_experts_per_tok": "backbone_config"}.get(name, name)
    with pytest.raises((ValueError, TypeError), match=f"{where}: expected"):
        MoEEModel.from_pretrained(CHECKPOINT, **fields)


def test_a_backbone_that_returns_tuples(loaded):
    model = MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.float32, return_dict=False)
    assert torch.equal(embeddings(model), embeddings(loaded))


def test_fewer_layers_are_saved_as_such(tmp_path):
    plain = redraw(Qwen2MoeForCausalLM(tiny_config("qwen2_moe")))
    plain.save_pretrained(tmp_path / "plain")
    model = MoEEModel.from_pretrained(tmp_path / "plain", num_hidden_layers=2)
    model.save_pretrained(tmp_path / "fewer")
    assert torch.equal(embeddings(MoEEModel.from_pretrained(tmp_path / "fewer")), embeddings(model))
    with torch.no_grad():
        hidden = plain.model(IDS, output_hidden_states=True).hidden_states[2]
        expected = plain.model.norm(hidden)[:, -1]
    torch.testing.assert_close(model(IDS).pooled_hidden_state, expected)
