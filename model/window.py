"""THE RULE: which keys may a query see? Kernels, cache, plan and pictures all ask here.

With W counting the query's own key, a query at position i sees the key at position j when

    j <= i   and   ( i - j < W   or   j < sinks )   and   document(i) == document(j)

W = 1 is itself alone, W = None is full causal attention. Mistral 7B (arXiv 2310.06825, section 2);
sinks: StreamingLLM (arXiv 2309.17453, section 3.2). Positions count from the beginning of the
document. For T = 8, W = 3 (`#` seen, `.` hidden):

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
from itertools import groupby
from typing import Any

from errors import UserError

Window = int | None  # keys a query sees, its own included; None: all before it


def visible(
    i: Any, j: Any, window: Window, sinks: int = 0, documents: tuple[Any, Any] | None = None
) -> Any:
    """Say whether the query at position i sees the key at position j.

    `documents` are those of the query and of the key, where a row packs several; what is of
    document 0 (a sink token) belongs to all. Integers give a bool; tensors broadcast to a bool
    tensor. Positions must exist (>= 0): that a slot is empty is the cache's knowledge.
    """
    seen = j <= i
    if window is not None:
        seen = seen & ((i - j < window) | (j < sinks))
    if documents is not None:
        of_i, of_j = documents
        seen = seen & ((of_i == of_j) | (of_j == 0))
    return seen


def sink_view(positions: Any, window: Window, sinks: int) -> Any:
    """Give the positions, a tensor, from which queries look at sinks: at most W + sinks - 1.

    StreamingLLM counts positions inside the cache: sinks 0..n-1, then the W keys of the window. The
    query is the last of these, so a sink never gets further away than anything seen in training.
    """
    return positions if window is None else positions.clamp(max=window + sinks - 1)


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


def picture(
    n_tokens: int, window: Window, sinks: int = 0, documents: Sequence[int] | None = None
) -> str:
    """Draw the mask: a line a query, a column a key, `#` where the query sees the key.

    `documents` gives each token its document, equal ones side by side.
    """
    of = documents or [1] * n_tokens
    places = [(n, d) for d, run in groupby(of) for n, _ in enumerate(run)]  # (position, document)
    return "\n".join(
        " ".join("#" if visible(i, j, window, sinks, (d, e)) else "." for j, e in places)
        for i, d in places
    )
