"""The values that settings of this room may have. Imports nothing; `configs` imports it."""

SOURCES = ("stories", "shakespeare", "files", "hub")
DOCUMENTS = ("file", "line", "paragraph")  # what one document is in a file of plain text
SPLIT_RULES = ("document", "tail")
TOKENIZERS = ("bpe", "unigram", "char")
