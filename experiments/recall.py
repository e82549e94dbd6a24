"""How far back does a model remember? `python -m experiments.recall RUN ...`

Lets trained models read stories that no one has read before, up to a word that an earlier fact
decides ("the kite was put in the barn ... it was still in the"), and asks which of the words that
would fit they find likeliest. Prints the share they get right by the distance from the fact, in
tokens: within the window it is one look back; beyond it has to come through the layers; and a fact
further back than the text that a model was trained on is out of sight. With --by kind, by what the
fact is about.

Some answers can be guessed: of the places, few are ones that something lies *under*. So each model
is also asked without the fact, from the text behind it alone: what it remembers is the difference.
"""

import sys
from collections.abc import Iterator, Sequence
from itertools import count, pairwise
from typing import TYPE_CHECKING, NamedTuple

from errors import ArgumentParser, UserError, command

if TYPE_CHECKING:
    from data.tokenizer import Tokenizer
    from inference.trained import TrainedModel

ROWS = 16  # questions in a forward pass
KINDS = ("colour", "place", "number", "treat", "word", "holder")
EDGES = (1, 9, 17, 33, 65, 129, 257)  # distances at which columns begin [tokens]
SPANS = (*(f"{a}-{b - 1}" for a, b in pairwise(EDGES)), f"{EDGES[-1]}-")


class Question(NamedTuple):
    """What a model reads, and the first tokens of the words between which it has to choose."""

    kind: str  # what the fact is about
    tokens: list[int]
    behind: list[int]  # the same without the fact and what stands before it
    right: int
    wrong: list[int]
    distance: int  # keys that reach from the query back to the fact


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each run."""
    parser = ArgumentParser(
        prog="python -m experiments.recall",
        description="Ask models trained on stories what they remember.",
        epilog="example: python -m experiments.recall runs/sweep/window-16 runs/sweep/window-full",
    )
    parser.add_argument("runs", nargs="*", default=["runs/quickstart"], metavar="RUN",
                        help="runs or checkpoints (runs/quickstart)")  # fmt: skip
    parser.add_argument("--questions", type=int, default=1000, help="how many to ask (1000)")
    parser.add_argument("--by", choices=("distance", "kind"), default="distance",
                        help="columns: how far the fact is, or its kind (distance)")  # fmt: skip
    arguments = parser.parse_args(argv)
    if arguments.questions < 1:
        raise UserError(f"--questions is {arguments.questions}: ask at least one")

    from inference.trained import open_trained

    opened = [open_trained(path) for path in arguments.runs]
    for path, run in zip(arguments.runs, opened, strict=True):
        if run.config.data.source != "stories":
            raise UserError(f"{path} was not trained on stories: nothing is known to ask it")
    width = max(len("  without the fact"), *map(len, arguments.runs))
    names = KINDS if arguments.by == "kind" else SPANS
    about = "what the fact is about" if arguments.by == "kind" else "the distance, in tokens"
    print(f"right answers by {about}; n: how many were asked")

    def line(label: str, window: object, cells: Sequence[str]) -> None:
        print(f"{label:{width}}  {window:>6}" + "".join(f"{cell:>9}" for cell in cells), flush=True)

    line("", "window", names)
    for path, run in zip(arguments.runs, opened, strict=True):
        questions = _questions(run, arguments.questions)
        columns = [question.kind if names == KINDS else _span(question) for question in questions]
        hits = _ask(run, [question.tokens for question in questions], questions, path)
        guesses = _ask(run, [question.behind for question in questions], questions, path)
        line(path, run.model.config.windows[0] or "full", _means(hits, columns, names))
        line("  without the fact", "", _means(guesses, columns, names))
    chances = [1 / (1 + len(question.wrong)) for question in questions]
    line("by chance", "", _means(chances, columns, names))
    line("n", "", [f"{columns.count(name):,}" for name in names])
    return 0


def _span(question: Question) -> str:
    return SPANS[sum(question.distance >= edge for edge in EDGES) - 1]


def _means(scores: Sequence[float], columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Give the mean of the scores in each column."""
    table = [[score for score, at in zip(scores, columns, strict=True) if at == name]
             for name in names]  # fmt: skip
    return [f"{sum(cell) / len(cell):.1%}" if cell else "-" for cell in table]


def _questions(run: "TrainedModel", wanted: int) -> list[Question]:
    """Take them from test stories after those that the run was trained on."""
    from data.stories.telling import story
    from data.stories.world import split_of

    questions: list[Question] = []
    for index in count(run.config.data.stories):
        if split_of(index) == "test":
            text, probes = story(0, index)
            for probe in probes:
                questions += _question(run.tokenizer, text, *probe)
                if len(questions) == wanted:
                    return questions
    raise AssertionError("stories have no end")


def _question(
    tokenizer: "Tokenizer",
    text: str,
    kind: str,
    fact: tuple[int, int],
    use: tuple[int, int],
    right: str,
    wrong: tuple[str, ...],
) -> Iterator[Question]:
    """Cut the text where the right word begins to differ from the others; those that begin as it
    does are left out, and where none is left there is no question."""
    before, known = text[: use[0]], len(tokenizer.encode(text[: fact[1]]))
    answers = [tokenizer.encode(before + word) for word in (right, *wrong)]
    start = next(n for n, tokens in enumerate(zip(*answers, strict=False)) if len(set(tokens)) > 1)
    first = answers[0][start]
    others = sorted({answer[start] for answer in answers} - {first})
    if others:
        bos, read = tokenizer.bos_id, answers[0][:start]
        distance = max(1, start - known + 1)
        yield Question(kind, [bos, *read], [bos, *read[known:]], first, others, distance)


def _ask(
    run: "TrainedModel", texts: Sequence[list[int]], questions: Sequence[Question], label: str
) -> list[bool]:
    """Let the model answer each question after its text, with as much of it before the answer as
    the model was trained on."""
    import torch
    from tqdm import tqdm

    seq_len = run.config.data.seq_len
    hits = []
    with torch.inference_mode():
        for first in tqdm(range(0, len(questions), ROWS), label, leave=False, disable=None):
            asked = questions[first : first + ROWS]
            read = [torch.tensor(text[-seq_len:]) for text in texts[first : first + ROWS]]
            rows = torch.nn.utils.rnn.pad_sequence(read, batch_first=True)  # no row sees its end
            logits = run.model(rows)
            for question, tokens, row in zip(asked, read, logits, strict=True):
                likely = row[len(tokens) - 1]
                hits.append(bool(likely[question.right] > likely[question.wrong].max()))
    return hits


if __name__ == "__main__":
    sys.exit(main())
