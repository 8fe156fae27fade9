"""Texts in, embeddings out: files of any size, row by row. Nothing else of the package is imported here.

    partial     files that are complete or not there
    parquet     the package for Parquet, which is optional
    lines       lines of text files, and what is damaged in them
    delimited, json_rows, parquet_rows      the rows of a file
    columns     columns that are kept beside the embeddings
    texts       the texts of a file
    formats, embeddings     embeddings to files
    folders     folders and digests
"""
