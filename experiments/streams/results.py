"""What `experiments.sinks` stores."""

from dataclasses import dataclass

from experiments.intervals import Interval
from model.window import Window


@dataclass(frozen=True)
class Way:
    """One way of reading. A perplexity is exp of the mean nats, and so are the ends of its
    interval over runs."""

    name: str  # such as "4 sinks"
    perplexities: list[Interval | None]  # for each interval of positions; None: not measured
    after: Interval  # perplexity of all tokens after the first window
    ratio: Interval  # `after` divided by that with most sinks, of the same tokens, over runs


@dataclass(frozen=True)
class ShareMap:
    """Shares of attention in one run: for each layer, of each head."""

    first: list[list[float]]  # on the first token of the text
    sink: list[list[float]] | None  # on the sink token or the sink logit


@dataclass(frozen=True)
class StreamedGroup:
    """Runs of one config, streamed. Interval n has the positions from ends[n - 1] to ends[n]."""

    name: str
    runs: list[str]
    parameters: int
    steps: int  # of training
    trained_length: int  # tokens
    windows: list[Window]  # keys in the stream, for each layer
    texts: int  # streamed beside each other, each of ends[-1] tokens
    ends: list[int]  # tokens
    ways: list[Way]
    shares: list[ShareMap]  # of each run
    even: float  # the share of the first token if attention were even

    @property
    def window(self) -> int:
        """The widest window in keys."""
        return max(window for window in self.windows if window is not None)

    def way(self, name: str) -> Way | None:
        """Return the way of this name, if it was measured."""
        return next((way for way in self.ways if way.name == name), None)


@dataclass(frozen=True)
class SinksResult:
    """Models that were trained in different ways, streamed with different numbers of sinks."""

    split: str
    sinks: list[int]  # first tokens that stay visible
    groups: list[StreamedGroup]
