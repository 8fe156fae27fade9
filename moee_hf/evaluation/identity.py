"""What a model is known by: a name and a revision that change whenever its vectors may."""

from __future__ import annotations

from pathlib import Path

from ..files.folders import digest_of_folder, digest_of_tensors
from ..model.hub_moee import alias_of
from ..model.modeling_moee import MoEEModel


def identity_of(model: MoEEModel, random: bool = False) -> tuple[str, str | None]:
    """Return the name and the revision of a model.

    Of a model on the Hub they are its id and commit; of a folder, its name and a digest of the files in it; of a model
    that was made or changed in memory, a digest of its weights.

    Args:
        model: The model.
        random: Whether its weights are those of `random_weights`; it is known by the model that it was made after.
    """
    source = model.origin.source
    path = Path(source)
    if not source or (model.weights_changed and not random):
        return f"memory/{path.name or model.config.backbone_config.model_type}", digest_of_tensors(model.model)
    if not path.is_dir():
        return source, model.origin.revision
    alias = alias_of(source)
    return f"moee_hf/{alias}" if alias else f"local/{path.resolve().name}", digest_of_folder(path)
