"""Is the window of this very model what the rule says? `python -m scripts.verify runs/quickstart`

Runs the proofs of `checks/` on a config (with random weights) or a trained checkpoint, on
this machine, and prints a line for each: what was checked, in how many cases, the worst difference
and the one that is allowed. Then a picture of the mask, and of what was measured to reach the last
token. Exit code 1 if a proof fails.
"""

import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.load import QUICKSTART, load_config, split_arguments
from configs.settings import model_config
from errors import ArgumentParser, UserError, command
from model.config import ModelConfig
from model.window import picture, reach

if TYPE_CHECKING:
    from checks import Proof
    from model.transformer import Transformer

LARGEST = 10_000_000  # weights of a model that is checked as it is
SMALL = {"dim": 128, "hidden_dim": 256, "vocab_size": 512, "n_layers": 4}  # of one that is not
NARROW, FEW = 64, 4  # window and sinks in place of those that are wider than can be proved
CELLS, COLUMNS = 16, 36  # of the pictures of mask and reach
LINE = "{:7}{:13}{:54}{:>8}{:>9}{:>9}"


@dataclass(frozen=True)
class Checked:
    """A model to prove, and what to say of it."""

    model: "Transformer"
    origin: str
    seq_len: int
    reduced: list[str]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the proofs' verdicts and the two pictures; 1 if a proof fails."""
    parser = ArgumentParser(
        prog="python -m scripts.verify",
        usage="%(prog)s [CONFIG | RUN | CHECKPOINT] [section.key=value ...] [--only NAME ...]",
        description=(__doc__ or "").partition("\n")[0],
        epilog="example: python -m scripts.verify runs/quickstart --only cache reach",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG, RUN or CHECKPOINT, section.key=value",
        help=f"what to check ({QUICKSTART} if nothing is named); settings replace a config's own",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these proofs, not all")
    parser.add_argument("--seed", type=int, default=0, help="draws texts and random weights (0)")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.seed < 0:
        raise UserError(f"--seed is {arguments.seed}: it must be 0 or more")
    path, overrides = split_arguments(arguments.words)
    if Path(path).suffix in (".yaml", ".yml"):
        checked = _from_config(path, overrides, arguments.seed)
    elif overrides:
        raise UserError(f"{overrides[0]}: settings change a config; {path} is checked as it is")
    else:
        checked = _from_run(path, arguments.seed)
    with _one_thread():
        proofs = _prove(checked, arguments.only, arguments.seed)
        print(f"\n{_masks(checked.model.config)}\n\n{_measured(checked.model, arguments.seed)}")
    return 0 if all(proof.holds for proof in proofs) else 1


def _from_config(path: str, overrides: Sequence[str], seed: int) -> Checked:
    """The model of a config, its weights drawn."""
    config = load_config(path, overrides)
    shape = model_config(config, config.tokenizer.vocab_size)
    changes = _narrower(shape) | _smaller(shape)
    model = _drawn(replace(shape, **changes), seed)
    return Checked(model, f"{path}, random weights", config.data.seq_len, _told(shape, changes))


def _from_run(path: str, seed: int) -> Checked:
    """The model of a checkpoint; a small one like it where it is too large to be checked."""
    from inference.trained import open_trained

    opened = open_trained(path)
    shape, seq_len = opened.model.config, opened.config.data.seq_len
    origin, narrower, smaller = str(opened.checkpoint.path), _narrower(shape), _smaller(shape)
    if smaller:
        model = _drawn(replace(shape, **narrower, **smaller), seed)
        origin += ", random weights in place of its own"
    else:
        model = opened.with_settings(**narrower).model if narrower else opened.model
    return Checked(model, origin, seq_len, _told(shape, narrower | smaller))


def _narrower(shape: ModelConfig) -> dict[str, Any]:
    """Windows and sinks in the same proportion, where they are wider than proofs can check."""
    from checks.subject import WIDEST

    widest = max((window for window in shape.windows if window is not None), default=0)
    sinks = min(shape.attention_sinks, FEW)
    if widest + shape.sinks <= WIDEST:
        return {}
    if widest + sinks + shape.sink_token <= WIDEST:
        return {"attention_sinks": sinks}
    pattern = shape.sliding_window if isinstance(shape.sliding_window, tuple) else [widest]
    scaled = [window and max(1, round(window * NARROW / widest)) for window in pattern]
    return {"sliding_window": scaled, "attention_sinks": sinks}


def _smaller(shape: ModelConfig) -> dict[str, Any]:
    """Other sizes for a model with too many weights: the same layers, heads in the same groups."""
    if sum(shape.parameter_counts().values()) <= LARGEST:
        return {}
    pattern = shape.sliding_window
    layers = max(SMALL["n_layers"], len(pattern) if isinstance(pattern, tuple) else 1)
    key_heads = min(shape.n_kv_heads, 2)
    sizes = SMALL | {
        "n_layers": min(shape.n_layers, layers),
        "n_heads": key_heads * (shape.n_heads // shape.n_kv_heads),
        "n_kv_heads": key_heads,
    }
    return {name: min(size, getattr(shape, name)) for name, size in sizes.items()}


def _told(shape: ModelConfig, changes: dict[str, Any]) -> list[str]:
    """Say which numbers are not the model's own."""
    was = {name: getattr(shape, name) for name in changes}
    if "sliding_window" in changes:
        was["sliding_window"] = list(dict.fromkeys(shape.windows))
        changes = changes | {"sliding_window": list(dict.fromkeys(changes["sliding_window"]))}
    return [
        f"{name} {_plain(value)} -> {_plain(changes[name])}"
        for name, value in was.items()
        if value != changes[name]
    ]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join("full" if item is None else f"{item:,}" for item in value)
    return f"{value:,}"


def _drawn(shape: ModelConfig, seed: int) -> "Transformer":
    """A model whose every weight matters; in a fresh one, half of the projections are zero."""
    import torch

    from model.transformer import Transformer
    from training.device import keep_freed_memory

    keep_freed_memory()
    model, draw = Transformer(shape), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(generator=draw)
            if "norm" in name:
                weight.mul_(0.2).add_(1)
            elif weight.dim() == 2 and name != "tok_embeddings.weight":
                weight.mul_(weight.shape[1] ** -0.5)
    return model.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Thousands of small steps: threads that wait for each other make them slower, not faster."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _prove(checked: Checked, only: Sequence[str] | None, seed: int) -> list["Proof"]:
    """Run the proofs under a bar, and print what each of them found as soon as it is known."""
    from tqdm import tqdm

    from checks import PROOFS, prove

    names = list(only or PROOFS)
    prove(checked.model, names)  # a name that does not exist is told before the work begins
    print("\n".join(_about(checked)), end="\n\n", flush=True)
    print(LINE.format("", "proof", "what was checked", "cases", "worst", "allowed"), flush=True)
    proofs: list[Proof] = []
    start = time.perf_counter()
    with tqdm(total=len(names), leave=False, disable=None) as bar:
        for name in names:
            bar.set_description(name)
            proofs += prove(checked.model, [name], seed)
            bar.write(_line(proofs[-1]))
            bar.update()
    seconds, cases = time.perf_counter() - start, sum(proof.cases for proof in proofs)
    failed = [proof.name for proof in proofs if not proof.holds]
    verdict = f"FAILED: {', '.join(failed)}" if failed else "all that applies holds"
    print(f"\n{verdict} ({len(proofs)} proofs, {cases:,} cases, {seconds:.0f} s)")
    return proofs


def _about(checked: Checked) -> Iterator[str]:
    """Say what is checked, what of it is not the model's own, and what is hardly meant."""
    shape = checked.model.config
    size = sum(shape.parameter_counts().values())
    kinds = [f"{shape.windows.count(w)} x {w or 'full'}" for w in dict.fromkeys(shape.windows)]
    beside = f" and {shape.sinks:,} sinks" if shape.sinks else ""
    yield checked.origin
    yield (
        f"{size:,} weights, {shape.n_layers} layers with windows {', '.join(kinds)}{beside}; "
        f"{shape.n_heads} heads on {shape.n_kv_heads} key heads"
    )
    if checked.reduced:
        yield "too large to be checked whole; checked is the same model, but for"
        yield from textwrap.wrap("; ".join(checked.reduced), 98, initial_indent="  ",
                                 subsequent_indent="  ")  # fmt: skip
    wide = [window for window in shape.windows if window and window >= checked.seq_len]
    if wide:
        yield (
            f"data.seq_len is {checked.seq_len:,}: in training a window of {max(wide):,} hides "
            "nothing; the texts here are longer"
        )


def _line(proof: "Proof") -> str:
    """One proof's line, and its remarks below."""
    verdict = "FAILS" if not proof.holds else "holds" if proof.cases else "-"
    worst = "wrong" if proof.worst == float("inf") else f"{proof.worst:.2g}"
    numbers = (f"{proof.cases:,}", worst, f"{proof.tolerance:g}") if proof.cases else ("", "", "")
    line = LINE.format(verdict, proof.name, proof.claim, *numbers).rstrip()
    remarks = textwrap.wrap(proof.note, 100, initial_indent=" " * 20, subsequent_indent=" " * 20)
    return "\n".join([line, *remarks])


def _masks(shape: ModelConfig) -> str:
    """Draw the mask of each kind of layer, as large as it is or with several tokens to a cell."""
    widest = max((window for window in shape.windows if window is not None), default=CELLS // 3)
    cell = -(-(2 * widest + shape.sinks) // CELLS)  # tokens
    scale = "a cell is a token" if cell == 1 else f"a cell is {cell:,} tokens, rounded"
    drawings = []
    for window in dict.fromkeys(shape.windows):
        title = "full" if window is None else f"W = {window:,}"
        title += f" in {shape.windows.count(window)} of {shape.n_layers} layers"
        small = window and max(1, round(window / cell))
        sinks = -(-shape.sinks // cell)
        rows = picture(CELLS, small, sinks).splitlines()
        drawings.append([f"{title:{2 * CELLS - 1}}", *rows])
    lines = [f"MASK, row = query, column = key, # = seen ({scale})"]
    for n in range(0, len(drawings), 3):
        lines += [
            "",
            *("   ".join(row).rstrip() for row in zip(*drawings[n : n + 3], strict=True)),
        ]
    return "\n".join(lines)


def _measured(model: "Transformer", seed: int) -> str:
    """Draw which tokens have a gradient at the last one: layer by layer, and through the stack."""
    from checks.subject import Subject, influence

    on = Subject(model, seed)
    length, shape = on.stretch, on.config
    cell = -(-length // COLUMNS)
    width = -(-length // cell)
    measured = influence(on.model, on.text(length), length - 1)
    column = f"a column is {cell:,} token{'s' * (cell > 1)}"
    lines = [
        f"REACH, measured: which of {length:,} tokens have a gradient at the last one",
        f"(# some, . exactly none; {column}; then how many, and NOT how many were promised)",
        "",
        f"{'':10}{'through the layer alone':{width + 10}}through it and those before it",
    ]
    for depth, rows in enumerate(zip(*measured, strict=True)):
        line = f"layer {depth:<4}"
        for row, first in zip(rows, (depth, 0), strict=True):
            bar = "".join("#" if part.any() else "." for part in row.split(cell))
            found = int((row > 0).sum())
            promised = _promised(shape, first, depth, length)
            line += f"{bar} {found:>5,}" + ("    " if found == promised else f" NOT {promised:,} ")
        lines.append(line.rstrip())
    return "\n".join(lines)


def _promised(shape: ModelConfig, first: int, last: int, length: int) -> int:
    """How many of `length` tokens the windows of these layers let through to the last token."""
    tokens = reach(shape.windows[first : last + 1])
    return length if tokens is None else min(length, tokens + shape.attention_sinks)


if __name__ == "__main__":
    sys.exit(main())
