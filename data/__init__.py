"""From text to training batches. This package does not import the model.

    sources -> documents -> splits -> tokenizer -> prepare (token shards on disk) -> batches

Each arrow is one module, which takes plain arguments and can be used alone. data/text.py calls
them in this order.
"""
