"""What do the measurements say, in pictures? `python -m experiments.report RUN|SWEEP`

Writes one self-contained HTML page, RUN/report/index.html, with a section for the training and one
for each experiment whose result is in RUN/report. Each section has its pictures, its tables, what
they show and what they do not, and the command, the machine and the time that made it. The page
needs no network. With --measure, missing experiments run first.
"""

import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from configs.load import load_config, to_yaml
from configs.settings import Config
from errors import ArgumentParser, UserError, command
from experiments.groups import groups_of
from experiments.pages.charts import Line, LineChart
from experiments.pages.page import Details, Section, page, svg_file
from experiments.pages.png import refuse_png, write_png
from experiments.pages.table import Table
from experiments.result import About, is_outdated, load, report_folder, stored
from model.window import layer_windows
from storage import atomic_write
from training.metrics import read_metrics

# In the order of the page. Each is a module of this folder with a function `section`.
EXPERIMENTS = (
    "sweep", "recall", "swap", "position", "judge", "reach", "trace", "sinks", "movie", "blockwise",
)  # fmt: skip
OF_A_RUN = ("judge", "reach", "recall")  # what --measure runs for a run
OF_A_SWEEP = ("recall", "swap", "position")
SHOWN = 1500  # characters of a sample
OUTDATED = "These numbers are of other checkpoints than those that are there now: measure again."


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and print its path."""
    parser = ArgumentParser(
        prog="python -m experiments.report",
        description="Show everything that was measured of a run or a sweep on one page.",
        epilog="example: python -m experiments.report runs/quickstart --measure",
    )
    parser.add_argument("path", nargs="?", default="runs/quickstart", metavar="RUN|SWEEP",
                        help="a run's or a sweep's folder, any folder with results in report/, or "
                        "a config, which stands for its run (runs/quickstart)")  # fmt: skip
    missing = f"{', '.join(OF_A_RUN)} of a run, {', '.join(OF_A_SWEEP)} of a sweep"
    parser.add_argument("--measure", action="store_true",
                        help=f"first run what is missing, with --quick: {missing}")  # fmt: skip
    parser.add_argument("--pictures", action="store_true",
                        help="also write the pictures as SVG and PNG (extra plots)")  # fmt: skip
    arguments = parser.parse_args(argv)
    path = Path(arguments.path)
    if path.suffix in (".yaml", ".yml"):
        path = load_config(path).folder
    if not path.is_dir():
        raise UserError(f"{path} is not a folder: name a run, a sweep or a config")
    if arguments.pictures:
        refuse_png("--pictures")
    if arguments.measure:
        measure_missing(path)
    sections = list(sections_of(path))
    if not sections:
        raise UserError(f"{path} holds no run and no results: train or measure something first")
    file = report_folder(path) / "index.html"
    atomic_write(file, page(f"Report of {path}", list(_introduction(path)), sections).encode())
    if arguments.pictures:
        write_pictures(file.parent, sections)
    print(f"report: {file}")
    return 0


def measure_missing(path: Path) -> None:
    """Run the experiments without a result. What fails is reported on stderr and left out."""
    for name in OF_A_RUN if _is_run(path) else OF_A_SWEEP:
        file = stored(path, name)
        if file is not None and not is_outdated(file):
            continue
        print(f"{name} ...", file=sys.stderr)
        code = import_module(f"experiments.{name}").main([str(path), "--quick"])
        if code == 128 + signal.SIGINT:
            raise KeyboardInterrupt
        if code and stored(path, name) is None:
            print(f"note: the page lacks {name}: see the message above", file=sys.stderr)


def sections_of(path: Path) -> Iterator[Section]:
    """Yield the sections of a page: the training, and each stored result in its order.

    A result that was not written by this version of its experiment is left out, with a note.
    """
    if _is_run(path):
        yield training_section(path)
    for name in EXPERIMENTS:
        file = stored(path, name)
        if file is None:
            continue
        try:
            section = section_of(name, *read_result(name, file))
        except UserError as error:
            print(f"note: {error}", file=sys.stderr)
            continue
        yield replace(section, parts=[OUTDATED, *section.parts]) if is_outdated(file) else section


def read_result(experiment: str, file: Path) -> tuple[About, Any]:
    """Read what an experiment stored. Raises `UserError` if the file is missing or damaged."""
    if not file.is_file():
        raise UserError(f"{file} does not exist: python -m experiments.{experiment} stores it")
    kind = get_type_hints(import_module(f"experiments.{experiment}").section)["result"]
    return load(file, kind)


def section_of(experiment: str, about: About, result: Any) -> Section:
    """Return the part of a page about a result of an experiment."""
    section: Section = import_module(f"experiments.{experiment}").section(about, result)
    return section


def training_section(run: Path) -> Section:
    """Return the section about a run's training: its loss, its text at each evaluation, its config.

    Raises `UserError` if the run has no metrics or no config.
    """
    records = read_metrics(run / "metrics.jsonl")
    config = load_config(run / "config.yaml", [f"run_dir={run}"])
    parts: list[Any] = [
        "The loss of the training sequences falls as the model learns; the loss of validation is "
        "that of text that the model never trains on. Only the second one says how good it is.",
        *_curves(records),
        *_last_values(records),
        "What the model wrote at each evaluation, to the same prompt:",
        *_samples(run / "samples.txt"),
        Details("The config of this run", to_yaml(config)),
    ]
    return Section("How did the training go?", parts)


def _curves(records: Sequence[dict[str, Any]]) -> Iterator[LineChart]:
    """Yield the chart of the losses; drills have a loss of their own and are left out."""

    def line(name: str, key: str) -> Line:
        found = [r for r in records if key in r and r.get("drill_share", 0) < 1]
        return Line(name, [r["step"] for r in found], [r[key] for r in found])

    lines = [line("training", "train_loss"), line("validation", "val_loss")]
    lines = [line for line in lines if line.x]
    if lines:
        drilled = any("drill_share" in record for record in records)
        caption = "Nats per token. " + (
            "The training loss contains the random tokens of the drills, which nobody can predict; "
            "steps with drills only are left out." if drilled else ""
        )  # fmt: skip
        yield LineChart("Loss", "step", "nats per token", lines, caption)


def _last_values(records: Sequence[dict[str, Any]]) -> Iterator[Table]:
    """Yield the table of the last measurements."""
    last: dict[str, Any] = {}
    for record in records:
        last |= record
    shown = (
        ("steps", "step", ",.0f"), ("validation, bits per byte", "val_bpb", ".4f"),
        ("validation, nats per token", "val_loss", ".4f"), ("tokens/s", "tokens_per_s", ",.0f"),
        ("seconds of training steps", "stepping_s", ",.1f"),
    )  # fmt: skip
    rows = [(name, f"{last[key]:{form}}") for name, key, form in shown if key in last]
    yield Table(("at the end", ""), rows)


def _samples(file: Path) -> Iterator[str]:
    """Yield each sample with its heading; long ones are cut."""
    if not file.is_file():
        return
    _, *blocks = ("\n" + file.read_text(encoding="utf-8", errors="replace")).split("\n=== ")
    for block in blocks:
        heading, _, text = block.partition(" ===\n")
        text = text.strip()
        cut = " ..." if len(text) > SHOWN else ""
        yield f"{heading}\n\n{text[:SHOWN]}{cut}"


def write_pictures(folder: Path, sections: Sequence[Section]) -> None:
    """Write each chart as SVG and as PNG, named by its section and its number."""
    for section in sections:
        for number, chart in enumerate(section.charts, 1):
            content = svg_file(chart)
            name = folder / f"{section.anchor}-{number}"
            atomic_write(name.with_suffix(".svg"), content.encode())
            write_png(name.with_suffix(".png"), content)


def _introduction(path: Path) -> Iterator[str]:
    """Yield the paragraphs above the sections."""
    if _is_run(path):
        yield _describe(load_config(path / "config.yaml", [f"run_dir={path}"]))
    elif any(path.glob("*/seed-*")):
        names = ", ".join(f"{group.name} ({len(group.runs)})" for group in groups_of([str(path)]))
        yield f"Groups of runs that differ in the seed only, with their number: {names}."
    yield (
        "The section of an experiment ends in the command, the machine and the time that made it. "
        "An interval is one of 95 %: the captions say over what."
    )


def _describe(config: Config) -> str:
    model = config.model
    windows = [
        "full attention" if window is None else f"a window of {window:,}"
        for window in dict.fromkeys(layer_windows(model.sliding_window, model.n_layers))
    ]
    text = ", ".join(config.data.mix or [config.data.source])
    return (
        f"A model of {model.n_layers} layers of width {model.dim} with {' and '.join(windows)}, "
        f"trained on {text} in sequences of {config.data.seq_len:,} tokens, seed {config.seed}."
    )


def _is_run(path: Path) -> bool:
    return (path / "checkpoints").is_dir()


if __name__ == "__main__":
    sys.exit(main())
