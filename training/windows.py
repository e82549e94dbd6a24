"""The sliding windows as a pure function of the step: nothing to save, nothing to restore.

constant   the model's windows in every step
grow       the windows of all layers double, in stages of equal length, up to the model's windows
depth      one layer after another, the first layer first, changes to its window in the model
random     each step draws one window for all layers from a list

For a stack of [64, 64, null] that starts at 16, or at [2, 8], and has 300 steps in which to widen:

    step           0..99       100..199     200..299      300...
    grow, 16    16 16 16       32 32 32     64 64 64     64 64 null     (null: at most 64 before)
    depth, 16   16 16 16       64 16 16     64 64 16     64 64 null

    step           0..49   50..99  100..149   150..199   200..249   250..299  300...
    grow, [2, 8]   2 2 8   4 4 16    8 8 32   16 16 64   32 32 64   64 64 64  64 64 null
"""

import hashlib
from collections.abc import Sequence

from training.choices import WINDOW_SCHEDULES

Window = int | None


def windows_at(
    step: int,
    windows: Sequence[Window],
    *,
    schedule: str,
    narrow: Sequence[int] = (1,),
    start: int = 0,
    steps: int = 0,
    choices: Sequence[Window] = (),
    seed: int = 0,
    seq_len: int = 1,
) -> tuple[Window, ...]:
    """Return each layer's window in update `step`; `windows` are those of the model.

    grow and depth begin with the windows `narrow` of the last layers; the first of them is also
    that of all layers below. At step `start` the windows begin to widen, and `steps` later they are
    `windows`. A layer without a window grows as if it had one of `seq_len`. random draws from
    `choices`; the draw depends on `seed` and `step` alone. `schedule` is one of `WINDOW_SCHEDULES`.
    """
    assert schedule in WINDOW_SCHEDULES
    if schedule == "random":
        digest = hashlib.sha256(f"window {seed} {step}".encode()).digest()
        return (choices[int.from_bytes(digest[:8], "big") % len(choices)],) * len(windows)
    if schedule == "constant" or step >= start + steps:
        return tuple(windows)
    done = max(0, step - start)
    final = [seq_len if window is None else window for window in windows]
    below = len(final) - len(narrow)
    first = (*[narrow[0]] * below, *narrow[max(0, -below) :])
    first = tuple(min(pair) for pair in zip(first, final, strict=True))
    if schedule == "depth":
        n_widened = done * len(final) // steps
        return (*windows[:n_widened], *first[n_widened:])
    stages = 1  # first, 2 first, 4 first ...; in the last stage all layers have their window
    while any(a << (stages - 1) < b for a, b in zip(first, final, strict=True)):
        stages += 1
    stage = done * stages // steps
    return tuple(min(a << stage, b) for a, b in zip(first, final, strict=True))
