"""The learning rate as a pure function of the step: nothing to save, nothing to restore.

cosine   warm up, then half a cosine down                       (arXiv 1608.03983, section 3)
linear   warm up, then straight down                            (arXiv 2310.07831, section 4)
wsd      warm up, stay (stable), then straight down (decay)           (arXiv 2404.06395, section 4)
"""

import math

from training.choices import SCHEDULES


def lr_ratio(
    step: int,
    *,
    schedule: str,
    max_steps: int,
    warmup_steps: int,
    min_lr_ratio: float = 0.0,
    decay_fraction: float = 0.2,
) -> float:
    """Return the learning rate of update `step` (0 .. max_steps - 1) as a share of the peak.

    It rises over `warmup_steps` and ends at `min_lr_ratio`. With wsd it falls over the last
    `decay_fraction` of `max_steps`. `schedule` is one of `SCHEDULES`.
    """
    assert schedule in SCHEDULES
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    start = warmup_steps
    if schedule == "wsd":
        start = max(start, max_steps - round(decay_fraction * max_steps))
    progress = min(1.0, max(0.0, (step - start) / max(1, max_steps - start)))
    remaining = 0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1 - progress
    return min_lr_ratio + (1 - min_lr_ratio) * remaining
