"""Statistics: saved with the weights, and refused where they cannot standardize."""

import numpy as np
import pytest
import torch
from support.common import CHECKPOINT, TEXTS

from moee_hf import MoEEModel


def test_statistics_are_saved_and_loaded_with_the_weights(tmp_path):
    model = MoEEModel.from_pretrained(CHECKPOINT)
    shape = tuple(model.config.router_shape)
    generator = torch.Generator().manual_seed(0)
    statistics = {"hidden_mean": (64,), "hidden_std": (64,), "routing_mean": shape, "routing_std": shape}
    statistics = {name: 0.1 + torch.rand(size, generator=generator) for name, size in statistics.items()}
    model.set_statistics(**statistics)
    model.config.standardize = True
    model.save_pretrained(tmp_path)
    again = MoEEModel.from_pretrained(tmp_path)
    assert again.statistics.hidden_mean.dtype == torch.float32
    assert all(torch.equal(getattr(again.statistics, name), value) for name, value in statistics.items())
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))


def test_statistics_serve_any_choice_of_routers_and_dtype(tmp_path):
    model = MoEEModel.from_pretrained(CHECKPOINT, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    shapes = {"hidden_mean": (64,), "hidden_std": (64,), "routing_mean": (5, 16), "routing_std": (5, 16)}
    model.set_statistics(
        **{name: 1e-9 + 1e-3 * torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    )
    model.config.standardize = True
    rows = model.encode(TEXTS, combination="rw").reshape(len(TEXTS), 5, 16)
    model.config.router_layers = [4, 0]
    assert np.array_equal(model.encode(TEXTS, combination="rw").reshape(len(TEXTS), 2, 16), rows[:, [4, 0]])
    assert model.to(torch.float16).statistics.hidden_std.dtype == torch.float32
    assert np.isfinite(model.encode(TEXTS)).all()


def test_standardize_without_statistics_says_what_to_do(model):
    model.config.standardize = True
    with pytest.raises(ValueError, match=r"standardize: expected a model with statistics.*model\.calibrate"):
        model.encode("text")


def test_statistics_of_another_shape_are_refused(model):
    zeros = {"hidden_mean": torch.zeros(3), "hidden_std": torch.ones(64), "routing_mean": torch.zeros(5, 16)}
    with pytest.raises(ValueError, match=r"statistics: expected tensors of the shapes .*\(64,\).*; got .*\(3,\)"):
        model.set_statistics(**zeros, routing_std=torch.ones(5, 16))
    with pytest.raises(ValueError, match=r"statistics: expected tensors of the shapes .*routing_std.*; got "):
        model.set_statistics(**zeros)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_statistics_that_cannot_standardize_are_refused(model, bad):
    statistics = {"hidden_mean": torch.zeros(64), "hidden_std": torch.ones(64), "routing_mean": torch.zeros(5, 16)}
    with pytest.raises(ValueError, match="positive standard deviations; got 1 values of routing_std that are not"):
        model.set_statistics(**statistics, routing_std=torch.tensor([bad] + [1.0] * 79).view(5, 16))
    assert not model.config.calibrated
