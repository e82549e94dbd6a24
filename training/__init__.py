"""What the training loop uses. A model is known here only as tensors and callables."""
