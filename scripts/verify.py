"""Does this model obey the rule of its window? `python -m scripts.verify runs/quickstart`

Runs the checks of `checks/` on a config (with random weights) or on a trained checkpoint, on this
machine. Prints a line for each check: what was checked, in how many cases, the largest difference
and the largest that is allowed. Then prints the mask, and the measured reach of the last token.
Exit code 1 if a check fails.
"""

import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arguments import trained_settings
from configs.load import QUICKSTART, load_config, split_arguments
from configs.settings import Config, model_config
from errors import ArgumentParser, UserError, command
from model.config import ModelConfig
from model.window import picture, reach
from training.run_folder import find

if TYPE_CHECKING:  # torch is imported only after the arguments are valid
    from checks import Check
    from model.transformer import Transformer

MASK_CELLS, REACH_COLUMNS = 16, 36  # sizes of the two pictures
LINE = "{:7}{:13}{:54}{:>8}{:>9}{:>9}"


@dataclass(frozen=True)
class Target:
    """The model to check, and how it differs from the one that was named."""

    model: "Transformer"
    origin: str  # where config and weights are from
    seq_len: int  # tokens in a training sequence
    reductions: list[str]  # settings that were made smaller: `dim 4,096 -> 128`


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the results of the checks and the two pictures; return 1 if a check fails."""
    parser = ArgumentParser(
        prog="python -m scripts.verify",
        usage="%(prog)s [CONFIG | RUN | CHECKPOINT] [section.key=value ...] [--only NAME ...] "
        "[--seed N]",
        description="Check that a model obeys the rule of its window, on this machine.",
        epilog="example: python -m scripts.verify runs/quickstart --only cache reach",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG, RUN or CHECKPOINT, section.key=value",
        help=f"what to check (default {QUICKSTART}), and changes to a config",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run only these checks")
    parser.add_argument("--seed", type=int, default=0, metavar="N",
                        help="seed of texts and random weights (0)")  # fmt: skip
    arguments = parser.parse_args(argv)
    if arguments.seed < 0:
        raise UserError(f"--seed is {arguments.seed}: it must be 0 or more")
    path, overrides = split_arguments(arguments.words)
    if Path(path).suffix in (".yaml", ".yml"):
        target = _from_config(load_config(path, overrides, trained_settings), path, arguments.seed)
    elif overrides:
        raise UserError(f"{overrides[0]}: {path} is not a config, its settings are fixed")
    else:
        target = _from_run(path, arguments.seed)
    with _one_thread():
        checks = _run(target, arguments.only, arguments.seed)
        print(f"\n{_masks(target.model.config)}\n\n{_measured_reach(target.model, arguments.seed)}")
    return 0 if all(check.holds for check in checks) else 1


# ------------------------------------------------------------------- the model


def _from_config(config: Config, path: str, seed: int) -> Target:
    """Build the model of a config with random weights."""
    from checks.models import narrower_settings, random_model, smaller_settings
    from training.device import keep_freed_memory

    keep_freed_memory()
    shape = model_config(config, config.tokenizer.vocab_size)
    changes = narrower_settings(shape) | smaller_settings(shape)
    model = random_model(replace(shape, **changes), seed)
    origin = f"{path}, random weights"
    return Target(model, origin, config.data.seq_len, _reductions(shape, changes))


def _from_run(path: str, seed: int) -> Target:
    """Open the model of a run; if it is too large, build a similar small one."""
    checkpoint = find(Path(path))

    from checks.models import narrower_settings, random_model, smaller_settings
    from inference.trained import open_checkpoint

    trained = open_checkpoint(checkpoint)
    shape, seq_len = trained.model.config, trained.config.data.seq_len
    origin = str(trained.checkpoint.path)
    narrower, smaller = narrower_settings(shape), smaller_settings(shape)
    if smaller:
        model = random_model(replace(shape, **narrower, **smaller), seed)
        origin += ", random weights in place of its own"
    else:
        model = trained.with_settings(**narrower).model if narrower else trained.model
    return Target(model, origin, seq_len, _reductions(shape, narrower | smaller))


def _reductions(shape: ModelConfig, changes: dict[str, Any]) -> list[str]:
    """Describe each changed setting, with the value before and after."""
    before = {name: getattr(shape, name) for name in changes}
    if "sliding_window" in changes:
        before["sliding_window"] = list(dict.fromkeys(shape.windows))
        changes = changes | {"sliding_window": list(dict.fromkeys(changes["sliding_window"]))}
    return [
        f"{name} {_spell(value)} -> {_spell(changes[name])}"
        for name, value in before.items()
        if value != changes[name]
    ]


def _spell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join("full" if item is None else f"{item:,}" for item in value)
    return f"{value:,}"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: the tensors are so small that more threads only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# ------------------------------------------------------------------- the checks


def _run(target: Target, only: Sequence[str] | None, seed: int) -> list["Check"]:
    """Run the checks with a progress bar; print each result as soon as it is known."""
    from tqdm import tqdm

    from checks import CHECKS, run_checks

    names = list(only or CHECKS)
    run_checks(target.model, names)  # raises for an unknown name; runs nothing yet
    print("\n".join(_description(target)), end="\n\n", flush=True)
    print(LINE.format("", "check", "what was checked", "cases", "worst", "allowed"), flush=True)
    checks: list[Check] = []
    start = time.perf_counter()
    with tqdm(total=len(names), leave=False, disable=None) as bar:
        for name in names:
            bar.set_description(name)
            checks += run_checks(target.model, [name], seed)
            bar.write(_line(checks[-1]))
            bar.update()
    seconds, cases = time.perf_counter() - start, sum(check.cases for check in checks)
    failed = [check.name for check in checks if not check.holds]
    verdict = f"FAILED: {', '.join(failed)}" if failed else "all checks that apply hold"
    print(f"\n{verdict} ({len(checks)} checks, {cases:,} cases, {seconds:.0f} s)")
    return checks


def _description(target: Target) -> Iterator[str]:
    """Describe the model, its reduced settings, and windows that have no effect in training."""
    shape = target.model.config
    size = sum(shape.parameter_counts().values())
    kinds = [f"{shape.windows.count(w)} x {w or 'full'}" for w in dict.fromkeys(shape.windows)]
    sinks = f" and {shape.sinks:,} sinks" if shape.sinks else ""
    yield target.origin
    yield (
        f"{size:,} weights, {shape.n_layers} layers with windows {', '.join(kinds)}{sinks}; "
        f"{shape.n_heads} query heads, {shape.n_kv_heads} key/value heads"
    )
    if target.reductions:
        yield "too large to check in full; the checked model has these smaller settings:"
        yield from textwrap.wrap("; ".join(target.reductions), 98, initial_indent="  ",
                                 subsequent_indent="  ")  # fmt: skip
    wide = [window for window in shape.windows if window and window >= target.seq_len]
    if wide:
        yield (
            f"data.seq_len is {target.seq_len:,}, so a window of {max(wide):,} hides nothing in "
            "training; the checks use longer texts"
        )


def _line(check: "Check") -> str:
    """Return the line of a check, with its note below."""
    verdict = "FAILS" if not check.holds else "holds" if check.cases else "-"
    worst = "wrong" if check.worst == float("inf") else f"{check.worst:.2g}"
    numbers = (f"{check.cases:,}", worst, f"{check.tolerance:g}") if check.cases else ("", "", "")
    line = LINE.format(verdict, check.name, check.claim, *numbers).rstrip()
    note = textwrap.wrap(check.note, 100, initial_indent=" " * 20, subsequent_indent=" " * 20)
    return "\n".join([line, *note])


# ------------------------------------------------------------------- the pictures


def _masks(shape: ModelConfig) -> str:
    """Draw the mask of each kind of layer; a cell stands for several tokens if W is large."""
    widest = max(
        (window for window in shape.windows if window is not None), default=MASK_CELLS // 3
    )
    cell = -(-(2 * widest + shape.sinks) // MASK_CELLS)  # tokens
    scale = "a cell is a token" if cell == 1 else f"a cell is {cell:,} tokens, rounded"
    drawings = []
    for window in dict.fromkeys(shape.windows):
        title = "full" if window is None else f"W = {window:,}"
        title += f" in {shape.windows.count(window)} of {shape.n_layers} layers"
        window_cells = window and max(1, round(window / cell))
        sink_cells = -(-shape.sinks // cell)
        rows = picture(MASK_CELLS, window_cells, sink_cells).splitlines()
        drawings.append([f"{title:{2 * MASK_CELLS - 1}}", *rows])
    lines = [f"MASK, row = query, column = key, # = seen ({scale})"]
    for n in range(0, len(drawings), 3):
        rows = ["   ".join(row).rstrip() for row in zip(*drawings[n : n + 3], strict=True)]
        lines += ["", *rows]
    return "\n".join(lines)


def _measured_reach(model: "Transformer", seed: int) -> str:
    """Draw on which tokens the last output depends: through each layer, and through the stack."""
    from checks.fixture import Fixture
    from checks.passes import influence

    fixture = Fixture(model, seed)
    length = fixture.reach_length
    cell = -(-length // REACH_COLUMNS)
    width = -(-length // cell)
    gradients = influence(fixture.model, fixture.text(length), length - 1)
    column = f"a column is {cell:,} token{'s' * (cell > 1)}"
    lines = [
        f"REACH, measured: which of {length:,} tokens have a gradient at the last one",
        f"(# = some, . = exactly none, {column}; then their number; NOT n: n were expected)",
        "",
        f"{'':10}{'through the layer alone':{width + 10}}through it and those before it",
    ]
    for depth, rows in enumerate(zip(*gradients, strict=True)):
        line = f"layer {depth:<4}"
        for row, first in zip(rows, (depth, 0), strict=True):
            bar = "".join("#" if part.any() else "." for part in row.split(cell))
            found = int((row > 0).sum())
            expected = _expected_reach(fixture.config, first, depth, length)
            line += f"{bar} {found:>5,}" + ("    " if found == expected else f" NOT {expected:,} ")
        lines.append(line.rstrip())
    return "\n".join(lines)


def _expected_reach(shape: ModelConfig, first: int, last: int, length: int) -> int:
    """Count the tokens, of `length`, that reach the last one through layers `first` to `last`."""
    tokens = reach(shape.windows[first : last + 1])
    return length if tokens is None else min(length, tokens + shape.attention_sinks)


if __name__ == "__main__":
    sys.exit(main())
