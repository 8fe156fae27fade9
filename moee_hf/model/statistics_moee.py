"""Statistics of a corpus: fitted in one pass, stored with a model, and the same for every text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .functional_moee import standardize


class Moments:
    """Mean and standard deviation of vectors that come in batches, in float64, whatever their order and batches.

    Two sets are merged by the formula of Chan, Golub and LeVeque (1979), which does not cancel as sums of squares do.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        self.squares = torch.zeros((), dtype=torch.float64)  # of the distances from the mean, summed

    def update(self, batch: torch.Tensor) -> None:
        """Add the vectors of a batch, of shape `(n, ...)` with n >= 1."""
        batch = batch.detach().to("cpu", torch.float64)
        mean = batch.mean(dim=0)
        distance, total = mean - self.mean, self.count + len(batch)
        self.squares = self.squares + (batch - mean).square().sum(dim=0)
        self.squares = self.squares + distance.square() * (self.count * len(batch) / total)
        self.mean = self.mean + distance * (len(batch) / total)
        self.count = total

    @property
    def std(self) -> torch.Tensor:
        """Standard deviation of the vectors so far (of all of them: divided by n); 1 where they never change."""
        std = (self.squares / self.count).sqrt()
        # what rounding in float32 leaves of a constant would be blown up to noise
        return torch.where(std > 1e-6 * self.mean.abs(), std, 1.0)


class StatisticsFit:
    """Fits the statistics of a corpus from its HS and RW, which come in batches."""

    def __init__(self) -> None:
        self._hidden, self._routing = Moments(), Moments()

    def update(self, hidden: torch.Tensor, routing: torch.Tensor) -> None:
        """Add the texts of a batch.

        Args:
            hidden: HS, of shape `(n, hidden_size)` with n >= 1.
            routing: RW, of shape `(n, num_moe_layers, num_experts)`.
        """
        self._hidden.update(hidden)
        self._routing.update(routing)

    def result(self) -> dict[str, torch.Tensor]:
        """Return the statistics, as `Statistics.store` takes them.

        Raises:
            ValueError: If there are fewer than two texts.
        """
        if self._hidden.count < 2:
            raise ValueError(f"texts: expected two or more to calibrate on; got {self._hidden.count}.")
        return {
            "hidden_mean": self._hidden.mean,
            "hidden_std": self._hidden.std,
            "routing_mean": self._routing.mean,
            "routing_std": self._routing.std,
        }


class Statistics(nn.Module):
    """Mean and standard deviation of HS, and of the weights of every router, over a corpus; none until `store`.

    They are buffers: `to` moves them with the model, but they stay float32 whatever becomes of its dtype.

    Args:
        hidden_size: Width of HS.
        router_shape: Routers and experts of the backbone.
    """

    hidden_mean: Any
    hidden_std: Any
    routing_mean: Any
    routing_std: Any

    def __init__(self, hidden_size: int, router_shape: Sequence[int]):
        super().__init__()
        self.shapes = {
            "hidden_mean": (hidden_size,),
            "hidden_std": (hidden_size,),
            "routing_mean": tuple(router_shape),
            "routing_std": tuple(router_shape),
        }
        for name in self.shapes:
            self.register_buffer(name, None)

    def store(self, **statistics: torch.Tensor) -> None:
        """Keep `hidden_mean`, `hidden_std`, `routing_mean` and `routing_std`.

        Raises:
            ValueError: If one is missing, unknown, of another shape or not finite, or a standard deviation is not
                positive; nothing is kept then.
        """
        given = {name: torch.as_tensor(value).to("cpu", torch.float32) for name, value in statistics.items()}
        if (got := {name: tuple(value.shape) for name, value in given.items()}) != self.shapes:
            raise ValueError(f"statistics: expected tensors of the shapes {self.shapes}; got {got}.")
        for name, value in given.items():
            if bad := int((~value.isfinite() | (name.endswith("std") & (value <= 0))).sum()):
                raise ValueError(
                    f"statistics: expected finite means and positive standard deviations; got {bad} values of {name} "
                    "that are not. Give what never changes over a corpus the standard deviation 1."
                )
        for name, value in given.items():
            setattr(self, name, value)

    def forward(
        self,
        hidden: torch.Tensor | None,
        routing: torch.Tensor | None,
        routers: Sequence[int],
        router_standardization: str,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return HS and RW of a batch, standardized.

        Args:
            hidden: HS, of shape `(batch_size, hidden_size)`. None: it was not read, and is not standardized.
            routing: RW, of shape `(batch_size, len(routers), num_experts)`. None: as above.
            routers: The routers that RW was read from, counted from 0.
            router_standardization: That of `MoEEConfig`.

        Raises:
            ValueError: If there are no statistics.
        """
        if self.hidden_mean is None:
            raise ValueError(
                "MoEEConfig.standardize: expected a model with statistics of a corpus; this one has none. Fit them "
                "with model.calibrate(texts), or set config.standardize = False."
            )
        if hidden is not None:
            hidden = standardize(hidden, self.hidden_mean, self.hidden_std)
        if routing is not None:
            mean, std = self.routing_mean[list(routers)].to(routing), self.routing_std[list(routers)]
            routing = routing - mean if router_standardization == "center" else standardize(routing, mean, std)
        return hidden, routing

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        return super()._apply(lambda buffer: buffer.to(fn(buffer).device), recurse)  # type: ignore[no-untyped-call]
