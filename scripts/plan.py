"""What a config costs, before anything is trained: weights, reach, arithmetic, cache, memory.

All of it is counted from the config (`model/cost.py`), nothing is built or measured, and torch is
not imported. Only the memory of activations is an estimate, and says so.
"""

import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from configs.load import QUICKSTART, load_config, split_arguments
from configs.settings import Config, model_config
from errors import ArgumentParser, command
from model.config import ModelConfig
from model.cost import (
    TrainingMemory,
    cache_bytes,
    flops_per_token,
    full_attention,
    training_flops,
    training_memory,
)
from model.window import Window, picture, reach

LENGTHS = (1024, 4096, 8192, 32_768, 131_072)  # of the cache's table
CELLS = 12  # rows of a mask's picture: three of them fit side by side
CACHE_BYTES = 2  # of a cached number, in bf16
OPTIMAL_TOKENS = 20  # a parameter, roughly: Chinchilla, arXiv 2203.15556, table 3


@dataclass(frozen=True)
class Plan:
    """The numbers of a plan; bytes and FLOPs are whole, exact counts."""

    parameters: dict[str, int]
    windows: tuple[Window, ...]
    reach: int | None  # tokens; None: everything before
    tokens_per_step: int
    total_tokens: int
    flops_per_token: float
    flops_per_step: int
    flops_total: int
    flops_per_step_full: int  # with full attention in every layer
    cache_bytes: dict[int, int]  # by length
    cache_bytes_full: dict[int, int]
    memory: TrainingMemory
    checkpoint_bytes: int
    notes: list[str]


def plan(config: Config) -> Plan:
    """Count what a config costs on one process."""
    shape = model_config(config, config.tokenizer.vocab_size)
    full = full_attention(shape)
    train, seq_len = config.train, config.data.seq_len
    sequences = train.micro_batch_size * train.grad_accum_steps
    bf16 = train.precision == "bf16"
    memory = training_memory(
        shape, train.micro_batch_size, seq_len, train.optimizer, 2 if bf16 else 4
    )
    return Plan(
        parameters=shape.parameter_counts(),
        windows=shape.windows,
        reach=reach(shape.windows),
        tokens_per_step=config.tokens_per_step,
        total_tokens=config.tokens_per_step * train.max_steps,
        flops_per_token=flops_per_token(shape, seq_len),
        flops_per_step=sequences * training_flops(shape, seq_len),
        flops_total=train.max_steps * sequences * training_flops(shape, seq_len),
        flops_per_step_full=sequences * training_flops(full, seq_len),
        cache_bytes={length: cache_bytes(shape, length, CACHE_BYTES) for length in LENGTHS},
        cache_bytes_full={length: cache_bytes(full, length, CACHE_BYTES) for length in LENGTHS},
        memory=memory,
        checkpoint_bytes=memory.checkpoint,
        notes=list(_notes(config, shape)),
    )


def _notes(config: Config, shape: ModelConfig) -> Iterator[str]:
    """Say what is allowed but probably not meant."""
    seq_len, train = config.data.seq_len, config.train
    idle = [n for n, window in enumerate(shape.windows) if window and window >= seq_len]
    if idle:
        yield (
            f"in {_layers(idle)} the window is as long as data.seq_len ({seq_len:,}) or longer: "
            "it hides nothing in training"
        )
    tokens = reach(shape.windows)
    unknown = 0 if tokens is None else seq_len - tokens - shape.sinks
    if unknown > 0:
        yield (
            f"the reach ({tokens:,} tokens) is shorter than data.seq_len ({seq_len:,}): the last "
            f"token of a training window cannot know of {unknown:,} earlier ones"
        )
    if shape.attention_sinks >= seq_len:
        yield (
            f"model.attention_sinks ({shape.attention_sinks:,}) covers all of data.seq_len "
            f"({seq_len:,}): training sees full attention"
        )
    counts = shape.parameter_counts()
    share = (counts["tok_embeddings"] + counts["output"]) / sum(counts.values())
    if share > 0.5:
        yield (
            f"{share:.0%} of the weights are the vocabulary's: tokenizer.vocab_size is large "
            "for model.dim and model.n_layers"
        )
    if config.tokenizer.type == "char":
        yield "tokenizer.vocab_size is counted in full; char takes as much of it as the text needs"
    for name in ("eval_interval", "save_interval"):
        if getattr(train, name) > train.max_steps:
            yield f"train.{name} ({getattr(train, name):,}) is longer than the run"


def drawing(result: Plan, config: Config) -> str:
    """Draw the plan as text, section by section."""
    sections = [
        ("WEIGHTS", _weights(result)),
        ("WHAT A TOKEN SEES", _sight(result, config)),
        ("ARITHMETIC OF TRAINING", _arithmetic(result, config)),
        ("CACHE OF KEYS AND VALUES, one sequence, 2 bytes a number", _cache(result)),
        ("MEMORY OF TRAINING, one process", _memory(result, config)),
        ("NOTES", list(_hanging(result.notes))),
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


def _sight(result: Plan, config: Config) -> Iterator[str]:
    seq_len = config.data.seq_len
    sinks = config.model.attention_sinks + config.model.sink_token
    kinds = list(dict.fromkeys(result.windows))
    for window in kinds:
        layers = _layers([n for n, w in enumerate(result.windows) if w == window])
        if window is None:
            yield f"{layers}: full attention, all tokens before it"
        else:
            beside = f" and the first {sinks:,}" if sinks else ""
            yield (
                f"{layers}: W = {window:,}, itself and the {window - 1:,} tokens before it{beside}"
            )
    if result.reach is None:
        yield "reach through the stack: everything before, by the layers without a window"
    else:
        back = " + ".join(["1", *(_summand(result.windows, w) for w in kinds if w)])
        beside = f" and the first {sinks:,}" if sinks else ""
        yield f"reach through the stack: {back} = {result.reach:,} tokens{beside}"
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
        yield f"and {len(kinds) - 3} more kinds of layer"


def _summand(windows: Sequence[Window], window: int) -> str:
    return f"{windows.count(window)} x {window - 1:,}"


def _mask(window: Window, sinks: int, seq_len: int, cells: int) -> list[str]:
    """Draw a mask with its window and sinks in the same proportion to fewer positions."""
    small = window and max(1, round(window * cells / seq_len))
    title = "full" if window is None else f"W = {window:,}"
    rows = picture(cells, small, sinks and max(1, round(sinks * cells / seq_len))).splitlines()
    return [f"{title:{2 * cells - 1}}", *rows]


def _arithmetic(result: Plan, config: Config) -> Iterator[str]:
    train = config.train
    tokens = f"{train.micro_batch_size} x {train.grad_accum_steps} x {config.data.seq_len:,}"
    ratio = result.total_tokens / sum(result.parameters.values())
    spared = 1 - result.flops_per_step / result.flops_per_step_full
    yield f"tokens a step   {result.tokens_per_step:>16,}  = {tokens}"
    yield (
        f"tokens in all   {result.total_tokens:>16,}  = {ratio:.3g} a weight "
        f"(about {OPTIMAL_TOKENS} is compute-optimal)"
    )
    yield f"FLOPs a token   {_short(result.flops_per_token):>16}  forward and backward"
    yield (
        f"FLOPs a step    {_short(result.flops_per_step):>16}  with full attention "
        f"{_short(result.flops_per_step_full)}: {_saving(spared)}"
    )
    yield f"FLOPs in all    {_short(result.flops_total):>16}"


def _saving(spared: float) -> str:
    return f"the window spares {spared:.1%}" if spared else "nothing is spared"


def _cache(result: Plan) -> Iterator[str]:
    yield f"{'tokens':>9} {'this config':>13} {'full':>13}"
    for length, size in result.cache_bytes.items():
        full = result.cache_bytes_full[length]
        times = f"{full / size:,.1f}".removesuffix(".0")
        ratio = f"{times}x smaller" if size < full else "the same"
        yield f"{length:>9,} {_bytes(size):>13} {_bytes(full):>13}   {ratio}"


def _memory(result: Plan, config: Config) -> Iterator[str]:
    memory, optimizer = result.memory, config.train.optimizer
    moments = "one moment of matrices, two of the rest" if optimizer == "muon" else "two moments"
    yield f"weights         {_bytes(memory.weights):>12}  fp32"
    yield f"gradients       {_bytes(memory.gradients):>12}  fp32"
    yield f"{optimizer:15} {_bytes(memory.moments):>12}  fp32, {moments}"
    yield f"activations     {_bytes(memory.activations):>12}  an ESTIMATE, for one micro-batch"
    yield f"total           {_bytes(memory.total):>12}"
    yield f"a checkpoint    {_bytes(result.checkpoint_bytes):>12}  on disk: weights and moments"


def _hanging(notes: Sequence[str]) -> Iterator[str]:
    for note in notes:
        yield from textwrap.wrap(note, 92, initial_indent="- ", subsequent_indent="  ")


def _layers(numbers: Sequence[int]) -> str:
    """Name layers: `layer 3`, `layers 0-31`, `16 layers (0, 2, 4 ...)`."""
    if len(numbers) == 1:
        return f"layer {numbers[0]}"
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"layers {numbers[0]}-{numbers[-1]}"
    more = " ..." if len(numbers) > 3 else ""
    return f"{len(numbers)} layers ({', '.join(map(str, numbers[:3]))}{more})"


def _short(number: float) -> str:
    """Write a count in three digits: 7.24 B."""
    for power, unit in (
        (1e21, "Z"),
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "B"),
        (1e6, "M"),
        (1e3, "k"),
    ):
        if number >= power:
            return f"{number / power:.2f} {unit}"
    return f"{number:g}"


def _bytes(number: float) -> str:
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if number >= 2**power:
            return f"{number / 2**power:,.2f} {unit}"
    return f"{number:g} B"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan of a config."""
    parser = ArgumentParser(
        prog="python -m scripts.plan",
        usage="%(prog)s [CONFIG] [section.key=value ...] [--json]",
        description=(__doc__ or "").partition("\n")[0],
        epilog="example: python -m scripts.plan configs/mistral-7b.yaml data.seq_len=8192",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG, section.key=value",
        help=(f"a YAML file ({QUICKSTART} if none is named), and settings that replace its own"),
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    arguments = parser.parse_intermixed_args(argv)
    path, overrides = split_arguments(arguments.words)
    config = load_config(path, overrides)
    result = plan(config)
    if arguments.json:
        print(json.dumps(asdict(result), indent=1))
    else:
        print(f"{path}\n\n{drawing(result, config)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(None))
