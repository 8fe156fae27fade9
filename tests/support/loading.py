"""A model for a process of its own, which imports nothing else of the tests."""

import torch

from moee_hf import MoEEModel


def load(folder: str, device: str | None) -> MoEEModel:
    return MoEEModel.from_pretrained(folder, dtype=torch.float32, device_map=device or "cpu")
