"""What is in the rolling cache, token by token? `python -m experiments.movie [RUN] [TEXT]`

A text passes through a model's real cache: first in chunks, then one token at a time. Each frame
shows the position in every slot, the slot that is overwritten, and the keys that the query sees in
each layer. Without RUN a small model with random weights reads a sentence: no training is needed.
The movie plays on the terminal and, with RUN or --out, as one HTML page without network.

It shows which keys a query may see, not how much attention it pays to them.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from errors import ArgumentParser, UserError, command
from experiments.frames import (
    Frame,
    LayerFrame,
    LayerShape,
    MovieResult,
    describe,
    film,
    marks,
    name_of,
    narration,
    stills,
)
from experiments.pages.page import Section
from experiments.pages.player import movie_page, still
from experiments.pages.table import Table
from experiments.result import About, Clock, add_json, report_folder, show_hint, store, write_json
from model.window import Window
from storage import atomic_write

if TYPE_CHECKING:  # torch is imported only where something is computed
    from model import Transformer

SENTENCE = "The old king finds a key in the garden and keeps it under his bed"
WINDOWS: tuple[Window, ...] = (3, 5, None)  # of the small model's layers
TOLERANCE = 1e-3  # between logits, in fp32
NAME = 7  # letters of a token's text on the terminal
SEEN, OWN, CLEAR = "\x1b[7;34m", "\x1b[7;33m", "\x1b[0m"  # ANSI: reversed blue, reversed yellow


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Record, store, then play. The exit code is 1 if the cache lacked a key."""
    parser = _parser()
    clock = Clock(parser.prog, argv)
    arguments = _checked(parser.parse_args(argv))
    result = _film_run(arguments) if arguments.run else _film_small(arguments)
    page = arguments.out
    if arguments.run:
        store(Path(arguments.run), "movie", clock.about(), result)
        page = page or str(report_folder(Path(arguments.run)) / "movie.html")
    write_json(arguments.json, result)
    if page:
        atomic_write(Path(page), movie_page(result).encode())
    play(result, arguments.frames, arguments.delay)
    print(_summary(result))
    print(f"movie: {page}" if page else "movie as a page: add --out movie.html")
    if arguments.run:
        print(show_hint(Path(arguments.run)))
    return int(result.missing > 0 or not result.max_difference <= TOLERANCE)


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m experiments.movie",
        description="Play the rolling cache slot by slot: what is kept, overwritten and seen.",
        epilog="example: python -m experiments.movie --window 3 5 full --sinks 1 --out movie.html",
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="[RUN] [TEXT]",
        help="a run's folder or a checkpoint file (without it: a small model with random "
        "weights), and the text to read")  # fmt: skip
    add("--checkpoint", default="best", metavar="best|last|STEP",
        help="which checkpoint of RUN (best)")  # fmt: skip
    add("--window", nargs="+", type=_window, metavar="W|full",
        help="windows of the layers, repeated (RUN's own; without RUN 3 5 full)")  # fmt: skip
    add("--sinks", type=int, help="first tokens that stay visible (RUN's own; without RUN 1)")
    add("--chunk", type=int, metavar="C",
        help="tokens of each of the first two calls; later calls have one token (three "
        "quarters of the largest window, at most 96; without RUN 4)")  # fmt: skip
    add("--tokens", type=int, metavar="T",
        help="tokens to read of TEXT (two chunks and 16 more; without RUN 12)")  # fmt: skip
    add("--frames", type=int, metavar="N", help="play the first N frames only (all)")
    add("--delay", type=float, default=0.8, metavar="S",
        help="seconds between frames on a terminal (0.8)")  # fmt: skip
    add("--out", metavar="FILE", help="HTML page to write (RUN/report/movie.html)")
    add_json(parser)
    return parser


def _window(word: str) -> Window:
    if word == "full":
        return None
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word}: give a number of keys from 1, or full")
    return int(word)


def _checked(arguments: argparse.Namespace) -> argparse.Namespace:
    """Split the words into RUN and TEXT; raise `UserError` for numbers that are too small."""
    words = arguments.words
    if len(words) > 2:
        raise UserError(f"{len(words)} words: give RUN, TEXT or both, the text in quotes")
    is_run = len(words) == 2 or (len(words) == 1 and _is_run(words[0]))
    arguments.run = words[0] if is_run else None
    arguments.text = words[-1] if len(words) > is_run else None
    least = {"sinks": 0, "chunk": 1, "tokens": 1, "frames": 0, "delay": 0}
    for name, minimum in least.items():
        value = getattr(arguments, name)
        if value is not None and not value >= minimum:
            raise UserError(f"--{name} is {value}: give {minimum} or more")
    if arguments.out and not Path(arguments.out).parent.is_dir():
        raise UserError(f"--out {arguments.out}: there is no such folder: make it first")
    if arguments.text is not None and not arguments.text.strip():
        raise UserError("TEXT is empty: give some words")
    return arguments


def _is_run(word: str) -> bool:
    """Return whether a word alone is a RUN: a path that exists, or without a space, so no TEXT."""
    # Path.exists raises OSError for a text that is too long for a name.
    return os.path.exists(word) or not any(map(str.isspace, word))  # noqa: PTH110


def _film_run(arguments: argparse.Namespace) -> MovieResult:
    """Film the model of RUN; its windows and sinks may be changed by options."""
    from arguments import open_run
    from data.stories import story
    from experiments.story_run import SEED

    trained = open_run(arguments)
    changes = {"sliding_window": arguments.window, "attention_sinks": arguments.sinks}
    trained = trained.with_settings(**{k: v for k, v in changes.items() if v is not None})
    text = arguments.text or story(SEED, 0).text
    ids = trained.tokenizer.encode_prompt(text)
    widest = max(window or 32 for window in trained.model.config.windows)
    chunk = arguments.chunk or min(96, max(1, widest * 3 // 4))  # the second one overwrites
    ids = ids[: arguments.tokens or 2 * chunk + 16]
    bos = trained.tokenizer.bos_id
    texts = ["<s>" if id == bos else trained.tokenizer.decode([id]) for id in ids]
    source = str(trained.checkpoint.path)
    return film(trained.model, ids, texts, split(len(ids), chunk), source)


def _film_small(arguments: argparse.Namespace) -> MovieResult:
    """Film a small model with random weights, for which every word is a token."""
    words = (arguments.text or SENTENCE).split()[: arguments.tokens or 12]
    windows = tuple(arguments.window or WINDOWS)
    sinks = 1 if arguments.sinks is None else arguments.sinks
    chunks = split(len(words), arguments.chunk or 4)
    ids = [sorted(set(words)).index(word) for word in words]
    model = small_model(windows, sinks, len(words))
    return film(model, ids, words, chunks, "a small model with random weights")


def small_model(windows: Sequence[Window], sinks: int, vocab_size: int) -> "Transformer":
    """Return a model with at least three layers and random weights, in float64."""
    import torch

    from model import ModelConfig, Transformer

    config = ModelConfig(
        vocab_size, dim=16, n_layers=max(3, len(windows)), n_heads=2, n_kv_heads=1, hidden_dim=32,
        sliding_window=tuple(windows), attention_sinks=sinks,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Transformer(config)
        with torch.no_grad():  # the output projections start at zero, which would hide attention
            for weight in model.parameters():
                if weight.dim() == 2:
                    weight.normal_(std=weight.shape[1] ** -0.5)
    return model.double().eval()


def split(n_tokens: int, chunk: int) -> list[int]:
    """Return the tokens of each call: two chunks, as far as they go, then one token at a time."""
    prompt = min(n_tokens, 2 * chunk)
    parts = [chunk] * (prompt // chunk) + [prompt % chunk] * (prompt % chunk > 0)
    return parts + [1] * (n_tokens - prompt)


# ------------------------------------------------------------------- on the terminal


def play(result: MovieResult, n_frames: int | None, delay: float) -> None:
    """Show the frames on the terminal, one in the place of another; elsewhere, print them."""
    animated = sys.stdout.isatty()
    width = shutil.get_terminal_size((100, 40)).columns
    shown = result.frames[:n_frames]
    for number, frame in enumerate(shown):
        if animated:
            print("\x1b[2J\x1b[H", end="")
        print(f"frame {number + 1} of {len(result.frames)}")
        print(*lines(result, frame, width, animated), "", sep="\n", flush=True)
        if animated and number < len(shown) - 1:
            time.sleep(delay)
    if shown and not animated:
        print("[ ]: seen by the query;  .: empty;  a -> b: position a is overwritten by b\n")


def lines(result: MovieResult, frame: Frame, width: int, color: bool = False) -> Iterator[str]:
    """Yield a frame as lines of text of at most `width` characters."""
    yield narration(result, frame)
    for shape, layer in zip(result.layers, frame.layers, strict=True):
        yield ""
        yield describe(shape)
        yield from _layer(result, frame, shape, layer, width, color)


def _layer(
    result: MovieResult, frame: Frame, shape: LayerShape, layer: LayerFrame, width: int, color: bool
) -> Iterator[str]:
    """Yield the slots, row by row, and the chunk beside them."""
    wide = len(str(len(result.tokens))) + NAME + 3
    per_row = max(1, (width - 10) // (wide + 1))
    in_slots, in_chunk = marks(layer, shape)
    changed = {w.slot: f"{w.before} -> {w.after}" if w.before >= 0 else "new" for w in layer.writes}

    def cell(position: int, seen: bool) -> str:
        name = " ".join(result.tokens[position].split())[:NAME] if position >= 0 else ""
        text = f"{position} {name}".strip() if position >= 0 else "."
        text = f"[{text}]" if seen else f" {text} "
        if color and seen:
            paint = OWN if position == frame.query else SEEN
            return f"{paint}{text}{CLEAR}" + " " * (wide - len(text))
        return text.ljust(wide)

    full = max((n + 1 for n, p in enumerate(layer.slots) if p >= 0), default=0)
    for start in range(0, full, per_row):
        row = range(start, min(start + per_row, len(layer.slots)))
        yield "  slot    " + " ".join(f" {slot}".ljust(wide) for slot in row).rstrip()
        yield "  holds   " + " ".join(cell(layer.slots[s], in_slots[s]) for s in row).rstrip()
        if any(slot in changed for slot in row):
            news = (f" {changed.get(slot, '')}".ljust(wide) for slot in row)
            yield "  written " + " ".join(news).rstrip()
    first_empty = -(-full // per_row) * per_row
    if first_empty < len(layer.slots):
        yield f"  slots {first_empty} to {len(layer.slots) - 1} are empty"
    for start in range(0, len(layer.beside), per_row):
        chunk = zip(layer.beside, in_chunk, strict=True)
        cells = [cell(position, seen) for position, seen in chunk][start : start + per_row]
        yield "  chunk + " + " ".join(cells).rstrip()


def _summary(result: MovieResult) -> str:
    """Return the table of the layers, with what was compared in its caption."""
    rows = []
    for number, shape in enumerate(result.layers):
        writes = [w for frame in result.frames for w in frame.layers[number].writes]
        window = "full" if shape.window is None else f"{shape.window:,}"
        over = sum(w.before >= 0 for w in writes)
        rows.append((name_of(shape), window, f"{shape.sinks:,}", f"{shape.slots:,}",
                     f"{len(writes):,}", f"{over:,}"))  # fmt: skip
    return Table(HEADER, rows, _caption(result)).markdown()


HEADER = ("", "window", "sinks", "slots", "tokens written", "slots overwritten")


def _caption(result: MovieResult) -> str:
    found = result.keys - result.missing
    return (
        f"{result.source}: {len(result.tokens):,} tokens. The cache held {found:,} of the "
        f"{result.keys:,} keys that the rule makes visible. Its logits and those of the whole text "
        f"at once differ by at most {result.max_difference:.1e}."
    )


# ------------------------------------------------------------------- on the page


def section(about: About, result: MovieResult) -> Section:
    """Return the stills of the movie for a page."""
    return Section(
        "What is in the rolling cache, token by token?",
        (
            "A layer with a window of W keeps W tokens. A new token takes the slot of the one that "
            "leaves its window, so nothing is moved and memory does not grow. The pictures are "
            "frames of a movie. experiments.movie writes it as a page: the file of --out, or "
            "movie.html in the folder of the report.",
            _caption(result),
            *(still(result, number) for number in stills(result)),
            "The positions were read from the cache while the model read the text. The pictures "
            "show which keys a query may see, not how much attention it pays to them.",
        ),
        about,
    )


if __name__ == "__main__":
    sys.exit(main())
