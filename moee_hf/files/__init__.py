"""Texts in, embeddings out: files of any size, row by row. Nothing else of the package is imported here."""
