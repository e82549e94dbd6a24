"""Text to batches. Knows nothing of the model.

    sources -> documents -> tokenizer -> prepare (shards on disk) -> batches.batch(step)

One arrow a file; each is called with plain arguments and can be used alone.
"""
