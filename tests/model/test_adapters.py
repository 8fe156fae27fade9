"""Adapters of PEFT are saved merged into the weights, or refused."""

import copy

import numpy as np
import peft
import pytest
import torch
from sentence_transformers import SentenceTransformer
from support.common import TEXTS

from moee_hf import MoEEModel


def adapter_of(model, **options) -> peft.LoraConfig:
    return peft.LoraConfig(**{"target_modules": ["q_proj", "o_proj"], "r": 4, "init_lora_weights": False} | options)


# what an adapter may change, and the doors by which it comes in
@pytest.mark.parametrize(
    ("door", "options"),
    [
        ("model", {}),
        ("backbone", {"modules_to_save": ["q_norm"]}),
        ("around", {"target_modules": [], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}),
        ("model", {"target_modules": ["q_proj"], "use_dora": True}),
        ("model", {"target_modules": ["embed_tokens"]}),
        ("backbone", {"trainable_token_indices": [3, 4]}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # which peft asks for
def test_an_adapter_is_merged(model, tmp_path, door, options):
    adapted, adapter = copy.deepcopy(model), adapter_of(model, **options)
    if door == "around":
        adapted.model = peft.get_peft_model(adapted.model, adapter)
    else:
        (adapted if door == "model" else adapted.model).add_adapter(adapter)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if weight.requires_grad and "lora" not in name:  # which is as it was until it is trained
                weight.add_(0.1)
    expected, names = adapted.encode(TEXTS), adapted.state_dict().keys()
    assert not np.allclose(expected, model.encode(TEXTS), atol=1e-3)
    adapted.save_pretrained(tmp_path)
    assert adapted.state_dict().keys() == names
    assert np.array_equal(adapted.encode(TEXTS), expected)
    again = MoEEModel.from_pretrained(tmp_path)
    np.testing.assert_allclose(again.encode(TEXTS), expected, rtol=1e-3, atol=1e-5)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert adapted.weights_changed


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_the_adapter_that_is_active_is_merged(model, tmp_path):
    adapted, vectors = copy.deepcopy(model), []
    for name in ("one", "two"):
        adapted.add_adapter(adapter_of(model), name)
    adapted.set_adapter("one")
    vectors.append(adapted.encode(TEXTS))
    adapted.save_pretrained(tmp_path / "0")
    adapted.disable_adapters()
    vectors.append(model.encode(TEXTS))
    adapted.save_pretrained(tmp_path / "1")
    for number, expected in enumerate(vectors):
        again = MoEEModel.from_pretrained(tmp_path / str(number))
        np.testing.assert_allclose(again.encode(TEXTS), expected, rtol=1e-3, atol=1e-5)


def test_an_adapter_of_sentence_transformers(saved, tmp_path):
    sentences = SentenceTransformer(str(saved), trust_remote_code=True, device="cpu")
    sentences.add_adapter(adapter_of(sentences))
    expected = sentences.encode(TEXTS)
    sentences.save_pretrained(str(tmp_path))
    again = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS), expected, rtol=1e-3, atol=1e-5)


def with_virtual_tokens(model) -> MoEEModel:
    """A model with an adapter that cannot be merged."""
    adapted = copy.deepcopy(model)
    adapter = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3)
    adapted.model = peft.get_peft_model(adapted.model, adapter)
    return adapted


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_an_adapter_that_cannot_be_merged(hub, model, tmp_path):
    with pytest.raises(ValueError, match="save_pretrained: expected adapters that can be merged"):
        with_virtual_tokens(model).save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="save_pretrained: expected adapters that can be merged"):
        with_virtual_tokens(model).push_to_hub("author/new")
    assert not hub.requests("repos/create")
    adapted = copy.deepcopy(model)
    adapted.add_adapter(adapter_of(model))
    with pytest.raises(ValueError, match="state_dict: expected None for a model with adapters"):
        adapted.save_pretrained(tmp_path / "saved", state_dict=adapted.state_dict())
    adapted.model.layers[0].self_attn.q_proj.base_layer.to("meta")
    with pytest.raises(ValueError, match=r"save_pretrained: expected weights .*; got quantized or offloaded ones"):
        adapted.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="save_reference: expected the weights as they were loaded"):
        adapted.save_reference(tmp_path / "saved", "lab/backbone")
    assert not (tmp_path / "saved").exists()
