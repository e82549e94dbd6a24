"""The allowed values of settings that this package reads. `configs` imports this module, which
imports nothing."""

SOURCES = ("stories", "shakespeare", "files", "hub")
DOCUMENTS = ("file", "line", "paragraph")  # what one document is in a file of plain text
SPLIT_RULES = ("document", "tail")
TOKENIZERS = ("bpe", "unigram", "char")

# Tokens in a segment of a drill (data/drills.py). Longer ones were not needed for quickstart to
# recall facts under its window of 64.
SHORTEST_SEGMENT, LONGEST_SEGMENT = 4, 24
