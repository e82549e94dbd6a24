"""How fast each window trains and writes: side by side in one process, in turns (A B A B).

Training: forward, backward, clipping and an update by AdamW, on drawn tokens, as in `bench train`.
Writing: one token after another, greedily, with a drawn text already in the cache.
"""

import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from experiments.benchmarks.contenders import BREEZE, Shape, build
from experiments.benchmarks.decode import drawn_prompts
from experiments.benchmarks.timing import Reading, interleaved, timed
from model.config import ModelConfig

if TYPE_CHECKING:  # torch is imported only where something is computed
    from model import Transformer

WRITTEN = 64  # tokens that a reading writes


def train_speeds(
    configs: Mapping[str, ModelConfig], seq_len: int, rows: int, rounds: int
) -> dict[str, float]:
    """Return the tokens per second of a training step of each model: the median of the rounds.

    A step has `rows` sequences of `seq_len` tokens.
    """
    from training.device import keep_freed_memory

    keep_freed_memory()  # as train.py does
    readings = {
        name: timed(build(BREEZE, Shape(name, config, seq_len, rows)).step)
        for name, config in configs.items()
    }
    seconds = interleaved(readings, rounds, "training speed")
    return {name: seq_len * rows / median(found) for name, found in seconds.items()}


def decode_speeds(
    models: Mapping[str, "Transformer"], context: int, rounds: int
) -> dict[str, float]:
    """Return the tokens per second that each model writes after `context` tokens: the median."""
    readings = {name: _writing(model, context) for name, model in models.items()}
    seconds = interleaved(readings, rounds, f"writing after {context:,} tokens")
    return {name: WRITTEN / median(found) for name, found in seconds.items()}


def _writing(model: "Transformer", context: int) -> Reading:
    """Return a reading of `WRITTEN` steps of decoding; each begins with the same cache."""
    import torch

    from model import RollingKVCache
    from model.decoding import Decoder

    cache = RollingKVCache(model.config, capacity=context + WRITTEN)
    decoder = Decoder(model, cache)
    with torch.inference_mode():
        first = decoder.prefill(drawn_prompts(model.config, 1, context)).argmax(-1)
        filled = {name: tensor.clone() for name, tensor in cache.state_dict().items()}

    def reading() -> float:
        with torch.inference_mode():
            cache.load_state_dict(filled)
            token = first
            start = time.perf_counter()
            for _ in range(WRITTEN):
                token = decoder.step(token).argmax(-1)
            return time.perf_counter() - start

    return reading


def speeds_after(
    models: Mapping[str, "Transformer"], contexts: Sequence[int], rounds: int
) -> dict[str, tuple[float, ...]]:
    """Return the tokens per second of each model, one for each of `contexts` tokens."""
    by_context = [decode_speeds(models, context, rounds) for context in contexts]
    return {name: tuple(speeds[name] for speeds in by_context) for name in models}
