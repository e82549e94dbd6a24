"""Thin commands, one lesson a file; each is `python -m scripts.NAME` and has `main(argv=None)`."""
