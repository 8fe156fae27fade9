"""Search in a corpus: its embeddings, kept, and the nearest of them.

To read in this order: `corpus` (a file, and its texts by their numbers), `recipe` (what embeddings of it depend on),
`nearest` (the most similar of many vectors), `index` (all of it).
"""

from .corpus import CorpusFile
from .index import Hit, Index, check_index, open_index

__all__ = ["CorpusFile", "Hit", "Index", "check_index", "open_index"]
