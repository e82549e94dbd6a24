"""How far back does a model remember? `python -m experiments.recall RUN ...`

Trained models read stories that they have not seen, up to a use: a word that an earlier fact
decides ("the kite was put in the barn ... it was still in the"). The answer is right if the model
gives the right word a higher probability than every other candidate. The table gives the share of
right answers by the distance from the fact in tokens; with --by kind, by what the fact is about.
With --within 64, only facts at most 64 tokens back are asked for. With --combinations seen, hero,
thing and plot of a story occur together in training, too. If a model answers these much better, it
has memorized them.
Within the window a model can look back directly; beyond it, what it knows came through the layers.

Some answers can be guessed: a farm has ten places, and one of them is right. So each question is
also asked without the fact, with only the text after it. The difference is what it remembers.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING

from tqdm import tqdm

from arguments import add_run
from data.stories import Probe
from errors import ArgumentParser, UserError, command
from experiments.result import add_json, write_json
from experiments.story_run import StoryRun, open_story_run

if TYPE_CHECKING:
    from data.tokenizer import Tokenizer

ROWS = 16  # questions in a forward pass
KINDS = ("colour", "place", "number", "treat", "word", "holder")
EDGES = (1, 9, 17, 33, 65, 129, 257)  # tokens: the least distance of each column
DISTANCES = (*(f"{a}-{b - 1}" for a, b in pairwise(EDGES)), f"{EDGES[-1]}-")


@dataclass(frozen=True)
class Question:
    """What a model reads, and the first tokens that tell the candidates apart."""

    kind: str  # what the fact is about
    tokens: list[int]
    without_fact: list[int]  # BOS and the tokens after the fact
    right: int
    wrong: list[int]
    distance: int  # keys from the query back to the fact


@dataclass(frozen=True)
class Column:
    """The share of right answers in one column; None where no question belongs to it."""

    name: str
    questions: int
    right: float | None
    right_without_fact: float | None
    right_by_chance: float | None


@dataclass(frozen=True)
class RunRecall:
    """What one run remembers."""

    run: str
    windows: tuple[int | None, ...]  # of each layer; None: full attention
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class RecallResult:
    """What several runs remember, by `distance` or by `kind`."""

    by: str
    within: int | None  # tokens; None: no limit
    combinations: str  # of hero, thing and plot: held-out or seen
    runs: tuple[RunRecall, ...]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print a table with two lines for each run."""
    parser = ArgumentParser(
        prog="python -m experiments.recall",
        description="Measure how far back models that were trained on stories remember a fact.",
        epilog="example: python -m experiments.recall runs/quickstart --by kind",
    )
    add_run(parser, several=True)
    parser.add_argument("--questions", type=int, default=1000, help="questions to ask (1000)")
    parser.add_argument("--by", choices=("distance", "kind"), default="distance",
                        help="columns: distance from the fact, or its kind (distance)")  # fmt: skip
    parser.add_argument("--within", type=int, metavar="TOKENS",
                        help="ask only for facts at most so far back (no limit)")  # fmt: skip
    parser.add_argument("--combinations", choices=("held-out", "seen"), default="held-out",
                        help="of hero, thing and plot in the stories (held-out)")  # fmt: skip
    add_json(parser)
    arguments = parser.parse_args(argv)
    if arguments.questions < 1:
        raise UserError(f"--questions is {arguments.questions}: give 1 or more")
    if arguments.within is not None and arguments.within < 1:
        raise UserError(f"--within is {arguments.within}: give 1 or more")
    runs = [open_story_run(arguments, path) for path in arguments.runs]
    split = "test" if arguments.combinations == "held-out" else "train"
    measured = tuple(
        measure(run, arguments.questions, arguments.by, arguments.within, split) for run in runs
    )
    result = RecallResult(arguments.by, arguments.within, arguments.combinations, measured)
    write_json(arguments.json, result)
    _print(result)
    return 0


def measure(
    run: StoryRun, questions: int, by: str, within: int | None = None, split: str = "test"
) -> RunRecall:
    """Ask a model and average its answers in columns `by` distance or kind.

    Only questions whose fact is at most `within` tokens back are asked; None: all. The stories are
    unseen ones of `split`.
    """
    near = (q for q in _questions(run, split) if within is None or q.distance <= within)
    asked = list(islice(near, questions))
    places = [question.kind if by == "kind" else _distance_of(question) for question in asked]
    right = _answer(run, [question.tokens for question in asked], asked)
    without_fact = _answer(run, [question.without_fact for question in asked], asked)
    by_chance = [1 / (1 + len(question.wrong)) for question in asked]

    def mean(scores: Sequence[float], name: str) -> float | None:
        cell = [score for score, place in zip(scores, places, strict=True) if place == name]
        return sum(cell) / len(cell) if cell else None

    columns = tuple(
        Column(
            name,
            places.count(name),
            mean(right, name),
            mean(without_fact, name),
            mean(by_chance, name),
        )
        for name in (KINDS if by == "kind" else DISTANCES)
    )
    return RunRecall(run.path, tuple(run.trained.model.config.windows), columns)


def _distance_of(question: Question) -> str:
    """Return the name of the column that a question's distance belongs to."""
    return DISTANCES[sum(question.distance >= edge for edge in EDGES) - 1]


def _questions(run: StoryRun, split: str) -> Iterator[Question]:
    """Yield the questions of unseen stories of a split, without end."""
    for text, probes in run.unseen(split):
        yield from chain.from_iterable(
            _question(run.trained.tokenizer, text, probe) for probe in probes
        )


def _question(tokenizer: "Tokenizer", text: str, probe: Probe) -> Iterator[Question]:
    """Cut the text where the right word begins to differ from the other candidates.

    A candidate that begins with the same token is left out. Yields nothing if none remains.
    """
    before, fact_end = text[: probe.use[0]], len(tokenizer.encode(text[: probe.fact[1]]))
    answers = [tokenizer.encode(before + word) for word in (probe.right, *probe.wrong)]
    start = next(n for n, tokens in enumerate(zip(*answers, strict=False)) if len(set(tokens)) > 1)
    right = answers[0][start]
    wrong = sorted({answer[start] for answer in answers} - {right})
    if wrong:
        bos, tokens = tokenizer.bos_id, answers[0][:start]
        distance = max(1, start - fact_end + 1)
        yield Question(
            probe.kind, [bos, *tokens], [bos, *tokens[fact_end:]], right, wrong, distance
        )


def _answer(run: StoryRun, texts: Sequence[list[int]], questions: Sequence[Question]) -> list[bool]:
    """Return for each question whether the right token is likelier than every wrong one.

    Of a text that is longer than the training sequences, the beginning is cut off.
    """
    import torch  # takes seconds; --help and errors do not need it

    seq_len = run.trained.config.data.seq_len
    answers = []
    with torch.inference_mode():
        for first in tqdm(range(0, len(questions), ROWS), run.path, leave=False, disable=None):
            asked = questions[first : first + ROWS]
            rows = [torch.tensor(text[-seq_len:]) for text in texts[first : first + ROWS]]
            # A query sees no later token, so the padding changes nothing.
            logits = run.trained.model(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))
            for question, row, row_logits in zip(asked, rows, logits, strict=True):
                last = row_logits[len(row) - 1]
                answers.append(bool(last[question.right] > last[question.wrong].max()))
    return answers


# ---------------------------------------------------------------------------- the table


def _print(result: RecallResult) -> None:
    """Print the table. `by chance` and `n` follow the last of several runs that share them."""
    columns = "what the fact is about" if result.by == "kind" else "distance in tokens"
    within = f", facts at most {result.within} tokens back" if result.within else ""
    seen = ", combinations of hero, thing and plot seen" if result.combinations == "seen" else ""
    print(f"share of right answers by {columns}{within}{seen}; n: number of questions")
    windows = [_describe(run.windows) for run in result.runs]
    widths = max(20, *(len(run.run) for run in result.runs)), max(6, *map(len, windows))

    def line(label: str, window: str, cells: Sequence[str]) -> None:
        row = f"{label:{widths[0]}}  {window:>{widths[1]}}" + "".join(f"{c:>9}" for c in cells)
        print(row, flush=True)

    line("", "window", [column.name for column in result.runs[0].columns])
    for number, (run, window) in enumerate(zip(result.runs, windows, strict=True)):
        line(run.run, window, [_percent(column.right) for column in run.columns])
        line("  without the fact", "", [_percent(c.right_without_fact) for c in run.columns])
        next_run = result.runs[number + 1] if number + 1 < len(result.runs) else None
        if next_run is None or _asked(next_run) != _asked(run):
            line("by chance", "", [_percent(column.right_by_chance) for column in run.columns])
            line("n", "", [f"{column.questions:,}" for column in run.columns])


def _asked(run: RunRecall) -> list[tuple[int, float | None]]:
    return [(column.questions, column.right_by_chance) for column in run.columns]


def _describe(windows: Sequence[int | None]) -> str:
    """Return the different windows of the layers, as "64" or "64, full"."""
    return ", ".join(str(window or "full") for window in dict.fromkeys(windows))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


if __name__ == "__main__":
    sys.exit(main())
