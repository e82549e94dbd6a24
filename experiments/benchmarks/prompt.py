"""How fast is a prompt read, and is it worth looking up? `python -m experiments.bench prompt [RUN]`

The first table times the first token after a long prompt. Weights, contenders and the check of what
they write are those of `bench decode`.

The second table needs a trained model, because how often a text repeats itself depends on the
model. It compares decoding that looks up its guesses in the text (`model/lookup.py`) with decoding
that does not. Both use the same random numbers, so both must write the same tokens. They may part
where rounding decides between two tokens, so the table counts the texts that are equal.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from arguments import open_run
from errors import UserError
from experiments.benchmarks import decode, peer
from experiments.benchmarks.benchmark import Panel, add_rounds, refuse_rounds, spell, table
from experiments.benchmarks.contenders import BREEZE, PLAIN
from experiments.benchmarks.decode import TRANSFORMERS, Text
from experiments.benchmarks.machine import Machine, describe_machine
from experiments.benchmarks.picture import bars
from experiments.benchmarks.timing import interleaved, timed

if TYPE_CHECKING:
    from inference.trained import TrainedModel
    from model import Sampling

SHOWS = "Tokens per second of reading a prompt, and what looking up guesses in it gains."
EXAMPLE = "prompt runs/quickstart"

LENGTH = 4096  # tokens of a prompt
N_TEXTS, N_TOKENS = 4, 300  # that a trained model writes in a round
GREEDY, DRAWN = "most likely tokens", "drawn tokens"


@dataclass(frozen=True)
class PromptRow:
    """The speed of reading by one contender."""

    model: str
    contender: str
    seconds: list[float]  # in each round
    tokens_per_s: float  # of the prompt, in the median round
    ratio: float | None  # to transformers


@dataclass(frozen=True)
class LookupRow:
    """The speed of writing with and without look-up."""

    sampling: str
    tokens_per_s: float  # without look-up, in the median round
    looked_up_per_s: float
    ratio: float
    n_equal: int  # texts, of `N_TEXTS`


@dataclass(frozen=True)
class PromptResult:
    """All models and contenders; `lookup` is empty if no run was named."""

    machine: Machine
    native: str  # whether native kernels are used
    rounds: int
    length: int  # tokens of the prompt
    rows: list[PromptRow]
    run: str | None
    lookup: list[LookupRow]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("run", nargs="?", metavar="RUN", help="a trained model, for the table of look-up (none)")
    add("--checkpoint", default="best", metavar="best|last|STEP", help="of RUN (best)")
    add("--length", type=int, default=LENGTH, metavar="N", help=f"tokens of a prompt ({LENGTH})")
    add_rounds(parser)


def refuse(arguments: argparse.Namespace) -> None:
    """Raise `UserError` for numbers below 1."""
    refuse_rounds(arguments)
    if arguments.length < 1:
        raise UserError(f"--length {arguments.length}: give a number from 1")


def measure(arguments: argparse.Namespace) -> PromptResult:
    """Check and measure. Raises `WrongResult` if a contender writes another token."""
    from training.device import keep_freed_memory

    keep_freed_memory()  # as scripts.sample does
    lookup = []
    if arguments.run is not None:
        trained = open_run(arguments)
        lookup = [_measure_lookup(trained, name, arguments.rounds) for name in (GREEDY, DRAWN)]
    rows = []
    for name in decode.MODELS:
        rows += _measure_reading(name, arguments.length, arguments.rounds)
    refusal = decode.native_refusal()
    native = "yes" if refusal is None else f"no: {refusal}"
    return PromptResult(
        describe_machine(), native, arguments.rounds, arguments.length, rows, arguments.run, lookup
    )


def _measure_reading(name: str, length: int, rounds: int) -> list[PromptRow]:
    model = peer.drawn_model(decode.MODELS[name]).eval()
    prompts = decode.drawn_prompts(model.config, 1, length)
    writers = {BREEZE: decode.breeze(model, prompts, 1)}
    if decode.native_refusal() is None:
        writers[PLAIN] = decode.breeze(model, prompts, 1, native=False)
    if peer.has_transformers():
        writers[TRANSFORMERS] = decode.transformers(model, prompts, 1)
    for contender, write in writers.items():
        decode.check(f"{contender}, {name}", model, prompts, write())
    readings = {contender: timed(write) for contender, write in writers.items()}
    seconds = interleaved(readings, rounds, f"prompt, {name}")
    speeds = {contender: length / median(found) for contender, found in seconds.items()}
    best = speeds.get(TRANSFORMERS)
    return [
        PromptRow(name, contender, seconds[contender], speed, best and speed / best)
        for contender, speed in speeds.items()
    ]


def _measure_lookup(trained: "TrainedModel", name: str, rounds: int) -> LookupRow:
    from model import Sampling

    sampling = Sampling(temperature=0.0) if name == GREEDY else trained.sampling
    sampling = replace(sampling, repetition_penalty=1.0)  # it would turn look-up off
    writers = {
        kind: partial(_write, trained, sampling, look_up)
        for kind, look_up in (("plain", False), ("look-up", True))
    }
    written = [write() for write in writers.values()]
    readings = {kind: timed(write) for kind, write in writers.items()}
    seconds = interleaved(readings, rounds, f"{name} with and without look-up")
    n_tokens = sum(map(len, written[0]))
    plain, looked_up = (n_tokens / median(found) for found in seconds.values())
    n_equal = sum(a == b for a, b in zip(*written, strict=True))
    return LookupRow(name, plain, looked_up, looked_up / plain, n_equal)


def _write(trained: "TrainedModel", sampling: "Sampling", look_up: bool) -> Text:
    """Continue the config's own prompt with several seeds; texts do not end early."""
    from model import generate

    ids = trained.tokenizer.encode_prompt(trained.config.sample.prompt)
    texts = []
    for seed in range(N_TEXTS):
        steps = generate(
            trained.model, [ids], N_TOKENS, sampling=sampling, seed=seed, look_up=look_up
        )
        texts.append([row[0] for row in steps if row[0] is not None])
    return texts


def report(result: PromptResult) -> Iterator[str]:
    """Yield the tables, each with what its columns mean."""
    yield f"{result.machine}; native kernels: {result.native}"
    yield ""
    titles = ["model", "contender", "tokens/s", "ratio"]
    cells = [
        [row.model, row.contender, f"{row.tokens_per_s:,.0f}", spell(row.ratio, ".2f", "x")]
        for row in result.rows
    ]
    yield from table(titles, cells, n_words=2)
    yield ""
    yield (
        f"A prompt of {result.length:,} tokens and the token after it, medians of {result.rounds} "
        "interleaved rounds. ratio: to transformers."
    )
    if not peer.has_transformers():
        yield peer.MISSING
    if result.run is None:
        yield "Look-up was left out, because it needs a trained model: add RUN"
        return
    yield ""
    titles = ["sampling", "tokens/s", "with look-up", "ratio", "equal texts"]
    cells = [
        [
            row.sampling, f"{row.tokens_per_s:,.0f}", f"{row.looked_up_per_s:,.0f}",
            f"{row.ratio:.2f}x", f"{row.n_equal} of {N_TEXTS}",
        ]
        for row in result.lookup
    ]  # fmt: skip
    yield from table(titles, cells)
    yield ""
    yield (
        f"{N_TEXTS} texts of {N_TOKENS} tokens by {result.run}, one after another. Drawn tokens "
        "have the sampling of its config, without repetition penalty."
    )


def panels(result: PromptResult) -> list[Panel]:
    """Draw the speed of reading, by model."""
    drawn = []
    for model in dict.fromkeys(row.model for row in result.rows):
        speeds = {row.contender: row.tokens_per_s for row in result.rows if row.model == model}
        drawn.append(bars(f"reading a prompt, {model}: tokens/s", speeds, {}))
    return drawn
