"""Files of texts to files of embeddings: one, or any number of them on any number of machines.

To read in this order: `description` (how embeddings are made, in words that are kept with them), `file` (one file, or
a part of one), `inputs` (which files, and in which parts), `recipe` and `folder` (what decides the results, and the
folder that they are in), `work` (one part for a process with a model), `processes` and `on_ray` (many such processes),
`job` (all of it), `dataset` (the folder as a data set on the Hub).
"""

from .file import embed_file

__all__ = ["embed_file"]
