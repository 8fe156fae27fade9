"""What the routers of vLLM's model return, kept for as long as a batch runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.fused_moe.router.gate_linear import GateLinear

from moee_hf import MoEEConfig
from moee_hf.model.backbone_moee import UnsupportedBackboneError


def find_gates(backbone: nn.Module, config: MoEEConfig) -> list[GateLinear]:
    """Return the routers that make up RW, in the order of `config.router_indices`.

    Args:
        backbone: vLLM's model.
        config: The configuration, which knows the routers of transformers' model.

    Raises:
        UnsupportedBackboneError: If these are not the same routers.
    """
    gates = [module for module in backbone.modules() if isinstance(module, GateLinear)]
    sizes = [gate.output_size for gate in gates]
    num_layers, num_experts = config.router_shape
    if sizes != [num_experts] * num_layers:
        raise UnsupportedBackboneError(
            f"vLLM: expected {num_layers} routers of {num_experts} experts that are GateLinear in its model of "
            f"{config.backbone_config.model_type}; got routers of {sizes}. Use MoEEModel.encode, or `moee serve`."
        )
    return [gates[index] for index in config.router_indices]


class RoutingRecorder:
    """Keeps the logits of each token of a batch.

    Each router has a buffer, made once for the largest batch, so that compiled code and CUDA graphs write to one
    place. A row that was never written is not a number: where vLLM computes routing without calling the router,
    embeddings are no numbers either, rather than wrong ones.

    Args:
        gates: The routers.
        num_tokens: The most tokens of a batch.
    """

    def __init__(self, gates: Sequence[GateLinear], num_tokens: int):
        self.gates = gates
        for gate in gates:
            logits = torch.full((num_tokens, gate.output_size), torch.nan, dtype=torch.float32)
            gate.register_buffer("moee_logits", logits, persistent=False)
            gate.register_forward_hook(_record)

    def logits(self, tokens: Any) -> torch.Tensor:
        """Return the logits of tokens of the batch at hand.

        Args:
            tokens: Their indices, of shape `(n,)`, or a slice.

        Returns:
            Float32 tensor of shape `(n, num_moe_layers, num_experts)`.
        """
        return torch.stack([gate.moee_logits[tokens] for gate in self.gates], dim=1)


def _record(gate: Any, _: Any, output: Any) -> None:
    logits = output[0] if isinstance(output, tuple) else output  # [T, E]
    gate.moee_logits[: logits.shape[0]].copy_(logits)
