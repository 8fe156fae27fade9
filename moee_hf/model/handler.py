"""The handler of Inference Endpoints: feature extraction and sentence similarity over HTTP."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModel


class EndpointHandler:
    """Answers the requests of the two tasks, as `InferenceClient` and the Hub's widgets send them.

    Args:
        path: Folder of the repository.
    """

    def __init__(self, path: str = ""):
        accelerator: Any = getattr(torch, "accelerator", torch.cuda)  # before torch 2.6 there was none of that name
        device = "auto" if accelerator.is_available() else "cpu"
        self.model = AutoModel.from_pretrained(path, trust_remote_code=True, device_map=device)

    def __call__(self, data: dict[str, Any]) -> list[list[float]] | list[float]:
        """Embed texts, or compare one with others.

        Args:
            data: `inputs`, and beside it or under `parameters` any of `normalize`, `prompt_name`, `prompt`,
                `combination` and `alpha`, as `MoEEModel.encode` takes them; `truncate` and `truncation_direction` may
                only be true and `"right"`.

        Returns:
            For `inputs` that are a text or several, one embedding each. For a `source_sentence` and `sentences`, the
            cosine similarity of the one with each of the others.

        Raises:
            ValueError: If the request has another form.
        """
        if "inputs" not in data:
            raise ValueError(f"request: expected 'inputs'; got {sorted(data)}.")
        options = {key: value for key, value in data.items() if key not in ("inputs", "parameters")}
        parameters = data.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ValueError(f"parameters: expected a mapping; got {parameters!r}.")
        options |= parameters
        options = {key: value for key, value in options.items() if value is not None}
        if options.pop("truncate", True) is not True or options.pop("truncation_direction", "right") != "right":
            raise ValueError("truncate: expected true, and truncation_direction 'right': long texts lose their end.")
        if unknown := options.keys() - {"normalize", "prompt_name", "prompt", "combination", "alpha"}:
            raise ValueError(
                "parameters: expected among normalize, prompt_name, prompt, combination and alpha; got "
                f"{sorted(unknown)}."
            )
        options["normalize_embeddings"] = options.pop("normalize", False)
        if not isinstance(options["normalize_embeddings"], bool):
            raise ValueError(f"normalize: expected true or false; got {options['normalize_embeddings']!r}.")
        inputs = data["inputs"]
        if isinstance(inputs, dict):
            source, sentences = inputs.get("source_sentence"), inputs.get("sentences")
            if len(inputs) != 2 or not isinstance(source, str) or not isinstance(sentences, list):
                raise ValueError(
                    f"inputs: expected 'source_sentence', a text, and 'sentences', several; got {inputs!r}."
                )
            embeddings = [self._encode(texts, options) for texts in ([source], sentences)]
            return self.model.similarity(*embeddings)[0].tolist()
        return self._encode([inputs] if isinstance(inputs, str) else inputs, options).tolist()

    def _encode(self, texts: Any, options: dict[str, Any]) -> Any:
        try:
            return self.model.encode(texts, **options)
        except TypeError as error:  # of a text; an endpoint answers 400 to a ValueError
            raise ValueError(str(error)) from error
