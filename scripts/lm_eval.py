"""Score trained models with lm-eval: `python -m scripts.lm_eval RUN --tasks breeze_recall`

    breeze_recall        what a model remembers of a story, by distance in words (_0032 ... _1024)
    breeze_perplexity    perplexity of whole unseen stories, per word and per byte

These two need no network. Any other task of lm-eval works as well, if its data is on this machine
or can be downloaded. Texts longer than the window are not cut: they are read through the cache.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from fnmatch import filter as matching
from pathlib import Path
from time import perf_counter
from typing import Any

from arguments import add_run, open_run
from errors import ArgumentParser, UserError, command, fields_named
from interop.story_tasks import PERPLEXITY, RECALL, task_names, write_tasks
from storage import atomic_write


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print lm-eval's tables for each run."""
    arguments = _parser().parse_args(argv)
    names = _refuse(arguments)
    _set_environment(names)
    models = [open_run(arguments, path) for path in arguments.runs]
    from interop.harness import load_tasks, run_tasks, tables

    folders = [write_tasks(), *map(Path, arguments.include_path)]
    with fields_named({"num_fewshot": "--num-fewshot"}):
        tasks = load_tasks(names, folders, arguments.num_fewshot)
    results: dict[str, Any] = {}
    for path, trained in zip(arguments.runs, models, strict=True):
        start = perf_counter()
        answers = run_tasks(trained, tasks, arguments.limit)
        seconds, limit = perf_counter() - start, arguments.limit
        documents = "all documents" if limit is None else f"limit {limit:g}"
        print(f"{trained.checkpoint.path}, {documents}, {seconds:.1f} s")
        print(tables(answers), flush=True)
        about = {"checkpoint": str(trained.checkpoint.path), "limit": limit, "seconds": seconds}
        results[path] = about | dict(answers)
    if arguments.json is not None:
        atomic_write(Path(arguments.json), json.dumps(results, indent=1, default=str).encode())
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m scripts.lm_eval",
        description="Score trained models with lm-eval's tasks, or with those of the story world.",
        epilog="example: python -m scripts.lm_eval runs/quickstart --tasks breeze_recall",
    )
    add_run(parser, several=True)
    add = parser.add_argument
    add("--tasks", default=f"{RECALL},{PERPLEXITY}", metavar="NAME,NAME",
        help=f"tasks and groups of lm-eval ({RECALL},{PERPLEXITY})")  # fmt: skip
    add("--limit", type=float, metavar="N",
        help="documents of each task, for a quick look; below 1: their share (all)")  # fmt: skip
    add("--num-fewshot", "--num_fewshot", type=int, metavar="N",
        help="answered examples before each question (the task's own)")  # fmt: skip
    add("--include-path", "--include_path", nargs="+", default=[], metavar="FOLDER",
        help="folders with task files of your own")  # fmt: skip
    add("--json", metavar="FILE", help="also write lm-eval's results to FILE, as JSON")
    return parser


def _refuse(arguments: argparse.Namespace) -> list[str]:
    """Return the names of the tasks. Raises `UserError` for wrong values, before a model opens."""
    names = [name.strip() for name in arguments.tasks.split(",") if name.strip()]
    if not names:
        raise UserError(f"--tasks names no task: {', '.join(task_names())} need no network")
    limit, shots, out = arguments.limit, arguments.num_fewshot, arguments.json
    if limit is not None and not (0 < limit < 1 or (limit >= 1 and limit.is_integer())):
        raise UserError(f"--limit is {limit:g}: give a whole number from 1, or a share below 1")
    if shots is not None and shots < 0:
        raise UserError(f"--num-fewshot is {shots}: give 0 or more")
    for folder in arguments.include_path:
        if not Path(folder).is_dir():
            raise UserError(f"--include-path {folder} is no folder: name one with task files")
    if out is not None and (Path(out).is_dir() or not Path(out).absolute().parent.is_dir()):
        raise UserError(f"--json {out}: name a file in a folder that exists")
    if len(set(arguments.runs)) < len(arguments.runs):
        raise UserError("a RUN is given twice: name each once")
    return names


def _set_environment(names: Sequence[str]) -> None:
    """Set what lm-eval and its libraries read when they are imported.

    They send no statistics, draw bars only on a terminal, and use no network if all tasks are ours.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    if all(matching(task_names(), name) for name in names):
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


if __name__ == "__main__":
    here = str(Path(__file__).parent)
    if here in sys.path:  # as `python scripts/lm_eval.py`, it would hide the library lm_eval
        sys.path.remove(here)
    sys.exit(main())
