"""Small models of random weights that several tests of one file share, and the folders that they are saved in."""

import contextlib
import tempfile

import torch
from transformers import CONFIG_MAPPING

from moee_hf import MoEEConfig, MoEEModel
from support.tiny_backbones import redraw, tiny_config

SIZES = ("hidden_size", "intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size")


def draw(model_type: str, size: int, **fields) -> MoEEModel:
    """A model whose hidden states and experts are so wide: scales of quantized weights weigh little."""
    known = CONFIG_MAPPING[model_type]().to_dict()
    config = tiny_config(model_type, **{name: size for name in SIZES if name in known}, **fields)
    torch.manual_seed(0)
    return redraw(MoEEModel(MoEEConfig(backbone_config=config, combination="sum")))


@contextlib.contextmanager
def folder_of(*cached):
    """A folder for what cached functions save; they forget it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        yield folder
    for function in cached:
        function.cache_clear()
