"""Gradient checkpointing: layers that the backward pass runs again hand what they compute to a capture again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from .capture_moee import active_capture


def keep_captures(backbone: PreTrainedModel) -> None:
    """Prepare a backbone for a pass whose gradients are wanted, if gradient checkpointing is on.

    Raises:
        ValueError: If checkpoints are reentrant: these run layers without gradients, and those of RW would be lost.
    """
    for module in backbone.modules():
        function: Any = getattr(module, "_gradient_checkpointing_func", None)
        if not getattr(module, "gradient_checkpointing", False) or isinstance(function, _KeepsCapture):
            continue
        if getattr(function, "keywords", {}).get("use_reentrant"):
            raise ValueError(
                "gradient checkpointing: expected use_reentrant=False, as routing weights have no gradients with "
                "reentrant checkpoints; got True. Pass gradient_checkpointing_kwargs={'use_reentrant': False}."
            )
        module._gradient_checkpointing_func = _KeepsCapture(function)


@dataclass(frozen=True)
class _KeepsCapture:
    """A checkpointing function whose second run of a layer finds the capture as the first run found it.

    Without one the hooks would do nothing then, and fewer tensors be there for the backward pass than it looks for.

    Args:
        function: The checkpointing function of torch.
    """

    function: Callable[..., Any]

    def __call__(self, layer: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        capture = active_capture()
        if capture is None:
            return self.function(layer, *args, **kwargs)
        before = capture.without_results()

        def run(*args: Any, **kwargs: Any) -> Any:
            if active_capture() is capture:
                return layer(*args, **kwargs)
            with before.without_results():
                return layer(*args, **kwargs)

        return self.function(run, *args, **kwargs)
