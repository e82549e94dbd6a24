"""What a text costs without a model: its unigram entropy, and its size under xz.

Both are measured on pieces of the tokens that are spread over the whole text, so that the time is
bounded and a text whose parts differ is seen in all of them. Negative ids mark tokens that the loss
leaves out, such as those of prompts; they are left out here too.
"""

import lzma
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from data.shards import JoinedTokens

COUNTED = 1 << 22  # tokens whose frequencies are counted, at most: 0.1 s
COMPRESSED = 1 << 19  # tokens whose text is compressed, at most: about 2 MB, 1 s
PIECES = 16

# Its dictionary of 8 MiB is larger than the text that is compressed, so a higher preset compresses
# no better. It would take 600 MB of memory more.
PRESET = 6


def spread(tokens: NDArray | JoinedTokens, most: int) -> NDArray:
    """Return all tokens (n,), or, if n is more than `most`, those of `PIECES` pieces at equal
    distances with `most` tokens in all; without negative ids."""
    length = most // PIECES
    starts = [number * (len(tokens) - length) // (PIECES - 1) for number in range(PIECES)]
    if len(tokens) <= most:
        starts, length = [0], len(tokens)
    ids = np.concatenate([tokens[start : start + length] for start in starts])
    return ids[ids >= 0]


def unigram_entropy(tokens: NDArray | JoinedTokens) -> float:
    """Return the entropy of the frequencies of the tokens, (n,) ids, in nats per token: the loss of
    the best model that ignores the context."""
    counts = np.bincount(spread(tokens, COUNTED))
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def xz_size(
    tokens: NDArray | JoinedTokens, token_bytes: Callable[[int], bytes]
) -> tuple[float, float]:
    """Return how large xz makes the text of `tokens`, (n,) ids: nats per token, bits per byte.

    `token_bytes` returns the bytes of an id; at least one token must have some.
    """
    ids = spread(tokens, COMPRESSED).tolist()
    bytes_of = {id: token_bytes(id) for id in set(ids)}
    text = b"".join(map(bytes_of.__getitem__, ids))
    bits = 8 * len(lzma.compress(text, preset=PRESET))
    return bits * math.log(2) / len(ids), bits / len(text)
