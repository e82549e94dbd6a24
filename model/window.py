"""THE RULE: which keys may a query see? Kernels, cache, plan and pictures all ask here.

With W counting the query's own key, a query at position i sees the key at position j when

    j <= i   and   ( i - j < W   or   j < sinks )

W = 1 is itself alone, W = None is full causal attention. Mistral 7B (arXiv 2310.06825, section 2);
sinks: StreamingLLM (arXiv 2309.17453). For T = 8, W = 3 (`#` seen, `.` hidden):

                key 0 1 2 3 4 5 6 7
        query 0     # . . . . . . .
        query 1     # # . . . . . .
        query 2     # # # . . . . .        row i sees min(i + 1, W) keys
        query 3     . # # # . . . .
        query 4     . . # # # . . .        FlashAttention calls this window (W - 1, 0)
        query 5     . . . # # # . .
        query 6     . . . . # # # .
        query 7     . . . . . # # #

Pure Python: the operators below work on integers and on tensors of positions alike.
"""

from collections.abc import Sequence
from typing import Any

from errors import UserError

Window = int | None  # keys a query sees, its own included; None: all before it


def visible(i: Any, j: Any, window: Window, sinks: int = 0) -> Any:
    """Say whether the query at position i sees the key at position j.

    Integers give a bool; tensors of positions broadcast to a bool tensor. Both must be positions
    that exist (>= 0): that a slot is empty is the cache's knowledge, not the rule's.
    """
    if window is None:
        return j <= i
    return (j <= i) & ((i - j < window) | (j < sinks))


def layer_windows(sliding_window: Window | Sequence[Window], n_layers: int) -> tuple[Window, ...]:
    """Tile `sliding_window` over the layers: [64, None] with 4 layers is (64, None, 64, None).

    Raises `UserError` for a window below 1, for an empty list or one longer than the stack.
    """
    pattern = tuple(sliding_window) if isinstance(sliding_window, Sequence) else (sliding_window,)
    if not 1 <= len(pattern) <= n_layers:
        raise UserError(
            f"model.sliding_window lists {len(pattern)} windows for {n_layers} layers: "
            f"give 1 to {n_layers}, they are repeated over the layers"
        )
    for window in pattern:
        if window is not None and window < 1:
            raise UserError(
                f"model.sliding_window is {window}: a query sees at least itself, so give 1 or "
                "more, or null for full attention"
            )
    return tuple(pattern[layer % len(pattern)] for layer in range(n_layers))


def reach(windows: Sequence[Window]) -> int | None:
    """Count the tokens, the last one included, that can influence the last output; None: all.

    Each layer passes information on by W - 1 positions, so the stack reaches sum(W_l - 1) back.
    """
    if any(window is None for window in windows):
        return None
    return 1 + sum(window - 1 for window in windows if window is not None)


def visible_pairs(n_tokens: int, window: Window, sinks: int = 0) -> int:
    """Count the (query, key) pairs that attention over `n_tokens` looks at, exactly.

    Row i sees min(i + 1, W) keys, and those sinks that have left its window.
    """
    width = n_tokens if window is None else min(window, n_tokens)
    pairs = width * (width + 1) // 2 + (n_tokens - width) * width
    # Row i = W + m has had keys 0..m leave its window; min(m + 1, sinks) of them are sinks.
    left = n_tokens - width
    kept = min(sinks, left)
    return pairs + kept * (kept + 1) // 2 + (left - kept) * kept


def picture(n_tokens: int, window: Window, sinks: int = 0) -> str:
    """Draw the mask: a line a query, a column a key, `#` where the query sees the key."""
    return "\n".join(
        " ".join("#" if visible(i, j, window, sinks) else "." for j in range(n_tokens))
        for i in range(n_tokens)
    )
