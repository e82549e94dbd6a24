"""Experiments, which teach or measure. Each is a command, `python -m experiments.NAME --help`."""
