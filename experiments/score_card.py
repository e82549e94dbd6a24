"""The score card of some stories: shares of what the judge found, each with an interval.

The interval of a ratio is the middle 95 % of a bootstrap (Efron, 1979): the same stories are drawn
again, with replacement, 2,000 times. The stories of several runs are drawn in two steps, first
runs, then stories of each. So an interval says how much other stories, and other runs, would
change the ratio. Where all stories agree, as on a share of 100 %, it has no width.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.stories.judge import KINDS, Check, Verdict, judge
from data.stories.language import UNKNOWN_WORD
from model.window import Window, reach, widest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data.tokenizer import Tokenizer

DISTANCES = ("window", "reach", "beyond")
RESAMPLES = 2000
SEED = 0  # of the resamples


@dataclass(frozen=True)
class Ratio:
    """A part of a whole, each summed over stories. None: there is nothing to divide by."""

    part: int
    whole: int
    value: float | None
    low: float | None  # the interval of 95 %
    high: float | None


@dataclass(frozen=True)
class ScoreCard:
    """What the judge found in some stories."""

    median_words: float
    sentences_read: Ratio  # of all sentences
    checks_per_word: Ratio
    right_per_word: Ratio  # right checks: neither silence nor contradictions help
    right: Ratio  # of the checks
    right_by_kind: dict[str, Ratio]
    right_by_distance: dict[str, Ratio]  # from the use back to the last mention of its fact
    right_by_kind_and_distance: dict[str, dict[str, Ratio]]
    stories_without_contradiction: Ratio  # and with a checked fact
    language_errors_per_word: Ratio
    unknown_words: int


@dataclass(frozen=True)
class Judged:
    """A story, what the judge found in it, and how far each check looks back (`DISTANCES`)."""

    text: str
    verdict: Verdict
    distances: tuple[str | None, ...]  # of each check; None: no earlier mention


def read_stories(
    texts: Sequence[str], tokenizer: "Tokenizer", windows: Sequence[Window]
) -> list[Judged]:
    """Judge stories. `windows`, of the model's layers, tell near facts from far ones."""
    judged = []
    for text in texts:
        verdict = judge(text)
        places = (_distance(text, check, tokenizer, windows) for check in verdict.checks)
        judged.append(Judged(text, verdict, tuple(places)))
    return judged


def _distance(
    text: str, check: Check, tokenizer: "Tokenizer", windows: Sequence[Window]
) -> str | None:
    """Return which of `DISTANCES` a check belongs to.

    The query is the token before the use. It sees the last token of the fact if that is one of the
    last W, its own included. The widest window counts, and the reach of all layers.
    """
    if check.fact is None:
        return None
    fact_end = len(tokenizer.encode(text[: check.fact[1]]))
    query_end = len(tokenizer.encode(text[: check.use[0]].rstrip()))
    keys = query_end - fact_end + 1
    for name, limit in (("window", widest(windows)), ("reach", reach(windows))):
        if limit is None or keys <= limit:
            return name
    return "beyond"


def score(runs: Sequence[Sequence[Judged]]) -> ScoreCard:
    """Return the card of the stories of one run or several."""
    stories = [story for run in runs for story in run]
    times = _resample([len(run) for run in runs])

    def ratio(part: Callable[[Judged], int], whole: Callable[[Judged], int]) -> Ratio:
        return _ratio(
            [part(story) for story in stories], [whole(story) for story in stories], times
        )

    def right(kind: str | None = None, distance: str | None = None) -> Ratio:
        return ratio(
            lambda story: sum(check.right for check in _checks(story, kind, distance)),
            lambda story: len(_checks(story, kind, distance)),
        )

    errors = [error for story in stories for error in story.verdict.language_errors]
    return ScoreCard(
        median_words=statistics.median(map(_words, stories)),
        sentences_read=ratio(lambda s: s.verdict.sentences_read, lambda s: s.verdict.sentences),
        checks_per_word=ratio(lambda s: len(s.verdict.checks), _words),
        right_per_word=ratio(lambda s: sum(check.right for check in s.verdict.checks), _words),
        right=right(),
        right_by_kind={kind: right(kind=kind) for kind in KINDS},
        right_by_distance={name: right(distance=name) for name in DISTANCES},
        right_by_kind_and_distance={
            kind: {name: right(kind, name) for name in DISTANCES} for kind in KINDS
        },
        stories_without_contradiction=ratio(_is_consistent, lambda story: 1),
        language_errors_per_word=ratio(lambda s: len(s.verdict.language_errors), _words),
        unknown_words=sum(error.startswith(UNKNOWN_WORD) for error in errors),
    )


def _words(story: Judged) -> int:
    return len(story.text.split())


def _checks(story: Judged, kind: str | None, distance: str | None) -> list[Check]:
    """Return the checks of a kind, or of a distance; None: of all."""
    return [
        check
        for check, place in zip(story.verdict.checks, story.distances, strict=True)
        if kind in (None, check.kind) and distance in (None, place)
    ]


def _is_consistent(story: Judged) -> int:
    """Return 1 if a story uses a fact and contradicts none. An empty story does not count."""
    checks = story.verdict.checks
    return int(all(c.right for c in checks) and any(c.fact is not None for c in checks))


def _resample(stories: Sequence[int]) -> "NDArray[np.int64]":
    """Return how often each resample contains each story: (RESAMPLES, N).

    `stories` are the numbers of stories of the runs.
    """
    draw = np.random.default_rng(SEED)
    runs = draw.multinomial(len(stories), np.full(len(stories), 1 / len(stories)), RESAMPLES)
    columns = [
        draw.multinomial(runs[:, number] * count, np.full(count, 1 / count))
        for number, count in enumerate(stories)
    ]
    return np.concatenate(columns, axis=1)


def _ratio(part: Sequence[int], whole: Sequence[int], times: "NDArray[np.int64]") -> Ratio:
    """Divide sums over stories; the interval is from the resamples in which the whole is not 0."""
    parts, wholes = times @ np.array(part), times @ np.array(whole)
    if not sum(whole):
        return Ratio(sum(part), 0, None, None, None)
    low, high = np.percentile(parts[wholes > 0] / wholes[wholes > 0], (2.5, 97.5)).tolist()
    return Ratio(sum(part), sum(whole), sum(part) / sum(whole), low, high)
