"""Texts in, embeddings out: files of any size, row by row. Nothing else of the package is imported here.

To read in this order: `partial` (files that are complete, or not there), `locations` (files here and at addresses),
`lines` (lines of text files, and what is damaged in them), `rows` (what a row is), `delimited`, `json_rows` and
`parquet` (the rows of each format), `columns` (what is kept beside the embeddings), `readers` (the rows of any format,
and parts of them), `texts` (the texts of a file), `formats` and `embeddings` (embeddings to files). `folders` has
folders and digests.
"""
