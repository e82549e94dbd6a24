"""Tables and charts of `experiments.position`."""

import math
from itertools import pairwise

from experiments.captions import capital, describe_intervals
from experiments.intervals import Interval
from experiments.pages.charts import Line, LineChart
from experiments.pages.page import Section
from experiments.pages.table import Table
from experiments.position_results import GroupLoss, PositionResult
from experiments.result import About


def section(about: About, result: PositionResult) -> Section:
    """Return the part of a page about the loss by position."""
    loss, change = tables(result)
    return Section(
        "How good is a prediction after so many tokens?",
        [
            "A text is cut out of the middle of other texts, and the model predicts its tokens one "
            "after another: at position 0 it has read one token. All positions predict the same "
            "tokens, so only the context differs. More context helps as long as the model sees it: "
            "with a window, up to its reach. Beyond the trained length, RoPE rotates queries and "
            "keys by angles that full attention was never trained on. Angles between tokens in a "
            "window are the same everywhere.",
            _chart(result),
            loss,
            change,
        ],
        about,
    )


def tables(result: PositionResult) -> list[Table]:
    """Return the tables: loss by position, and its change beyond the trained length."""
    names = [line_name(line, result) for line in result.lines]
    rows = [
        (name, *(line.loss[n].text(".4f") for line in result.lines))
        for n, name in enumerate(result.ranges)
    ]
    caption = f"bits per byte of the same {result.lines[0].tokens:,} tokens of {result.split}"
    loss = Table(("position", *names), rows, f"{caption}; {_statistics(result)}")
    trained = result.last_trained
    beyond = range(trained + 1, len(result.ranges))
    rows = [(result.ranges[n], *(_signed(line.change[n]) for line in result.lines)) for n in beyond]
    caption = (
        f"change in bits per byte beyond the trained length of {result.trained_length:,} tokens, "
        f"against positions {result.ranges[trained]}, paired; {_statistics(result)}"
    )
    return [loss, Table(("position", *names), rows, caption)]


def line_name(line: GroupLoss, result: PositionResult) -> str:
    """Return the name of a group, with its scaling if several are measured."""
    several = len({other.scaling for other in result.lines}) > 1
    return f"{line.name}, {line.scaling}" if several else line.name


def _statistics(result: PositionResult) -> str:
    """Say which intervals the numbers have."""
    of_one_run = f"of Student's t, over {result.lines[0].pieces:,} pieces of text"
    return describe_intervals((len(line.runs) for line in result.lines), of_one_run)


def _chart(result: PositionResult) -> LineChart:
    # Positions count from 0; a logarithmic axis needs the tokens read, which count from 1.
    x = [math.sqrt((a + 1) * b) for a, b in pairwise(result.edges)]
    lines = [Line(line_name(line, result), x, line.loss) for line in result.lines]
    return LineChart(
        "Loss by position in the text", "tokens read", "bits per byte", lines,
        "The same tokens are predicted at every position; each point is a range of positions, at "
        f"its middle. {capital(_statistics(result))}.",
        [(result.trained_length, "trained length")], log_x=True,
    )  # fmt: skip


def _signed(value: Interval) -> str:
    """Return a change with its sign; a tiny negative one is +0.0000, not -0.0000."""

    def rounded(number: float | None) -> float | None:
        return None if number is None else round(number, 4) + 0.0

    mean = round(value.mean, 4) + 0.0
    return Interval(mean, rounded(value.low), rounded(value.high), value.n).text("+.4f")
