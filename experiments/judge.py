"""Do the stories that a model writes hold together? `python -m experiments.judge RUN ...`

Lets models that were trained on stories write some, reads them with the judge of data/stories, and
prints a score card: how many words could be compared with an earlier fact, how many of them are
right, by kind and by distance from the fact, language errors, and how much is copied from the
training stories. Beside it stand three cards for as many unseen stories: true ones, and the same
with wrong words for their facts (experiments/story_guesses). A model that remembers lies between.
"""

import re
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from arguments import add_run
from data.stories.judge import judge
from errors import ArgumentParser, UserError, command
from experiments.pages.page import Section
from experiments.pages.table import Table
from experiments.result import About, Clock, add_json, add_quick, store, write_json
from experiments.score_card import RESAMPLES, SEED, Ratio, ScoreCard, read_stories, score
from experiments.story_guesses import count_words, guessed, shuffled
from experiments.story_run import StoryRun, open_story_run
from model.window import Window, reach, widest

if TYPE_CHECKING:
    from numpy.typing import NDArray

STORIES, QUICK = 20, 10  # stories of each run, and with --quick
RUN_OF_WORDS = 20  # so many equal words in a row are a copy, not chance
MULTIPLIER = 0x9E3779B97F4A7C15  # of a rolling hash: any large odd number
ROWS = 10  # stories that are generated in one batch
COUNTED = 500  # training stories whose words are counted for the guesses
DISTANCE_LABELS = {"window": "in the window", "reach": "in the reach", "beyond": "beyond the reach"}
UNENDED = r'(?<=[.!?"])[^.!?"]*$'  # what follows the last sentence of a text


@dataclass(frozen=True)
class Copied:
    """How much of some texts stands in the training stories of their run, too."""

    longest_run: int  # words
    share: float  # of all runs of RUN_OF_WORDS words


@dataclass(frozen=True)
class JudgeResult:
    """The card of the stories that models wrote beside those of unseen stories."""

    checkpoints: tuple[str, ...]
    windows: tuple[tuple[Window, ...], ...]  # of the layers of each run
    stories: int  # of each run
    written: ScoreCard
    true: ScoreCard
    guessed: ScoreCard  # true stories; each used word is drawn as often as training uses it
    shuffled: ScoreCard  # true stories; each used word is replaced by a wrong one
    written_copied: Copied
    true_copied: Copied


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the cards; with --show the stories as well."""
    parser = ArgumentParser(
        prog="python -m experiments.judge",
        description="Count contradictions, language errors and copied text in a model's stories.",
        epilog="example: python -m experiments.judge runs/quickstart --stories 50 --show",
    )
    add_run(parser, several=True)
    parser.add_argument("--stories", type=int, help="stories of each run (20; with --quick 10)")
    parser.add_argument("--max-tokens", type=int, default=800, help="tokens in a story (800)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (0)")
    parser.add_argument("--show", action="store_true", help="print the stories and their errors")
    add_quick(parser, f"{QUICK} stories")
    add_json(parser)
    clock, arguments = Clock(parser.prog, argv), parser.parse_args(argv)
    if arguments.stories is None:
        arguments.stories = QUICK if arguments.quick else STORIES
    for name in ("stories", "max_tokens"):
        if getattr(arguments, name) < 1:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is {getattr(arguments, name)}: give 1 or more")
    runs = [open_story_run(arguments, path) for path in arguments.runs]
    size = arguments.stories, arguments.max_tokens, arguments.seed
    written = [_write_stories(run, *size) for run in runs]
    if arguments.show:
        for texts in written:
            _show(texts)
    result = measure(runs, written)
    store(Path(arguments.runs[0]), "judge", clock.about(arguments.quick), result)
    write_json(arguments.json, result)
    _print(result)
    return 0


def measure(runs: Sequence[StoryRun], written: Sequence[Sequence[str]]) -> JudgeResult:
    """Score the stories that each run wrote, and as many true ones that the run has not seen."""
    true = [
        [story.text for story in islice(run.unseen(), len(texts))]
        for run, texts in zip(runs, written, strict=True)
    ]
    training = [run.training_texts() for run in runs]
    frequencies = [count_words(texts[:COUNTED]) for texts in training]
    guesses = [guessed(texts, counts) for texts, counts in zip(true, frequencies, strict=True)]
    windows = tuple(tuple(run.trained.model.config.windows) for run in runs)

    def card(columns: Sequence[Sequence[str]]) -> ScoreCard:
        return score(
            [
                read_stories(texts, run.trained.tokenizer, run_windows)
                for run, texts, run_windows in zip(runs, columns, windows, strict=True)
            ]
        )

    return JudgeResult(
        checkpoints=tuple(str(run.trained.checkpoint.path) for run in runs),
        windows=windows,
        stories=len(written[0]),
        written=card(written),
        true=card(true),
        guessed=card(guesses),
        shuffled=card([shuffled(texts) for texts in true]),
        written_copied=_copied_of_runs(written, training),
        true_copied=_copied_of_runs(true, training),
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


def _copied_of_runs(columns: Sequence[Sequence[str]], training: Sequence[Sequence[str]]) -> Copied:
    """Compare the texts of each run with its training stories."""
    copied = [_copied(texts, source) for texts, source in zip(columns, training, strict=True)]
    return Copied(max(run for run, _ in copied), sum(share for _, share in copied) / len(copied))


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


# ---------------------------------------------------------------------------- the table


def _print(result: JudgeResult) -> None:
    """Print a line for each figure and a column for each card."""
    cards = (result.written, result.true, result.guessed, result.shuffled)
    for checkpoint in result.checkpoints:
        print(f"{checkpoint}: {result.stories} stories, beside as many true ones")
    print(_line("", "n", ("written", "true", "guessed", "shuffled")))
    print(_line("words in a story, median", "", [f"{card.median_words:,.0f}" for card in cards]))
    _print_ratios("sentences read, %", [card.sentences_read for card in cards])
    _print_ratios("checks per 100 words", [card.checks_per_word for card in cards])
    _print_ratios("right per 100 words", [card.right_per_word for card in cards])
    _print_ratios("right, % of checks", [card.right for card in cards])
    for kind in result.written.right_by_kind:
        _print_ratios(f"  {kind}", [card.right_by_kind[kind] for card in cards])
    for distance, label in DISTANCE_LABELS.items():
        _print_ratios(f"  fact {label}", [card.right_by_distance[distance] for card in cards])
    _print_ratios("consistent stories, %", [card.stories_without_contradiction for card in cards])
    errors = [card.language_errors_per_word for card in cards]
    _print_ratios("language errors per 1,000", errors, scale=1000)
    print(_line("unknown words", "", [f"{card.unknown_words:,}" for card in cards]))
    copied = result.written_copied, result.true_copied
    print(_line("longest copy, words", "", [f"{column.longest_run:,}" for column in copied]))
    shares = [f"{100 * column.share:.1f}" for column in copied]
    print(_line(f"runs of {RUN_OF_WORDS} copied, %", "", shares))
    _print_distances(result.written)
    _print_notes(result)


def section(about: About, result: JudgeResult) -> Section:
    """Return the card for a page: the main shares, of the model's stories and of true ones."""

    def row(label: str, ratios: Sequence[Ratio]) -> list[str]:
        return [label, f"{ratios[0].whole:,}", *map(_cell, ratios)]

    cards = (result.written, result.true, result.guessed)
    rows = [row("right, % of checks", [card.right for card in cards])]
    for kind in result.written.right_by_kind:
        if result.written.right_by_kind[kind].whole:
            rows.append(row(f"... {kind}", [card.right_by_kind[kind] for card in cards]))
    for distance, label in DISTANCE_LABELS.items():
        rows.append(row(f"... {label}", [card.right_by_distance[distance] for card in cards]))
    consistent = [card.stories_without_contradiction for card in cards]
    rows.append(row("stories without contradiction, %", consistent))
    caption = (
        f"n: words, or stories, that were checked in {result.stories} stories of each run. Ranges: "
        f"95 % of {RESAMPLES:,} bootstrap resamples over runs and their stories."
    )
    words = (
        "The model wrote stories. Each word that an earlier fact decides was compared with that "
        "fact. True stories show what the judge itself finds; in guessed stories these words are "
        "drawn by their frequency. The card does not say whether a story is good."
    )
    header = ("", "n", "written by the model", "true", "guessed")
    return Section(
        "Do its stories contradict themselves?", [words, Table(header, rows, caption)], about
    )


def _print_ratios(label: str, ratios: Sequence[Ratio], scale: int = 100) -> None:
    """Print ratios and their intervals, each times `scale`; n is what was counted in `written`."""
    print(_line(label, f"{ratios[0].whole:,}", [_cell(ratio, scale) for ratio in ratios]))


def _cell(ratio: Ratio, scale: int = 100) -> str:
    """Return a ratio and its interval, both times `scale`; "-" if nothing was counted."""
    if ratio.value is None or ratio.low is None or ratio.high is None:
        return "-"
    value, low, high = (f"{scale * x:.1f}" for x in (ratio.value, ratio.low, ratio.high))
    return value if low == high else f"{value} {low}-{high}"


def _print_distances(card: ScoreCard) -> None:
    """Print the share of right checks by kind and distance, and the number of checks."""
    print("\n" + _line("written: right, % of n", "", list(DISTANCE_LABELS.values())))
    for kind, by_distance in card.right_by_kind_and_distance.items():
        ratios = [by_distance[distance] for distance in DISTANCE_LABELS]
        if any(ratio.whole for ratio in ratios):
            cells = ["-" if r.value is None else f"{r.value:.1%} of {r.whole:,}" for r in ratios]
            print(_line(f"  {kind}", "", cells))
    print()


def _line(label: str, n: str, cells: Sequence[str]) -> str:
    return f"{label:25}{n:>7}" + "".join(f"{cell:>17}" for cell in cells)


def _print_notes(result: JudgeResult) -> None:
    over = "stories" if len(result.checkpoints) == 1 else "runs and their stories"
    print(f"ranges: 95 % of {RESAMPLES:,} bootstrap resamples over {over}, seed {SEED}; none where "
          "all agree")  # fmt: skip
    print("n: what `written` is divided by: sentences, words, checks or stories")
    print("guessed, shuffled: true stories; each used word is a draw by frequency, or a wrong one")
    for windows in dict.fromkeys(result.windows):
        print(f"window: {widest(windows) or 'full'} tokens, reach through {len(windows)} layers: "
              f"{reach(windows) or 'all'}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
