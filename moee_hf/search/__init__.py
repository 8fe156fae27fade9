"""Search in a corpus: its embeddings, kept, and the nearest of them."""
