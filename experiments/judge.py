"""Do the stories that a model writes hold together? `python -m experiments.judge RUN`

Lets a model that was trained on stories write some, reads them with the judge of data/stories, and
prints a score card: contradictions, language errors, and how much is copied from the training
stories. A second column has the same card for as many true stories that
the model has not seen.
"""

import re
import statistics
import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from arguments import add_run
from data.stories.judge import UNKNOWN_WORD, judge
from errors import ArgumentParser, UserError, command
from experiments.result import add_json, write_json
from experiments.story_run import StoryRun, open_story_run

if TYPE_CHECKING:
    from numpy.typing import NDArray

RUN_OF_WORDS = 20  # so many equal words in a row are a copy, not chance
MULTIPLIER = 0x9E3779B97F4A7C15  # of a rolling hash: any large odd number
ROWS = 10  # stories that are generated in one batch
UNENDED = r'(?<=[.!?"])[^.!?"]*$'  # what follows the last sentence of a text


@dataclass(frozen=True)
class ScoreCard:
    """What the judge found in some stories. Copied words stand in the training stories, too."""

    median_words: float
    uses_checked: int
    contradictions: int
    stories_without_contradiction: int
    language_errors_per_1000_words: float
    unknown_words: int
    longest_copied_run: int  # words
    copied_share: float  # of all runs of RUN_OF_WORDS words


@dataclass(frozen=True)
class JudgeResult:
    """The card of a model's stories beside that of as many true ones."""

    checkpoint: str
    stories: int
    written: ScoreCard
    true: ScoreCard


LINES: tuple[tuple[str, Callable[[ScoreCard], str]], ...] = (
    ("words in a story, median", lambda card: f"{card.median_words:,.0f}"),
    ("uses of facts that were checked", lambda card: f"{card.uses_checked:,}"),
    ("contradictions", lambda card: f"{card.contradictions:,}"),
    ("stories without a contradiction", lambda card: f"{card.stories_without_contradiction:,}"),
    ("language errors per 1,000 words", lambda card: f"{card.language_errors_per_1000_words:.2f}"),
    ("words outside the world's vocabulary", lambda card: f"{card.unknown_words:,}"),
    ("longest run of words copied from training", lambda card: f"{card.longest_copied_run:,}"),
    (f"runs of {RUN_OF_WORDS} words copied from training", lambda card: f"{card.copied_share:.1%}"),
)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print two columns, the model's stories and true ones; with --show the stories as well."""
    parser = ArgumentParser(
        prog="python -m experiments.judge",
        description="Count contradictions, language errors and copied text in a model's stories.",
        epilog="example: python -m experiments.judge runs/quickstart --stories 50 --show",
    )
    add_run(parser)
    parser.add_argument("--stories", type=int, default=20, help="stories to write (20)")
    parser.add_argument("--max-tokens", type=int, default=800, help="tokens in a story (800)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (0)")
    parser.add_argument("--show", action="store_true", help="print the stories and their errors")
    add_json(parser)
    arguments = parser.parse_args(argv)
    for name in ("stories", "max_tokens"):
        if getattr(arguments, name) < 1:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is {getattr(arguments, name)}: give 1 or more")
    run = open_story_run(arguments)
    written = _write_stories(run, arguments.stories, arguments.max_tokens, arguments.seed)
    if arguments.show:
        _show(written)
    result = measure(run, written)
    write_json(arguments.json, result)
    print(f"{result.checkpoint}: {result.stories} stories, beside as many true ones")
    print(f"{'':<44}{'written':>10}{'true':>10}")
    for label, cell in LINES:
        print(f"{label:<44}{cell(result.written):>10}{cell(result.true):>10}")
    return 0


def measure(run: StoryRun, written: Sequence[str]) -> JudgeResult:
    """Score the stories that a model wrote, and as many true ones that it has not seen."""
    true = [story.text for story in islice(run.unseen(), len(written))]
    training = run.training_texts()
    return JudgeResult(
        str(run.trained.checkpoint.path),
        len(written),
        _score(written, training),
        _score(true, training),
    )


def _write_stories(run: StoryRun, stories: int, max_tokens: int, seed: int) -> list[str]:
    """Let the model write stories. An incomplete last sentence is cut off at `max_tokens`."""
    from inference.text import continue_text  # imports torch, which --help and errors do not need

    texts = [""] * stories
    for first in range(0, stories, ROWS):
        rows = min(ROWS, stories - first)
        pieces = continue_text(
            run.trained, [""] * rows, max_tokens=max_tokens, sampling=run.trained.sampling,
            seed=seed + first,
        )  # fmt: skip
        label = f"stories {first + 1} to {first + rows}"
        for piece in tqdm(pieces, label, total=rows * max_tokens, leave=False, disable=None):
            text = texts[first + piece.row] + piece.text
            unended = piece.finish_reason == "length"
            texts[first + piece.row] = re.sub(UNENDED, "", text) if unended else text
    return texts


def _score(texts: Sequence[str], training: Sequence[str]) -> ScoreCard:
    """Judge the texts and compare them with the training stories."""
    verdicts = [judge(text) for text in texts]
    words = sum(len(text.split()) for text in texts)
    errors = [error for verdict in verdicts for error in verdict.language_errors]
    longest, share = _copied(texts, training)
    return ScoreCard(
        median_words=statistics.median(len(text.split()) for text in texts),
        uses_checked=sum(verdict.uses_checked for verdict in verdicts),
        contradictions=sum(len(verdict.contradictions) for verdict in verdicts),
        stories_without_contradiction=sum(not verdict.contradictions for verdict in verdicts),
        language_errors_per_1000_words=1000 * len(errors) / max(1, words),
        unknown_words=sum(error.startswith(UNKNOWN_WORD) for error in errors),
        longest_copied_run=longest,
        copied_share=share,
    )


def _copied(texts: Sequence[str], training: Sequence[str]) -> tuple[int, float]:
    """Return the length of the longest run of words that the training stories contain too, and the
    share of runs of `RUN_OF_WORDS` words that they contain."""
    numbers: dict[str, int] = {}
    source, *written = (
        np.array([numbers.setdefault(word, len(numbers)) for word in text.split()], np.uint64)
        for text in (" ".join(training), *texts)
    )

    def shared(length: int) -> list[bool]:
        """Return of each run of `length` words of the texts whether it is in the training text."""
        runs = np.concatenate([_hash_runs(words, length) for words in written]).tolist()
        known = set(runs).intersection(_hash_runs(source, length).tolist())
        return [run in known for run in runs]

    # If n words in a row were copied, so were n - 1. Therefore binary search finds the shortest
    # length without a copied run.
    lengths = range(1, max(map(len, written)) + 1)
    longest = bisect_left(lengths, True, key=lambda length: not any(shared(length)))
    copied = shared(RUN_OF_WORDS)
    return longest, sum(copied) / max(1, len(copied))


def _hash_runs(words: "NDArray[np.uint64]", length: int) -> "NDArray[np.uint64]":
    """Hash each run of `length` words to 64 bits (Karp and Rabin, 1987)."""
    count = max(0, len(words) - length + 1)
    hashes = words[:count] * 0
    for place in range(length):
        hashes = hashes * MULTIPLIER + words[place : place + count]
    return hashes


def _show(texts: Sequence[str]) -> None:
    """Print each text and what the judge finds in it."""
    for number, text in enumerate(texts):
        verdict = judge(text)
        print(f"--- story {number}\n{text}")
        for error in (*verdict.contradictions, *verdict.language_errors):
            print(f"  ! {error}")
        print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
