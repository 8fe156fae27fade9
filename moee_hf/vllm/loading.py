"""All of a MoEE model but the backbone's weights, which vLLM loads itself."""

from __future__ import annotations

from vllm.config import ModelConfig

from moee_hf import MoEEModel
from moee_hf.model.configuration_moee import resolve_config
from moee_hf.model.digests_moee import check_files
from moee_hf.model.fitted_moee import check_calibrated
from moee_hf.model.repository_moee import read_statistics

# attributes of the backbone's configuration in vLLM: choices of `MoEEConfig`, and where the repository is
CHOICES, SOURCE = "moee", "moee_source"


def load_without_weights(model_config: ModelConfig) -> MoEEModel:
    """Return a model with configuration and statistics, whose backbone has shapes only.

    Args:
        model_config: That of vLLM. Its `hf_config` knows the source, and choices from `--hf-overrides`.

    Raises:
        OSError: If the source is damaged, or cannot be fetched.
        TypeError: If the choices are no dictionary.
        ValueError: If a choice is none, or the model cannot be had.
    """
    source, revision = getattr(model_config.hf_config, SOURCE)
    choices = getattr(model_config.hf_config, CHOICES, {})
    if not isinstance(choices, dict):
        raise TypeError(f"hf_overrides.{CHOICES}: expected a dictionary of fields of MoEEConfig; got {choices!r}.")
    hub_kwargs = {"revision": revision, "token": model_config.hf_token}
    config = resolve_config(source, **hub_kwargs)
    check_files(source, config.digests or {}, False, **hub_kwargs)
    config.digests = None
    config.choose(**choices)
    if config.standardize:
        check_calibrated(config.calibrated)
    config.name_or_path = source
    model = MoEEModel.without_weights(config)
    if config.calibrated:
        statistics = read_statistics(source, **hub_kwargs)
        model.statistics.store(model.config.hidden_size, model.config.router_shape, **statistics)
    return model
