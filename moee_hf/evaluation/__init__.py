"""Evaluation with mteb (the extra `evaluation`).

In the order of the data: `tasks` (by name: `mteb_tasks`; of local files: `task_files`, `task_data`), `reading`
(HS and RW of texts in one prompt, each read once, kept in a `store` under the `identity` of the model), `features`
(in several prompts), `fitting` (what is calibrated on a corpus), `encoder` (embeddings, as mteb takes them), `grid`
(of all choices), `scores` (in the files of `results`), `tables`. `pairs` and `alpha` compare HS and RW on pairs of
texts; `paper` does what the paper did.
"""

from importlib.util import find_spec

if find_spec("mteb") is None:
    raise ImportError("Evaluation needs mteb and matplotlib: pip install mteb matplotlib.")

from .encoder import MoEEEncoder
from .features import Corpus, Features
from .grid import encoders
from .scores import Score, evaluate, table
from .task_files import local_tasks
from .tasks import get_tasks

__all__ = ["Corpus", "Features", "MoEEEncoder", "Score", "encoders", "evaluate", "get_tasks", "local_tasks", "table"]
