"""Statistics of a corpus: fitted in one pass, stored with a model, and the same for every text."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .agreement_moee import layer_agreement
from .fitted_moee import check_calibrated
from .functional_moee import standardize
from .transfer_moee import send

_MOMENTS = ("hidden_mean", "hidden_std", "routing_mean", "routing_std")
_OF_EMBEDDINGS = ("components", "largest")
# texts that are kept to compare layers and to find principal components: 50 MB for OLMoE-1B-7B
SAMPLE_SIZE = 4096


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


class Sample:
    """At most so many vectors of any number that come in batches, each as likely as any other (Vitter 1985, R)."""

    def __init__(self, size: int):
        self.size, self.count = size, 0
        self._rows: list[torch.Tensor] = []
        self._random = random.Random(0)

    def update(self, batch: torch.Tensor) -> None:
        """Add the vectors of a batch, of shape `(n, size)`."""
        for row in batch:
            self.count += 1
            if len(self._rows) < self.size:
                self._rows.append(row.clone())
            elif (place := self._random.randrange(self.count)) < self.size:
                self._rows[place] = row.clone()

    def rows(self) -> torch.Tensor:
        """Return the vectors, of shape `(min(count, size), ...)`."""
        return torch.stack(self._rows)


class StatisticsFit:
    """Fits the statistics of a corpus from its HS and RW, which come in batches; keeps a sample of these."""

    def __init__(self) -> None:
        self._hidden, self._routing = Moments(), Moments()
        self._sample, self._shape = Sample(SAMPLE_SIZE), torch.Size()

    def update(self, hidden: torch.Tensor, routing: torch.Tensor) -> None:
        """Add the texts of a batch.

        Args:
            hidden: HS, of shape `(n, hidden_size)` with n >= 1.
            routing: RW, of shape `(n, num_moe_layers, num_experts)`.
        """
        self._hidden.update(hidden)
        self._routing.update(routing)
        self._sample.update(torch.cat([hidden, routing.flatten(1)], dim=1))
        self._shape = routing.shape[1:]

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

    def sample(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return HS and RW of a random sample of the texts, in the shapes of `update`."""
        rows = self._sample.rows()
        num_weights = self._shape.numel()
        return rows[:, :-num_weights], rows[:, -num_weights:].reshape(-1, *self._shape)

    def agreement(self) -> torch.Tensor:
        """Return how far the routing of each layer agrees with HS, of shape `(num_moe_layers,)`: `layer_agreement`."""
        hidden, routing = self.sample()
        statistics = self.result()
        hidden = standardize(hidden.double(), statistics["hidden_mean"], statistics["hidden_std"])
        return layer_agreement(hidden, routing.double() - statistics["routing_mean"])


class Statistics(nn.Module):
    """Mean and standard deviation of HS, and of the weights of every router, over a corpus; none until `store`.

    They are buffers: `to` moves them with the model, but they stay float32 whatever becomes of its dtype. Where a
    corpus was read in several prompts, each buffer but the last two has a first dimension for them.

    Attributes:
        hidden_mean: Of shape `(hidden_size,)`.
        hidden_std: The same.
        routing_mean: Of shape `(num_moe_layers, num_experts)`, of all routers.
        routing_std: The same.
        components: Principal components of the embeddings, of shape `(dimensions, embedding_size)`. None: there are
            none.
        largest: The largest absolute value in the embeddings, which have length 1. None: it is not known.
    """

    hidden_mean: Any
    hidden_std: Any
    routing_mean: Any
    routing_std: Any
    components: Any
    largest: Any

    def __init__(self) -> None:
        super().__init__()
        for name in (*_MOMENTS, *_OF_EMBEDDINGS):
            self.register_buffer(name, None)

    def store(self, hidden_size: int, router_shape: Sequence[int], **statistics: torch.Tensor) -> None:
        """Keep statistics in place of those that there are.

        Args:
            hidden_size: Width of HS.
            router_shape: Routers and experts of the backbone.
            statistics: Those of `_MOMENTS`, and perhaps of `_OF_EMBEDDINGS`.

        Raises:
            ValueError: If one is missing, unknown, of another shape or not finite, or a standard deviation is not
                positive; nothing is kept then.
        """
        given = {name: torch.as_tensor(value).to("cpu", torch.float32) for name, value in statistics.items()}
        moments = {name: value for name, value in given.items() if name not in _OF_EMBEDDINGS}
        shapes = {name: (hidden_size,) if name.startswith("hidden") else tuple(router_shape) for name in _MOMENTS}
        got = {name: tuple(value.shape) for name, value in moments.items()}
        # several prompts
        num_prompts = {shape[:1] for name, shape in got.items() if len(shape) == 1 + len(shapes.get(name, shape))}
        prompts = num_prompts.pop() if len(num_prompts) == 1 else ()
        if got != {name: prompts + shape for name, shape in shapes.items()}:
            raise ValueError(f"statistics: expected tensors of the shapes {shapes}; got {got}.")
        for name, value in given.items():
            if bad := int((~value.isfinite() | (name.endswith("std") & (value <= 0))).sum()):
                raise ValueError(
                    f"statistics: expected finite means and positive standard deviations; got {bad} values of {name} "
                    "that are not. Give what never changes over a corpus the standard deviation 1."
                )
        for name in (*_MOMENTS, *_OF_EMBEDDINGS):
            setattr(self, name, given.get(name))

    @property
    def num_prompts(self) -> int:
        """The number of prompts that the corpus was read in."""
        return 1 if self.hidden_mean is None or self.hidden_mean.ndim == 1 else len(self.hidden_mean)

    def forward(
        self,
        hidden: torch.Tensor | None,
        routing: torch.Tensor | None,
        routers: Sequence[int],
        router_standardization: str,
        prompt: Any = 0,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return HS and RW of a batch, standardized.

        Args:
            hidden: HS, of shape `(batch_size, hidden_size)`. None: it was not read, and is not standardized.
            routing: RW, of shape `(batch_size, len(routers), num_experts)`. None: as above.
            routers: The routers that RW was read from, counted from 0.
            router_standardization: That of `MoEEConfig`.
            prompt: Which prompt the texts stand in: a number, or one a text, of shape `(batch_size,)`.

        Raises:
            ValueError: If there are no statistics, or HS is of another width.
        """
        check_calibrated(self.hidden_mean is not None)
        moments = {name: getattr(self, name) for name in _MOMENTS}
        if self.num_prompts > 1:
            moments = {name: values[prompt] for name, values in moments.items()}
        if hidden is not None:
            if hidden.shape[-1] != (width := moments["hidden_mean"].shape[-1]):
                raise ValueError(
                    f"MoEEConfig.hidden_source: expected HS of {width} dimensions, as the statistics are; got "
                    f"{hidden.shape[-1]}. Calibrate anew, or pass standardize=False."
                )
            hidden = standardize(hidden, moments["hidden_mean"], moments["hidden_std"])
        if routing is not None:
            indices = send(torch.tensor(list(routers)), moments["routing_mean"].device)
            mean, std = (moments[name].index_select(-2, indices) for name in ("routing_mean", "routing_std"))
            mean = mean.to(routing)
            routing = routing - mean if router_standardization == "center" else standardize(routing, mean, std)
        return hidden, routing

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        return super()._apply(lambda buffer: buffer.to(fn(buffer).device), recurse)  # type: ignore[no-untyped-call]
