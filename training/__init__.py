"""What the training loop uses, one noun a file. Knows the model only as tensors and callables."""
