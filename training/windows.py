"""The sliding windows as a pure function of the step: nothing to save, nothing to restore.

constant   model.sliding_window, always
grow       every layer from a narrow window to its own, by doubling, in equal stretches
depth      layer after layer, from the text upwards, goes from a narrow window to its own
random     at each step one window for all layers, drawn from a list

For a stack of [64, 64, null] that starts at 16 and has 300 steps in which to widen:

    step        0..99       100..199     200..299      300...
    grow     16 16 16       32 32 32     64 64 64     64 64 null     (null: 64 at the widest, then)
    depth    16 16 16       64 16 16     64 64 16     64 64 null
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
    narrow: int = 1,
    steps: int = 0,
    choices: Sequence[Window] = (),
    seed: int = 0,
    seq_len: int = 1,
) -> tuple[Window, ...]:
    """Give each layer's window in update `step`; `windows` are those of the model.

    `narrow` is the first window and `steps` how long the others take to be reached (grow, depth);
    a layer without a window grows as if it had one of `seq_len`. `choices` is what random draws
    from, by `seed` and `step` alone.
    """
    assert schedule in WINDOW_SCHEDULES
    if schedule == "random":
        digest = hashlib.sha256(f"window {seed} {step}".encode()).digest()
        return (choices[int.from_bytes(digest[:8], "big") % len(choices)],) * len(windows)
    if schedule == "constant" or step >= steps:
        return tuple(windows)
    ends = [seq_len if window is None else window for window in windows]
    if schedule == "depth":
        widened = step * len(ends) // steps
        return (*windows[:widened], *(min(narrow, end) for end in ends[widened:]))
    stretches = 1  # narrow, 2 narrow, 4 narrow, ... and the last at the widest or above
    while narrow << (stretches - 1) < max(ends):
        stretches += 1
    width = narrow << (step * stretches // steps)
    return tuple(min(width, end) for end in ends)
