"""How fast does it write? `python -m experiments.bench decode`

Breeze, transformers and llama.cpp write greedily with the same weights, in one process,
interleaved. The weights are drawn at random, so two tokens may be almost equally likely, and
rounding decides between them: texts may differ although all are right. So before the clock starts,
each text is read by Breeze's model in one pass, without a cache and without native kernels. Each
token of the text must be the most likely one there, up to a small difference of logits. A contender
that writes another token ends the command. Int8 weights are another model, the rounded one, so
their text is checked against that; a line below the table says how far its logits are from fp32.

A second table compares a window with full attention at the beginning of a long text: what is not
yet written should cost nothing.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING, Any

from errors import UserError
from experiments.benchmarks import llama, peer
from experiments.benchmarks.benchmark import (
    Panel,
    WrongResult,
    add_rounds,
    refuse_rounds,
    spell,
    table,
)
from experiments.benchmarks.contenders import BREEZE, PLAIN
from experiments.benchmarks.machine import Machine, describe_machine
from experiments.benchmarks.picture import bars
from experiments.benchmarks.rounding import Rounding, measure_rounding
from experiments.benchmarks.timing import interleaved, timed
from model.config import ModelConfig, WeightFormat

if TYPE_CHECKING:
    from model import Transformer

SHOWS = "Tokens per second of greedy decoding, beside transformers and llama.cpp."
EXAMPLE = "decode --models 2.4M --batches 1"

INT8 = "Breeze, int8 weights"
TRANSFORMERS, LLAMA = "transformers, fp32", "llama.cpp, fp32"
MODELS = {
    "2.4M": ModelConfig(4096, 192, 4, 4, 2, hidden_dim=512, tie_embeddings=True, sliding_window=64),
    "10.7M": ModelConfig(65, 384, 6, 6, 6, sliding_window=64),
}
BATCHES = (1, 32)
# Breeze's tokens/s as a multiple of those of transformers, by model and batch size. For one text of
# 10.7M the goal is the speed of llama.cpp.
GOALS = {("2.4M", 1): 5.0, ("2.4M", 32): 5.0, ("10.7M", 32): 4.0}
PROMPT_LENGTH = 8  # tokens
CAPACITY, N_FIRST = 3000, 100  # tokens of a long text, and those of them that are timed
TOLERANCE = 0.01  # of a logit, whose standard deviation is about 1

Text = list[list[int]]  # the tokens that each row writes


@dataclass(frozen=True)
class DecodeRow:
    """The speed of one contender."""

    model: str
    batch_size: int  # texts
    contender: str
    n_tokens: int  # written to each text
    seconds: list[float]  # in each round
    tokens_per_s: float  # of all texts together, in the median round
    ratio: float | None  # to transformers; in `first`: to the window
    goal: float | None


@dataclass(frozen=True)
class DecodeResult:
    """All models, batches and contenders."""

    machine: Machine
    native: str  # whether native kernels are used
    rounds: int
    rows: list[DecodeRow]
    first: list[DecodeRow]  # the first tokens of a long text: with a window, and with all keys
    rounding: list[Rounding]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--models", nargs="+", choices=list(MODELS), default=list(MODELS),
        help="sizes, in parameters (all)")  # fmt: skip
    add("--batches", nargs="+", type=int, default=list(BATCHES), metavar="N",
        help="numbers of texts at once (1 32)")  # fmt: skip
    add("--tokens", type=int, default=200, metavar="N", help="tokens to write to each text (200)")
    add_rounds(parser)


def native_refusal() -> str | None:
    """Return why Breeze cannot decode in native code on this machine, or None if it can."""
    from model.native.build import refusal

    return refusal("decode", bf16=False)


def refuse(arguments: argparse.Namespace) -> None:
    """Raise `UserError` for numbers below 1."""
    refuse_rounds(arguments)
    for option in ("tokens", "batches"):
        value = getattr(arguments, option)
        if min(value if isinstance(value, list) else [value]) < 1:
            raise UserError(f"--{option} {value}: give numbers from 1")


def measure(arguments: argparse.Namespace) -> DecodeResult:
    """Check and measure all models. Raises `WrongResult` if a text is not the most likely one."""
    from training.device import keep_freed_memory

    keep_freed_memory()  # as scripts.sample does
    rows, first, rounding = [], [], []
    for name in dict.fromkeys(arguments.models):
        model = peer.drawn_model(MODELS[name]).eval()
        for batch_size in dict.fromkeys(arguments.batches):
            rows += _measure_batch(name, model, batch_size, arguments.tokens, arguments.rounds)
        first += _measure_first(name, model, arguments.rounds)
        text = drawn_prompts(model.config, 4, CAPACITY // 4)
        rounding.append(measure_rounding(name, model, text))
    refusal = native_refusal()
    native = "yes" if refusal is None else f"no: {refusal}"
    return DecodeResult(describe_machine(), native, arguments.rounds, rows, first, rounding)


def _measure_batch(
    name: str, model: "Transformer", batch_size: int, n_tokens: int, rounds: int
) -> list[DecodeRow]:
    from model.quantization import round_weights

    prompts = drawn_prompts(model.config, batch_size)
    with ExitStack() as stack:
        writers = _writers(model, prompts, n_tokens, stack)
        written = {contender: write() for contender, write in writers.items()}
        for contender, texts in written.items():
            written_by = round_weights(model) if contender == INT8 else model
            check(f"{contender}, {name}, batch {batch_size}", written_by, prompts, texts)
        readings = {contender: timed(write) for contender, write in writers.items()}
        seconds = interleaved(readings, rounds, f"decode {name}, batch {batch_size}")
    counts = {contender: len(texts[0]) for contender, texts in written.items()}
    speeds = {
        contender: batch_size * counts[contender] / median(found)
        for contender, found in seconds.items()
    }
    best, goal = speeds.get(TRANSFORMERS), GOALS.get((name, batch_size))
    return [
        DecodeRow(
            name, batch_size, contender, counts[contender], seconds[contender], speed,
            None if best is None else speed / best, goal if contender == BREEZE else None,
        )
        for contender, speed in speeds.items()
    ]  # fmt: skip


def _measure_first(name: str, model: "Transformer", rounds: int) -> list[DecodeRow]:
    """Time the first tokens of a text for which `CAPACITY` tokens are provided."""
    from model import Transformer

    full = Transformer(replace(model.config, sliding_window=None)).eval()
    full.load_state_dict(model.state_dict())
    prompts = drawn_prompts(model.config, 1)
    n_tokens = CAPACITY - PROMPT_LENGTH
    window = f"window of {model.config.sliding_window}"
    writers = {
        contender: breeze(each, prompts, n_tokens, n_first=N_FIRST)
        for contender, each in ((window, model), ("full attention", full))
    }
    for (contender, write), each in zip(writers.items(), (model, full), strict=True):
        check(f"{contender}, {name}", each, prompts, write())
    readings = {contender: timed(write) for contender, write in writers.items()}
    seconds = interleaved(readings, rounds, f"decode {name}, first tokens")
    speeds = {contender: N_FIRST / median(found) for contender, found in seconds.items()}
    return [
        DecodeRow(
            name, 1, contender, N_FIRST, seconds[contender], speed, speed / speeds[window], None
        )
        for contender, speed in speeds.items()
    ]


def _writers(
    model: "Transformer", prompts: Text, n_tokens: int, stack: ExitStack
) -> dict[str, Callable[[], Text]]:
    """Return the contenders that this machine can run, each as a function that writes the texts."""
    found = {BREEZE: breeze(model, prompts, n_tokens)}
    if native_refusal() is None:
        found[INT8] = breeze(model, prompts, n_tokens, weights="int8")
        found[PLAIN] = breeze(model, prompts, n_tokens, native=False)
    if peer.has_transformers():
        found[TRANSFORMERS] = transformers(model, prompts, n_tokens)
    window = model.config.windows[0]
    if llama.has_llama() and len(prompts) == 1 and (window is None or window > PROMPT_LENGTH):
        length = PROMPT_LENGTH + n_tokens if window is None else window
        opened = stack.enter_context(llama.opened(model, length))
        short = min(n_tokens, length - PROMPT_LENGTH)
        found[LLAMA] = lambda: [opened.write(prompts[0], short)]
    return found


def breeze(
    model: "Transformer",
    prompts: Text,
    n_tokens: int,
    native: bool | None = None,
    n_first: int | None = None,
    weights: WeightFormat = "fp32",
) -> Callable[[], Text]:
    """Write with Breeze; only the first `n_first` of `n_tokens` are written if it is given.

    Without look-up: random weights repeat themselves, so guesses would be right more often than in
    the text of a trained model.
    """
    from model import Sampling, generate

    greedy = Sampling(temperature=0.0)

    def write() -> Text:
        steps = generate(
            model, prompts, n_tokens, sampling=greedy, native=native, weights=weights,
            look_up=False,
        )  # fmt: skip
        return [
            [token for token in row if token is not None]
            for row in zip(*islice(steps, n_first), strict=True)
        ]

    return write


def transformers(model: "Transformer", prompts: Text, n_tokens: int) -> Callable[[], Text]:
    """Write with transformers."""
    import torch

    other: Any = peer.same_model(model).eval()
    tokens = torch.tensor(prompts)
    settings = {
        "attention_mask": torch.ones_like(tokens), "max_new_tokens": n_tokens, "do_sample": False,
        "eos_token_id": None, "pad_token_id": 0,
    }  # fmt: skip

    def write() -> Text:
        texts: Text = other.generate(tokens, **settings)[:, tokens.shape[1] :].tolist()
        return texts

    return write


def drawn_prompts(config: ModelConfig, batch_size: int, length: int = PROMPT_LENGTH) -> Text:
    """Draw prompts of equal length."""
    import torch

    draw = torch.Generator().manual_seed(2)
    sizes = (batch_size, length)
    prompts: Text = torch.randint(config.vocab_size, sizes, generator=draw).tolist()
    return prompts


def check(name: str, model: "Transformer", prompts: Text, texts: Sequence[Sequence[int]]) -> None:
    """Raise `WrongResult` if a token is not the most likely one when `model` reads the text."""
    import torch

    whole = torch.tensor([[*p, *text] for p, text in zip(prompts, texts, strict=True)])
    with torch.inference_mode():
        logits = model(whole[:, :-1])[:, len(prompts[0]) - 1 :]
    chosen = logits.gather(-1, whole[:, len(prompts[0]) :, None])
    difference = (logits.amax(-1, keepdim=True) - chosen).max().item()
    if not difference <= TOLERANCE:  # also true for NaN
        raise WrongResult(
            f"{name}: wrote a token whose logit is {difference:.2g} below the largest, more than "
            f"{TOLERANCE:g}"
        )


def report(result: DecodeResult) -> Iterator[str]:
    """Yield both tables, then what their columns mean."""
    yield f"{result.machine}; native kernels: {result.native}"
    yield ""
    titles = ["model", "batch", "contender", "tokens/s", "ratio", "goal"]
    yield from table(titles, list(map(_cells, result.rows)), n_words=3)
    yield ""
    yield f"The first {N_FIRST} tokens of a text with room for {CAPACITY:,}:"
    yield ""
    titles = ["model", "batch", "attention", "tokens/s", "ratio"]
    yield from table(titles, [_cells(row)[:-1] for row in result.first], n_words=3)
    yield ""
    lengths = {row.contender: row.n_tokens for row in result.rows}
    yield (
        f"Medians of {result.rounds} interleaved rounds of {lengths[BREEZE]} tokens a text. ratio: "
        f"to transformers, and to the window. Checked before: each token's logit is within "
        f"{TOLERANCE:g} of the largest."
    )
    for each in result.rounding if INT8 in lengths else ():
        yield str(each)
    if LLAMA in lengths:
        yield (
            f"llama.cpp writes {lengths[LLAMA]} tokens, because it has no window here; a second "
            f"goal of {list(MODELS)[-1]} at batch 1 is its speed."
        )
    if not peer.has_transformers():
        yield peer.MISSING
    if not llama.has_llama():
        yield llama.MISSING


def _cells(row: DecodeRow) -> list[str]:
    return [
        row.model, str(row.batch_size), row.contender, f"{row.tokens_per_s:,.0f}",
        spell(row.ratio, ".2f", "x"), spell(row.goal, ".1f", "x"),
    ]  # fmt: skip


def panels(result: DecodeResult) -> list[Panel]:
    """Draw the tokens per second of each model and batch, with the goal."""
    drawn = []
    for model, batch in dict.fromkeys((row.model, row.batch_size) for row in result.rows):
        own = [row for row in result.rows if (row.model, row.batch_size) == (model, batch)]
        speeds = {row.contender: row.tokens_per_s for row in own}
        goals = {}
        if TRANSFORMERS in speeds:
            goals = {row.contender: speeds[TRANSFORMERS] * row.goal for row in own if row.goal}
        drawn.append(bars(f"decode, {model}, batch {batch}: tokens/s", speeds, goals))
    return drawn
