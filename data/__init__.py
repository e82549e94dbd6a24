"""From text to training batches. This room does not know the model.

    sources -> documents -> splits -> tokenizer -> prepare (token shards on disk) -> batches

One file per arrow; each is called with plain arguments and can be used alone. data/text.py calls
them in order.
"""
