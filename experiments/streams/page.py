"""Tables, charts and sentences about streamed models."""

from collections.abc import Iterator
from itertools import chain

from experiments.intervals import Interval
from experiments.pages.charts import Chart, HeatMap, Line, LineChart
from experiments.pages.page import Section
from experiments.pages.table import Table
from experiments.result import About
from experiments.streams.names import AS_TRAINED, DENSE, RECOMPUTED, SINK_TOKEN_DROPPED, sinks_way
from experiments.streams.results import ShareMap, SinksResult, StreamedGroup

BIG = 1.5  # a ratio of perplexities from which the first tokens count as needed
CLOSE = 1.05  # a ratio up to which two perplexities count as equal
STRONG = 0.3  # a share from which a head counts as a sink (arXiv 2410.10781, section 3)
FROM_PAPER = (
    "The paper (arXiv 2309.17453, table 1) measures Llama-2-13B on 65,000 tokens: perplexity 5158 "
    "with a window of 1,024 keys, 5.40 with a window of 1,020 and 4 first tokens, 5.43 when the "
    "window is read again for each token."
)


def section(about: About, result: SinksResult) -> Section:
    """Return the part of the page about sinks."""
    intro = (
        "A model that was trained with full attention reads long texts through a rolling cache: "
        "each token sees the last keys only, and the first tokens leave the window. Large models "
        "then fail, because many of their heads rest on the first token when they have nothing to "
        "find. Sinks are first tokens that stay visible."
    )
    quick = (
        ["The models are too small and too briefly trained to be quoted (--quick)."]
        if about.quick else []
    )  # fmt: skip
    charts: list[Chart] = list(map(_curves, result.groups))
    charts += chain.from_iterable(map(_maps, result.groups))
    return Section(
        "What happens when the first tokens leave the window?",
        [
            intro,
            *quick,
            *summary(result),
            FROM_PAPER,
            *tables(result),
            _share_table(result),
            *charts,
        ],
        about,
    )


def tables(result: SinksResult) -> list[Table]:
    """Return a table of perplexities for each group."""
    return [_table(group, result) for group in result.groups]


def summary(result: SinksResult) -> list[str]:
    """Say what was found, a paragraph for each group."""
    return [" ".join(_findings(group, result)) for group in result.groups]


def _table(group: StreamedGroup, result: SinksResult) -> Table:
    most = sinks_way(max(result.sinks))
    header = [group.name, *(f"to {end:,}" for end in group.ends), "after the window", f"/ {most}"]
    rows = [
        [
            way.name,
            *("" if cell is None else _number(cell) for cell in way.perplexities),
            _number(way.after),
            way.ratio.text(".3f"),
        ]
        for way in group.ways
    ]
    seeds = _seeds(group)
    caption = (
        f"{group.name}: perplexity by position in the text, {group.texts} texts of "
        f"{group.ends[-1]:,} tokens of the {result.split} split; {seeds}. Each column begins where "
        f"the one before ends. Trained on sequences of {group.trained_length:,} tokens, "
        f"{group.steps:,} steps, {group.parameters / 1e6:.2f}M parameters; window of the stream "
        f"{group.window:,} keys. Last column: the perplexity after the window, divided by that "
        f"with {most}, of the same tokens; t interval of 95 % over seeds, paired."
    )
    return Table(header, rows, caption)


def _findings(group: StreamedGroup, result: SinksResult) -> Iterator[str]:
    """Compare the numbers with the shape that the paper describes."""
    none, one = group.way(sinks_way(0)), group.way(sinks_way(1))
    most = sinks_way(max(result.sinks))
    if none is not None and max(result.sinks) > 0:
        yield (
            f"{group.name}: with no first token in the window, the perplexity is "
            f"{none.ratio.text('.2f')} times that with {most} ({_number(none.after)} against "
            f"{_number(group.ways[[w.name for w in group.ways].index(most)].after)}): "
            f"{_verdict(none.ratio)}."
        )
    if one is not None and none is not None and none.ratio.mean >= BIG:
        yield f"1 sink gives {one.ratio.text('.2f')} times the perplexity of {most}."
    dropped = group.way(SINK_TOKEN_DROPPED)
    if dropped is not None:
        yield (
            f"Without its sink token this model has {dropped.ratio.text('.2f')} times that "
            "perplexity."
        )
    again = group.way(RECOMPUTED)
    if again is not None:
        yield (
            f"A window that is read again for each token has {again.ratio.text('.2f')} times that "
            "perplexity."
        )
    yield _where(group)


def _verdict(ratio: Interval) -> str:
    """Say in words whether the model needs what was taken away."""
    if ratio.mean >= BIG:
        sure = ratio.low is not None and ratio.low > 1
        return "the model needs its first tokens" + ("" if sure else " (too few seeds to be sure)")
    if ratio.mean <= CLOSE:
        return "the model does not need its first tokens"
    return "the first tokens help a little"


def _where(group: StreamedGroup) -> str:
    heads = [share for run in group.shares for layer in run.first for share in layer]
    strong = sum(share > STRONG for share in heads)
    words = (
        f"{strong} of {len(heads)} heads pay more than {STRONG:.0%} of their attention to the "
        f"first token, the largest {max(heads):.0%} (even attention: {group.even:.1%})"
    )
    sinks = [share for run in group.shares for layer in run.sink or [] for share in layer]
    if sinks:
        strong = sum(share > STRONG for share in sinks)
        words += f"; {strong} pay more than that to the trained sink, the largest {max(sinks):.0%}"
    return words + "."


def _share_table(result: SinksResult) -> Table:
    """Return the mean share of each layer, over heads and seeds."""
    deepest = max(len(group.shares[0].first) for group in result.groups)
    rows = []
    for group in result.groups:
        for name, maps in _kinds(group):
            layers = [
                [sum(run[n]) / len(run[n]) for run in maps]
                for n in range(len(group.shares[0].first))
            ]
            cells = [f"{sum(layer) / len(layer):.1%}" for layer in layers]
            heads = [share for run in maps for layer in run for share in layer]
            rows.append([
                f"{group.name}: {name}", *cells, *[""] * (deepest - len(cells)),
                f"{sum(share > STRONG for share in heads)} of {len(heads)}",
            ])  # fmt: skip
    header = ["share of attention", *(f"layer {n + 1}" for n in range(deepest)), "strong heads"]
    even = " and ".join(f"{even:.1%}" for even in sorted({group.even for group in result.groups}))
    return Table(
        header,
        rows,
        "Mean over heads and seeds, in sequences of the trained length, queries from position 32 "
        f"on. Even attention would give the first token {even}. Strong: more than {STRONG:.0%}.",
    )


def _kinds(group: StreamedGroup) -> Iterator[tuple[str, list[list[list[float]]]]]:
    yield "first token", [run.first for run in group.shares]
    sinks = [run.sink for run in group.shares if run.sink is not None]
    if sinks:
        yield "trained sink", sinks


def _curves(group: StreamedGroup) -> LineChart:
    """Draw the perplexity over the position, at the end of each interval."""
    lines = [
        Line(way.name, group.ends, way.perplexities, dashed=way.name in (RECOMPUTED, AS_TRAINED))
        for way in group.ways
        if way.name != DENSE
    ]
    marks = [(float(group.window), "window"), (float(group.trained_length), "trained")]
    return LineChart(
        f"{group.name}: perplexity over time",
        "position in the text (end of the interval)",
        "perplexity",
        lines,
        f"A point is the perplexity of the tokens up to its position, from that of the point "
        f"before; {_seeds(group)}. It does not show what a model remembers: only the window is "
        "visible, and sinks.",
        marks=marks,
        log_x=True,
        log_y=True,
    )


def _maps(group: StreamedGroup) -> Iterator[HeatMap]:
    """Draw the shares of the first run: heads of different seeds have nothing in common."""
    shown: ShareMap = group.shares[0]
    for name, layers in (("the first token", shown.first), ("the trained sink", shown.sink)):
        if layers is not None:
            yield HeatMap(
                f"{group.name}: attention to {name}",
                "head",
                "layer",
                [str(n + 1) for n in range(len(layers[0]))],
                [str(n + 1) for n in range(len(layers))],
                layers,
                f"Share of each head's attention, of {group.runs[0]}, as it was trained. It does "
                "not show that the token is needed: the table does.",
                low=0.0,
                high=1.0,
            )


def _seeds(group: StreamedGroup) -> str:
    n = len(group.runs)
    return "one run" if n == 1 else f"mean of {n} seeds with the t interval of 95 %"


def _number(value: Interval) -> str:
    """Write a perplexity: two digits after the point, unless it is large."""
    return value.text(".2f" if value.mean < 1_000 else ",.0f")
