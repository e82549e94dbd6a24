"""What does a config cost? Weights, reach, arithmetic, cache and memory, before any training.

All numbers are counted from the config (`model/cost.py`). No model is built, nothing is measured,
and torch is not imported. Only the memory of activations is an estimate, marked as such.
"""

import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from arguments import add_config, read_config
from configs.load import split_arguments
from configs.settings import Config, keys_of, lora_config, model_config
from data.choices import SHORTEST_SEGMENT
from errors import ArgumentParser, UserError, command, fields_named
from model.config import ModelConfig
from model.cost import (
    TrainingMemory,
    cache_bytes,
    flops_per_token,
    full_attention,
    in_bytes,
    training_flops,
    training_memory,
)
from model.parallel_cost import Share, described, share_of
from model.window import Window, picture, reach
from training.choices import PARALLEL
from training.distributed import World

LENGTHS = (1024, 4096, 8192, 32_768, 131_072)  # tokens, in the table of cache sizes
CELLS = 12  # rows and columns of a mask: three masks fit side by side
CACHE_BYTES = 2  # of a cached number: bf16
LARGEST_WORLD = 65_536  # processes
OPTIMAL_TOKENS = 20  # per weight, roughly (Chinchilla, arXiv 2203.15556, table 3)


@dataclass(frozen=True)
class Plan:
    """The costs of a config. Counts of bytes and FLOPs are exact, except `memory.activations`."""

    parameters: dict[str, int]
    windows: tuple[Window, ...]
    reach: int | None  # tokens; None: all tokens before
    tokens_per_step: int
    total_tokens: int
    drill_tokens: int  # among them; the rest is text
    flops_per_token: float
    flops_per_step: int
    flops_total: int
    flops_per_step_full: int  # with full attention in every layer
    cache_bytes: dict[int, int]  # by length in tokens
    cache_bytes_full: dict[int, int]
    memory: TrainingMemory
    checkpoint_bytes: int
    notes: list[str]


def plan(config: Config) -> Plan:
    """Count what training costs in one process, and what generation keeps in its cache."""
    shape = model_config(config, config.tokenizer.vocab_size)
    full, lora = full_attention(shape), lora_config(config)
    train, seq_len = config.train, config.data.seq_len
    sequences = config.batch_size
    bf16 = train.precision == "bf16"
    memory = training_memory(
        shape, train.micro_batch_size, seq_len, train.optimizer, 2 if bf16 else 4, lora
    )
    adapters = {} if lora is None else {"adapters": lora.parameter_count(shape)}
    return Plan(
        parameters=shape.parameter_counts() | adapters,
        windows=shape.windows,
        reach=reach(shape.windows),
        tokens_per_step=config.tokens_per_step,
        total_tokens=config.tokens_per_step * train.max_steps,
        drill_tokens=config.drills_before(train.max_steps) * seq_len,
        flops_per_token=flops_per_token(shape, seq_len, lora),
        flops_per_step=sequences * training_flops(shape, seq_len, lora),
        flops_total=train.max_steps * sequences * training_flops(shape, seq_len, lora),
        flops_per_step_full=sequences * training_flops(full, seq_len, lora),
        cache_bytes={length: cache_bytes(shape, length, CACHE_BYTES) for length in LENGTHS},
        cache_bytes_full={length: cache_bytes(full, length, CACHE_BYTES) for length in LENGTHS},
        memory=memory,
        checkpoint_bytes=memory.checkpoint,
        notes=list(_notes(config, shape)),
    )


@fields_named(keys_of("train"))
def share(config: Config, size: int, kind: str, speeds: Sequence[float] | None = None) -> Share:
    """Count what each of `size` processes holds. `speeds` are FLOP/s and bytes/s sent by each.

    Raises `UserError` if they cannot share the sequences of an update equally.
    """
    World(size=size).refuse_remainder(config.batch_size)
    train = config.train
    return share_of(
        model_config(config, config.tokenizer.vocab_size),
        lora_config(config),
        kind=kind,
        size=size,
        sequences=config.batch_size // size,
        micro_batch_size=train.micro_batch_size,
        seq_len=config.data.seq_len,
        optimizer=train.optimizer,
        bytes_per_value=2 if train.precision == "bf16" else 4,
        speeds=speeds,
    )


def _notes(config: Config, shape: ModelConfig) -> Iterator[str]:
    """Yield a note for each setting that is valid but probably a mistake."""
    seq_len, train = config.data.seq_len, config.train
    without_effect = [n for n, window in enumerate(shape.windows) if window and window >= seq_len]
    if without_effect:
        yield (
            f"in {_layers(without_effect)} the window is as long as data.seq_len ({seq_len:,}) or "
            "longer: it hides nothing in training"
        )
    tokens = reach(shape.windows)
    beyond = 0 if tokens is None else seq_len - tokens - shape.sinks
    if beyond > 0:
        yield (
            f"the reach ({tokens:,} tokens) is shorter than data.seq_len ({seq_len:,}): the last "
            f"token of a sequence does not depend on {beyond:,} earlier ones"
        )
    if shape.attention_sinks >= seq_len:
        yield (
            f"model.attention_sinks ({shape.attention_sinks:,}) covers all of data.seq_len "
            f"({seq_len:,}): training sees full attention"
        )
    counts = shape.parameter_counts()
    share = (counts["tok_embeddings"] + counts["output"]) / sum(counts.values())
    if share > 0.5 and not train.init_from:
        yield (
            f"{share:.0%} of the weights are the vocabulary's: tokenizer.vocab_size is large "
            "for model.dim and model.n_layers"
        )
    widest = max(window or seq_len for window in shape.windows)
    if config.drills_before(train.max_steps) and min(widest, seq_len) < SHORTEST_SEGMENT:
        yield (
            f"drills teach nothing: no window holds a segment of {SHORTEST_SEGMENT} tokens "
            "(data/drills.py)"
        )
    if config.tokenizer.type == "char" and not train.init_from:
        yield "the plan counts all of tokenizer.vocab_size; char uses only what the text needs"
    for name in ("eval_interval", "save_interval"):
        if getattr(train, name) > train.max_steps:
            yield f"train.{name} ({getattr(train, name):,}) is longer than the run"


def report(result: Plan, config: Config, shared: Share | None = None) -> str:
    """Return the plan as text, section by section."""
    processes = shared and f"{shared.cost.kind}, {len(shared.cost.ranks):,} processes"
    sections = [
        ("WEIGHTS", _weights(result)),
        ("WHAT A TOKEN SEES", _visibility(result, config)),
        ("ARITHMETIC OF TRAINING", _arithmetic(result, config)),
        ("CACHE OF KEYS AND VALUES, one text, bf16", _cache(result)),
        ("MEMORY OF TRAINING, one process", _memory(result, config)),
        (f"WHAT EACH RANK HOLDS, {processes}", list(described(shared) if shared else ())),
        ("NOTES", list(_wrapped(result.notes))),
    ]
    return "\n\n".join(
        "\n".join([title, *(f"  {line}".rstrip() for line in lines)])
        for title, lines in sections
        if lines
    )


def _weights(result: Plan) -> Iterator[str]:
    total = sum(result.parameters.values())
    for part, count in result.parameters.items():
        share = count / total
        yield f"{part:14} {count:>16,}  {share:>6.1%}  {'#' * round(40 * share)}"
    yield f"{'total':14} {total:>16,}  = {_short(total)}"


def _visibility(result: Plan, config: Config) -> Iterator[str]:
    seq_len = config.data.seq_len
    sinks = config.model.attention_sinks + config.model.sink_token
    kinds = list(dict.fromkeys(result.windows))
    for window in kinds:
        layers = _layers([n for n, w in enumerate(result.windows) if w == window])
        if window is None:
            yield f"{layers}: full attention, all earlier tokens"
        else:
            also = f" and the first {sinks:,}" if sinks else ""
            yield (
                f"{layers}: W = {window:,}, itself and the {window - 1:,} tokens before it{also}"
            )
    if result.reach is None:
        yield "reach through the stack: all earlier tokens, through the layers without a window"
    else:
        terms = " + ".join(["1", *(_reach_term(result.windows, w) for w in kinds if w)])
        also = f" and the first {sinks:,}" if sinks else ""
        yield f"reach through the stack: {terms} = {result.reach:,} tokens{also}"
    cells = min(CELLS, seq_len)
    yield ""
    yield (
        f"{seq_len:,} x {seq_len:,} masks in {cells} x {cells} cells, "
        "row = query, column = key, # = seen"
    )
    yield ""
    pictures = [_mask(window, sinks, seq_len, cells) for window in kinds[:3]]
    yield from ("    ".join(row) for row in zip(*pictures, strict=True))
    if len(kinds) > 3:
        yield f"and {len(kinds) - 3} more kinds of layers"


def _reach_term(windows: Sequence[Window], window: int) -> str:
    return f"{windows.count(window)} x {window - 1:,}"


def _mask(window: Window, sinks: int, seq_len: int, cells: int) -> list[str]:
    """Draw a mask in fewer cells than positions, its window and sinks in proportion."""
    window_cells = window and max(1, round(window * cells / seq_len))
    title = "full" if window is None else f"W = {window:,}"
    sink_cells = sinks and max(1, round(sinks * cells / seq_len))
    rows = picture(cells, window_cells, sink_cells).splitlines()
    return [f"{title:{2 * cells - 1}}", *rows]


def _arithmetic(result: Plan, config: Config) -> Iterator[str]:
    train = config.train
    tokens = f"{train.micro_batch_size} x {train.grad_accum_steps} x {config.data.seq_len:,}"
    ratio = result.total_tokens / sum(result.parameters.values())
    saved = 1 - result.flops_per_step / result.flops_per_step_full
    yield f"tokens per step {result.tokens_per_step:>16,}  = {tokens}"
    yield (
        f"total tokens    {result.total_tokens:>16,}  = {ratio:.3g} per weight "
        f"(about {OPTIMAL_TOKENS} is compute-optimal)"
    )
    if result.drill_tokens:
        yield (
            f"drills          {result.drill_tokens:>16,}  = the first {train.drill_steps:,} steps, "
            f"then {train.drill_share:.3g} of the sequences"
        )
    yield f"FLOPs per token {_short(result.flops_per_token):>16}  forward and backward"
    yield (
        f"FLOPs per step  {_short(result.flops_per_step):>16}  with full attention "
        f"{_short(result.flops_per_step_full)}: {_saving(saved)}"
    )
    yield f"total FLOPs     {_short(result.flops_total):>16}"


def _saving(saved: float) -> str:
    return f"the window saves {saved:.1%}" if saved else "the window saves nothing"


def _cache(result: Plan) -> Iterator[str]:
    yield f"{'tokens':>9} {'this config':>13} {'full':>13}"
    for length, size in result.cache_bytes.items():
        full = result.cache_bytes_full[length]
        times = f"{full / size:,.1f}".removesuffix(".0")
        ratio = f"{times}x smaller" if size < full else "the same"
        yield f"{length:>9,} {in_bytes(size):>13} {in_bytes(full):>13}   {ratio}"


def _memory(result: Plan, config: Config) -> Iterator[str]:
    memory, optimizer = result.memory, config.train.optimizer
    moments = "one moment of matrices, two of the rest" if optimizer == "muon" else "two moments"
    trained = ", of the adapters" if config.train.lora_rank else ""
    yield f"weights         {in_bytes(memory.weights):>12}  fp32"
    yield f"gradients       {in_bytes(memory.gradients):>12}  fp32{trained}"
    yield f"{optimizer:15} {in_bytes(memory.moments):>12}  fp32, {moments}{trained}"
    yield f"activations     {in_bytes(memory.activations):>12}  an estimate, for one micro-batch"
    yield f"total           {in_bytes(memory.total):>12}"
    yield f"checkpoint      {in_bytes(result.checkpoint_bytes):>12}  on disk: weights and moments"


def _wrapped(notes: Sequence[str]) -> Iterator[str]:
    for note in notes:
        yield from textwrap.wrap(note, 92, initial_indent="- ", subsequent_indent="  ")


def _layers(numbers: Sequence[int]) -> str:
    """Return layer numbers in words: `layer 3`, `layers 0-31`, `16 layers (0, 2, 4 ...)`."""
    if len(numbers) == 1:
        return f"layer {numbers[0]}"
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"layers {numbers[0]}-{numbers[-1]}"
    more = " ..." if len(numbers) > 3 else ""
    return f"{len(numbers)} layers ({', '.join(map(str, numbers[:3]))}{more})"


def _short(number: float) -> str:
    """Return a count in two decimals and a unit: 7.24 B."""
    for power, unit in ((21, "Z"), (18, "E"), (15, "P"), (12, "T"), (9, "B"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.2f} {unit}"
    return f"{number:g}"


def _speeds(words: Sequence[float] | None) -> list[float] | None:
    """Return FLOP/s and bytes/s, of TFLOP/s and GB/s. Raises `UserError` if they are no speeds."""
    if words is not None and not all(0 < word < float("inf") for word in words):
        raise UserError("--speeds: give TFLOP/s and GB/s, both above 0")
    return None if words is None else [words[0] * 1e12, words[1] * 1e9]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan of a config."""
    parser = ArgumentParser(
        prog="python -m scripts.plan",
        usage="%(prog)s [CONFIG] [section.key=value ...] [--world N] [--json]",
        description=(__doc__ or "").partition("\n")[0],
        epilog="example: python -m scripts.plan configs/mistral-7b.yaml data.seq_len=8192",
    )
    add_config(parser)
    parser.add_argument("--world", type=int, metavar="N", help="what each of N processes holds")
    parser.add_argument(
        "--parallel", choices=PARALLEL, help="with --world: in place of train.parallel"
    )
    parser.add_argument(
        "--speeds", nargs=2, type=float, metavar=("TFLOPS", "GBPS"),
        help="with --world: the peak of each process, and what it sends a second",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    arguments = parser.parse_args(argv)
    size, speeds = arguments.world, _speeds(arguments.speeds)
    if size is None and (arguments.parallel or speeds):
        raise UserError("--parallel and --speeds need --world N, the number of processes")
    if size is not None and not 1 <= size <= LARGEST_WORLD:
        raise UserError(f"--world is {size}: it must be from 1 to {LARGEST_WORLD:,}")
    config = read_config(arguments)
    result = plan(config)
    shared = size and share(config, size, arguments.parallel or config.train.parallel, speeds)
    if arguments.json:
        values = asdict(result) | ({"share": asdict(shared)} if shared else {})
        print(json.dumps(values, indent=1))
    else:
        path, _ = split_arguments(arguments.words)
        print(f"{path}\n\n{report(result, config, shared or None)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(None))
