"""Parts of the training loop. This room handles a model only as tensors and callables."""
