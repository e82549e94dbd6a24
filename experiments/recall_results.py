"""From the counts of single runs to shares with intervals, for groups of runs.

Several runs: the mean of their shares with Student's interval, over runs. All are asked the same
questions, so this interval says what another seed would change, not other questions. One run:
Wilson's interval over its questions; of a difference, Agresti and Min's (2005, half a question
added to each cell of the paired table); of the ratio `survives`, the middle 95 % of 2,000 bootstrap
resamples of the questions (Efron, 1979).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from experiments.intervals import CONFIDENCE, Interval, over_runs, share
from experiments.recall_answers import HOPS, Counts, RunAnswers

RESAMPLES = 2000
SEED = 0  # of the resamples


@dataclass(frozen=True)
class Answered:
    """Answers of a group of runs to some questions; None where no question was asked."""

    questions: int  # asked of each run
    right: Interval | None  # share of right answers
    without_fact: Interval | None  # the same, when the fact is removed: the guess
    difference: Interval | None  # the paired difference of the two
    by_chance: float | None
    by_layer: tuple[float | None, ...]  # share of right answers of the stream after each layer


@dataclass(frozen=True)
class GroupRecall:
    """What the runs of a group remember."""

    name: str
    runs: tuple[str, ...]
    windows: tuple[int | None, ...]  # of each layer; None: full attention
    trained_length: int  # tokens
    columns: tuple[Answered, ...]
    hops: tuple[Answered, ...]  # one for each of HOPS
    between: int  # questions whose fact crosses a limit, of each run: in none of HOPS
    survives: Interval | None  # difference beyond W, up to the wall / difference within W


@dataclass(frozen=True)
class RecallResult:
    """What groups of runs remember, by `distance` or by `kind`."""

    by: str
    columns: tuple[str, ...]  # "9-16": tokens, or kinds
    edges: tuple[int, ...]  # tokens: the least distance of each column; empty by kind
    within: int | None  # tokens; None: no limit
    combinations: str  # of hero, thing and plot: held-out or seen
    far: int | None  # words: the farthest facts of the stories; None: as each run was trained
    groups: tuple[GroupRecall, ...]


def group_recall(name: str, runs: Sequence[str], answers: Sequence[RunAnswers]) -> GroupRecall:
    """Put the runs of a group together; they have the same windows and questions."""
    first = answers[0]
    return GroupRecall(
        name,
        tuple(runs),
        first.windows,
        first.trained_length,
        tuple(_answered([run.columns[n] for run in answers]) for n in range(len(first.columns))),
        tuple(_answered([run.hops[n] for run in answers]) for n in range(len(HOPS))),
        first.between,
        survival([run.hops for run in answers]),
    )


def _answered(runs: Sequence[Counts]) -> Answered:
    if not all(run.questions for run in runs):
        return Answered(0, None, None, None, None, (None,) * len(runs[0].by_layer))

    def mean(part: Callable[[Counts], float]) -> float:
        return fmean(part(run) / run.questions for run in runs)

    return Answered(
        questions=runs[0].questions,
        right=_share(runs, lambda run: run.right),
        without_fact=_share(runs, lambda run: run.right_without_fact),
        difference=_difference(runs),
        by_chance=mean(lambda run: run.by_chance),
        by_layer=tuple(
            fmean(run.by_layer[n] / run.questions for run in runs)
            for n in range(len(runs[0].by_layer))
        ),
    )


def _share(runs: Sequence[Counts], part: Callable[[Counts], int]) -> Interval:
    if len(runs) == 1:
        return share(part(runs[0]), runs[0].questions)
    return _limited(over_runs([part(run) / run.questions for run in runs]), 0.0)


def _difference(runs: Sequence[Counts]) -> Interval:
    """Return the share of right answers minus that without the fact, paired by question."""
    if len(runs) > 1:
        return _limited(over_runs([gain(run) for run in runs]), -1.0)
    (run,) = runs
    n = run.questions + 2
    center = (run.only_with_fact - run.only_without_fact) / n
    spread = (run.only_with_fact + run.only_without_fact + 1) / n - center**2
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(spread / n)
    interval = Interval(gain(run), center - half, center + half, run.questions)
    return _limited(interval, -1.0)


def _limited(value: Interval, least: float) -> Interval:
    """Cut an interval at the least and the largest possible value, `least` and 1."""
    assert value.low is not None and value.high is not None
    return Interval(value.mean, max(least, value.low), min(1.0, value.high), value.n)


def gain(counts: Counts) -> float:
    """Return the share of right answers minus that without the fact; there is a question."""
    return (counts.only_with_fact - counts.only_without_fact) / counts.questions


def survival(runs: Sequence[Sequence[Counts]]) -> Interval | None:
    """Return which share of the recall within W survives beyond W, up to the wall.

    `runs` are the counts of HOPS of each run. The share is the difference to the guess beyond W
    over that within W. None if there is nothing to divide, or to divide by.
    """
    if not all(near.questions and far.questions and gain(near) > 0 for near, far, _ in runs):
        return None
    ratios = [gain(far) / gain(near) for near, far, _ in runs]
    if len(ratios) > 1:
        return over_runs(ratios)
    import numpy as np

    draw = np.random.default_rng(SEED)

    def gains(counts: Counts) -> "np.ndarray":  # type: ignore[type-arg]
        n, up, down = counts.questions, counts.only_with_fact, counts.only_without_fact
        drawn = draw.multinomial(n, [up / n, down / n, (n - up - down) / n], RESAMPLES)
        return (drawn[:, 0] - drawn[:, 1]) / n

    near, far, _ = runs[0]
    below = gains(near)
    drawn = (gains(far)[below > 0]) / below[below > 0]
    low, high = np.percentile(drawn, (2.5, 97.5)).tolist()
    return Interval(ratios[0], low, high, near.questions + far.questions)
