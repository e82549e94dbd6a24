"""Stream the runs of a group, and measure where their attention goes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from data.text import open_split
from experiments.groups import Group
from experiments.intervals import Interval, over_runs, paired
from experiments.streams import reading
from experiments.streams.names import AS_TRAINED, DENSE, RECOMPUTED, SINK_TOKEN_DROPPED, sinks_way
from experiments.streams.results import ShareMap, StreamedGroup, Way
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
    """Measure all runs of a group, which have one config. Raises `UserError` if their text has
    changed or has no such split."""
    opened = [open_trained(run, plan.checkpoint) for run in group.runs]
    first = opened[0]
    windows = _windows(first, plan.window)
    readings, shares = [], []
    for trained in opened:
        texts, sequences = _texts(trained, plan)
        readings.append(_read(trained, windows, texts, plan.sinks))
        shares.append(_shares(trained, sequences))
    n_texts, n_tokens = texts.shape[0], texts.shape[1] - 1
    trained_length = first.config.data.seq_len
    widest = max(window for window in windows if window is not None)
    ends = reading.interval_ends(trained_length, n_tokens, widest)
    counted = range(min(FROM, trained_length - 1), trained_length)
    return StreamedGroup(
        name=group.name,
        runs=[str(run) for run in group.runs],
        parameters=sum(weight.numel() for weight in first.model.parameters()),
        steps=first.checkpoint.step,
        trained_length=trained_length,
        windows=windows,
        texts=n_texts,
        ends=ends,
        ways=_ways(readings, ends, min(widest, n_tokens - 1), sinks_way(max(plan.sinks))),
        shares=shares,
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


def _texts(trained: "TrainedModel", plan: Plan) -> tuple[Tensor, Tensor]:
    """Return the texts (B, T + 1) to stream, and sequences (n, trained length) of that split."""
    data_hash = trained.checkpoint.metadata["data_hash"]
    tokens, _ = open_split(trained.config.data, trained.tokenizer, plan.split, data_hash)
    text = torch.from_numpy(tokens[:].astype("int64"))
    trained_length = trained.config.data.seq_len
    texts = reading.texts_of(text, plan.length or plan.times * trained_length, plan.n_texts)
    sequences = reading.texts_of(text, trained_length - 1, SHARE_TEXTS)
    return texts, sequences


def _read(
    trained: "TrainedModel", windows: list[Window], texts: Tensor, sinks: Sequence[int]
) -> dict[str, Tensor]:
    """Return the nats (B, T) of each way of reading."""
    found = {}
    where = Path(trained.checkpoint.path).parent.parent.name
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


def _ways(
    readings: Sequence[dict[str, Tensor]], ends: Sequence[int], after: int, base: str
) -> list[Way]:
    """Summarise the nats of each way over the runs, beside those of the way `base`."""
    ways = []
    for name in readings[0]:
        by_run = [reading.interval_means(nats[name], ends) for nats in readings]
        late = [nats[name][:, after:] for nats in readings]
        measured = [~nats.isnan() for nats in late]
        base_late = [nats[base][:, after:] for nats in readings]
        ratio = paired(
            [nats[mask].mean().item() for nats, mask in zip(late, measured, strict=True)],
            [nats[mask].mean().item() for nats, mask in zip(base_late, measured, strict=True)],
        )
        columns = [list(column) for column in zip(*by_run, strict=True)]
        ways.append(Way(
            name,
            [None if math.isnan(sum(column)) else _exp(over_runs(column)) for column in columns],
            _exp(over_runs([nats.nanmean().item() for nats in late])),
            _exp(ratio),
        ))  # fmt: skip
    return ways


def _exp(nats: Interval) -> Interval:
    """Return the perplexity of mean nats. It is at most e^80, so that it can be printed."""
    low, high = (None if end is None else math.exp(min(end, 80.0)) for end in (nats.low, nats.high))
    return Interval(math.exp(min(nats.mean, 80.0)), low, high, nats.n)


def _shares(trained: "TrainedModel", sequences: Tensor) -> ShareMap:
    """Measure the shares of attention of the model as it was trained."""
    first_query = min(FROM, sequences.shape[1] - 1)
    found = [
        attention_shares(trained.model, some, first_query) for some in sequences.split(PER_PASS)
    ]
    weights = torch.tensor([len(some) for some in sequences.split(PER_PASS)]) / len(sequences)

    def mean(parts: list[Tensor]) -> list[list[float]]:
        total = (torch.stack(parts) * weights[:, None, None]).sum(0)
        return [[round(share, 5) for share in layer] for layer in total.tolist()]

    sinks = [part.sink for part in found if part.sink is not None]
    return ShareMap(mean([part.first for part in found]), mean(sinks) if sinks else None)
