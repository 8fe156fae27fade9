"""Reference repositories: kilobytes that name the backbone's repository and its commit."""

import contextlib
import json
import logging

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.common import BACKBONE, CHECKPOINT, TEXTS, assert_same
from support.hub import Repository
from transformers import AutoModel, BitsAndBytesConfig

from moee_hf import MoEEConfig, MoEEModel

REFERENCE = "author/reference"
SIZE = 64 + 5 * 16  # of the concatenation of HS and RW


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "another-cache"))


@contextlib.contextmanager
def no_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield


def one_sentence(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 320
    for part in parts:
        assert part in message


def test_kilobytes_and_the_same_vectors(hub, backbone, reference):
    files = hub.files(reference)
    assert not [name for name in files if name.endswith(".safetensors")]
    assert sum(file.size for name, file in files.items() if name != "tokenizer.json") < 400_000
    model = MoEEModel.from_pretrained(reference)
    assert model.config.base_model_name_or_path == backbone
    assert model.config.base_model_revision == hub.head(backbone)
    assert model.config.alpha == 0.5
    assert_same(model.encode(TEXTS), MoEEModel.from_pretrained(backbone).encode(TEXTS, alpha=0.5))


def test_a_later_commit_of_the_backbone_changes_nothing(hub, backbone, reference, empty_cache, tmp_path):
    before = MoEEModel.from_pretrained(backbone).encode(TEXTS, alpha=0.5)
    weights = load_file(CHECKPOINT / "model.safetensors")
    save_file({name: weight * 1.5 for name, weight in weights.items()}, tmp_path / "w", metadata={"format": "pt"})
    hub.add(backbone, {"model.safetensors": (tmp_path / "w").read_bytes()})
    assert abs(MoEEModel.from_pretrained(backbone).encode(TEXTS, alpha=0.5) - before).max() > 1e-3
    assert_same(MoEEModel.from_pretrained(reference).encode(TEXTS), before)


def test_options_of_transformers_pass_through(reference):
    model = AutoModel.from_pretrained(reference, dtype=torch.float16, device_map="cpu", attn_implementation="eager")
    assert model.dtype == torch.float16
    assert model.model.config._attn_implementation == "eager"


def test_quantization_reaches_its_quantizer(reference):
    model = MoEEModel.from_pretrained(reference, quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    assert model.model.layers[0].self_attn.q_proj.weight.dtype == torch.int8


def test_offload(reference, tmp_path):
    plain = MoEEModel.from_pretrained(reference)
    names = [name for name, _ in plain.model.named_children()]
    device_map = dict.fromkeys(names, "cpu") | {"layers": "disk"}
    model = MoEEModel.from_pretrained(reference, device_map=device_map, offload_folder=tmp_path / "offload")
    assert_same(model.encode(TEXTS), plain.encode(TEXTS))


def test_statistics_travel_and_a_reference_of_a_reference(hub, backbone, reference):
    model = MoEEModel.from_pretrained(reference)
    model.calibrate(TEXTS, prompt_name="none")
    model.push_to_hub("author/calibrated", reference=True)
    again = MoEEModel.from_pretrained("author/calibrated")
    assert again.config.standardize
    assert again.config.calibration == model.config.calibration
    assert again.config.base_model_name_or_path == backbone
    assert_same(again.encode(TEXTS), model.encode(TEXTS))


def test_a_full_save_of_a_reference_stands_alone(reference, tmp_path):
    model = MoEEModel.from_pretrained(reference)
    model.save_pretrained(tmp_path)
    with no_network():
        again = MoEEModel.from_pretrained(tmp_path)
    assert again.config.base_model_name_or_path is None
    assert_same(again.encode(TEXTS), model.encode(TEXTS))


def test_a_reference_holds_the_configuration_of_the_backbone_as_it_is_there(hub, backbone):
    """Not what was chosen while loading: the dtype, an implementation of attention, what a quantizer changed."""
    model = MoEEModel.from_pretrained(backbone, dtype=torch.float32, attn_implementation="eager")
    model.config.backbone_config.quantization_config = {"quant_method": "fp8"}
    model.push_to_hub(REFERENCE, reference=True)
    saved = json.loads(hub.files(REFERENCE)["config.json"].content)["backbone_config"]
    assert saved["dtype"] == "bfloat16"
    assert "quantization_config" not in saved
    assert MoEEModel.from_pretrained(REFERENCE).dtype == torch.bfloat16


def test_a_reference_in_a_folder_of_its_repository(hub, reference, tmp_path):
    files = {f"inside/{name}": file.content for name, file in hub.files(reference).items()}
    hub.add("author/folders", files)
    model = MoEEModel.from_pretrained("author/folders", subfolder="inside")
    assert model.encode("A text.").shape == (SIZE,)
    model.save_reference(tmp_path)


@pytest.mark.parametrize("place", ["subfolder", "variant"])
def test_weights_that_a_reference_cannot_name(hub, place, tmp_path):
    rename = {"subfolder": "inside/{}", "variant": "{}"}[place]
    files = {rename.format(name): content for name, content in BACKBONE.items()}
    if place == "variant":
        files["model.fp16.safetensors"] = files.pop("model.safetensors")
    hub.add("lab/special", files)
    model = MoEEModel.from_pretrained("lab/special", **{place: {"subfolder": "inside", "variant": "fp16"}[place]})
    with pytest.raises(ValueError, match="expected a model whose weights are those in the root"):
        model.save_reference(tmp_path)


def test_a_folder_is_no_backbone_to_refer_to(hub, backbone, tmp_path):
    model = MoEEModel.from_pretrained(CHECKPOINT)
    with pytest.raises(ValueError, match="save_reference: expected a model whose weights are those in the root"):
        model.save_reference(tmp_path)
    model.save_reference(tmp_path, backbone, "main")
    assert json.loads((tmp_path / "config.json").read_text())["base_model_revision"] == hub.head(backbone)


def test_no_commit_no_reference(backbone, tmp_path):
    with no_network(), pytest.raises(OSError, match="save_reference: the Hub cannot be reached"):
        MoEEModel.from_pretrained(CHECKPOINT).save_reference(tmp_path, backbone)
    assert not list(tmp_path.iterdir())


def test_whatever_transformers_adds_for_adapters_is_for_the_reference_alone(reference, monkeypatch):
    """With peft installed, AutoModel hands on a commit for adapters, which the backbone's repository has not."""
    monkeypatch.setattr("transformers.models.auto.auto_factory.is_peft_available", lambda: True)
    monkeypatch.setattr("transformers.integrations.peft.is_peft_available", lambda: True)
    assert AutoModel.from_pretrained(reference).encode("A text.").shape == (SIZE,)


# ---------------------------------------------------------------------- what can be wrong with the backbone


def test_missing_backbone(hub, reference, empty_cache):
    del hub.repositories["lab/backbone"]
    with pytest.raises(OSError, match="lab/backbone") as error:
        MoEEModel.from_pretrained(reference)
    one_sentence(error, "the Hub has no repository 'lab/backbone' that you may see")


def test_missing_commit(hub, reference, empty_cache):
    hub.repositories["lab/backbone"] = Repository()
    hub.add("lab/backbone", {"config.json": b"{}"})
    with pytest.raises(OSError, match="lab/backbone") as error:
        MoEEModel.from_pretrained(reference)
    one_sentence(error, "'lab/backbone' on the Hub has no revision")


@pytest.mark.parametrize("token", ["hf_stranger", False])
def test_private_backbone(hub, reference, empty_cache, token):
    hub.repositories["lab/backbone"].private = True
    with pytest.raises(OSError, match="lab/backbone") as error:
        MoEEModel.from_pretrained(reference, token=token)
    one_sentence(error, "that you may see", "`hf auth login`", "token=")


@pytest.mark.parametrize("token", ["hf_stranger", False])
def test_gated_backbone(hub, reference, empty_cache, token):
    hub.repositories["lab/backbone"].gated = True
    with pytest.raises(OSError, match="lab/backbone") as error:
        MoEEModel.from_pretrained(reference, token=token)
    one_sentence(error, "open only to those its authors have let in")


def test_wrong_token(reference, empty_cache):
    with pytest.raises(OSError, match=REFERENCE) as error:
        MoEEModel.from_pretrained(reference, token="hf_mistyped")
    one_sentence(error, "the Hub refuses the token")


def test_moved_backbone(hub, backbone, reference, empty_cache, caplog, monkeypatch):
    hub.repositories["lab/new-name"] = hub.repositories.pop(backbone)
    hub.moved[backbone] = "lab/new-name"
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model = MoEEModel.from_pretrained(reference)
    assert model.encode("A text.").shape == (SIZE,)
    assert "The backbone 'lab/backbone' is called 'lab/new-name' on the Hub now" in caplog.text


@pytest.mark.parametrize("how", ["offline mode", "local_files_only"])
def test_no_network_and_a_warm_cache(hub, reference, how, tmp_path):
    options = {"cache_dir": tmp_path / "elsewhere"}
    expected = MoEEModel.from_pretrained(reference, **options).encode(TEXTS)
    del hub.log[:]
    with no_network() if how == "offline mode" else contextlib.nullcontext():
        model = MoEEModel.from_pretrained(reference, local_files_only=how == "local_files_only", **options)
        assert_same(model.encode(TEXTS), expected)
    assert hub.log == []


def test_a_hub_that_does_not_answer(hub, empty_cache, monkeypatch):
    nowhere = "http://127.0.0.1:9"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", nowhere)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", nowhere)
    with pytest.raises(
        OSError, match=r"^'author/reference': there is no such folder here, and the Hub cannot be reached"
    ):
        MoEEModel.from_pretrained("author/reference")
    assert hub.log == []


def test_no_network_and_a_cold_cache(reference, empty_cache):
    with no_network(), pytest.raises(OSError, match=REFERENCE) as error:
        MoEEModel.from_pretrained(reference)
    one_sentence(error, "the Hub cannot be reached")


def test_no_network_and_the_backbone_not_in_the_cache(reference, empty_cache):
    MoEEConfig.from_pretrained(reference)
    for options in ({}, {"local_files_only": True}):
        with no_network(), pytest.raises(OSError, match="author/reference") as error:
            MoEEModel.from_pretrained(reference, **options)
        one_sentence(error, "the Hub cannot be reached", "the cache does not hold 'author/reference'")
