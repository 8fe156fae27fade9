"""Files of texts to files of embeddings, any number of them, on one machine or many."""
