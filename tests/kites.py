"""A small text for tokenizers, and a vocabulary size of each type that it allows."""

TEXT = [
    "Once upon a time there was a kite.\n\nIt was red, and it flew,\nit flew over the hills.\n" * 9,
    'The kite said: "I\'m 27 years old!"\r\n\tAnd then?  Then it was <s> gone </s>, 1/2 < 3 > 2.\n'
    * 9,
]
SIZE = {"bpe": 340, "unigram": 305, "char": 400}
