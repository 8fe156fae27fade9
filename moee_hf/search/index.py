"""An index of a corpus: the embeddings of its texts, in a file, and the nearest of them to a query."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from ..bulk.description import describe
from ..bulk.file import write_embeddings
from ..files.partial import check_place, remove_leftovers
from .corpus import CorpusFile
from .nearest import nearest
from .recipe import cache_folder, digest_of_index

if TYPE_CHECKING:
    from ..model.configuration_moee import MoEEConfig
    from ..model.modeling_moee import MoEEModel

# bytes of vectors that are compared together
CHUNK = 1 << 24
# names of prompts, as sentence-transformers looks for them
_OF_QUERIES, _OF_TEXTS = ("query",), ("document", "passage", "corpus")
# in the metadata of a file, the digest of what it holds
_KEY = "index"


@dataclass(frozen=True)
class Hit:
    """A text that is like a query.

    Args:
        rank: 1 for the most similar.
        similarity: Cosine of the embeddings, to six digits.
        where: Where the text stands in its file, such as `line 12`.
        text: The text.
    """

    rank: int
    similarity: float
    where: str
    text: str


class Index:
    """The embeddings of a corpus, and the model that made them; `open_index` makes one.

    Args:
        model: The model.
        corpus: The texts.
        path: The file with their embeddings, of length 1.
        templates: The prompts of queries.
        key: The digest of what is in the file.
        is_new: Whether the embeddings were made just now.
    """

    def __init__(
        self, model: MoEEModel, corpus: CorpusFile, path: Path, templates: Sequence[str], key: str, is_new: bool
    ):
        self.model = model.with_config()  # with choices and statistics of its own, which stay as they are
        self.corpus, self.path, self.templates, self.is_new = corpus, path, templates, is_new
        self._key = key

    def __len__(self) -> int:
        """The number of texts."""
        return self.corpus.count

    def search(self, queries: Sequence[str], top: int = 10) -> list[list[Hit]]:
        """Return the texts that are most like each query, the most similar first; of equal ones, the first.

        Args:
            queries: The queries.
            top: How many texts to return of each, if there are so many.

        Raises:
            ValueError: If a query cannot be embedded, `top` is no number of texts, or the corpus was changed since.
            TypeError: If a query is not a string.
            OSError: If the corpus or its index cannot be read.
        """
        from ..model.functional_moee import check_count

        check_count("top", top, "texts")
        if empty := [number for number, query in enumerate(queries) if isinstance(query, str) and not query.strip()]:
            raise ValueError(f"queries[{empty[0]}]: expected some words; got {queries[empty[0]]!r}. Write a query.")
        vectors: Any = self.model.encode(
            list(queries), prompt=self.templates, normalize_embeddings=True, show_progress_bar=False
        )
        found = nearest(np.asarray(vectors), self._chunks(), top) if len(vectors) else []
        rows = self.corpus.rows(number for hits in found for number, _ in hits)
        return [
            [
                Hit(rank, similarity, rows[number].where, rows[number].text)
                for rank, (number, similarity) in enumerate(hits, 1)
            ]
            for hits in found
        ]

    def _chunks(self) -> Iterator[np.ndarray]:
        # read, not mapped: pages that are mapped count as memory of the process, and for safetensors stay there
        with self.path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            if header.get("__metadata__", {}).get(_KEY) != self._key:
                raise ValueError(f"{self.path}: expected the index as it was opened; it was replaced. Open it again.")
            count, width = header["embeddings"]["shape"]
            step = max(1, CHUNK // (4 * width))
            for start in range(0, count, step):
                numbers = np.fromfile(file, np.dtype("<f4"), min(step, count - start) * width)
                yield numbers.reshape(-1, width)


def open_index(
    model: MoEEModel,
    corpus: str | CorpusFile,
    *,
    column: str | None = None,
    delimiter: str | None = None,
    prompt: str | None = None,
    query_prompt: str | None = None,
    index: str | None = None,
    batch_size: int | None = None,
    show_progress_bar: bool | None = None,
) -> Index:
    """Return an index of a file with texts: the one that is kept, or a new one, which is kept.

    It is found again for as long as the texts, the model, its choices and the prompt are the same; it is complete, or
    not there. It holds no text.

    Args:
        model: The model.
        corpus: The file with texts, as `TextFile` takes it, here and below; or what was read of it before, as one may
            do before a model is loaded.
        column: The field that holds the text.
        delimiter: What separates the fields of a `.csv` or `.tsv` file.
        prompt: Of texts and queries: a name, several with `+` between them, or a template with `{text}`. None: the
            model's `document` (or `passage`, `corpus`) for texts and `query` for queries where it has them, as
            sentence-transformers does, else its default.
        query_prompt: Of queries alone. None: as above.
        index: The file to keep it in, which ends in `.safetensors`. None: one in `cache_folder()`.
        batch_size: As `MoEEModel.encode` takes it, here and below.
        show_progress_bar: While a new one is made.

    Raises:
        ValueError: If an argument has no such value, a row is damaged, a text cannot be embedded, or `index` is a file
            of something else.
        OSError: If a file cannot be read or written.
    """
    of_texts = _own_prompt(model.config, _OF_TEXTS) if prompt is None else prompt
    templates = model.config.find_prompts(of_texts)
    query_templates = _query_templates(model.config, prompt, query_prompt)
    texts = corpus if isinstance(corpus, CorpusFile) else CorpusFile(corpus, column, delimiter)
    check_index(index, texts.path)
    key = digest_of_index(model, templates, texts)
    path = cache_folder() / f"{key[:32]}.safetensors" if index is None else Path(index)
    found = _key_of(path)
    if index is not None and path.exists() and found != key:
        of = "something else" if found is None else "other texts, or another model, prompt or choice"
        raise ValueError(
            f"index: expected the embeddings of these texts, or no file yet; got {path}, which is of {of}. Name "
            "another file, or remove this one."
        )
    if is_new := found != key:
        remove_leftovers(path)
        origin, file = model.origin, texts.file()
        file.count = texts.count
        metadata = describe(model.config, origin.source, origin.revision, of_texts, normalize=True) | {_KEY: key}
        options: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": show_progress_bar}
        options |= {"prompt": templates, "normalize_embeddings": True}
        write_embeddings(model, file, str(path), metadata, with_text=False, **options)
        try:
            texts.check_unchanged()
        except ValueError:
            path.unlink()
            raise
    return Index(model, texts, path, query_templates, key, is_new)


def check_index(index: str | None, corpus: str) -> None:
    """Raise, as `open_index`, if this is no place for the embeddings of a corpus: before a model is loaded."""
    if index is None:
        return
    if Path(index).suffix != ".safetensors":
        raise ValueError(f"index: expected a file ending in .safetensors; got {index}.")
    check_place(index, corpus)


def _query_templates(config: MoEEConfig, prompt: str | None, query_prompt: str | None) -> list[str]:
    """The templates of queries, from the arguments of `open_index`."""
    if query_prompt is None:
        return config.find_prompts(_own_prompt(config, _OF_QUERIES) if prompt is None else prompt)
    try:
        return config.find_prompts(query_prompt)
    except ValueError as error:
        raise ValueError(f"query_prompt: {str(error).partition(': ')[2]}") from None


def _own_prompt(config: MoEEConfig, names: Sequence[str]) -> str | None:
    """The first of these names that the model has a prompt of; None: it has none."""
    return next((name for name in names if name in (config.prompts or {})), None)


def _key_of(path: Path) -> str | None:
    """What an index is of; None if there is none that is whole."""
    try:
        with safe_open(path, "numpy") as file:
            return (file.metadata() or {}).get(_KEY)
    except (FileNotFoundError, SafetensorError):
        return None
