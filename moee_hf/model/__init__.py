"""The model: every file here is copied verbatim and flat into each saved repository."""
