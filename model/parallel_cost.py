"""What each process of a run holds and sends, counted from the config. Without torch.

With ddp each process holds everything. With fsdp each tensor is divided by rows, as torch does it:
of R rows and N processes the first ones hold ceil(R / N) rows each, the last ones fewer or none.
The tensors of a layer are one unit, and those outside the layers, the root, are another. A unit is
collected whole before it computes (all-gather), and its gradients are added up and divided again
(reduce-scatter). A layer is collected twice in a micro-batch, forward and backward. The root is
kept in between, so once.

What moves is counted for rings: of S bytes, each process sends (N - 1) / N S in an all-gather or a
reduce-scatter, and twice that in an all-reduce. Parts are padded to ceil(R / N) rows to be sent.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from model.config import LINEARS, LoraConfig, ModelConfig
from model.cost import FLOAT32, in_bytes, training_flops, training_memory


@dataclass(frozen=True)
class Weight:
    """A tensor of the model. One of a layer stands for those of all layers."""

    name: str  # of a layer's tensor: without `layers.N.`
    shape: tuple[int, ...]
    moments: int  # that the optimizer keeps of it; 0: frozen
    layers: int  # that have one; 0: it is outside the layers

    @property
    def count(self) -> int:
        """How many such tensors the model has."""
        return max(1, self.layers)

    @property
    def is_orthogonalized(self) -> bool:
        """Whether Muon updates it: Muon alone keeps one moment."""
        return self.moments == 1

    def rows(self, size: int) -> int:
        """Return the rows of the first of `size` processes, which no other exceeds."""
        return -(-self.shape[0] // size)

    def part(self, rank: int, size: int) -> int:
        """Return the bytes of this tensor that process `rank` of `size` holds."""
        rows = self.rows(size)
        held = min(rows, max(0, self.shape[0] - rank * rows))
        return FLOAT32 * held * prod(self.shape[1:])

    def sent(self, size: int) -> int:
        """Return the bytes that each process sends to collect or add up one such tensor."""
        return (size - 1) * self.part(0, size)


@dataclass(frozen=True)
class Held:
    """Bytes that one process keeps from step to step."""

    weights: int
    gradients: int
    moments: int


@dataclass(frozen=True)
class WorldCost:
    """What the processes hold and send. `sent` is per step and process, by its purpose.

    `gathered` are whole weights and gradients during a micro-batch: the root, a layer, and the
    gradient of the larger of both. `directions` are Muon's whole matrices of one shape during an
    update. Both are low estimates: copies in transit are left out.
    """

    kind: str
    ranks: tuple[Held, ...]
    checkpoint: tuple[int, ...]  # bytes that each process writes, without the tokenizer
    gathered: int
    directions: int
    sent: dict[str, int]


@dataclass(frozen=True)
class Share:
    """What each of several processes computes, holds and sends, and how long that takes at least.

    `total` is the memory of the first process, which no other exceeds.
    """

    sequences: int  # of each update
    micro_batches: int
    activations: int
    total: int
    cost: WorldCost
    sent: int
    arithmetic_s: float | None  # per step, at the peak; None: no speeds are given
    transfer_s: float | None


def share_of(
    config: ModelConfig,
    lora: LoraConfig | None,
    *,
    kind: str,
    size: int,
    sequences: int,
    micro_batch_size: int,
    seq_len: int,
    optimizer: str,
    bytes_per_value: int,
    speeds: Sequence[float] | None = None,
) -> Share:
    """Count for `size` processes of `sequences` each an update; `speeds` are FLOP/s and bytes/s."""
    rows = min(sequences, micro_batch_size)
    micro_batches = -(-sequences // rows)
    cost = world_cost(
        list(weights_of(config, optimizer, lora)), kind, size, micro_batches, bytes_per_value
    )
    memory = training_memory(config, rows, seq_len, optimizer, bytes_per_value, lora)
    first, sent = cost.ranks[0], sum(cost.sent.values())
    passing = max(cost.gathered + memory.activations, cost.directions)  # not at the same time
    return Share(
        sequences=sequences,
        micro_batches=micro_batches,
        activations=memory.activations,
        total=first.weights + first.gradients + first.moments + passing,
        cost=cost,
        sent=sent,
        arithmetic_s=sequences * training_flops(config, seq_len, lora) / speeds[0]
        if speeds
        else None,
        transfer_s=sent / speeds[1] if speeds else None,
    )


def described(share: Share) -> Iterator[str]:
    """Describe the first process, which holds most, and the last one."""
    cost = share.cost
    first, last = cost.ranks[0], cost.ranks[-1]
    rows: list[tuple[str, int, int | None, str]] = [
        ("weights", first.weights, last.weights, "fp32"),
        ("gradients", first.gradients, last.gradients, "fp32"),
        ("moments", first.moments, last.moments, "fp32"),
        ("gathered", cost.gathered, None, "a layer and the root whole, and a gradient"),
        ("activations", share.activations, None, "an estimate, for one micro-batch"),
        ("directions", cost.directions, None, "Muon's, when the two above are gone"),
        ("total", share.total, None, "at least"),
        ("checkpoint", cost.checkpoint[0], cost.checkpoint[-1], "that it writes"),
    ]
    yield f"{'':11} {'first rank':>12} {'last rank':>12}"
    for name, of_first, of_last, meaning in rows:
        if of_first:
            shown = "" if of_last is None else in_bytes(of_last)
            yield f"{name:11} {in_bytes(of_first):>12} {shown:>12}  {meaning}"
    yield ""
    yield (
        f"sequences of a rank in a step: {share.sequences:,}, micro-batches: "
        f"{share.micro_batches:,}; bytes that it sends:"
    )
    for purpose, size in (cost.sent | {"all": share.sent}).items():
        yield f"{purpose:32} {in_bytes(size):>12}"
    if share.arithmetic_s is not None and share.transfer_s is not None:
        yield from _times(share.arithmetic_s, share.transfer_s)


def _times(arithmetic: float, transfer: float) -> Iterator[str]:
    most = arithmetic / max(arithmetic, transfer)
    yield f"{'arithmetic, at the peak':32} {arithmetic:>10,.2f} s"
    yield f"{'sending':32} {transfer:>10,.2f} s"
    yield f"{'share of the peak, at most':32} {most:>12.1%}  if both overlap fully"
    least = arithmetic / (arithmetic + transfer)
    yield f"{'':32} {least:>12.1%}  if they do not overlap"


def weights_of(
    config: ModelConfig, optimizer: str, lora: LoraConfig | None = None
) -> Iterator[Weight]:
    """Yield every tensor of the model, with its adapters."""
    n, frozen = config.n_layers, lora is not None
    matrix, other = (0, 0) if frozen else (1 if optimizer == "muon" else 2, 2)
    vocabulary = (config.vocab_size, config.dim)
    yield Weight("tok_embeddings.weight", vocabulary, other, 0)
    for name, shape in config.linear_shapes().items():
        yield Weight(f"{LINEARS[name]}.{name}.weight", shape, matrix, n)
        if lora is not None and name in lora.targets:
            yield Weight(f"{LINEARS[name]}.{name}.lora_A", (lora.rank, shape[1]), 2, n)
            yield Weight(f"{LINEARS[name]}.{name}.lora_B", (shape[0], lora.rank), 2, n)
    for name in ("attention_norm.weight", "ffn_norm.weight"):
        yield Weight(name, (config.dim,), other, n)
    if config.sink_logits:
        yield Weight("attention.sink_logits", (config.n_heads,), other, n)
    yield Weight("norm.weight", (config.dim,), other, 0)
    if config.sink_token:
        yield Weight("sink_token", (config.dim,), other, 0)
    if not config.tie_embeddings:
        yield Weight("output.weight", vocabulary, other, 0)


def world_cost(
    weights: list[Weight], kind: str, size: int, micro_batches: int, bytes_per_value: int
) -> WorldCost:
    """Count for `size` processes that compute `micro_batches` each in a step.

    `kind` is `ddp` or `fsdp`, `bytes_per_value` that of Muon's products. One process alone is not
    divided.
    """
    is_divided = kind == "fsdp" and size > 1
    parts = size if is_divided else 1
    ranks = tuple(_held(weights, rank if is_divided else 0, parts) for rank in range(size))
    trained = [weight for weight in weights if weight.moments]
    if is_divided:
        sent = {
            "all-gather of weights": micro_batches
            * sum((2 * w.layers or 1) * w.sent(size) for w in weights),
            "reduce-scatter of gradients": micro_batches
            * sum(w.count * w.sent(size) for w in trained),
        }
    else:
        bytes_of_gradients = sum(w.count * w.part(0, 1) for w in trained)
        sent = {"all-reduce of gradients": 2 * (size - 1) * bytes_of_gradients // size}
    sent |= _sent_by_muon(weights, size, is_divided, bytes_per_value)
    written = [held.weights + held.moments for held in ranks]
    return WorldCost(
        kind=kind,
        ranks=ranks,
        checkpoint=tuple(written if is_divided else [written[0]] + [0] * (size - 1)),
        gathered=_gathered(weights) if is_divided else 0,
        directions=_directions(weights, size, bytes_per_value),
        sent=sent,
    )


def _held(weights: list[Weight], rank: int, size: int) -> Held:
    parts = [(w.count * w.part(rank, size), w.moments) for w in weights]
    return Held(
        weights=sum(part for part, _ in parts),
        gradients=sum(part for part, moments in parts if moments),
        moments=sum(part * moments for part, moments in parts),
    )


def _gathered(weights: list[Weight]) -> int:
    """Count the whole weights of the root and of one layer, and the larger unit's gradient."""
    units = [[w for w in weights if bool(w.layers) == in_layer] for in_layer in (False, True)]
    gradients = [sum(w.part(0, 1) for w in unit if w.moments) for unit in units]
    return sum(w.part(0, 1) for w in weights) + max(gradients)


def _sent_by_muon(
    weights: list[Weight], size: int, is_divided: bool, bytes_per_value: int
) -> dict[str, int]:
    """Count the matrices that Muon collects, and those that it sends to all, the mean process."""
    matrices = [w for w in weights if w.is_orthogonalized]
    if not matrices:
        return {}
    collected = sum(w.count * w.sent(size) for w in matrices) * bytes_per_value // FLOAT32
    whole = sum(w.count * prod(w.shape) for w in matrices) * bytes_per_value
    gather = {"all-gather of Muon's directions": collected} if is_divided else {}
    return gather | {"broadcast of Muon's updates": whole * (size - 1) // size}


def _directions(weights: list[Weight], size: int, bytes_per_value: int) -> int:
    """Count the largest group of matrices of one shape, and a process's share of the results."""
    groups: dict[tuple[int, ...], int] = {}
    for weight in weights:
        if weight.is_orthogonalized:
            groups[weight.shape] = groups.get(weight.shape, 0) + weight.count
    matrices = ((n + -(-n // size)) * prod(shape) for shape, n in groups.items())
    return max(matrices, default=0) * bytes_per_value
