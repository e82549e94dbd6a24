"""Tables and charts of `experiments.recall`."""

import math
from collections.abc import Sequence

from experiments.captions import capital, describe_intervals
from experiments.intervals import Interval
from experiments.pages.charts import HeatMap, Line, LineChart
from experiments.pages.page import Section
from experiments.pages.table import Table
from experiments.recall_answers import HOPS
from experiments.recall_results import GroupRecall, RecallResult
from experiments.result import About
from model.window import reach, widest


def section(about: About, result: RecallResult) -> Section:
    """Return the part of a page about recall."""
    right, guess, hops = tables(result)
    heat = [_heat_map(result, group) for group in result.groups]
    lines = [_line_chart(result)] if result.by == "distance" else []
    return Section(
        "How far back does a model remember?",
        [
            "Models continue stories that they have not seen at a word that an earlier fact "
            "decides. An answer is right if the right word is likelier than every other candidate.",
            *lines,
            right,
            guess,
            "One attention layer can look up a fact within its window W. A fact further back has "
            "to travel through several layers. Beyond the wall, the sum of W - 1 over the layers, "
            "nothing of it can arrive: there a model answers as without the fact.",
            hops,
            "After which layer can the answer be read? After each layer the residual stream at the "
            "query is read with the model's own last norm and output matrix. This is a lower "
            "bound: a layer may know the answer in a form that only later layers read. After the "
            "last layer it is the answer of the model. Layers count from 0.",
            *heat,
        ],
        about,
    )


def tables(result: RecallResult) -> list[Table]:
    """Return the tables: right answers, guesses, and answers by hops."""
    return [_right_table(result), _guess_table(result), _hop_table(result)]


def _shown(result: RecallResult) -> list[int]:
    """Return the columns of the result in which questions were asked."""
    return [
        n for n in range(len(result.columns))
        if any(group.columns[n].questions for group in result.groups)
    ]  # fmt: skip


def _right_table(result: RecallResult) -> Table:
    rows = [
        (result.columns[n], *(percent(group.columns[n].right) for group in result.groups))
        for n in _shown(result)
    ]
    limits = f", facts at most {result.within} tokens back" if result.within else ""
    if result.combinations == "seen":
        limits += ", combinations of hero, thing and plot seen"
    if result.far is not None:
        limits += f", stories with facts up to {result.far:,} words back, unlike in training"
    caption = f"share of right answers by {_x_label(result)}{limits}; {_statistics(result)}"
    return Table((_x_label(result), *_names(result)), rows, caption)


def _guess_table(result: RecallResult) -> Table:
    rows = []
    for n in _shown(result):
        columns = [group.columns[n] for group in result.groups]
        chance = [column.by_chance for column in columns if column.by_chance is not None]
        rows.append((
            result.columns[n],
            *(percent(column.without_fact, interval=False) for column in columns),
            f"{chance[0]:.1%}",
            f"{max(column.questions for column in columns):,}",
        ))  # fmt: skip
    caption = (
        "the same questions without the fact: shares of right guesses; questions: asked of each "
    )
    caption += "run, at most"
    header = (_x_label(result), *_names(result), "by chance", "questions")
    return Table(header, rows, caption)


def _hop_table(result: RecallResult) -> Table:
    rows = []
    for group in result.groups:
        for name, hop in zip(HOPS, group.hops, strict=True):
            if hop.questions:
                rows.append((
                    f"{group.name}: {_hop_name(name, group)}", f"{hop.questions:,}",
                    percent(hop.right), percent(hop.without_fact, interval=False),
                    percent(hop.difference),
                ))  # fmt: skip
        if group.survives is not None:
            rows.append((f"{group.name}: survives beyond W", "", "", "", percent(group.survives)))
    header = ("where the whole fact is", "questions", "right", "without the fact", "difference")
    caption = (
        "differences are paired by question; `survives beyond W`: the difference beyond W, up to "
        "the wall, divided by that within W; questions with W or the wall inside their fact are "
        f"left out; {_statistics(result)}"
    )
    if any(len(group.runs) == 1 for group in result.groups):
        caption += (
            "; several questions of a row can be of one story and are counted as independent, so "
            "the intervals of one run are too narrow"
        )
    return Table(header, rows, caption)


def _hop_name(name: str, group: GroupRecall) -> str:
    """Return a name of HOPS with the numbers of a group."""
    if None in group.windows:
        return "within the trained length"
    window = widest(group.windows)
    return name.replace("the wall", f"the wall ({_wall(group)})").replace("W", f"W ({window})")


def _wall(group: GroupRecall) -> int:
    far = reach(group.windows)
    assert far is not None
    return far - 1


def _line_chart(result: RecallResult) -> LineChart:
    shown = _shown(result)
    ends = [*result.edges[1:], max(result.edges[-1] * 1.5, (result.within or 0) + 1)]
    middles = [math.sqrt(a * (b - 1)) for a, b in zip(result.edges, ends, strict=True)]
    x = [middles[n] for n in shown]
    lines = [
        Line(group.name, x, [group.columns[n].right for n in shown]) for group in result.groups
    ]
    first = result.groups[0]
    guesses = [_mean(first.columns[n].without_fact) for n in shown]
    lines.append(Line(f"{first.name}, without the fact", x, guesses, dashed=True))
    marks: dict[tuple[float, str], None] = {}
    for group in result.groups:
        if (window := widest(group.windows)) is not None:
            marks |= {
                (window, f"W {window}"): None,
                (_wall(group) + 1, f"wall {_wall(group)}"): None,
            }
    return LineChart(
        "Right answers by the distance of the fact", "distance in tokens", "share of right answers",
        lines,
        "Each point is a column of the table, at the middle of its distances. Distance counts the "
        "query's own token, so the last token in reach of a wall at 28 has distance 29. Full "
        "attention is not asked beyond its trained length. " + capital(_statistics(result)) + ".",
        sorted(marks), log_x=True, y_range=(0.0, 1.0), percent=True,
    )  # fmt: skip


def _heat_map(result: RecallResult, group: GroupRecall) -> HeatMap:
    shown = [n for n in _shown(result) if group.columns[n].questions]
    layers = range(len(group.windows))
    rows = []
    for layer in layers:
        far = reach(group.windows[: layer + 1])
        rows.append(f"{layer}" + ("" if far is None else f" ({far})"))
    limits = "" if None in group.windows else (
        " In brackets: the largest distance that the layers up to this one can reach. Beyond it "
        "the layer can only guess."
    )  # fmt: skip
    return HeatMap(
        f"{group.name}: right answers after each layer, %",
        _x_label(result), "layer",
        [result.columns[n] for n in shown], rows,
        [
            [_times_100(group.columns[n].by_layer[layer]) for n in shown]
            for layer in layers
        ],
        "A lower bound of what each layer knows (logit lens)." + limits,
        form=".0f", low=0.0, high=100.0,
    )  # fmt: skip


def percent(value: Interval | None, interval: bool = True) -> str:
    """Return "98.1% (97.0 to 99.2)"; "-" if there is no value."""
    if value is None:
        return "-"
    mean = f"{value.mean:.1%}"
    if not interval or value.low is None or value.high is None:
        return mean
    return f"{mean} ({100 * value.low:.1f} to {100 * value.high:.1f})"


def _statistics(result: RecallResult) -> str:
    """Say which intervals the numbers have."""
    of_one_run = "over its questions (Wilson; paired; bootstrap)"
    return describe_intervals((len(group.runs) for group in result.groups), of_one_run)


def _names(result: RecallResult) -> Sequence[str]:
    return [group.name for group in result.groups]


def _x_label(result: RecallResult) -> str:
    return "what the fact is about" if result.by == "kind" else "distance in tokens"


def _mean(value: Interval | None) -> float | None:
    return None if value is None else value.mean


def _times_100(value: float | None) -> float | None:
    return None if value is None else 100 * value
