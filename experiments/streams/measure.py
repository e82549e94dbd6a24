"""Stream the runs of a group, and measure where their attention goes."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from data.text import open_tokens
from experiments.groups import Group
from experiments.intervals import Interval, over_runs, paired
from experiments.run_parts import measured_once
from experiments.streams import reading, shares
from experiments.streams.names import (
    AS_TRAINED,
    DENSE,
    RECOMPUTED,
    SINK_TOKEN_DROPPED,
    sinks_way,
)
from experiments.streams.results import Kind, RunReading, ShareMap, StreamedGroup, Way, WayNats
from experiments.streams.shares import FROM, attention_shares
from inference.trained import open_trained
from model.window import Window

if TYPE_CHECKING:
    from inference.trained import TrainedModel

SHARE_TEXTS = 64  # sequences of the trained length
PER_PASS = 16  # of them in one forward pass, which keeps their whole softmax
EVERY = 32  # of so many tokens one is recomputed: each costs a window


@dataclass(frozen=True)
class Plan:
    """What is streamed."""

    sinks: list[int]
    window: int | None  # of every layer; None: as trained, half the trained length of full layers
    split: str
    length: int | None  # tokens of a text; None: `times` trained lengths
    times: int
    n_texts: int
    checkpoint: str  # best, last or a step


def measure(group: Group, plan: Plan) -> StreamedGroup:
    """Measure all runs of a group, which have one config; runs that were measured are read back.

    Raises `UserError` if a run's text has changed or has no such split.
    """
    readings = [_measured(run, plan) for run in group.runs]
    return StreamedGroup(group.name, list(map(str, group.runs)), readings, summarise(readings))


def summarise(readings: Sequence[RunReading]) -> list[Way]:
    """Return the ways of reading over several runs."""
    ways = []
    for same in zip(*(run.ways for run in readings), strict=True):
        columns = zip(*(way.nats for way in same), strict=True)
        known = [[nats for nats in column if nats is not None] for column in columns]
        after = [way.after for way in same]
        ways.append(Way(
            same[0].name,
            [_exp(over_runs(column)) if column else None for column in known],
            _exp(over_runs(after)),
            _exp(paired(after, [way.most_after for way in same])),
        ))  # fmt: skip
    return ways


def _exp(nats: Interval) -> Interval:
    """Return the perplexity of mean nats. It is at most e^80, so that it can be printed."""
    low, high = (None if end is None else math.exp(min(end, 80.0)) for end in (nats.low, nats.high))
    return Interval(math.exp(min(nats.mean, 80.0)), low, high, nats.n)


def _measured(run: Path, plan: Plan) -> RunReading:
    trained = open_trained(run, plan.checkpoint)
    key = [trained.checkpoint.path.name, asdict(plan)]
    sources = [__file__, reading.__file__, shares.__file__]
    return measured_once(str(run), "sinks", key, sources, RunReading, lambda: _read(trained, plan))


def _read(trained: "TrainedModel", plan: Plan) -> RunReading:
    data_hash = trained.checkpoint.metadata["data_hash"]
    tokens = open_tokens(trained.config.data, trained.tokenizer, plan.split, data_hash)
    text = torch.from_numpy(tokens[:].astype("int64"))
    trained_length = trained.config.data.seq_len
    texts = reading.texts_of(text, plan.length or plan.times * trained_length, plan.n_texts)
    sequences = reading.texts_of(text, trained_length - 1, SHARE_TEXTS)
    windows = _windows(trained, plan.window)
    widest = max(window for window in windows if window is not None)
    n_tokens = texts.shape[1] - 1
    ends = reading.interval_ends(trained_length, n_tokens, widest)
    nats = _nats(trained, windows, texts, plan.sinks)
    counted = range(_first_query(trained_length), trained_length)
    return RunReading(
        parameters=sum(weight.numel() for weight in trained.model.parameters()),
        steps=trained.checkpoint.step,
        trained_length=trained_length,
        windows=windows,
        texts=len(texts),
        ends=ends,
        ways=_ways(nats, ends, min(widest, n_tokens - 1), sinks_way(max(plan.sinks))),
        shares=_shares(trained, sequences),
        even=sum(1 / (query + 1) for query in counted) / len(counted),
    )


def _windows(trained: "TrainedModel", asked: int | None) -> list[Window]:
    """Return the windows of the stream: as asked, or as trained; full layers see half the trained
    length."""
    trained_windows = trained.model.config.windows
    if asked is not None:
        return [asked] * len(trained_windows)
    half = max(1, trained.config.data.seq_len // 2)
    return [half if window is None else window for window in trained_windows]


def _nats(
    trained: "TrainedModel", windows: list[Window], texts: Tensor, sinks: Sequence[int]
) -> dict[str, Tensor]:
    """Return the nats (B, T) of each way of reading."""
    found = {}
    where = trained.checkpoint.path.parent.parent.name
    model = trained.with_settings(sliding_window=windows, attention_sinks=0).model
    widest = max(window for window in windows if window is not None)
    if trained.model.sink_token is not None:
        label = f"{where}, {SINK_TOKEN_DROPPED}"
        found[SINK_TOKEN_DROPPED] = reading.stream(model, texts, label, widest)
    for count in sinks:
        model = trained.with_settings(sliding_window=windows, attention_sinks=count).model
        found[sinks_way(count)] = reading.stream(model, texts, f"{where}, {sinks_way(count)}")
    if set(trained.model.config.windows) == {None}:  # otherwise the model is as trained already
        found[RECOMPUTED] = reading.recomputed(trained.model, texts, widest, EVERY)
        trained_length = trained.config.data.seq_len
        found[AS_TRAINED] = reading.as_trained(trained.model, texts, trained_length)
        found[DENSE] = reading.dense(trained.model, texts)
    return found


def _ways(found: dict[str, Tensor], ends: Sequence[int], after: int, most: str) -> list[WayNats]:
    """Take the means of each way, and of the way `most` over the same tokens."""
    ways = []
    for name, nats in found.items():
        means = reading.interval_means(nats, ends)
        late, most_late = nats[:, after:], found[most][:, after:]
        measured = ~late.isnan()
        ways.append(WayNats(
            name,
            [None if math.isnan(mean) else mean for mean in means],
            late[measured].mean().item(),
            most_late[measured].mean().item(),
        ))  # fmt: skip
    return ways


def _first_query(trained_length: int) -> int:
    return min(FROM, trained_length - 1)


def _shares(trained: "TrainedModel", sequences: Tensor) -> ShareMap:
    """Measure where the attention of the model goes, as it was trained."""
    parts = sequences.split(PER_PASS)
    found = [attention_shares(trained.model, part, _first_query(part.shape[1])) for part in parts]
    weights = [len(part) / len(sequences) for part in parts]

    def mean(tensors: list[Tensor]) -> Tensor:
        return torch.stack([w * x for w, x in zip(weights, tensors, strict=True)]).sum(0)

    def rounded(layers: Tensor) -> list[list[float]]:
        return [[round(share, 5) for share in layer] for layer in layers.tolist()]

    sinks = [part.sink for part in found if part.sink is not None]
    kinds = mean([part.kinds for part in found])
    return ShareMap(
        rounded(mean([part.first for part in found])),
        rounded(mean(sinks)) if sinks else None,
        _kinds(trained, kinds, sequences),
    )


def _kinds(trained: "TrainedModel", kinds: Tensor, sequences: Tensor) -> list[list[Kind]]:
    """Name the kind of token with the largest share (layers, heads, V) above its frequency."""
    counts = torch.bincount(sequences.flatten(), minlength=kinds.shape[-1])
    frequency = counts / counts.sum()
    best = (kinds - frequency).argmax(-1)

    def kind(layer: int, head: int) -> Kind:
        token = int(best[layer, head])
        share = round(kinds[layer, head, token].item(), 5)
        return Kind(trained.tokenizer.decode([token]), share, round(frequency[token].item(), 5))

    return [[kind(n, head) for head in range(best.shape[1])] for n in range(best.shape[0])]
