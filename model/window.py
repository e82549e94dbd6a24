"""THE RULE: which keys may a query see? Kernels, cache, plan and pictures all use this module.

With W counting the query's own key, a query at position i sees the key at position j when

    j <= i   and   ( i - j < W   or   j < sinks )   and   document(i) == document(j)

or if key j is of document 0. For W = 1 the query sees its own key only; W = None is full causal
attention. Positions count from the beginning of the document. Sources: Mistral 7B (arXiv
2310.06825, section 2); sinks, StreamingLLM (arXiv 2309.17453, section 3.2). For T = 8, W = 3 (`#`
visible, `.` hidden):

                key 0 1 2 3 4 5 6 7
        query 0     # . . . . . . .
        query 1     # # . . . . . .
        query 2     # # # . . . . .        row i sees min(i + 1, W) keys
        query 3     . # # # . . . .
        query 4     . . # # # . . .        FlashAttention calls this window (W - 1, 0)
        query 5     . . . # # # . .
        query 6     . . . . # # # .
        query 7     . . . . . # # #

Pure Python: `visible` works on integers and on tensors of positions.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from errors import UserError

Window = int | None  # number of keys a query sees, its own included; None: all earlier ones


def visible(
    i: Any, j: Any, window: Window, sinks: int = 0, documents: tuple[Any, Any] | None = None
) -> Any:
    """Return whether the query at position i sees the key at position j.

    `documents` are the document of the query and that of the key, if several are packed in a row.
    Tokens of document 0 (a sink token) are visible to every document. Integers give a bool; tensors
    broadcast to a bool tensor. Positions are 0 or more: callers mask empty slots.
    """
    is_visible = j <= i
    if window is not None:
        is_visible = is_visible & ((i - j < window) | (j < sinks))
    if documents is not None:
        query_document, key_document = documents
        same = (query_document == key_document) | (key_document == 0)
        is_visible = is_visible & same
    return is_visible


def sink_view(positions: Any, window: Window, sinks: int) -> Any:
    """Return the positions from which queries look at sinks: at most W + sinks - 1.

    `positions` is a tensor, and the result has its shape. StreamingLLM counts positions inside the
    cache: sinks 0..n-1, then the W keys of the window. The query is the last of these, so its
    distance to a sink never exceeds the distances of training.
    """
    return positions if window is None else positions.clamp(max=window + sinks - 1)


def layer_windows(sliding_window: Window | Sequence[Window], n_layers: int) -> tuple[Window, ...]:
    """Tile `sliding_window` over the layers: [64, None] with 4 layers is (64, None, 64, None).

    Raises `UserError` for a window below 1, for an empty list or one longer than the stack.
    """
    pattern = tuple(sliding_window) if isinstance(sliding_window, Sequence) else (sliding_window,)
    if not 1 <= len(pattern) <= n_layers:
        raise UserError(
            f"sliding_window lists {len(pattern)} windows for {n_layers} layers: "
            f"give 1 to {n_layers} windows, which are repeated over the layers",
            "sliding_window",
        )
    for window in pattern:
        if window is not None and window < 1:
            raise UserError(
                f"sliding_window is {window}: a query sees at least its own key, so give 1 or "
                "more, or null for full attention",
                "sliding_window",
            )
    return tuple(pattern[layer % len(pattern)] for layer in range(n_layers))


def reach(windows: Sequence[Window]) -> int | None:
    """Count the tokens, the last one included, that can influence the last output; None: all.

    Each layer moves information by up to W - 1 positions, so the stack reaches sum(W_l - 1) back.
    """
    if any(window is None for window in windows):
        return None
    return 1 + sum(window - 1 for window in windows if window is not None)


def widest(windows: Sequence[Window]) -> Window:
    """Return the widest window of one layer or more; None if a layer sees all earlier tokens."""
    known = [window for window in windows if window is not None]
    return max(known) if len(known) == len(windows) else None


def visible_pairs(n_tokens: int, window: Window, sinks: int = 0) -> int:
    """Count exactly the (query, key) pairs that are visible in a text of `n_tokens`.

    Query i sees min(i + 1, W) keys, and those sinks that are no longer in its window.
    """
    width = n_tokens if window is None else min(window, n_tokens)
    pairs = width * (width + 1) // 2 + (n_tokens - width) * width
    # Keys 0..m have left the window of query W + m; min(m + 1, sinks) of them are sinks.
    left = n_tokens - width
    kept = min(sinks, left)
    return pairs + kept * (kept + 1) // 2 + (left - kept) * kept


def picture(
    n_tokens: int, window: Window, sinks: int = 0, documents: Sequence[int] | None = None
) -> str:
    """Draw the mask: one line per query, one column per key, `#` where the query sees the key.

    `documents` numbers the document of each token; neighbours with equal numbers are one document.
    """
    tokens = [  # (position, document)
        (position, document)
        for document, run in groupby(documents or [1] * n_tokens)
        for position, _ in enumerate(run)
    ]
    return "\n".join(
        " ".join("#" if visible(i, j, window, sinks, (d, e)) else "." for j, e in tokens)
        for i, d in tokens
    )
