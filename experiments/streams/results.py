"""What `experiments.sinks` stores."""

from dataclasses import dataclass

from experiments.intervals import Interval
from model.window import Window


@dataclass(frozen=True)
class WayNats:
    """Mean nats of one way of reading, in one run."""

    name: str  # such as "4 sinks"
    nats: list[float | None]  # for each interval of positions; None: not measured
    after: float  # of all tokens after the first window
    most_after: float  # of the same tokens, read with most sinks


@dataclass(frozen=True)
class Kind:
    """The kind of token that a head attends to most, in comparison with how frequent it is."""

    token: str
    share: float  # of the head's attention, on all tokens of that kind together
    frequency: float  # of the kind among all tokens


@dataclass(frozen=True)
class ShareMap:
    """Where attention goes in one run: for each layer, of each head."""

    first: list[list[float]]  # share on the first token of the text
    sink: list[list[float]] | None  # share on the sink token or the sink logit
    kinds: list[list[Kind]]


@dataclass(frozen=True)
class RunReading:
    """One run, streamed. Interval n has the positions from ends[n - 1] to ends[n]."""

    parameters: int
    steps: int  # of training
    trained_length: int  # tokens
    windows: list[Window]  # keys in the stream, for each layer
    texts: int  # streamed beside each other, each of ends[-1] tokens
    ends: list[int]  # tokens
    ways: list[WayNats]
    shares: ShareMap
    even: float  # the share of the first token if attention were even


@dataclass(frozen=True)
class Way:
    """One way of reading, over all runs of a group. A perplexity is exp of the mean nats, and so
    are the ends of its interval."""

    name: str
    perplexities: list[Interval | None]  # for each interval of positions; None: not measured
    after: Interval  # perplexity of all tokens after the first window
    ratio: Interval  # `after` divided by that with most sinks, of the same tokens, paired by run


@dataclass(frozen=True)
class StreamedGroup:
    """Runs of one config that differ in the seed."""

    name: str
    runs: list[str]
    readings: list[RunReading]  # of each run
    ways: list[Way]

    @property
    def reading(self) -> RunReading:
        """The first run's: the others have the same config."""
        return self.readings[0]

    @property
    def window(self) -> int:
        """The widest window in keys."""
        return max(window for window in self.reading.windows if window is not None)

    def way(self, name: str) -> Way | None:
        """Return the way of this name, if it was measured."""
        return next((way for way in self.ways if way.name == name), None)


@dataclass(frozen=True)
class SinksResult:
    """Models that were trained in different ways, streamed with different numbers of sinks."""

    split: str
    sinks: list[int]  # first tokens that stay visible
    groups: list[StreamedGroup]
