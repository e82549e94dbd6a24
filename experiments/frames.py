"""The rolling cache as frames: what each slot holds, what is overwritten, what each query sees.

A model reads a text through its real cache. Every call of `Ring.update` is recorded: the positions
in the slots before and after, and the positions that attention read. Nothing here computes a slot.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from model.window import Window, visible

if TYPE_CHECKING:  # torch is imported only where something is computed
    from torch import Tensor

    from model import Transformer
    from model.cache import Ring


@dataclass(frozen=True)
class Write:
    """A slot that takes another position in this frame."""

    slot: int
    before: int  # position that it held, -1: empty
    after: int


@dataclass(frozen=True)
class LayerFrame:
    """One layer in one frame."""

    slots: list[int]  # position in each slot when the query looks; -1: empty
    beside: list[int]  # positions of a chunk that is joined to the ring for its own queries
    seen: list[int]  # positions that the query sees, rising; none in a frame without a query
    writes: list[Write]


@dataclass(frozen=True)
class Frame:
    """One query of one call of the model, or the writing of a chunk after its last query."""

    first: int  # position of the call's first token
    last: int  # position of the call's last token
    query: int | None  # position; None: the chunk is written to the rings
    layers: list[LayerFrame]


@dataclass(frozen=True)
class LayerShape:
    """What does not change in a layer. Layers in which the same happens are shown once."""

    numbers: list[int]  # of these layers, from 0
    window: Window  # keys
    sinks: int  # positions that have slots of their own, in front of the ring
    slots: int  # sinks included


@dataclass(frozen=True)
class MovieResult:
    """All frames, and whether the cache was exact."""

    source: str  # the run, or what stands for one
    tokens: list[str]  # text of each position
    layers: list[LayerShape]
    frames: list[Frame]
    keys: int  # (query, key, layer) triples that the rule makes visible
    missing: int  # of them, those that the cache did not hold
    max_difference: float  # between the logits with the cache and those of the whole text at once


@dataclass(frozen=True)
class _Update:
    """One call of `Ring.update`: positions only."""

    tokens: list[int]
    before: list[int]  # of the slots
    read: list[int]  # of the keys that attention got
    after: list[int]  # of the slots


def film(
    model: "Transformer", ids: Sequence[int], texts: Sequence[str], chunks: Sequence[int],
    source: str,
) -> MovieResult:  # fmt: skip
    """Read the tokens `ids` in calls of `chunks` tokens each; return what the cache did.

    `texts` are the tokens as a reader sees them. The chunks sum to the number of tokens. The
    sink token of a model that has one is position 0.
    """
    import torch

    from model import RollingKVCache

    tokens = torch.tensor([ids])
    dtype = model.tok_embeddings.weight.dtype
    cache = RollingKVCache(model.config, capacity=len(ids), dtype=dtype)
    updates = [_watch(ring) for ring in cache.layers]
    with torch.inference_mode():
        cached = torch.cat([model(part, cache=cache) for part in tokens.split(list(chunks), 1)], 1)
        difference = (cached - model(tokens)).abs().max().item()
    sinks = [0 if window is None else model.config.sinks for window in cache.windows]
    shapes = [
        LayerShape([number], window, ring.sinks, ring.positions.shape[1])
        for number, (window, ring) in enumerate(zip(cache.windows, cache.layers, strict=True))
    ]
    frames = [
        frame for step in zip(*updates, strict=True) for frame in _frames(step, shapes, sinks)
    ]
    words = ["(sink)"] * cache.first_position + list(texts)
    keys, missing = _compare(frames, shapes, sinks)
    return MovieResult(source, words, *_merged(shapes, frames), keys, missing, difference)


def _watch(ring: "Ring") -> list[_Update]:
    """Record every call of the ring's `update` in the list that is returned."""
    updates: list[_Update] = []
    original = ring.update

    def update(k: "Tensor", v: "Tensor", positions: "Tensor") -> "tuple[Tensor, Tensor, Tensor]":
        before = ring.positions[0].tolist()
        result = original(k, v, positions)
        after = ring.positions[0].tolist()
        updates.append(_Update(positions[0].tolist(), before, result[2][0].tolist(), after))
        return result

    ring.update = update  # type: ignore[method-assign]
    return updates


def _frames(
    step: Sequence[_Update], shapes: Sequence[LayerShape], sinks: Sequence[int]
) -> list[Frame]:
    """Return the frames of one call of the model: `step` has the update of each layer."""
    tokens = step[0].tokens
    frames = []
    for number, query in enumerate(tokens):
        layers = []
        for update, shape, count in zip(step, shapes, sinks, strict=True):
            slots, beside = _looked_at(update)
            seen = {j for j in update.read if j >= 0 and visible(query, j, shape.window, count)}
            writes = _changes(update.before, slots) if number == 0 else []
            layers.append(LayerFrame(slots, beside, sorted(seen), writes))
        frames.append(Frame(tokens[0], tokens[-1], query, layers))
    if any(_looked_at(update)[1] for update in step):
        layers = [
            LayerFrame(update.after, [], [], _changes(_looked_at(update)[0], update.after))
            for update in step
        ]
        frames.append(Frame(tokens[0], tokens[-1], None, layers))
    return frames


def _merged(
    shapes: Sequence[LayerShape], frames: Sequence[Frame]
) -> tuple[list[LayerShape], list[Frame]]:
    """Keep one of the layers that are equal in shape and in all frames; it names the others."""
    kept: list[int] = []
    numbers: dict[int, list[int]] = {}
    for n, shape in enumerate(shapes):
        same = (
            m for m in kept
            if replace(shapes[m], numbers=shape.numbers) == shape
            and all(frame.layers[m] == frame.layers[n] for frame in frames)
        )  # fmt: skip
        first = next(same, n)
        kept += [n] * (first == n)
        numbers.setdefault(first, []).append(n)
    return (
        [replace(shapes[m], numbers=numbers[m]) for m in kept],
        [replace(frame, layers=[frame.layers[m] for m in kept]) for frame in frames],
    )


def _looked_at(update: _Update) -> tuple[list[int], list[int]]:
    """Return the slots as the queries saw them, and the chunk that was joined to them."""
    n_slots = len(update.after)
    if len(update.read) <= n_slots:  # in place; full layers read the filled slots only
        return update.after, []
    return update.read[:n_slots], update.read[n_slots:]


def _changes(before: Sequence[int], after: Sequence[int]) -> list[Write]:
    pairs = enumerate(zip(before, after, strict=True))
    return [Write(slot, old, new) for slot, (old, new) in pairs if old != new]


def _compare(
    frames: Sequence[Frame], shapes: Sequence[LayerShape], sinks: Sequence[int]
) -> tuple[int, int]:
    """Count the keys that the rule makes visible, and those of them that no query found."""
    keys = missing = 0
    for frame in frames:
        if frame.query is None:
            continue
        for layer, shape, count in zip(frame.layers, shapes, sinks, strict=True):
            rule = {
                j for j in range(frame.query + 1) if visible(frame.query, j, shape.window, count)
            }
            keys += len(rule)
            missing += len(rule - set(layer.seen))
    return keys, missing


def narration(result: MovieResult, frame: Frame) -> str:
    """Say in a sentence or two what happens in a frame."""
    if frame.query is None:
        text = f"The chunk {frame.first} to {frame.last} is read. Now it is written to the rings"
        kept = {write.after for layer in frame.layers for write in layer.writes}
        kept |= {position for layer in frame.layers for position in layer.slots}
        lost = [p for p in range(frame.first, frame.last + 1) if p not in kept]
        if lost:
            return f"{text}; no later query sees {', '.join(map(str, lost))}."
        return f"{text}."
    name = f'{frame.query} "{result.tokens[frame.query].strip()}"'
    if frame.first == frame.last:
        return f"Token {name} comes alone. It is written first, then it looks at the slots."
    text = f"Query {name} of the chunk {frame.first} to {frame.last}."
    if not any(layer.beside for layer in frame.layers):
        return f"{text} Every layer keeps all tokens: the chunk is written first."
    return f"{text} A ring is joined with the chunk and not yet overwritten."


def describe(shape: LayerShape) -> str:
    """Return the heading of a layer, or of several with the same slots."""
    name = name_of(shape).capitalize()
    slots = f"{shape.slots:,} slots"
    if shape.window is None:
        return f"{name}: full attention, {slots}, one for each token"
    window = f"{name}: window {shape.window:,}, {slots}"
    if shape.sinks:
        return f"{window}, {shape.sinks:,} of them for sinks"
    return window


def name_of(shape: LayerShape) -> str:
    """Return "layer 2" or "layers 0, 2"."""
    numbers = ", ".join(map(str, shape.numbers))
    return f"layer {numbers}" if len(shape.numbers) == 1 else f"layers {numbers}"


def marks(layer: LayerFrame, shape: LayerShape) -> tuple[list[bool], list[bool]]:
    """Return which slots and which tokens of the chunk beside them the query sees.

    A sink of the chunk is read from its own slot, so its copy in the chunk is not marked.
    """
    seen = set(layer.seen)
    return [p in seen for p in layer.slots], [p in seen and p >= shape.sinks for p in layer.beside]


def stills(result: MovieResult) -> list[int]:
    """Choose at most three frames, in the order of the movie.

    They are a query in the middle of the last chunk, the writing of that chunk, and the first
    token that comes alone and overwrites another. Without such frames it is the last one.
    """
    numbers, frames = range(len(result.frames)), result.frames
    written = [n for n in numbers if frames[n].query is None][-1:]
    middle = [n - 1 - (frames[n].last - frames[n].first) // 2 for n in written]
    alone = [
        n for n in numbers
        if frames[n].first == frames[n].last
        and any(write.before >= 0 for layer in frames[n].layers for write in layer.writes)
    ]  # fmt: skip
    return [*middle, *written, *(n for n in alone[:1] if not written or n > written[0])] or [
        len(frames) - 1
    ]
