"""Experiments: what teaches or measures. Each is a command, `python -m experiments.NAME --help`."""
