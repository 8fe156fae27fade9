"""From hidden states and routing of a batch to embeddings, by the functions of `MoEEModel`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Set
from dataclasses import replace
from typing import Any

import torch
from vllm.model_executor.layers.pooler.abstract import Pooler
from vllm.pooling_params import PoolingParams
from vllm.v1.pool.metadata import PoolingMetadata

from moee_hf import MoEEConfig, MoEEModel
from moee_hf.model.fitted_moee import check_compression, find_prompt_indices
from moee_hf.model.functional_moee import Mix, pool, route
from moee_hf.model.inference_moee import embeddings_of, finish

from .routing import RoutingRecorder


class MoEEPooler(Pooler):
    """Reads HS and RW of each text of a batch, and combines them as its request says.

    Args:
        model: The model, without weights; its statistics are on the device.
        recorder: What the routers returned.
    """

    def __init__(self, model: MoEEModel, recorder: RoutingRecorder):
        super().__init__()
        # in a tuple: as a module of this one, vLLM would look for the weights of its backbone
        self._model, self._recorder = (model,), recorder
        self._prompt = find_prompt_indices(model.config, model.config.resolve_prompts())[0]

    def get_supported_tasks(self) -> Set[str]:
        return {"embed"}

    def forward(
        self, hidden_states: torch.Tensor, pooling_metadata: PoolingMetadata
    ) -> torch.Tensor | list[torch.Tensor]:
        """Return one embedding for each text; those of texts that run on in the next batch are not read.

        Args:
            hidden_states: Those of all tokens after the last norm, of shape `(num_tokens, hidden_size)`.
            pooling_metadata: Where the tokens of each text lie, and what it asks for.
        """
        hidden, routing = self._read(hidden_states, pooling_metadata.get_pooling_cursor())
        mixes = [mix_of(self._model[0].config, params) for params in pooling_metadata.pooling_params]
        if len(set(mixes)) == 1:
            return self._combined(hidden, routing, mixes[0])
        texts = defaultdict(list)
        for index, mix in enumerate(mixes):
            texts[mix].append(index)
        embeddings: dict[int, torch.Tensor] = {}
        for mix, indices in texts.items():
            embeddings |= zip(indices, self._combined(hidden[indices], routing[indices], mix), strict=True)
        return [embeddings[index] for index in range(len(mixes))]

    def _combined(self, hidden: torch.Tensor, routing: torch.Tensor, mix: Mix) -> torch.Tensor:
        (model,) = self._model
        return finish(model, embeddings_of(model, hidden, routing, mix, self._prompt)[None], mix)

    def _read(self, hidden_states: torch.Tensor, cursor: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """HS of shape `(batch_size, hidden_size)`, and RW of shape `(batch_size, num_moe_layers, num_experts)`."""
        config = self._model[0].config
        if config.pooling == "lasttoken":
            last = cursor.last_token_indices_gpu
            return hidden_states[last].float(), route(self._recorder.logits(last), config.router_activation)
        starts, ends = cursor.first_token_indices_gpu.tolist(), cursor.last_token_indices_gpu.tolist()
        parts = [self._means(hidden_states, slice(start, end + 1)) for start, end in zip(starts, ends, strict=True)]
        hidden, routing = (torch.cat(part) for part in zip(*parts, strict=True))
        return hidden, routing

    def _means(self, hidden_states: torch.Tensor, tokens: slice) -> tuple[torch.Tensor, torch.Tensor]:
        config = self._model[0].config
        hidden, routing = hidden_states[tokens], route(self._recorder.logits(tokens), config.router_activation)
        mask = hidden.new_ones(1, len(hidden))
        hidden, weights = (pool(part[None], mask, config.pooling) for part in (hidden, routing.flatten(1)))
        return hidden, weights.reshape(1, *routing.shape[1:])


def mix_of(config: MoEEConfig, params: PoolingParams) -> Mix:
    """Return how a request combines HS and RW.

    Args:
        config: The configuration, for what the request does not say.
        params: Those of the request: `use_activation` is whether embeddings have length 1, `dimensions` is as in
            `MoEEConfig`, and `extra_kwargs` may have `combination`, `alpha` and `standardize` of `MoEEModel.encode`.

    Raises:
        TypeError: If `extra_kwargs` has other arguments.
        ValueError: If one has no such value, or the model was not fitted to it.
    """
    mix = config.mix(**params.extra_kwargs or {}, normalize=bool(params.use_activation))
    if params.dimensions is not None:
        mix = replace(mix, dimensions=params.dimensions)
        check_compression(config, mix, "dimensions")
    return mix
