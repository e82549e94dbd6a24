"""The allowed values of settings that this package reads. `configs` imports this module, which
imports nothing."""

SOURCES = ("stories", "shakespeare", "files", "hub")
DOCUMENTS = ("file", "line", "paragraph")  # what one document is in a file of plain text
SPLIT_RULES = ("document", "tail")
TOKENIZERS = ("bpe", "unigram", "char")

# Tokens in a segment of a drill (data/drills.py). The longest is three quarters of quickstart's
# window of 64.
SHORTEST_SEGMENT, LONGEST_SEGMENT = 4, 48
