"""Continue a text with a trained model: `python -m scripts.sample RUN --prompt "Once upon a time"`

The prompt passes through the rolling cache in chunks, so it may be far longer than the window. The
text is printed as it is generated.
"""

import argparse
import io
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from arguments import add_run, open_run
from errors import ArgumentParser, UserError, command, fields_named

if TYPE_CHECKING:  # torch is imported only when a model is opened
    from inference.trained import TrainedModel
    from model import Sampling

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
TEXT_OPTIONS = ("--prompt", "--prompt-file", "--stop")  # their values may begin with a dash
ESCAPES = {"\\n": "\n", "\\t": "\t", "\\\\n": "\\n", "\\\\t": "\\t"}


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write text to stdout; speed and notes go to stderr."""
    arguments = _parser().parse_args(_attach_values(sys.argv[1:] if argv is None else argv))
    if arguments.max_tokens < 1 or arguments.samples < 1 or arguments.seed < 0:
        raise UserError("--max-tokens and --samples must be at least 1, --seed 0 or more")
    prompt = _read_prompt(arguments)
    trained = open_run(arguments)
    given = {name: getattr(arguments, name) for name in SAMPLING}
    with fields_named({name: f"--{name.replace('_', '-')}" for name in SAMPLING}):
        sampling = replace(
            trained.sampling, **{name: value for name, value in given.items() if value is not None}
        )
    if prompt is not None:
        _write(trained, prompt, sampling, arguments)
        return 0
    print("Type the beginning of a text, or an empty line for a new text; Ctrl-D ends.",
          file=sys.stderr)  # fmt: skip
    if isinstance(sys.stdin, io.TextIOWrapper):  # bytes in another encoding are replaced
        sys.stdin.reconfigure(errors="replace")
    while (prompt := _ask()) is not None:
        _write(trained, prompt, sampling, arguments)
        arguments.seed += arguments.samples
    return 0


def _write(
    trained: "TrainedModel", prompt: str, sampling: "Sampling", arguments: argparse.Namespace
) -> None:
    """Print one sample as it is generated, or several one below the other, then the speed."""
    from inference.text import continue_text

    tokens = trained.tokenizer.encode(prompt)
    prompt = trained.tokenizer.decode(tokens)  # without lone surrogates, which cannot be printed
    single = arguments.samples == 1
    if single:
        print(prompt, end="", flush=True)
    start, n_generated = time.perf_counter(), 0
    texts = [""] * arguments.samples
    for piece in continue_text(
        trained, [prompt] * arguments.samples, max_tokens=arguments.max_tokens, sampling=sampling,
        seed=arguments.seed, stops=arguments.stop, weights=arguments.weights,
    ):  # fmt: skip
        n_generated += 1
        texts[piece.row] += piece.text
        if single:
            print(piece.text, end="", flush=True)
    seconds = time.perf_counter() - start
    if single:
        print()
    else:
        for number, text in enumerate(texts, 1):
            print(f"--- sample {number} ---\n{prompt}{text}")
    print(
        f"[prompt {len(tokens):,} tokens, wrote {n_generated:,}, "
        f"{n_generated / seconds:,.0f} tokens/s]",
        file=sys.stderr,
    )
    if arguments.weights == "int8":
        print(_cost(trained, prompt, texts), file=sys.stderr)


def _cost(trained: "TrainedModel", prompt: str, texts: Sequence[str]) -> str:
    """Say in one line what int8 weights cost on these texts, and what they save."""
    from inference.rounding import rounding_cost

    cost = rounding_cost(trained, prompt, texts)
    loss = (
        f"loss of this text {cost.int8_nats:.4f} nats per token, {cost.fp32_nats:.4f} in fp32 "
        f"({cost.n_tokens:,} tokens)"
    )
    return (
        f"[int8 weights: {loss if cost.n_tokens else 'no token to score'}; "
        f"{cost.int8_bytes / 1e6:,.2f} MB of weights read per token, {cost.fp32_bytes / 1e6:,.2f} "
        "in fp32]"
    )


def _attach_values(argv: Sequence[str]) -> list[str]:
    """Join each text option with its value, `--prompt -Hello` as `--prompt=-Hello`.

    argparse would read a separate word that begins with a dash as another option.
    """
    joined: list[str] = []
    words = iter(argv)
    for word in words:
        value = next(words, None) if word in TEXT_OPTIONS else None
        joined.append(word if value is None else f"{word}={value}")
    return joined


def _unescape(text: str) -> str:
    r"""Replace \n by a newline and \t by a tab; \\n and \\t stand for a backslash and a letter."""
    return re.sub(r"\\{1,2}[nt]", lambda found: ESCAPES[found[0]], text)


def _read_prompt(arguments: argparse.Namespace) -> str | None:
    """Return the text of --prompt or --prompt-file; None if neither is given."""
    if arguments.prompt is not None and arguments.prompt_file is not None:
        raise UserError("give --prompt or --prompt-file, not both")
    if arguments.prompt_file is None:
        return arguments.prompt
    if arguments.prompt_file == "-":
        return _decode(sys.stdin.buffer.read(), "standard input")
    path = Path(arguments.prompt_file)
    if not path.exists() or path.is_dir():  # a pipe, as of `<(command)`, is read like a file
        raise UserError(f"--prompt-file {path} is not a file: check the name")
    return _decode(path.read_bytes(), str(path))


def _decode(content: bytes, name: str) -> str:
    r"""Decode a prompt from UTF-8, without byte order mark and last newline, \r\n read as \n.

    Editors and `echo` end a file with a newline, and a model would continue on the next line.
    Raises `UserError` for another encoding.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"--prompt-file: {name} is not UTF-8 (byte {error.start:,}): save it as UTF-8"
        ) from None
    changes = []
    if text.startswith("\ufeff"):
        changes.append("the byte order mark is removed")
        text = text[1:]
    if n_ends := text.count("\r\n"):
        changes.append(f"{n_ends:,} line ends \\r\\n are read as \\n")
        text = text.replace("\r\n", "\n")
    if changes:
        print(f"note: {name}: {'; '.join(changes)}", file=sys.stderr)
    return text.removesuffix("\n")


def _ask() -> str | None:
    """Read a line; None at the end of input."""
    try:
        return input("\n> " if sys.stdin.isatty() else "").removeprefix("\ufeff")
    except EOFError:
        return None


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m scripts.sample",
        description="Continue a text with a trained model.",
        epilog='example: python -m scripts.sample runs/quickstart --prompt "" --samples 3',
    )
    add_run(parser)
    add = parser.add_argument
    add("--prompt", type=_unescape, metavar="TEXT",
        help=r"text to continue, '' for a new text; \n is a newline, \t a tab, \\n stays \n; "
        "without --prompt and --prompt-file, prompts are read line by line")  # fmt: skip
    add("--prompt-file", metavar="FILE",
        help="a UTF-8 file to continue, without its last newline; - is standard input")  # fmt: skip
    add("--max-tokens", type=int, default=300, metavar="N", help="tokens to generate (300)")
    add("--samples", type=int, default=1, metavar="N", help="number of texts (1)")
    add("--seed", type=int, default=0, metavar="N", help="another seed gives another text (0)")
    add("--temperature", type=float, metavar="T",
        help="randomness; 0: always the most likely token (the config's)")  # fmt: skip
    add("--top-k", type=int, metavar="K", help="draw from the K most likely tokens (the config's)")
    add("--top-p", type=float, metavar="P",
        help="draw from the fewest tokens whose probabilities sum to P (the config's)")  # fmt: skip
    add("--min-p", type=float, metavar="P",
        help="drop tokens below P times the largest probability (the config's)")  # fmt: skip
    add("--repetition-penalty", type=float, metavar="X",
        help="above 1: repeat less (the config's)")  # fmt: skip
    add("--weights", choices=("fp32", "int8"), default="fp32",
        help="int8: round the weights, print the loss that this costs; faster for one long text if "
        "the weights in fp32 exceed the processor's cache (fp32)")  # fmt: skip
    add("--stop", type=_unescape, action="append", default=[], metavar="TEXT",
        help=r"end the text before TEXT; may be repeated; \n and \t as in --prompt")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
