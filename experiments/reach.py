"""How far back does a model look? `python -m experiments.reach RUN`

Measures the effective receptive field: how strongly a token d back acts on the prediction and on
each layer's output, in two ways (`experiments/influence.py`): by gradient, and by substitution of
the token. Compares it with the wall, the sum of W - 1 over the layers, beyond which no token can
act; with the window; and with W * sqrt(layers), the estimate of a random walk (Luo et al. 2016,
arXiv 1701.04128, section 2: the effective field grows like the square root of the depth).

That nothing acts from beyond the wall is checked, layer by layer, in float64: gradients must be
exactly 0, outputs the same in every bit, and at the wall there must be a gradient. Exit code 1 if
this is not so.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from arguments import add_run
from configs.settings import keys_of
from data.splits import SPLITS
from errors import ArgumentParser, UserError, command, fields_named
from experiments.groups import Group, groups_of
from experiments.pages.charts import Chart, HeatMap, Line, LineChart
from experiments.pages.page import Section
from experiments.pages.table import Table
from experiments.reach_result import LEVELS, GroupReach, OutputReach, ReachResult, walls
from experiments.result import About, Clock, add_json, add_quick, show_hint, store, write_json
from model.window import widest

if TYPE_CHECKING:  # torch is imported only when a model is opened
    from training.checkpoint import Checkpoint

TEXTS, QUICK_TEXTS = 256, 96  # of a run; with --quick of all runs together, at least 8 of each
BUCKETS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # tokens: the least distance of each column
METHODS = ("gradient", "substitution")


@command
@fields_named(keys_of("data"))
def main(argv: Sequence[str] | None = None) -> int:
    """Measure, store and print; return 1 if a token acts from beyond a wall."""
    parser = ArgumentParser(
        prog="python -m experiments.reach",
        description="Measure how far back a model looks, and check that nothing passes the wall.",
        epilog="example: python -m experiments.reach runs/quickstart --quick",
    )
    add_run(parser, several=True)
    parser.add_argument("--texts", type=int, metavar="N", help=f"texts for each run ({TEXTS})")
    parser.add_argument("--split", choices=SPLITS, default="test",
                        help="split of the run's text to read (test)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="draws texts and substitutes (0)")
    add_quick(parser, f"{QUICK_TEXTS} texts in all")
    add_json(parser)
    arguments = parser.parse_args(argv)
    if arguments.texts is not None and arguments.texts < 2:
        raise UserError(f"--texts is {arguments.texts}: an interval needs 2 or more")
    if arguments.seed < 0:
        raise UserError(f"--seed is {arguments.seed}: it must be 0 or more")
    clock = Clock(parser.prog, argv)
    groups = groups_of(arguments.runs)
    found = [(group, _find(group, arguments.checkpoint)) for group in groups]
    n_runs = sum(len(checkpoints) for _, checkpoints in found)
    texts = arguments.texts or (max(8, QUICK_TEXTS // n_runs) if arguments.quick else TEXTS)
    result = ReachResult(
        arguments.split,
        tuple(measure(*each, texts, arguments.split, arguments.seed) for each in found),
    )
    about = clock.about(arguments.quick)
    store(Path(arguments.runs[0]), "reach", about, result)
    write_json(arguments.json, result)
    print(*_report(result), show_hint(Path(arguments.runs[0])), sep="\n")
    return 1 if any(group.faults for group in result.groups) else 0


def _find(group: Group, which: str) -> list["Checkpoint"]:
    from training.run_folder import find

    return [find(path, which) for path in group.runs]


def measure(
    group: Group, checkpoints: Sequence["Checkpoint"], texts: int, split: str, seed: int
) -> GroupReach:
    """Measure the runs of a group. Raises `UserError` if their windows or lengths differ.

    Each run reads `texts` texts of `split`; the texts are those of its own corpus.
    """
    from experiments import influence
    from experiments.reach_summary import summarize
    from inference.trained import open_checkpoint

    curves: dict[str, list[influence.Curves]] = {method: [] for method in METHODS}
    checks, shapes = [], set()
    for checkpoint in checkpoints:
        trained = influence.in_float64(open_checkpoint(checkpoint))
        config, label = trained.model.config, str(checkpoint.path.parent.parent)
        length = influence.text_length(trained)
        shapes.add((config.windows, config.attention_sinks, length))
        if len(shapes) > 1:
            raise UserError(f"{group.name} holds runs of different windows or lengths: name each")
        tokens = influence.held_out(trained, split)
        bos = trained.tokenizer.bos_id
        drawn, inside = influence.draw_texts(tokens, bos, texts, length, seed)
        unigrams = tokens[tokens != bos]
        checks += influence.check_walls(trained, tokens, seed)
        curves["gradient"].append(influence.by_gradient(trained.model, drawn, label))
        curves["substitution"].append(
            influence.by_substitution(trained.model, drawn, unigrams, seed, label)
        )
        limits = walls(config.windows, config.attention_sinks)
        measured = curves["gradient"][-1], curves["substitution"][-1]
        checks += influence.measured_walls(*measured, limits)
    window = None if config.attention_sinks else widest(config.windows)
    outputs = [row for m in METHODS for row in summarize(curves[m], m, limits, window)]
    names = tuple(str(checkpoint.path) for checkpoint in checkpoints)
    return GroupReach(
        group.name, names, config.windows, config.attention_sinks, length, texts, inside,
        tuple(outputs), tuple(checks),
    )  # fmt: skip


# ---------------------------------------------------------------------------- what is printed


def _report(result: ReachResult) -> Iterator[str]:
    """Yield the tables, and one line about the walls of each group."""
    yield _summary(result).markdown() + "\n"
    if len(result.groups) == 1:
        yield _by_layer(result.groups[0]).markdown() + "\n"
    yield from map(_verdict, result.groups)


def _summary(result: ReachResult) -> Table:
    """Return the table about the prediction: two rows for each group."""
    rows = []
    for group in result.groups:
        numbers = [_spell(group.widest), _tokens(group.random_walk), _wall(group.wall)]
        for method in METHODS:
            found = group.of(method)
            fit = "-" if found.fit is None else f"{found.fit:.3f}"
            rows.append([
                f"{group.name}, {method}", *numbers, *(w.text(".0f") for w in found.within),
                "-" if found.beyond is None else found.beyond.text(".1%"),
                "-" if found.tau is None else found.tau.text(".1f"), fit,
            ])  # fmt: skip
    header = ["prediction", "W", "W * sqrt(layers)", "wall", *(f"{level:.0%}" for level in LEVELS),
              "from beyond W", "tau", "R^2"]  # fmt: skip
    return Table(header, rows, _statistics(result))


def _statistics(result: ReachResult) -> str:
    groups = result.groups
    texts = ", ".join(dict.fromkeys(f"{group.texts} texts of {group.text_tokens} tokens"
                                    for group in groups))  # fmt: skip
    several = [group for group in groups if len(group.runs) > 1]
    single = [group for group in groups if len(group.runs) == 1]
    sentences = [
        "50%, 90%, 99%: the distance in tokens within which this share of the influence lies (0 is "
        "the last token itself). tau: between W and the wall influence falls by e within so many "
        f"tokens, R^2 of the fit. {texts} for each run, from the {result.split} split."
    ]
    if several:
        sentences.append("In brackets: 95 % over runs that differ in the seed (Student).")
    if single:
        sentences.append("In brackets, of a single run: 95 % over texts (1000 bootstrap samples).")
    if not all(group.inside for group in groups):
        sentences.append("The documents are short: texts run over several of them.")
    return " ".join(sentences)


def _by_layer(group: GroupReach) -> Table:
    """Return the table about each layer's output of one group."""
    rows = []
    for found in group.outputs[: len(group.outputs) // 2]:
        other = group.of("substitution", found.output)
        rows.append([found.output, _wall(found.wall), *(
            w.text(".0f") for w in (*found.within, *other.within)
        )])  # fmt: skip
    header = ["output of", "wall", *(f"{level:.0%}, {m}" for m in METHODS for level in LEVELS)]
    return Table(header, rows, "The distance in tokens within which this share of the influence on "
                 "a layer's output lies; intervals as above.")  # fmt: skip


def _verdict(group: GroupReach) -> str:
    """Say what the checks of the walls found, one line for each fault."""
    if group.faults:
        return "\n".join(f"VIOLATED: {group.name}, {fault}" for fault in group.faults)
    if group.sinks:
        return f"{group.name}: no wall: the first tokens stay visible ({group.sinks} sinks)"
    if group.wall is None and not group.checks:
        return f"{group.name}: no wall: a layer sees all earlier tokens (full attention)"
    checked = sorted({(check.layer, check.wall) for check in group.checks})
    if not checked:
        return f"{group.name}: the wall, {group.wall:,} tokens back, is too far away to be checked"
    layers = ", ".join(f"layer {layer}: {wall:,}" for layer, wall in checked)
    missing = len(group.windows) - len(checked)
    rest = f"; {missing} layers have no wall, or one too far away to be checked" if missing else ""
    looked = max(check.looked_back for check in group.checks)
    return (
        f"{group.name}: beyond the walls ({layers}) influence is exactly 0, at the walls it is "
        f"not{rest}; looked up to {looked:,} tokens back"
    )


def _spell(window: int | None) -> str:
    return "full" if window is None else f"{window:,}"


def _wall(wall: int | None) -> str:
    return "none" if wall is None else f"{wall:,}"


def _tokens(tokens: float | None) -> str:
    return "-" if tokens is None else f"{tokens:.0f}"


# ---------------------------------------------------------------------------- what is drawn


def section(about: About, result: ReachResult) -> Section:
    """Return the part of a page about these results."""
    parts: list[str | Table | Chart] = [
        "The influence of the token d back on the prediction, measured in two ways: by the "
        "gradient with respect to its embedding, and by how much probability moves when another "
        "token stands in its place. A curve shows which share of the whole influence comes from "
        "each distance. Beyond the wall it is exactly 0, which is checked and not only drawn: see "
        "the last lines.",
        "The curves are means over texts. They do not show what a single token can do: a fact far "
        "back can decide a word, and act on few of the others.",
        _summary(result),
        *(_curves(group) for group in result.groups),
    ]
    if len(result.groups) == 1:
        (group,) = result.groups
        parts.append("How each layer widens what the next one can use:")
        parts += [_layers(group), *(_heat(group, method) for method in METHODS), _by_layer(group)]
    else:
        parts += [_comparison(result, method) for method in METHODS]
        parts.append("How each layer widens what the next one can use:")
        parts += [_heat(group, "gradient") for group in result.groups]
    parts += map(_verdict, result.groups)
    return Section("How far back does the model look?", parts, about)


def _marks(group: GroupReach) -> list[tuple[float, str]]:
    if group.widest is None or group.random_walk is None:
        return []
    marks: list[tuple[float, str]] = [(group.widest, f"W = {group.widest}")]
    marks.append((group.random_walk, "W * sqrt(layers)"))
    if group.wall is not None and group.wall < group.text_tokens:
        marks.append((group.wall, f"wall {group.wall}"))
    return [mark for mark in marks if mark[0] < group.text_tokens]


def _line(name: str, found: OutputReach) -> Line:
    return Line(name, range(len(found.share)), found.line())


def _curves(group: GroupReach) -> LineChart:
    lines = [_line(method, group.of(method)) for method in METHODS]
    end = "" if group.wall is None else " It ends at the wall, or at the length of a text."
    return LineChart(
        f"Influence on the prediction by distance: {group.name}", "tokens back",
        "share of the influence", lines, "Bands: intervals of 95 %." + end, _marks(group),
        log_y=True,
    )  # fmt: skip


def _comparison(result: ReachResult, method: str) -> LineChart:
    lines = [_line(group.name, group.of(method)) for group in result.groups]
    return LineChart(
        f"Influence on the prediction, by {method}", "tokens back", "share of the influence",
        lines, "One line for each group of runs.", log_y=True,
    )  # fmt: skip


def _layers(group: GroupReach) -> LineChart:
    rows = [o for o in group.outputs if o.method == "gradient" and o.output != "prediction"]
    return LineChart(
        f"Influence on each layer's output, by gradient: {group.name}", "tokens back",
        "share of the influence", [_line(found.output, found) for found in rows],
        "Each line ends at the wall of its layer.", log_y=True,
    )  # fmt: skip


def _heat(group: GroupReach, method: str) -> HeatMap:
    rows = [found for found in group.outputs if found.method == method]
    longest = max(len(found.share) for found in rows)
    starts = [start for start in BUCKETS if start < longest]
    ends = [*starts[1:], longest]
    names = [str(a) if b == a + 1 else f"{a}-{b - 1}" for a, b in zip(starts, ends, strict=True)]
    cells = [
        [sum(found.share[a:b]) if a < len(found.share) else None
         for a, b in zip(starts, ends, strict=True)]
        for found in rows
    ]  # fmt: skip
    return HeatMap(
        f"Where the influence comes from, by {method}: {group.name}", "tokens back", "output of",
        names, [found.output for found in rows], cells,
        "Shares of the influence on each output; empty where no token is in reach.",
        low=0.0, high=1.0,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
