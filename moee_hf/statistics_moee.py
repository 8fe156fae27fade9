"""Statistics of a corpus, stored with a model, that standardize every text in the same way."""

from __future__ import annotations

import torch
from torch import nn

from .functional_moee import standardize


class Statistics(nn.Module):
    """Mean and standard deviation of HS and RW over a corpus, as buffers, float32 whatever the model's dtype.

    There are none until `store`, or a state dict, brings them.

    Args:
        hidden_size: Width of HS.
        routing_shape: Shape of RW: MoE layers read, experts.
    """

    hidden_mean: torch.Tensor | None
    hidden_std: torch.Tensor | None
    routing_mean: torch.Tensor | None
    routing_std: torch.Tensor | None

    def __init__(self, hidden_size: int, routing_shape: tuple[int, int]):
        super().__init__()
        self.shapes = {
            "hidden_mean": (hidden_size,),
            "hidden_std": (hidden_size,),
            "routing_mean": routing_shape,
            "routing_std": routing_shape,
        }
        for name in self.shapes:
            self.register_buffer(name, None)

    def store(self, device: torch.device, **statistics: torch.Tensor) -> None:
        """Keep `hidden_mean`, `hidden_std`, `routing_mean` and `routing_std` on a device.

        Raises:
            ValueError: If one is missing, unknown or of another shape, and nothing is kept.
        """
        given = {name: torch.as_tensor(value) for name, value in statistics.items()}
        if (got := {name: tuple(value.shape) for name, value in given.items()}) != self.shapes:
            raise ValueError(f"statistics: expected tensors of the shapes {self.shapes}; got {got}.")
        for name, value in given.items():
            setattr(self, name, value.to(device, torch.float32))

    def forward(self, hidden: torch.Tensor, routing: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return HS and RW of a batch, standardized.

        Raises:
            ValueError: If there are no statistics.
        """
        if (
            self.hidden_mean is None
            or self.hidden_std is None
            or self.routing_mean is None
            or self.routing_std is None
        ):
            raise ValueError(
                "MoEEConfig.standardize: expected a model with statistics of a corpus; this one has none. Store them "
                "with model.set_statistics(...), or set config.standardize = False."
            )
        return (
            standardize(hidden, self.hidden_mean, self.hidden_std),
            standardize(routing, self.routing_mean, self.routing_std),
        )
