"""The numbers and pictures of docs/questions.md: which stored result each one is from.

`NUMBERS` and `PICTURES` map a name in the page to a function of `Stored`, the results in
docs/questions/. `SOURCES` says which file of which run becomes which of these results.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from configs.load import load_config
from configs.settings import model_config
from errors import UserError
from experiments.intervals import Interval, paired
from experiments.pages.charts import Chart
from experiments.pages.table import Table
from experiments.report import read_result, section_of
from experiments.result import About
from model.cost import cache_bytes

BF16 = 2  # bytes
MISTRAL = str(Path(__file__).resolve().parent.parent / "configs/mistral-7b.yaml")
MISTRAL_VOCABULARY = 32_000

# A result's name: its file below the folder of runs. The first part of the name is its experiment.
SOURCES = {
    "sweep": "sweep/report/sweep.json",
    "recall": "sweep/report/recall.json",
    "swap": "sweep/report/swap.json",
    "position": "sweep/report/position.json",
    "position-scaling": "quickstart-full/report/position.json",
    "reach": "sweep/report/reach.json",
    "trace": "sweep/window-8/seed-0/report/trace.json",
    "movie": "sweep/window-8/seed-0/report/movie.json",
    "sweep-1024": "sweep-1024/report/sweep.json",
    "sweep-4096": "sweep-4096/report/sweep.json",
    "sweep-heads-2": "sweep-heads-2/report/sweep.json",
    "sweep-heads-4": "sweep-heads-4/report/sweep.json",
    "sinks": "sinks/report/sinks.json",
    "blockwise": "blockwise/report/blockwise.json",
}


class Stored:
    """The stored results in a folder, each read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = cache(self._load)

    def result(self, name: str) -> Any:
        """Return a result of `SOURCES`. Raises `UserError` if it is missing or damaged."""
        return self._read(name)[1]

    def about(self, name: str) -> About:
        """Return how a result came about. Raises `UserError` as `result` does."""
        return self._read(name)[0]

    def charts(self, name: str) -> list[Chart]:
        """Return the charts that the report shows of a result."""
        return section_of(_experiment(name), *self._read(name)).charts

    def window(self, sweep: str, word: str) -> Any:
        """Return the row of a window in a sweep."""
        return next(row for row in self.result(sweep).rows if row.word == word)

    def group(self, name: str, word: str) -> Any:
        """Return the group of a window in a result over the main sweep."""
        result = self.result(name)
        groups = result.lines if name == "position" else result.groups
        return next(group for group in groups if group.name == f"window-{word}")

    def _load(self, name: str) -> tuple[About, Any]:
        return read_result(_experiment(name), self._folder / f"{name}.json")


def _experiment(name: str) -> str:
    return name.partition("-")[0]


def bpb(stored: Stored, sweep: str, window: str) -> str:
    """Return the bits per byte of a window in a sweep, with its interval over seeds."""
    return stored.window(sweep, window).bpb.text()


def against(stored: Stored, sweep: str, window: str) -> str:
    """Return the bits per byte of a window minus those of full attention, paired by seed."""
    return stored.window(sweep, window).against.text("+.4f")


def train_speed(stored: Stored, sweep: str, window: str) -> str:
    """Return tokens per second in training."""
    return f"{stored.window(sweep, window).train_tokens_per_s:,.0f}"


def decode_speed(stored: Stored, sweep: str, window: str, context: str) -> str:
    """Return tokens per second of writing, with so many tokens in the cache."""
    place = stored.result(sweep).contexts.index(int(context))
    return f"{stored.window(sweep, window).decode_tokens_per_s[place]:,.0f}"


def cached(stored: Stored, sweep: str, window: str, length: str) -> str:
    """Return the bytes of the cache after so many tokens."""
    place = stored.result(sweep).lengths.index(int(length))
    return f"{stored.window(sweep, window).cache_bytes[place]:,}"


def peak(stored: Stored, sweep: str, window: str) -> str:
    """Return the memory of the training process, in MB."""
    return f"{stored.window(sweep, window).peak_mb:,.0f}"


def recall(stored: Stored, window: str, hops: str, field: str) -> str:
    """Return a share of the answers to facts in one hop, several hops or beyond the wall."""
    answered = stored.group("recall", window).hops[("one", "several", "beyond").index(hops)]
    value: Interval = getattr(answered, field)
    return value.text(".1%")


def survives(stored: Stored, window: str) -> str:
    """Return the share of recall that survives beyond the window, up to the wall."""
    value: Interval = stored.group("recall", window).survives
    return value.text(".1%")


def reach(stored: Stored, window: str, method: str, field: str) -> str:
    """Return the share of the influence from beyond the window, or the tokens that hold 99 %."""
    measured = stored.group("reach", window).of(method)
    value: Interval = measured.beyond if field == "beyond" else measured.within[-1]
    return value.text(".2%" if field == "beyond" else ".0f")


def wall(stored: Stored, window: str) -> str:
    """Return how many tokens back something can act at most."""
    return f"{stored.group('reach', window).wall:,}"


def position(stored: Stored, window: str, positions: str) -> str:
    """Return how the loss at a range of positions differs from that of the last trained one."""
    place = stored.result("position").ranges.index(positions)
    change: Interval = stored.group("position", window).change[place]
    return change.text("+.4f")


def scaling(stored: Stored, name: str, positions: str) -> str:
    """Return the bits per byte of a model with full attention under a scaling of RoPE."""
    result = stored.result("position-scaling")
    line = next(line for line in result.lines if line.scaling == name)
    value: Interval = line.loss[result.ranges.index(positions)]
    return value.text()


def swap(stored: Stored, trained: str, tested: str) -> str:
    """Return the bits per byte of models trained with one window and tested with another."""
    result = stored.result("swap")
    row = result.cells[result.trained.index(trained)]
    value: Interval = row[result.tested.index(tested)].bpb
    return value.text()


def heads(stored: Stored) -> str:
    """Return the bits per byte of 2 key/value heads minus those of 4, paired by seed."""
    few, many = (stored.window(f"sweep-heads-{n}", "64").bpb_of_seeds for n in (2, 4))
    return paired(few, many).text("+.4f")


def sinks(stored: Stored, group: str, way: str, field: str) -> str:
    """Return the perplexity `after` the window, or its `ratio` to that with most sinks."""
    streamed = next(g for g in stored.result("sinks").groups if g.name == group)
    found = next(w for w in streamed.ways if w.name == way.replace("_", " "))
    value: Interval = getattr(found, field)
    return value.text(".2f")


def moved(stored: Stored, length: str, window: str) -> str:
    """Return how many times the bytes of tiles dense attention moves."""

    rows = [m for m in stored.result("blockwise").moved if m.length == int(length)]
    dense = next(m.n_bytes for m in rows if m.way == "dense")
    tiles = next(m.n_bytes for m in rows if m.way == "tiles" and _word(m.window) == window)
    return f"{dense / tiles:.1f}"


def faster(stored: Stored, length: str, window: str, way: str) -> str:
    """Return the time of dense attention as a multiple of that of another way; medians."""
    times = stored.result("blockwise").times
    median = {
        t.way: t.median for t in times if t.length == int(length) and _word(t.window) == window
    }
    return f"{median['dense'] / median[way.replace('_', ' ')]:.1f}"


def _word(window: int | None) -> str:
    return "full" if window is None else str(window)


def mistral_cache(stored: Stored, length: str, attention: str) -> str:
    """Return the size of the cache of Mistral 7B after so many tokens, in bf16."""
    overrides = ["model.sliding_window=null"] if attention == "full" else []
    config = model_config(load_config(MISTRAL, overrides), MISTRAL_VOCABULARY)
    return f"{cache_bytes(config, int(length), BF16) / 2**30:g} GiB"


def times(stored: Stored) -> str:
    """Return the table of all commands of the page, with their time and machine."""
    rows = []
    for name in SOURCES:
        about, trained = stored.about(name), getattr(stored.result(name), "train_seconds", None)
        seconds = f"{about.seconds:,.0f}", "" if trained is None else f"{trained:,.0f}"
        rows.append((f"`{about.command}`", *seconds))
    processors = sorted({
        f"{about.machine.processor} ({', '.join(about.machine.instructions)}), "
        f"{about.machine.cores} cores" for about in map(stored.about, SOURCES)
    })  # fmt: skip
    caption = (
        f"On {'; and on '.join(processors)}. Most commands ran beside other work; swap, position "
        "and sinks found what an earlier call had measured. The runs were trained by earlier "
        "calls: the last column has the seconds of their training steps, all runs together, one "
        "thread each."
    )
    header = ("command", "seconds", "training, seconds")
    return "\n\n" + Table(header, rows, caption).markdown() + "\n\n"


# The first word of a gap in the page; the words after it are the arguments.
NUMBERS: Mapping[str, Callable[..., str]] = {
    "bpb": bpb, "against": against, "train-speed": train_speed, "decode-speed": decode_speed,
    "cache": cached, "peak": peak, "recall": recall, "survives": survives, "reach": reach,
    "wall": wall, "position": position, "sinks": sinks, "moved": moved, "faster": faster,
    "heads": heads, "swap": swap, "scaling": scaling, "mistral-cache": mistral_cache,
    "times": times,
}  # fmt: skip

# A picture's name: the result, and the beginning of the title of one of its charts.
PICTURES: Mapping[str, tuple[str, str]] = {
    "recall": ("recall", "Right answers"),
    "position": ("position", "Loss by position"),
    "reach": ("reach", "Influence on the prediction"),
    "trace": ("trace", "From"),
    "movie": ("movie", ""),
    "swap": ("swap", ""),
    "sinks": ("sinks", "sink-token: perplexity"),
    "tiles": ("blockwise", "The tiles"),
}


def picture(stored: Stored, name: str) -> Chart:
    """Return a chart of `PICTURES`. Raises `UserError` if there is no such chart."""
    result, title = PICTURES[name]
    found = [chart for chart in stored.charts(result) if chart.title.startswith(title)]
    if not found:
        raise UserError(f"{result}.json gives no chart {title!r}: measure it again")
    return found[-1] if name == "movie" else found[0]
