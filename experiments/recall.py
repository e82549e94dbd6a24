"""How far back does a model remember? `python -m experiments.recall RUN ...`

Trained models read stories that they have not seen, up to a use: a word that an earlier fact
decides ("the kite was put in the barn ... it was still in the"). The answer is right if the model
gives the right word a higher probability than every other candidate. Some answers can be guessed: a
farm has ten places, and one of them is right. So each question is also asked without the fact, with
only the text after it. The difference is what the model remembers.

One attention layer can look up a fact within its window W. A fact further back must travel through
the layers, at most W - 1 tokens in each: the sum of these steps is the wall, and beyond it nothing
can be remembered. By distance, about equally many questions are asked for each column, and the
columns end at W and at the wall of every group. By --by kind, the columns are what facts are about.
"""

import argparse
import sys
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from arguments import add_run
from errors import ArgumentParser, UserError, command
from experiments import recall_answers, story_questions
from experiments.captions import range_names
from experiments.groups import Group, groups_of
from experiments.recall_answers import RunAnswers, answer_all
from experiments.recall_page import section, tables
from experiments.recall_results import RecallResult, group_recall
from experiments.result import Clock, add_json, add_quick, show_hint, store, write_json
from experiments.run_parts import measured_once
from experiments.story_questions import Question, draw_questions
from experiments.story_run import StoryRun, open_story_run
from model.window import Window, reach, widest

__all__ = ["RecallResult", "main", "section"]

KINDS = ("colour", "place", "number", "treat", "word", "holder")
EDGES = (1, 5, 9, 17, 33, 65, 129, 257, 513)  # tokens: the least distance of each column
CLOSE = 1.2  # an edge is left out if another, of a window, is closer than this factor
FAR_LIMIT = 1000  # words: stories are not made longer by themselves
QUESTIONS, QUICK_QUESTIONS = 1000, 200


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Ask every run, store the result and print its tables."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    _refuse(arguments)
    clock = Clock(parser.prog, argv)
    groups = groups_of(arguments.runs)
    runs = [[open_story_run(arguments, str(path)) for path in group.runs] for group in groups]
    result = measure(groups, runs, arguments)
    store(Path(arguments.runs[0]), "recall", clock.about(arguments.quick), result)
    write_json(arguments.json, result)
    for table in tables(result):
        print(table.markdown(), end="\n\n")
    print(show_hint(Path(arguments.runs[0])))
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m experiments.recall",
        description="Measure how far back models that were trained on stories remember a fact.",
        epilog="example: python -m experiments.recall runs/quickstart --by kind",
    )
    add_run(parser, several=True)
    add = parser.add_argument
    add("--questions", type=int, metavar="N",
        help=f"questions to ask each run, spread over the columns ({QUESTIONS:,})")  # fmt: skip
    add("--by", choices=("distance", "kind"), default="distance",
        help="columns: distance from the fact, or its kind (distance)")  # fmt: skip
    add("--within", type=int, metavar="TOKENS",
        help="ask only for facts at most so far back (no limit)")  # fmt: skip
    add("--far", type=int, metavar="WORDS",
        help="the farthest facts of the stories (by distance: past every wall, at most "
        f"{FAR_LIMIT:,}; by kind: as in training)")  # fmt: skip
    add("--combinations", choices=("held-out", "seen"), default="held-out",
        help="of hero, thing and plot in the stories (held-out)")  # fmt: skip
    add_quick(parser, f"{QUICK_QUESTIONS} questions for each run")
    add_json(parser)
    return parser


def _refuse(arguments: argparse.Namespace) -> None:
    """Raise `UserError` for numbers out of range."""
    for name in ("questions", "within", "far"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}: give 1 or more")


def measure(
    groups: Sequence[Group], runs: Sequence[Sequence[StoryRun]], arguments: argparse.Namespace
) -> RecallResult:
    """Ask all runs of all groups the same questions; a run that was asked before is read back."""
    windows = [_windows(group) for group in runs]
    by, within = arguments.by, arguments.within
    edges = column_edges(windows, within) if by == "distance" else ()
    names = tuple(names_of(edges, within)) if edges else KINDS
    far = _far(arguments.far or (_past_the_walls(runs, windows) if edges else None), runs)
    n_questions = arguments.questions or (QUICK_QUESTIONS if arguments.quick else QUESTIONS)
    each = -(-n_questions // len(names))
    split = "test" if arguments.combinations == "held-out" else "train"
    asked: dict[str, list[list[Question]]] = {}

    def column(kind: str, distance: int) -> int | None:
        if within is not None and distance > within:
            return None
        return bisect_right(edges, distance) - 1 if edges else KINDS.index(kind)

    def ask(run: StoryRun) -> RunAnswers:
        data = run.trained.config.data
        same = repr((run.trained.tokenizer.model_bytes, data.stories, data.near, data.far))
        if same not in asked:
            asked[same] = draw_questions(run, column, len(names), each, split=split, far=far)
        answers = answer_all(run, asked[same])
        _refuse_empty(answers, run)
        return answers

    def part(run: StoryRun) -> RunAnswers:
        key = [run.trained.checkpoint.path.name, by, edges, each, within, far, split]
        sources = [recall_answers.__file__, story_questions.__file__]
        return measured_once(run.path, "recall", key, sources, RunAnswers, lambda: ask(run))

    recalled = tuple(
        group_recall(group.name, [run.path for run in members], [part(run) for run in members])
        for group, members in zip(groups, runs, strict=True)
    )
    return RecallResult(by, names, edges, within, arguments.combinations, far, recalled)


def _far(far: int | None, groups: Sequence[Sequence[StoryRun]]) -> int | None:
    """Return `far`, or None if all runs were trained on stories with such distances.

    Raises `UserError` if the nearest facts of a run's stories are further than `far` words.
    """
    runs = [run for group in groups for run in group]
    for run in runs:
        if far is not None and far < run.trained.config.data.near:
            raise UserError(f"--far is {far}, nearer than data.near of {run.path}: give more words")
    return None if {run.trained.config.data.far for run in runs} == {far} else far


def _refuse_empty(answers: RunAnswers, run: StoryRun) -> None:
    """Raise `UserError` if a run was asked no question."""
    if not any(column.questions for column in answers.columns):
        raise UserError(
            f"{run.path}: of {story_questions.STORIES:,} stories, none has a fact that can be "
            "asked for: give a larger --within, or a run of longer sequences (data.seq_len)"
        )


def _windows(runs: Sequence[StoryRun]) -> tuple[Window, ...]:
    """Return the windows of a group. Raises `UserError` if its runs differ."""
    windows = {tuple(run.trained.model.config.windows): run.path for run in runs}
    if len(windows) > 1:
        first, other, *_ = windows.values()
        raise UserError(f"{first} and {other} have different windows: give them as two groups")
    return next(iter(windows))


def column_edges(windows: Sequence[Sequence[Window]], within: int | None) -> tuple[int, ...]:
    """Return the least distance of each column: one begins after each W, and after each wall."""
    limits = {limit for layers in windows for limit in (widest(layers), reach(layers))}
    ends = sorted({limit + 1 for limit in limits if limit is not None})
    free = [e for e in EDGES if all(max(e, end) / min(e, end) >= CLOSE for end in ends)]
    return tuple(edge for edge in sorted({1, *free, *ends}) if within is None or edge <= within)


def names_of(edges: Sequence[int], within: int | None) -> list[str]:
    """Return the names of columns by distance: "1-8", "9-16" ... "513-"."""
    return [*range_names(edges), f"{edges[-1]}-{within or ''}"]


def _past_the_walls(runs: Sequence[Sequence[StoryRun]], windows: Sequence[Sequence[Window]]) -> int:
    """Return a distance in words beyond every wall, and at least that of training.

    A word is a token or more, so the reach in tokens will do.
    """
    trained = max(run.trained.config.data.far for group in runs for run in group)
    return max(trained, min(FAR_LIMIT, max(reach(layers) or 0 for layers in windows)))


if __name__ == "__main__":
    sys.exit(main())
