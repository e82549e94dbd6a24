"""The results of a sweep as data, as a table and as charts."""

from dataclasses import dataclass

from experiments.intervals import Interval
from experiments.pages.charts import BarChart, Line, LineChart
from experiments.pages.page import Section
from experiments.pages.table import Table
from experiments.result import About
from model.window import Window


@dataclass(frozen=True)
class WindowResult:
    """What the runs of one window measured."""

    word: str  # of --windows
    folder: str  # of its runs, in the sweep's folder
    windows: tuple[Window, ...]  # keys in each layer; None: full attention
    reach: int | None  # tokens through all layers; None: all
    steps: int  # updates in each run
    bpb: Interval  # bits per byte of the split, over seeds
    bpb_of_seeds: tuple[float, ...]
    against: Interval | None  # bpb minus that of `base`, of the same seed; None for the base itself
    train_tokens_per_s: float
    decode_tokens_per_s: tuple[float, ...]  # for each of `contexts`
    peak_mb: float | None  # of a training process, the largest of the runs; None: not measured
    cache_bytes: tuple[int, ...]  # for each of `lengths`, fp32
    curve_tokens: tuple[int, ...]  # training tokens at each evaluation
    curve_bpb: tuple[Interval, ...]  # bits per byte of the validation split, over seeds


@dataclass(frozen=True)
class SweepResult:
    """One config under several windows."""

    words: tuple[str, ...]  # the config and its overrides
    seeds: int
    equal: str  # what the runs have in common: tokens, flops or time
    split: str  # that is scored
    base: str  # the word of the window that the others are compared with
    seq_len: int  # tokens of a training sequence
    contexts: tuple[int, ...]  # tokens in the cache before a token is written
    lengths: tuple[int, ...]  # tokens of text for which the cache is counted
    rounds: int  # of which a speed is the median
    train_seconds: float  # of the training steps of all runs, those of earlier calls too
    rows: tuple[WindowResult, ...]


def table(result: SweepResult) -> Table:
    """Return a row for each window. The cache is that of the middle length; a chart has all."""
    shown = len(result.lengths) // 2
    header = [
        "window", "reach", "steps", "bits per byte", f"minus {result.base}", "train tokens/s",
        *(f"tokens/s after {context:,}" for context in result.contexts), "peak MB",
        f"cache at {result.lengths[shown]:,}",
    ]  # fmt: skip
    rows = [
        [
            row.word,
            "all" if row.reach is None else f"{row.reach:,}",
            f"{row.steps:,}",
            row.bpb.text(),
            "-" if row.against is None else row.against.text("+.4f"),
            f"{row.train_tokens_per_s:,.0f}",
            *(f"{speed:,.0f}" for speed in row.decode_tokens_per_s),
            "-" if row.peak_mb is None else f"{row.peak_mb:,.0f}",
            _size(row.cache_bytes[shown]),
        ]
        for row in result.rows
    ]
    return Table(header, rows, _caption(result))


def _caption(result: SweepResult) -> str:
    intervals = (
        f"in brackets: 95 % intervals over {result.seeds} seeds (Student's t; differences are "
        "paired by seed)"
        if result.seeds > 1
        else "one seed, so no intervals"
    )
    layers = [
        f"{row.word} has {', '.join('full' if w is None else str(w) for w in row.windows)}, "
        f"{sum(w for w in row.windows if w):,} keys in all"
        for row in result.rows
        if len(set(row.windows)) > 1
    ]
    return " ".join([
        f"Bits per byte of the {result.split} split; {intervals}. All runs have equal "
        f"{_EQUAL[result.equal]}. Speeds: medians of {result.rounds} rounds in turns, in one "
        "process, on this machine; training: a step of AdamW on drawn tokens; tokens/s after N: "
        "writing one text with N tokens in the cache. Peak MB: the largest training process, "
        "Python included; -: trained by another command, or not measured on this system. Cache: "
        "keys and values in fp32. The runs trained for "
        f"{result.train_seconds / 60:,.1f} minutes in all, evaluation left out.",
        *(f"{line}." for line in layers),
    ])  # fmt: skip


_EQUAL = {
    "tokens": "training tokens",
    "flops": "training arithmetic (counted), so narrow windows train more steps",
    "time": "training time (measured once, before), so fast windows train more steps",
}


def section(about: About, result: SweepResult) -> Section:
    """Return the part of a page about a sweep."""
    rows, several = result.rows, result.seeds > 1
    intro = (
        "The config was trained once for each window"
        f"{f' and each of {result.seeds} seeds' if several else ', with one seed'}. "
        f"{_differences(result)} A low number of bits per byte is good: the text surprises the "
        "model less."
    )
    limits = (
        "Bits per byte average over all tokens, and most tokens depend on near text only. So a "
        "small difference here can hide that far facts are lost: recall by distance shows that."
    )
    others = [(row.word, row.against) for row in rows if row.against is not None]
    charts: list[BarChart | LineChart] = [
        BarChart(
            "Bits per byte by window", f"bits per byte, {result.split} split",
            [(row.word, row.bpb) for row in rows],
            f"Means over {result.seeds} seeds; whiskers are 95 % intervals (Student's t). Not "
            "shown: how runs of one seed differ, which the next chart has." if several else
            "Runs of one seed, so no intervals: other seeds give other numbers.", ".4f",
        )
    ]  # fmt: skip
    if others:
        charts.append(BarChart(
            f"What is lost against {result.base}", f"bits per byte minus those of {result.base}",
            others,
            f"Differences between runs of the same seed. Whiskers that contain 0: {result.seeds} "
            "seeds do not show a difference." if several else
            "Differences between runs of one seed: a small one may be chance.", "+.4f",
        ))  # fmt: skip
    charts += [_curves(result), _cache(result), _decoding(result)]
    return Section(
        "What does a window cost, and what does it lose?",
        [intro, table(result), limits, *charts], about,
    )  # fmt: skip


def _differences(result: SweepResult) -> str:
    """Say what differs between the runs apart from windows and seeds."""
    words = [row.word for row in result.rows]
    given = [word for word in result.words if word.startswith("model.attention_sinks=")]
    idle = given and "full" in words  # full attention is trained without the sinks of the config
    also = [
        name
        for name, differs in (
            ("the steps", len({row.steps for row in result.rows}) > 1),
            ("schedules of windows in training", any(_has_schedule(word) for word in words)),
            ("sinks", idle or any("+" in word for word in words)),
        )
        if differs
    ]
    if not also:
        return "Nothing else differs."
    *first, last = also
    return f"Only {', '.join(first)}{' and ' * bool(first)}{last} differ as well."


def _has_schedule(word: str) -> bool:
    return word.startswith(("constant:", "grow:", "depth:", "random:"))


def _curves(result: SweepResult) -> LineChart:
    over = f"Means over {result.seeds} seeds" if result.seeds > 1 else "Runs of one seed"
    bands = "; bands are 95 % intervals" if result.seeds > 1 else ""
    return LineChart(
        "Learning", "training tokens", "bits per byte, val split",
        [Line(row.word, row.curve_tokens, row.curve_bpb) for row in result.rows],
        f"{over} at each evaluation{bands}. The loss in training is not drawn: it may contain "
        "drills, which are harder for wide windows.",
    )  # fmt: skip


def _cache(result: SweepResult) -> LineChart:
    return LineChart(
        "Memory of a text in generation", "tokens of text", "bytes",
        [Line(row.word, result.lengths, row.cache_bytes) for row in result.rows],
        "Keys and values of one text in fp32, counted. With full attention they grow without end; "
        "with a window they stop growing. Weights are not counted.", log_x=True, log_y=True,
    )  # fmt: skip


def _decoding(result: SweepResult) -> LineChart:
    return LineChart(
        "Speed of writing", "tokens already in the cache", "tokens per second",
        [Line(row.word, result.contexts, row.decode_tokens_per_s) for row in result.rows],
        f"One text, greedily, on this machine: medians of {result.rounds} rounds. In a small model "
        "attention is a small part of the work, so windows differ less than in a large one.",
        log_x=True,
    )  # fmt: skip


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.2f} MB"
