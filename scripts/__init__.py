"""Thin commands: each file is one, `python -m scripts.NAME`, and has `main(argv=None)`."""
