"""What a calibrated model says of its routing: a chart for the terminal, and a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..model.configuration_moee import MoEEConfig

_BAR_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"


def agreement_chart(config: MoEEConfig) -> Iterator[str]:
    """Yield a line for each MoE layer of a calibrated model: its number, how far it agrees with HS, and whether in RW.

    Bars are as long as the agreement, the longest one 40 characters; a layer that does not agree has none.
    """
    agreement = config.router_agreement or []
    longest = max(*agreement, 1e-9)
    for layer, value in enumerate(agreement):
        mark = " RW" if layer in config.router_indices else ""
        yield f"{layer:>4} {bar(value / longest, _BAR_WIDTH):<{_BAR_WIDTH}} {value:6.3f}{mark}"


def alpha_table(by_alpha: Mapping[float, float], config: MoEEConfig) -> Iterator[str]:
    """Yield a line for each embedding that was compared, with its number; what a model makes has a star.

    Args:
        by_alpha: A number for each weight of RW in a sum; 0 is HS alone, infinity RW alone.
        config: Of the model.
    """
    chosen = {"hs": 0.0, "sum": config.alpha, "rw": math.inf}.get(config.combination)
    for alpha, value in by_alpha.items():
        # every second weight is between two powers of 2
        if alpha == chosen or alpha in (0, math.inf) or math.log2(alpha).is_integer():
            name = {0.0: "hs", math.inf: "rw"}.get(alpha, f"sum, alpha {alpha:g}")
            yield f"     {name:<20} {value:6.3f}{' *' if alpha == chosen else ''}"


def layers_of_routing(router_indices: Sequence[int], num_moe_layers: int) -> str:
    """Return a sentence on which MoE layers are in RW."""
    if len(router_indices) == num_moe_layers:
        return f"RW come from all {num_moe_layers} MoE layers"
    numbers = ", ".join(map(str, router_indices))
    return f"RW come from {len(router_indices)} of {num_moe_layers} MoE layers, counted from 0: {numbers}"


def bar(share: float, width: int) -> str:
    """Return a bar for a share of the longest one, which has so many characters; one below 0 is empty."""
    eighths = max(0, round(share * width * 8))
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()
