"""Evaluation with mteb (the extra `evaluation`)."""

from importlib.util import find_spec

if find_spec("mteb") is None:
    raise ImportError("Evaluation needs mteb: pip install 'moee_hf[evaluation]'.")

from .encoder import MoEEEncoder, encoders
from .features import Corpus, Features
from .scores import Score, evaluate, table
from .task_files import local_tasks
from .tasks import get_tasks

__all__ = ["Corpus", "Features", "MoEEEncoder", "Score", "encoders", "evaluate", "get_tasks", "local_tasks", "table"]
