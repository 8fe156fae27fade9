"""Texts in, embeddings out: files of any size, part by part. Imports nothing else of the package."""
