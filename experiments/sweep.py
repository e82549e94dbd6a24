"""What does a window cost, and what does it lose? `python -m experiments.sweep --quick`

Trains one config once for each window and each seed, several at once, and compares: bits per byte
of held-out text, the reach through all layers, the speed of training and writing, and memory. The
runs are kept: a finished one is never trained again, and a stopped sweep continues.

    runs/sweep/window-8/seed-0 ... runs/sweep/window-full/seed-2    runs/sweep/report/sweep.json
"""

import argparse
import contextlib
import io
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from arguments import add_config, read_config
from configs.load import split_arguments
from configs.settings import Config
from errors import ArgumentParser, UserError, command, fields_named
from experiments.benchmarks.children import metrics_of
from experiments.intervals import Interval, over_runs, paired
from experiments.result import Clock, add_json, add_quick, show_hint, store, write_json
from experiments.sweeps.page import SweepResult, WindowResult, section, table
from experiments.sweeps.plan import EQUAL, Plan, with_steps
from experiments.sweeps.scores import Scorer, trained_look
from experiments.sweeps.window_words import GRAMMAR, Choice, choices_of
from experiments.train_runs import cores, peak_memory, read_configs, train_runs
from model.cost import FLOAT32, cache_bytes
from model.window import reach
from storage import lock

__all__ = ["SweepResult", "main", "section", "train_seconds"]

CONTEXTS = (1_024, 4_096)  # tokens in the cache before a token is written
LENGTHS = (1_024, 4_096, 16_384)  # tokens of text for which the cache is counted
ROUNDS = 5
QUICK_DIM, QUICK_STORIES, QUICK_STEPS = 96, 1000, 150
SET_HERE = {  # settings that the sweep itself varies
    "seed": "--seeds", "run_dir": "--folder", "model.sliding_window": "--windows",
}  # fmt: skip


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train the runs that are not finished, measure all, and print the table."""
    parser = _parser()
    clock = Clock(parser.prog, argv)
    arguments = parser.parse_args(argv)
    plan = _plan(arguments)
    read_configs(plan.all_trainings)  # errors in any of them, before anything is made
    plan.folder.mkdir(parents=True, exist_ok=True)
    with fields_named({"folder": "--folder"}), lock(plan.folder, wait=False):
        plan = with_steps(plan)
        train_runs(plan.all_trainings, arguments.jobs)
        result = measure(plan)
        store(plan.folder, "sweep", clock.about(arguments.quick), result)
    write_json(arguments.json, result)
    print(table(result).markdown())
    folder = shlex.quote(str(plan.folder))
    if "stories" in _sources(plan.config(plan.base)):
        print(f"\nrecall by distance: python -m experiments.recall {folder}")
    print(f"each model under each window: python -m experiments.swap {folder}")
    print(show_hint(plan.folder))
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m experiments.sweep",
        description="Train one config under several windows and seeds; compare quality, speed and "
        "memory. Finished runs are kept, and a stopped sweep continues.",
        epilog="example: python -m experiments.sweep --windows 8,32,full --seeds 2 --quick",
    )
    add_config(parser)
    add = parser.add_argument
    add("--windows", nargs="+", metavar="W", help=f"{GRAMMAR} (8,32,128,full; --quick: 8,32,full)")
    add("--seeds", type=int, metavar="N", help="runs of each window: seeds 0 to N - 1 (3)")
    add("--equal", choices=EQUAL, default="tokens",
        help="what all runs have in common: training tokens; training arithmetic, counted; or "
        "training time, measured once and kept in plan.json (tokens)")  # fmt: skip
    add("--steps", type=int, metavar="N", help="updates in a run (those of the config)")
    add("--folder", help="folder of the runs (runs/sweep; --quick: runs/sweep-quick)")
    add("--jobs", type=int, metavar="N", help="runs at once (one on each core)")
    add_quick(
        parser,
        f"windows 8,32,full, 2 seeds, {QUICK_STEPS} steps, and if the config has more, "
        f"model.dim={QUICK_DIM} and data.stories={QUICK_STORIES}; what you write counts",
    )
    add_json(parser)
    return parser


def _plan(arguments: argparse.Namespace) -> Plan:
    """Read what to train. Raises `UserError` for options and settings that make no sense."""
    for option in ("seeds", "steps", "jobs"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise UserError(f"--{option} is {value}: give 1 or more")
    given = arguments.windows or (["8,32,full"] if arguments.quick else ["8,32,128,full"])
    # Words after --windows that are no windows: CONFIG or a setting.
    others = [word for word in given if "=" in word or word.endswith((".yaml", ".yml"))]
    arguments.words = [*arguments.words, *others]
    path, overrides = split_arguments(arguments.words)
    for word in overrides:
        name = word.partition("=")[0]
        if name in SET_HERE:
            raise UserError(f"{word}: the sweep sets it, use {SET_HERE[name]}")
    if arguments.steps is not None:
        overrides.append(f"train.max_steps={arguments.steps}")
    arguments.words = [path, *overrides]
    if arguments.quick:
        overrides = [*_less(_read_quietly(arguments)), *overrides]
    words = (path, *overrides)
    arguments.words = list(words)
    config = _read_quietly(arguments)
    choices = choices_of([word for word in given if word not in others], config)
    seeds = arguments.seeds or (2 if arguments.quick else 3)
    default = "runs/sweep-quick" if arguments.quick else "runs/sweep"
    folder = Path(arguments.folder or default)
    return Plan(words, tuple(choices), seeds, folder, arguments.equal, {})


def _read_quietly(arguments: argparse.Namespace) -> Config:
    """Read the config without its notes, which `read_configs` prints later."""
    with contextlib.redirect_stderr(io.StringIO()):
        return read_config(arguments)


def _less(config: Config) -> list[str]:
    """Return settings of a smaller and shorter training, for --quick."""
    model, train = config.model, config.train
    steps = min(QUICK_STEPS, train.max_steps)
    less = [f"train.max_steps={steps}", f"train.eval_interval={max(1, steps // 5)}"]
    if train.drill_steps > QUICK_STEPS // 10:
        less.append(f"train.drill_steps={QUICK_STEPS // 10}")
    if model.dim > QUICK_DIM and model.head_dim is None and QUICK_DIM % (2 * model.n_heads) == 0:
        less.append(f"model.dim={QUICK_DIM}")
    if "stories" in _sources(config) and config.data.stories > QUICK_STORIES:
        less.append(f"data.stories={QUICK_STORIES}")
    return less


def _sources(config: Config) -> set[str]:
    """Return the kinds of sources of the text."""
    return {name.partition(":")[0] for name in config.data.mix or [config.data.source]}


def measure(plan: Plan) -> SweepResult:
    """Measure all runs, which must be finished. Raises `UserError` if their text has changed."""
    from experiments.sweeps.speed import speeds_after, train_speeds
    from inference.trained import open_trained

    config, base = plan.config(plan.base), plan.base.word
    scorer = Scorer("test" if config.data.test_fraction else "val")
    scores = {choice.word: _scores(plan, choice, scorer) for choice in plan.choices}
    models = {
        choice.word: open_trained(plan.trainings(choice)[0].folder).model for choice in plan.choices
    }
    _warn_if_busy()
    writing = speeds_after(models, CONTEXTS, ROUNDS)
    shapes = {word: model.config for word, model in models.items()}
    rows = config.train.micro_batch_size
    training = train_speeds(shapes, config.data.seq_len, rows, ROUNDS)
    results = []
    for choice in plan.choices:
        word, shape = choice.word, shapes[choice.word]
        tokens, curve = _curve(plan, choice)
        peaks = [peak_memory(training.folder) for training in plan.trainings(choice)]
        results.append(WindowResult(
            word=word, folder=choice.folder, windows=shape.windows, reach=reach(shape.windows),
            steps=plan.config(choice).train.max_steps,
            bpb=over_runs(scores[word]), bpb_of_seeds=tuple(scores[word]),
            against=None if word == base else paired(scores[word], scores[base]),
            train_tokens_per_s=training[word], decode_tokens_per_s=writing[word],
            peak_mb=max((peak / 1e6 for peak in peaks if peak is not None), default=None),
            cache_bytes=tuple(cache_bytes(shape, length, FLOAT32) for length in LENGTHS),
            curve_tokens=tokens, curve_bpb=curve,
        ))  # fmt: skip
    return SweepResult(
        plan.words, plan.seeds, plan.equal, scorer.split, base, config.data.seq_len,
        CONTEXTS, LENGTHS, ROUNDS,
        sum(train_seconds(metrics_of(training.folder)) for training in plan.all_trainings),
        tuple(results),
    )  # fmt: skip


def train_seconds(lines: Sequence[Mapping[str, float]]) -> float:
    """Return the seconds of training steps from the lines of a run's metrics.jsonl.

    `stepping_s` counts from the start of a process, so a smaller one begins another process.
    """
    logged = [line["stepping_s"] for line in lines if "stepping_s" in line]
    ends = [before for before, after in pairwise(logged) if after < before]
    return sum([*ends, *logged[-1:]])


def _scores(plan: Plan, choice: Choice, scorer: Scorer) -> list[float]:
    """Return the bits per byte of each seed, under the windows of its training."""
    runs = [training.folder for training in plan.trainings(choice)]
    return [scorer.score(run, [trained_look(run)])[0] for run in runs]


def _curve(plan: Plan, choice: Choice) -> tuple[tuple[int, ...], tuple[Interval, ...]]:
    """Return the bits per byte of the validation split over training tokens, over all seeds."""
    config = plan.config(choice)
    by_seed = [
        {line["step"]: line["val_bpb"] for line in metrics_of(training.folder) if "val_bpb" in line}
        for training in plan.trainings(choice)
    ]
    steps = sorted(set.intersection(*map(set, by_seed)))
    tokens = tuple(int(step) * config.tokens_per_step for step in steps)
    return tokens, tuple(over_runs([found[step] for found in by_seed]) for step in steps)


def _warn_if_busy() -> None:
    """Print a note if other programs use the cores: speeds are then low, and only ratios count."""
    getloadavg = getattr(os, "getloadavg", None)
    if getloadavg and (busy := getloadavg()[0]) > cores():
        print(
            f"note: {busy:.1f} processes share {cores()} cores, so the speeds are low and only "
            "their ratios count: run the same command again when the machine is free",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(main())
