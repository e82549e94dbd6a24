"""What happens when the first tokens leave the window? `python -m experiments.sinks`

Trains a model with full attention in three ways: plain, with a sink token, and with sink logits.
Each then reads texts far longer than in training through a rolling cache, once for each number of
first tokens that stay visible (sinks). This is StreamingLLM (arXiv 2309.17453) in miniature. With
`--runs`, given runs are measured in place of these.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from arguments import add_config
from configs.load import load_config, split_arguments
from configs.settings import keys_of
from data.splits import SPLITS
from errors import ArgumentParser, UserError, command, fields_named
from experiments.groups import Group, groups_of
from experiments.result import Clock, add_json, add_quick, show_hint, store, write_json
from experiments.streams.page import section, summary, tables
from experiments.streams.results import SinksResult
from experiments.train_runs import Training, train_runs

__all__ = ["main", "section"]

CONFIG = "configs/sinks.yaml"
FOLDER = "runs/sinks"
VARIANTS = {
    "plain": (),
    "sink-token": ("model.sink_token=true",),
    "sink-logits": ("model.sink_logits=true",),
}
SEEDS = 3
TIMES = 24  # length of a streamed text, in trained lengths
TEXTS = 16  # that are streamed beside each other
QUICK_STEPS, QUICK_TIMES, QUICK_TEXTS = 300, 21, 4
QUICK_STORIES = 500  # fewer to generate, and to score at the end of the training


@command
@fields_named(keys_of("data"))
def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, measure, then print a table for each way of training."""
    parser = _parser()
    clock = Clock(parser.prog, argv)
    arguments = _checked(parser.parse_args(argv))
    path = Path(arguments.folder or FOLDER + "-quick" * arguments.quick)
    if arguments.runs:
        groups, path = groups_of(arguments.runs), Path(arguments.runs[0])
    else:
        trainings = trainings_of(arguments, path)
        train_runs([training for _, training in trainings], arguments.jobs)
        groups = [
            Group(name, tuple(t.folder for of, t in trainings if of == name)) for name in VARIANTS
        ]
    result = _measure(groups, arguments)
    store(path, "sinks", clock.about(arguments.quick), result)
    write_json(arguments.json, result)
    for table in tables(result):
        print(table.markdown(), end="\n\n")
    print(*summary(result), sep="\n")
    if arguments.quick:
        print("--quick trains too little and reads too few texts: do not quote these numbers.")
    print(show_hint(path))
    return 0


def trainings_of(arguments: argparse.Namespace, folder: Path) -> list[tuple[str, Training]]:
    """Return the runs with their variants: folder/VARIANT/seed-N.

    Raises `UserError` for an invalid config, and for one that sets what the variants set.
    """
    named = any("=" not in word for word in arguments.words)
    words = tuple(arguments.words) if named else (CONFIG, *arguments.words)
    if arguments.quick:
        words += (f"train.max_steps={QUICK_STEPS}",)
    path, overrides = split_arguments(words)
    config = load_config(path, overrides)
    if arguments.quick and config.data.source == "stories":
        words += (f"data.stories={QUICK_STORIES}",)
    model = config.model
    if model.sink_token or model.sink_logits or model.sliding_window is not None:
        raise UserError(
            f"{path}: the variants set model.sink_token and model.sink_logits, and need full "
            "attention: add model.sliding_window=null, and leave out what they set"
        )
    return [
        (name, Training((*words, *more, f"seed={seed}"), folder / name / f"seed-{seed}"))
        for name, more in VARIANTS.items()
        for seed in range(arguments.seeds)
    ]


def _measure(groups: Sequence[Group], arguments: argparse.Namespace) -> SinksResult:
    from training.run_folder import find

    for group in groups:  # all of them, before torch is imported
        for run in group.runs:
            find(run, arguments.checkpoint)
    from experiments.streams.measure import Plan, measure

    plan = Plan(
        sinks=arguments.sinks,
        window=arguments.window,
        split=arguments.split,
        length=arguments.tokens,
        times=QUICK_TIMES if arguments.quick else TIMES,
        n_texts=QUICK_TEXTS if arguments.quick else TEXTS,
        checkpoint=arguments.checkpoint,
    )
    return SinksResult(plan.split, plan.sinks, [measure(group, plan) for group in groups])


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m experiments.sinks",
        description="Train a model plain, with a sink token and with sink logits, then read texts "
        "far past the trained length with and without their first tokens.",
        epilog="example: python -m experiments.sinks --quick",
    )
    add_config(parser)
    parser.add_argument("--runs", nargs="+", metavar="RUN",
                        help="stream these runs or sweeps instead, and train nothing")  # fmt: skip
    parser.add_argument("--seeds", type=int, metavar="N",
                        help="seeds of each variant, from 0 (3; with --quick 1)")  # fmt: skip
    parser.add_argument("--folder", help=f"folder of the runs ({FOLDER})")
    parser.add_argument("--jobs", type=int, help="runs that are trained at once (one on each core)")
    parser.add_argument("--sinks", type=int, nargs="+", default=[0, 1, 2, 4], metavar="N",
                        help="numbers of first tokens that stay visible (0 1 2 4)")  # fmt: skip
    parser.add_argument("--window", type=int, metavar="W",
                        help="keys that the stream sees in every layer (as trained; with full "
                        "attention half the trained length)")  # fmt: skip
    parser.add_argument("--tokens", type=int, metavar="T",
                        help=f"length of a text ({TIMES} times the trained length)")  # fmt: skip
    parser.add_argument("--split", choices=SPLITS, default="test", help="split to read (test)")
    parser.add_argument("--checkpoint", default="best", metavar="best|last|STEP",
                        help="which checkpoint of a run's folder to use (best)")  # fmt: skip
    add_quick(
        parser, f"one seed, {QUICK_STEPS} steps on {QUICK_STORIES} stories, {QUICK_TEXTS} texts"
    )
    add_json(parser)
    return parser


def _checked(arguments: argparse.Namespace) -> argparse.Namespace:
    """Check the numbers, and fill in the number of seeds."""
    if arguments.runs and (arguments.words or arguments.seeds or arguments.folder):
        raise UserError("--runs streams runs as they are: leave out CONFIG, --seeds and --folder")
    if arguments.seeds is None:
        arguments.seeds = 1 if arguments.quick else SEEDS
    for name in ("seeds", "jobs", "window"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}: give 1 or more")
    if arguments.tokens is not None and arguments.tokens < 2:
        raise UserError(f"--tokens is {arguments.tokens}: one prediction needs 2 or more")
    if min(arguments.sinks) < 0:
        raise UserError(f"--sinks is {min(arguments.sinks)}: give 0 or more")
    arguments.sinks = sorted(set(arguments.sinks))
    return arguments


if __name__ == "__main__":
    sys.exit(main())
