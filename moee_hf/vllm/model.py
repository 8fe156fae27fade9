"""vLLM's own model of the backbone, without its head, and the pooler of MoEE."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models.interfaces_base import VllmModelForPooling

from .loading import load_without_weights
from .pooling import MoEEPooler
from .refusals import backbone_architecture
from .routing import RoutingRecorder, find_gates


class MoEEForEmbedding(nn.Module, VllmModelForPooling):
    """A backbone as vLLM runs it, whose routers are recorded."""

    is_pooling_model = True

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        model_config = vllm_config.model_config
        model = load_without_weights(model_config)
        inner = vllm_config.with_hf_config(
            model_config.hf_config, architectures=[backbone_architecture(model_config.hf_config)]
        )
        inner.model_config.convert_type = "embed"  # without a head, and from checkpoints with and without one
        self.backbone = initialize_model(inner, prefix=prefix)
        self._is_whole = vllm_config.quant_config is None  # else parameters are not those of the checkpoint
        gates = find_gates(self.backbone, model.config)
        recorder = RoutingRecorder(gates, vllm_config.scheduler_config.max_num_batched_tokens)
        model.statistics.to(gates[0].moee_logits.device)
        self.pooler = MoEEPooler(model, recorder)
        statistics = set(model.statistics.state_dict())
        # beside the weights lies the file of the statistics, which vLLM would take for some of them
        self.is_unused_checkpoint_weight = statistics.__contains__

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the token embeddings."""
        return self.backbone.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the hidden states after the last norm, of shape `(num_tokens, hidden_size)`."""
        return self.backbone(input_ids, positions, intermediate_tensors, inputs_embeds)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str] | None:
        """Load the backbone's weights, and return the names of those that were.

        Raises:
            ValueError: If some are missing, which vLLM would leave as they are in memory.
        """
        loaded = self.backbone.load_weights(weights)
        if loaded is None:
            return None
        if self._is_whole:
            loaded = loaded | zero_missing_biases(self.backbone, loaded)
        return {f"backbone.{name}" for name in loaded}


def zero_missing_biases(backbone: nn.Module, loaded: set[str]) -> set[str]:
    """Set biases to 0 that a checkpoint does not have, as vLLM's models may have more than transformers'.

    Args:
        backbone: vLLM's model.
        loaded: The names of its parameters that were loaded.

    Returns:
        The names of these biases.

    Raises:
        ValueError: If other parameters were not loaded.
    """
    missing = {name: weight for name, weight in backbone.named_parameters() if name not in loaded and weight.numel()}
    if whole := [name for name in missing if not name.endswith("bias")]:
        raise ValueError(
            f"vLLM: expected all weights of its model {type(backbone).__name__}; {len(whole)} are missing, the first "
            f"{whole[0]!r}. Load the complete checkpoint that its config.json describes."
        )
    for bias in missing.values():
        bias.data.zero_()
    return set(missing)
