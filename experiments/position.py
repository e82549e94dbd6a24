"""How good is a prediction after so many tokens? `python -m experiments.position RUN ...`

Measures the loss by position in the context: after 1 token, after 2 or 3, ... up to the trained
length and beyond it. Full attention gains with every doubling, and fails beyond the trained length,
where RoPE rotates by angles that were never trained. A window stays flat: it never sees further.

All positions predict the same tokens, so only the context differs. For tokens x and the positions
2-3 and 4-7 (position 0 is the first token of a text, and predicts the second):

    tokens           . . . . . . . . x x x x x x x x . . .
    positions 2-3                |_______|
                                     |_______|                 each text is twice as long as
                                         |_______|             what it predicts, and each x is
                                             |_______|         predicted by one text
    positions 4-7            |_______________|
                                     |_______________|

With --scaling, the model is also measured with RoPE scalings (model/rope.py) that map the angles to
trained ones; the factor is the length of the text over the trained length. Nothing is trained.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from arguments import add_run, open_run
from configs.settings import keys_of
from data.splits import SPLITS
from errors import ArgumentParser, UserError, command, fields_named
from experiments import position_loss
from experiments.groups import Group, groups_of
from experiments.position_loss import (
    RunLoss,
    Text,
    column_edges,
    measure_run,
    open_text_of,
    refuse_trained_scaling,
    text_key,
)
from experiments.position_page import section, tables
from experiments.position_results import PositionResult, group_loss
from experiments.result import Clock, add_json, add_quick, show_hint, store, write_json
from experiments.run_parts import measured_once
from model.config import SCALING

if TYPE_CHECKING:  # torch is imported only when a model is opened
    from inference.trained import TrainedModel

__all__ = ["PositionResult", "main", "section"]

TARGETS, QUICK_TARGETS = 32_768, 4_096  # tokens predicted at every position


@command
@fields_named(keys_of("data"))
def main(argv: Sequence[str] | None = None) -> int:
    """Measure every run, store the result and print its tables."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    _refuse(arguments)
    clock = Clock(parser.prog, argv)
    result = measure(arguments)
    store(Path(arguments.runs[0]), "position", clock.about(arguments.quick), result)
    write_json(arguments.json, result)
    for table in tables(result):
        print(table.markdown(), end="\n\n")
    print(show_hint(Path(arguments.runs[0])))
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m experiments.position",
        description="Measure the loss by position in the context, up to the trained length and "
        "beyond it: bits per byte of the same tokens after more and more text.",
        epilog="example: python -m experiments.position runs/quickstart --lengths 1 2 8",
    )
    add_run(parser, several=True)
    add = parser.add_argument
    add("--lengths", nargs="+", type=int, default=[1, 2, 4], metavar="N",
        help="where ranges of positions end, in trained lengths (1 2 4)")  # fmt: skip
    add("--scaling", nargs="+", choices=SCALING, default=["none"],
        help="RoPE scalings; none: as trained (none)")  # fmt: skip
    add("--split", choices=SPLITS, default="test", help="split to read (test)")
    add("--max-tokens", type=int, metavar="N",
        help=f"predict at most N tokens, from all over the split ({TARGETS:,})")  # fmt: skip
    add_quick(parser, f"{QUICK_TARGETS:,} tokens")
    add_json(parser)
    return parser


def _refuse(arguments: argparse.Namespace) -> None:
    """Raise `UserError` for numbers out of range; sort and complete the lists."""
    for multiple in arguments.lengths:
        if multiple < 1:
            raise UserError(f"--lengths {multiple}: give multiples of the trained length from 1")
    if arguments.max_tokens is not None and arguments.max_tokens < 1:
        raise UserError(f"--max-tokens is {arguments.max_tokens}: it must be at least 1")
    arguments.lengths = sorted({1, *arguments.lengths})
    arguments.scaling = list(dict.fromkeys(arguments.scaling))


def measure(arguments: argparse.Namespace) -> PositionResult:
    """Measure all runs on the same tokens; a run that was measured before is read back.

    Raises `UserError` if the runs have different texts, tokenizers or trained lengths, or if one
    masks documents.
    """
    groups = groups_of(arguments.runs)
    runs = [[open_run(arguments, str(path)) for path in group.runs] for group in groups]
    _refuse_unlike(groups, runs, arguments.scaling)
    first = runs[0][0]
    trained_length = first.config.data.seq_len
    edges = column_edges(trained_length, arguments.lengths)
    targets = arguments.max_tokens or (QUICK_TARGETS if arguments.quick else TARGETS)
    text: list[Text] = []  # opened once, if a run has to be measured

    def part(path: Path, n: int, m: int, scaling: str) -> RunLoss:
        run = runs[n][m]

        def missing() -> RunLoss:
            if not text:
                text.append(open_text_of(run, arguments.split, edges, targets))
            unscaled = None if scaling == "none" else part(path, n, m, "none")
            return measure_run(run, text[0], edges, scaling, str(path), unscaled)

        key = [run.checkpoint.path.name, arguments.split, edges, targets, scaling]
        files = [position_loss.__file__]
        return measured_once(str(path), "position", key, files, RunLoss, missing)

    trained, lines = edges.index(trained_length) - 1, []
    for n, group in enumerate(groups):
        for scaling in arguments.scaling:
            parts = [part(path, n, m, scaling) for m, path in enumerate(group.runs)]
            windows = tuple(runs[n][0].model.config.windows)
            lines.append(group_loss(group.name, group.runs, windows, scaling, parts, trained))
    return PositionResult(trained_length, edges, arguments.split, tuple(lines))


def _refuse_unlike(
    groups: Sequence[Group], runs: Sequence[Sequence["TrainedModel"]], scalings: Sequence[str]
) -> None:
    """Raise `UserError` if a run cannot predict the tokens of the first, or restarts positions.

    Likewise if it was trained with a scaling and another is asked for.
    """
    expected = text_key(runs[0][0])
    for group, members in zip(groups, runs, strict=True):
        for path, run in zip(group.runs, members, strict=True):
            if text_key(run) != expected:
                raise UserError(
                    f"{path} has another text, tokenizer or data.seq_len than "
                    f"{groups[0].runs[0]}: all lines must predict the same tokens"
                )
            if run.config.data.document_mask:
                raise UserError(
                    f"{path} was trained with data.document_mask, so positions restart at each "
                    "document and not at the beginning of a text: name runs without it"
                )
            refuse_trained_scaling(run, scalings, str(path))


if __name__ == "__main__":
    sys.exit(main())
