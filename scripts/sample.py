"""Let a trained model write: `python -m scripts.sample RUN --prompt "Once upon a time"`

The prompt is fed through the rolling cache in chunks, so it may be far longer than the window; the
text is decoded as it comes, and a character is shown only when all its bytes are there.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from errors import ArgumentParser, UserError, command

if TYPE_CHECKING:
    from inference.trained import TrainedModel
    from model.sampling import Sampling

LATEST_RUN = "runs/quickstart"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write text to stdout; speed and remarks go to stderr."""
    arguments = _parser().parse_args(argv)
    from inference.trained import open_trained
    from model.sampling import Sampling

    if arguments.max_tokens < 1 or arguments.samples < 1 or arguments.seed < 0:
        raise UserError("--max-tokens and --samples must be at least 1, --seed 0 or more")
    prompt = _prompt(arguments)
    opened = open_trained(arguments.run)
    defaults = opened.config.sample
    given = {
        name: value if (value := getattr(arguments, name)) is not None else getattr(defaults, name)
        for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    }
    sampling = Sampling(**given)
    if prompt is not None:
        _write(opened, prompt, sampling, arguments)
        return 0
    print("Type the beginning of a text, an empty line for none; Ctrl-D ends.", file=sys.stderr)
    while (prompt := _ask()) is not None:
        _write(opened, prompt, sampling, arguments)
        arguments.seed += arguments.samples
    return 0


def _write(
    opened: "TrainedModel", prompt: str, sampling: "Sampling", arguments: argparse.Namespace
) -> None:
    """Stream one sample, or several one below the other, and tell the speed."""
    from inference.text import TextStream
    from model import generate

    tokenizer = opened.tokenizer
    ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    prompt = tokenizer.decode(ids)  # a terminal's broken bytes, which cannot be printed, replaced
    written = generate(
        opened.model,
        [ids] * arguments.samples,
        arguments.max_tokens,
        sampling=sampling,
        seed=arguments.seed,
        stop=[tokenizer.bos_id, tokenizer.eos_id],
    )
    start, n_tokens = time.perf_counter(), 0
    texts = [TextStream(tokenizer.stream(), arguments.stop) for _ in range(arguments.samples)]
    alone = len(texts) == 1
    if alone:
        print(prompt, end="", flush=True)
    for step in written:
        for text, token in zip(texts, step, strict=True):
            if token is None or text.stopped:
                continue
            n_tokens += 1
            fresh = text.push(token)
            if alone:
                print(fresh, end="", flush=True)
        if all(text.stopped for text in texts):
            break
    seconds = time.perf_counter() - start
    for number, text in enumerate(texts, 1):
        rest = text.flush()
        print(rest if alone else f"--- sample {number} ---\n{prompt}{text.text}")
    print(
        f"[prompt {len(ids) - 1:,} tokens, wrote {n_tokens:,}, {n_tokens / seconds:,.0f} tokens/s]",
        file=sys.stderr,
    )


def _prompt(arguments: argparse.Namespace) -> str | None:
    """The prompt that was given; None asks for it."""
    if arguments.prompt is not None and arguments.prompt_file is not None:
        raise UserError("give --prompt or --prompt-file, not both")
    if arguments.prompt_file is None:
        return arguments.prompt
    path = Path(arguments.prompt_file)
    if not path.is_file():
        raise UserError(f"--prompt-file {path} is not a file: check the name")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"--prompt-file {path} is not UTF-8 (byte {error.start:,}): save it as UTF-8"
        ) from None


def _ask() -> str | None:
    """Read a line; None at the end of input."""
    try:
        return input("\n> " if sys.stdin.isatty() else "")
    except EOFError:
        return None


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m scripts.sample",
        description="Let a trained model write.",
        epilog='example: python -m scripts.sample runs/quickstart --prompt "" --samples 3',
    )
    number, text = parser.add_argument, parser.add_argument
    text(
        "run", nargs="?", default=LATEST_RUN, help=f"a run's folder or a checkpoint ({LATEST_RUN})"
    )
    text("--prompt", help="text to continue; '' begins a new text; not given: asks for it")
    text("--prompt-file", help="a UTF-8 file to continue")
    number("--max-tokens", type=int, default=300, help="length of what is written (300)")
    number("--samples", type=int, default=1, help="texts written side by side (1)")
    number("--seed", type=int, default=0, help="another seed, another text (0)")
    number("--temperature", type=float, help="0: always the likeliest token (the config's)")
    number("--top-k", type=int, help="draw from the k likeliest tokens (the config's)")
    number("--top-p", type=float, help="draw from the likeliest that sum to p (the config's)")
    number("--min-p", type=float, help="drop what is below p times the likeliest (the config's)")
    number("--repetition-penalty", type=float, help="above 1: repeats less (the config's)")
    text("--stop", action="append", default=[], help="end before this text; may be repeated")
    return parser


if __name__ == "__main__":
    sys.exit(main())
