"""dense: score every query against every key, then mask. O(T * S), for positions in any order.

The simplest kernel, and the one for a cache, whose ring holds its keys in any order.
"""

from torch import Tensor

from model.kernels.scores import grouped, masked_softmax
from model.kernels.visibility import Visibility


def dense_attention(
    q: Tensor, k: Tensor, v: Tensor, visibility: Visibility, return_lse: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Attend from q (B, H, T, Dh) to k, v (B, K, S, Dh), sinks left out.

    Returns (B, H, T, Dh) and the log-sum-exp (B, H, T) if asked. The output for padding, which sees
    no key, has no meaning, but it is never NaN.
    """
    length = q.shape[2]
    positions = visibility.query_positions(length, q.device)
    i, j = positions, visibility.key_positions
    j = positions if j is None else j
    documents = visibility.documents
    pair = None if documents is None else (documents[:, :, None], documents[:, None])
    mask = visibility.in_window(i[:, :, None], j[:, None], pair)  # (B, T, S)
    # Heads of a group are rows of one matrix: broadcasting would copy the keys for each of them.
    scores = grouped(q, k).flatten(2, 3) @ k.mT  # (B, K, G * T, S)
    scores = scores.unflatten(2, (-1, length))  # (B, K, G, T, S)
    weights, lse = masked_softmax(scores, mask[:, None, None], return_lse)
    out = (weights.flatten(2, 3) @ v).unflatten(2, (-1, length))  # (B, K, G, T, Dh)
    return out.flatten(1, 2), None if lse is None else lse.flatten(1, 2)
