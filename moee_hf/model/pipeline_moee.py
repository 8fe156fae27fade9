"""The pipeline `moee-embedding`: texts in, embeddings out, through the model's own prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import Pipeline

from .functional_moee import check_flag
from .prompts_moee import check_container, check_texts, named_by_themselves, stream_texts


class MoEEPipeline(Pipeline):
    """Embeddings of texts, batched and streamed as every pipeline does it.

    `pipe(text)` gives a list of `embedding_size` numbers, `pipe(texts)` one list per text. The call, or before it
    `pipeline(...)`, takes `prompt_name`, `prompt`, `combination`, `alpha` and `normalize_embeddings` as
    `MoEEModel.encode` does, which embeds each batch, and `return_tensors` for tensors of shape `(embedding_size,)` in
    place of lists.
    """

    tokenizer: Any

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = None  # if there is none beside it, the model's own

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.model.config.model_type != "moee":
            raise ValueError(
                f"pipeline('moee-embedding'): expected a MoEE model; got the type {self.model.config.model_type!r}. "
                "Wrap a plain checkpoint first: model=MoEEModel.from_pretrained(...)."
            )
        if self.tokenizer is None:
            self.tokenizer = self.model.tokenizer
        if self.tokenizer.pad_token_id is None:  # transformers makes no batches without it
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.tokenizer = self.tokenizer

    def _sanitize_parameters(
        self,
        prompt_name: str | list[str] | None = None,
        prompt: str | list[str] | None = None,
        combination: str | None = None,
        alpha: float | None = None,
        normalize_embeddings: bool | None = None,
        return_tensors: bool | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        forward = {
            "prompt_name": prompt_name,
            "prompt": prompt,
            "combination": combination,
            "alpha": alpha,
            "normalize_embeddings": normalize_embeddings,
        }
        forward = {name: value for name, value in forward.items() if value is not None}
        if return_tensors is not None:
            check_flag("return_tensors", return_tensors)
        return {}, forward, {} if return_tensors is None else {"return_tensors": return_tensors}

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Embed texts.

        Args:
            inputs: A text, several, or for a stream a generator or a data set of torch.
            options: Those of every pipeline, such as `batch_size` and `num_workers`, and ours.

        Raises:
            TypeError: If these are no texts, such as a table.
            ValueError: If a text cannot be embedded.
        """
        check_container(inputs)
        if isinstance(inputs, Iterator):
            inputs = (text for text in stream_texts(inputs))
        elif not isinstance(inputs, str | Dataset):
            inputs = check_texts(inputs)
            if not inputs:  # transformers would look at the first
                return []
        return super().__call__(inputs, **options)

    def preprocess(self, text: str) -> dict[str, tuple[str]]:
        return {"text": (text,)}

    def _forward(self, batch: dict[str, Any], **options: Any) -> dict[str, torch.Tensor]:
        """Embed one text, `(text,)`, or the list of them that a batch is."""
        rows = batch["text"] if isinstance(batch["text"], list) else [batch["text"]]
        texts = [text for (text,) in rows]
        with named_by_themselves(texts):  # texts come one by one
            embeddings = self.model.encode(texts, show_progress_bar=False, **options)
        return {"embeddings": torch.from_numpy(embeddings)}  # [B, N]

    def postprocess(self, output: dict[str, torch.Tensor], return_tensors: bool = False) -> torch.Tensor | list[float]:
        embedding = output["embeddings"][0]
        return embedding if return_tensors else embedding.tolist()
