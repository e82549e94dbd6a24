"""The parts of `experiments.sweep` and `experiments.swap`: words for windows, speeds, scores."""
