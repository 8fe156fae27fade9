"""Any mixture-of-experts model of vLLM as a MoEE embedder: a plugin, which vLLM finds once both are installed.

In the order in which a start reads them:

1. `plugin.py`: what vLLM calls in each of its processes; it registers the rest.
2. `configuring.py`: from the configuration of a repository to that of vLLM.
3. `refusals.py`: what would give wrong vectors is refused at start.
4. `loading.py`: all of a MoEE model but the backbone's weights, which vLLM loads itself.
5. `prompts.py`: from the text of a request to the tokens of `encode`.
6. `model.py`: vLLM's own model of the backbone, without its head.
7. `routing.py`: what its routers return, kept for as long as a batch runs.
8. `pooling.py`: from hidden states and routing to embeddings.
"""
