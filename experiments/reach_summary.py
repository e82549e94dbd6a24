"""From curves of influence to numbers: shares by distance, where most of it lies, its decay."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.influence import Curves
from experiments.intervals import CONFIDENCE, Interval, over_runs
from experiments.reach_result import LEVELS, OutputReach

RESAMPLES = 1000

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class _Statistics:
    """What is computed of each resample, or of each run: arrays with one row for each."""

    share: Numbers  # (n, distances)
    within: Numbers  # (n, levels)
    beyond: Numbers  # (n,)
    tau: Numbers  # (n,); NaN where influence does not fall
    fit: Numbers  # (n,)


def summarize(
    runs: Sequence[Curves], method: str, walls: Sequence[int | None], window: int | None
) -> list[OutputReach]:
    """Summarize the curves of runs that differ in their seed: layers first, then the prediction.

    Intervals of several runs are Student's over runs; those of one run are bootstrap intervals over
    texts. `window` is the widest of the layers; None: one sees everything.
    """
    rows = []
    for output, wall in enumerate([*walls, walls[-1]]):
        name = f"layer {output}" if output < len(walls) else "prediction"
        rows.append(_output(name, method, [_of(run, output) for run in runs], wall, window))
    return rows


def _of(curves: Curves, output: int) -> Curves:
    return Curves(curves.total[:, output : output + 1], curves.pairs)


def _output(
    name: str, method: str, runs: Sequence[Curves], wall: int | None, window: int | None
) -> OutputReach:
    """Summarize one output."""
    wholes = [_statistics(run, torch.ones(1, len(run.pairs)), wall, window) for run in runs]
    single = len(runs) == 1
    spread = _statistics(runs[0], _resamples(len(runs[0].pairs)), wall, window) if single else None

    def interval(field: str, column: int | None = None) -> Interval:
        values = [float(_pick(whole, field, column)[0]) for whole in wholes]
        if spread is None:
            return over_runs(values)
        low, high = np.nanquantile(
            _pick(spread, field, column), ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
        )
        return Interval(values[0], float(low), float(high), len(runs[0].pairs))

    far = window is not None and wholes[0].share.shape[1] > window
    falls = far and not any(np.isnan(whole.tau[0]) for whole in wholes)
    shares = [interval("share", n) for n in range(wholes[0].share.shape[1])]
    bounded = name == "prediction" and all(share.low is not None for share in shares)
    return OutputReach(
        name, method, wall, tuple(share.mean for share in shares),
        tuple(share.low or 0.0 for share in shares) if bounded else (),
        tuple(share.high or 0.0 for share in shares) if bounded else (),
        tuple(interval("within", n) for n in range(len(LEVELS))),
        interval("beyond") if far else None,
        interval("tau") if falls else None,
        float(np.mean([whole.fit[0] for whole in wholes])) if falls else None,
    )  # fmt: skip


def _pick(statistics: _Statistics, field: str, column: int | None) -> Numbers:
    values: Numbers = getattr(statistics, field)
    return values if column is None else values[:, column]


def _resamples(texts: int) -> torch.Tensor:
    """Draw how often each text is in each resample: (RESAMPLES, texts)."""
    draw = np.random.default_rng(0)
    return torch.from_numpy(draw.multinomial(texts, np.full(texts, 1 / texts), RESAMPLES))


def _statistics(
    curves: Curves, weights: torch.Tensor, wall: int | None, window: int | None
) -> _Statistics:
    """Compute the statistics of the one output in `curves` under weights (n, texts)."""
    mean = curves.mean(weights.double())[:, 0].numpy()
    end = mean.shape[1] if wall is None else min(mean.shape[1], wall + 1)
    mean = mean[:, :end]
    share = mean / mean.sum(-1, keepdims=True)
    within = np.stack([(share.cumsum(-1) < level).sum(-1) for level in LEVELS], axis=-1)
    start = end if window is None else window
    tau, fit = zip(*(_decay(row, start) for row in share), strict=True)
    return _Statistics(
        share, within.astype(float), share[:, start:].sum(-1), np.array(tau), np.array(fit)
    )


def _decay(share: Numbers, start: int) -> tuple[float, float]:
    """Fit log(share) = a - d / tau by least squares over the distances d from `start` on.

    Returns tau and R^2, or NaN twice if there are fewer than three points or they do not fall.
    """
    distance = np.arange(start, len(share))
    known = share[start:] > 0
    if known.sum() < 3:
        return float("nan"), float("nan")
    x, y = distance[known], np.log(share[start:][known])
    slope, offset = np.polyfit(x, y, 1)
    if slope >= 0:
        return float("nan"), float("nan")
    residual = y - (offset + slope * x)
    return float(-1 / slope), float(1 - residual.var() / y.var())
