"""Tables, charts and sentences about streamed models."""

import math
from collections.abc import Iterator, Sequence
from itertools import chain

from experiments.intervals import Interval
from experiments.pages.charts import Chart, HeatMap, Line, LineChart
from experiments.pages.page import Section
from experiments.pages.table import Table
from experiments.result import About
from experiments.streams.names import AS_TRAINED, DENSE, RECOMPUTED, SINK_TOKEN_DROPPED, sinks_way
from experiments.streams.results import Kind, SinksResult, StreamedGroup, Way

BIG = 1.5  # a ratio of perplexities from which what was hidden counts as needed
CLOSE = 1.05  # a ratio up to which two perplexities count as equal
STRONG = 0.3  # a share from which a head counts as resting (epsilon in arXiv 2410.10781)
INTRODUCTION = (
    "A model that was trained with full attention reads long texts through a rolling cache: each "
    "token sees the last keys only, and the first tokens leave the window. Large models then fail, "
    "because many of their heads rest on the first token when they have nothing to find. "
    "StreamingLLM (arXiv 2309.17453) keeps a few first tokens visible, which it calls sinks. For "
    "Llama-2-13B it reports a perplexity of 5158 without them and of 5.40 with four."
)
SAME_FIRST_TOKEN = (
    "The texts of Llama-2 all begin with the same token. The texts here do not: they are cut "
    "anywhere, so the first token is any token. The sink token is the same at the beginning of "
    "every text. To drop it is therefore what a plain window is for a large model, and to keep it "
    "is StreamingLLM."
)


def section(about: About, result: SinksResult) -> Section:
    """Return the part of the page about sinks."""
    quick = (
        ["These models are too small and too briefly trained to be quoted (--quick)."]
        if about.quick else []
    )  # fmt: skip
    charts: list[Chart] = list(map(_curves, result.groups))
    charts += chain.from_iterable(map(_maps, result.groups))
    has_token = any(group.way(SINK_TOKEN_DROPPED) for group in result.groups)
    return Section(
        "What happens when the first tokens leave the window?",
        [
            INTRODUCTION, *quick, *summary(result), *[SAME_FIRST_TOKEN] * has_token,
            *tables(result), _share_table(result), _kind_table(result), *charts,
        ],
        about,
    )  # fmt: skip


def tables(result: SinksResult) -> list[Table]:
    """Return a table of perplexities for each group."""
    return [_table(group, result) for group in result.groups]


def summary(result: SinksResult) -> list[str]:
    """Say what was found, a paragraph for each group."""
    return [" ".join(_findings(group, result)) for group in result.groups]


def _table(group: StreamedGroup, result: SinksResult) -> Table:
    most, first = sinks_way(max(result.sinks)), group.reading
    header = [group.name, *(f"to {end:,}" for end in first.ends), "after W", f"/ {most}"]
    rows = [
        [
            way.name,
            *("" if cell is None else _number(cell) for cell in way.perplexities),
            _number(way.after),
            way.ratio.text(".3f"),
        ]
        for way in group.ways
    ]
    caption = (
        f"{group.name}: perplexity by position, {first.texts} texts of {first.ends[-1]:,} tokens "
        f"of the {result.split} split; {_seeds(group)}. Each column begins where the one before "
        f"ends. Trained on sequences of {first.trained_length:,} tokens, {first.steps:,} steps, "
        f"{first.parameters / 1e6:.2f}M parameters. The stream sees W = {group.window:,} keys and "
        "the sinks. After W: all tokens behind the first window. Last column: this perplexity "
        f"divided by that with {most}, of the same tokens, paired by seed. {RECOMPUTED}: the last "
        f"W tokens are read again for one token in 32. {AS_TRAINED}: sequences of the trained "
        f"length. {DENSE}: no window."
    )
    return Table(header, rows, caption)


def _findings(group: StreamedGroup, result: SinksResult) -> Iterator[str]:
    """Compare the numbers with the shape that the paper describes."""
    most, none = group.way(sinks_way(max(result.sinks))), group.way(sinks_way(0))
    assert most is not None
    yield f"{group.name}:"
    dropped = group.way(SINK_TOKEN_DROPPED)
    if dropped is not None:
        yield _compared(group, "Without its sink token", dropped, most, "the sink token")
    if none is not None and none != most:
        what = "Without a first token" + (" but with its sink token" if dropped else "")
        yield _compared(group, what, none, most, "the first tokens")
    again = group.way(RECOMPUTED)
    if again is not None:
        yield (
            "A window that is read again for each token has "
            f"{again.ratio.text('.2f')} times the perplexity of {most.name}."
        )
    yield _where(group)


def _compared(group: StreamedGroup, what: str, way: Way, most: Way, needed: str) -> str:
    return (
        f"{what}, the perplexity behind the first window is {_number(way.after)}, "
        f"{way.ratio.text('.2f')} times that of {most.name} ({_number(most.after)}): "
        f"{_verdict(_ratios(group, way))} {needed}."
    )


def _ratios(group: StreamedGroup, way: Way) -> list[float]:
    """Return the ratio of each run."""
    ways = [next(w for w in run.ways if w.name == way.name) for run in group.readings]
    return [math.exp(min(nats.after - nats.most_after, 80.0)) for nats in ways]


def _verdict(ratios: Sequence[float]) -> str:
    """Say in words whether the models need what was hidden: the ratio of each tells."""
    many = sum(ratio >= BIG for ratio in ratios)
    if 0 < many < len(ratios):
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        return f"{many} of {len(ratios)} models (by seed: {each}) need"
    if many:
        return "the model needs"
    return f"the model {'does not need' if max(ratios) <= CLOSE else 'hardly needs'}"


def _where(group: StreamedGroup) -> str:
    runs = [reading.shares for reading in group.readings]
    first = _flat([run.first for run in runs])
    words = (
        f"Of {len(first)} heads, {_strong(first)} pay more than {STRONG:.0%} of their attention to "
        f"the first token (the largest: {max(first):.1%}; even attention: {group.reading.even:.1%})"
    )
    sinks = _flat([run.sink for run in runs if run.sink is not None])
    if sinks:
        words += f", {_strong(sinks)} to the trained sink (the largest: {max(sinks):.1%})"
    kinds = [kind for run in runs for layer in run.kinds for kind in layer]
    best = max(kinds, key=lambda kind: kind.share - kind.frequency)
    strong = sum(kind.share > STRONG for kind in kinds)
    return (
        f"{words}, and {strong} to all tokens of one kind (the largest: {best.share:.1%} to "
        f"{best.token!r}, which is {best.frequency:.1%} of the text)."
    )


def _flat(runs: Sequence[list[list[float]]]) -> list[float]:
    return [share for run in runs for layer in run for share in layer]


def _strong(shares: Sequence[float]) -> int:
    return sum(share > STRONG for share in shares)


def _share_table(result: SinksResult) -> Table:
    """Return the mean share of each layer, over heads and seeds."""
    deepest = max(len(group.reading.shares.first) for group in result.groups)
    rows = []
    for group in result.groups:
        for name, maps in _targets(group):
            layers = [_flat([[run[n]] for run in maps]) for n in range(len(maps[0]))]
            cells = [f"{sum(layer) / len(layer):.1%}" for layer in layers]
            heads = _flat(maps)
            rows.append([
                f"{group.name}: {name}", *cells, *[""] * (deepest - len(cells)),
                f"{_strong(heads)} of {len(heads)}",
            ])  # fmt: skip
    header = ["share of attention", *(f"layer {n + 1}" for n in range(deepest)), "strong heads"]
    evens = sorted({group.reading.even for group in result.groups})
    even = " and ".join(f"{even:.1%}" for even in evens)
    return Table(
        header,
        rows,
        "Mean over heads and seeds, in sequences of the trained length, queries from position 32 "
        f"on. Even attention would give the first token {even}. Strong: more than {STRONG:.0%}.",
    )


def _targets(group: StreamedGroup) -> Iterator[tuple[str, list[list[list[float]]]]]:
    yield "first token", [reading.shares.first for reading in group.readings]
    sinks = [reading.shares.sink for reading in group.readings]
    known = [sink for sink in sinks if sink is not None]
    if known:
        yield "trained sink", known


def _kind_table(result: SinksResult) -> Table:
    """Return the heads that favour a kind of token most, three of each group's first run."""
    rows = []
    for group in result.groups:
        kinds: list[tuple[str, Kind]] = [
            (f"{group.name}: layer {n + 1}, head {head + 1}", kind)
            for n, layer in enumerate(group.reading.shares.kinds)
            for head, kind in enumerate(layer)
        ]
        kinds.sort(key=lambda named: named[1].frequency - named[1].share)
        rows += [
            [name, repr(kind.token), f"{kind.share:.1%}", f"{kind.frequency:.1%}"]
            for name, kind in kinds[:3]
        ]
    return Table(
        ["where heads rest in place of the first token", "kind of token", "share", "frequency"],
        rows,
        "For each group the three heads of its first run that favour one kind of token most: their "
        "share of attention on all tokens of that kind, and how frequent it is. Such tokens are "
        "in every window, so nothing is lost when the first token leaves it. The table does not "
        "show what a head does with them.",
    )


def _curves(group: StreamedGroup) -> LineChart:
    """Draw the perplexity over the position, at the end of each interval."""
    ends = group.reading.ends
    lines = [
        Line(way.name, ends, way.perplexities, dashed=way.name == RECOMPUTED)
        for way in group.ways
        if way.name not in (AS_TRAINED, DENSE)
    ]
    marks = [(float(group.window), "window"), (float(group.reading.trained_length), "trained")]
    return LineChart(
        f"{group.name}: perplexity over time",
        "position in the text (end of the interval)",
        "perplexity",
        lines,
        "A point is the perplexity of the tokens between the point before and its position; "
        f"{_seeds(group)}. Lines that are equal lie on each other. The chart does not show how far "
        "back a model remembers: all ways see the same window.",
        marks=marks,
        log_x=True,
        log_y=True,
    )


def _maps(group: StreamedGroup) -> Iterator[HeatMap]:
    """Draw the shares of the first run: heads of different seeds have nothing in common."""
    shown = group.reading.shares
    for name, layers in (("the first token", shown.first), ("the trained sink", shown.sink)):
        if layers is not None:
            yield HeatMap(
                f"{group.name}: attention to {name}",
                "head",
                "layer",
                [str(n + 1) for n in range(len(layers[0]))],
                [str(n + 1) for n in range(len(layers))],
                layers,
                f"Share of each head's attention in {group.runs[0]}, read as it was trained. A "
                "share does not show that the token is needed: the perplexities do.",
                low=0.0,
                high=1.0,
            )


def _seeds(group: StreamedGroup) -> str:
    n = len(group.runs)
    return "one run" if n == 1 else f"mean of {n} seeds, t interval of 95 %"


def _number(value: Interval) -> str:
    """Write a perplexity: two digits after the point, unless it is large."""
    return value.text(".2f" if value.mean < 1_000 else ",.0f")
