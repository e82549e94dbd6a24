"""Train a SentencePiece vocabulary: texts in, serialized model out.

BPE, unigram or single characters, always with byte fallback (SentencePiece, arXiv 1808.06226): a
character without its own piece is encoded as its UTF-8 bytes. So no text is refused because it has
too many different characters.

SentencePiece trains in C++ and does not see Ctrl-C until it has finished, which may take minutes.
Therefore it trains in a child process, which the parent kills when it is interrupted, and which
ends by itself when the parent is gone.
"""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from data.choices import TOKENIZERS
from data.sentencepiece_tokenizer import FIRST_PIECE
from data.tokenizer import SPACE_MARK, well_formed
from errors import UserError

TRAINING_LIMIT = 32_000_000  # characters; more text changes few pieces and costs memory and time
COMMON = 20  # a character is rare if it occurs less than 1/20 as often as the average piece

_LINE = 4096  # characters; SentencePiece skips longer lines than `max_sentence_length`
_RESERVED = re.compile("[\0\u2581\u2585]")  # SentencePiece skips a line that has its own marks
_ALWAYS = frozenset("\n ")  # have a piece; a space in bytes would be decoded as SPACE_MARK
_POLL = 0.1  # seconds between two checks of the child process

_LOSSLESS: dict[str, Any] = {
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    "add_dummy_prefix": False,
    "character_coverage": 1.0,
    "split_digits": True,
    "required_chars": f"\n{SPACE_MARK}",
    "max_sentence_length": 4 * _LINE,  # bytes
    "num_threads": 16,  # fixed, because unigram's sums, and so its pieces, depend on it
    "minloglevel": 2,
}


class RareCharacters(NamedTuple):
    """Counts of the characters that are encoded in bytes, because the vocabulary is too small."""

    n_different: int  # different characters in the text
    n_in_bytes: int  # of these, how many are encoded in bytes
    share: float  # of the text that is encoded in bytes, counted in characters


def train_tokenizer(texts: Iterable[str], *, type: str, vocab_size: int) -> bytes:
    """Learn pieces from `texts` (of the training split only) and return the serialized model.

    The same texts give the same bytes. `vocab_size` counts everything, specials and bytes too. It
    is an upper bound: a text that allows fewer pieces gets the largest possible vocabulary, and
    `char` has one piece per character. Only the first `TRAINING_LIMIT` characters are used.

    Raises `UserError` if there is too little text, or if `vocab_size` has no room for the
    specials, the bytes, newline, space and one more character.
    """
    if type not in TOKENIZERS:
        raise UserError(f"type is {type!r}: one of {', '.join(TOKENIZERS)}", "type")
    smallest = FIRST_PIECE + len(_ALWAYS) + 1
    if vocab_size < smallest:
        raise UserError(
            f"vocab_size is {vocab_size:,}, too few for 3 specials, 256 bytes, newline, space and "
            f"a letter: the smallest possible is {smallest:,}",
            "vocab_size",
        )
    lines = list(_training_lines(texts))
    if not lines:
        raise UserError("there is no text to train a tokenizer on: give more text")
    size = sum(len(line.encode()) for line in lines) / 1e6
    task = f"training the tokenizer ({type}, {vocab_size:,} pieces) on {size:.1f} MB ..."
    reply, model = _in_child({"type": type, "vocab_size": vocab_size}, lines, task)
    if reply["error"]:
        raise UserError(
            f"SentencePiece cannot train on so little text ({reply['error'].strip()}): give more"
        )
    if reply["rare"]:
        rare = RareCharacters(*reply["rare"])
        print(
            f"note: the text has {rare.n_different:,} different characters, too many for a "
            f"vocabulary of {vocab_size:,}: {rare.n_in_bytes:,} of them, {rare.share:.2%} of the "
            "text, are spelled in bytes",
            file=sys.stderr,
        )
    return model


def _training_lines(texts: Iterable[str]) -> Iterator[str]:
    """Cut the texts into strings that SentencePiece accepts as lines. Newlines stay inside them."""
    left = TRAINING_LIMIT
    for text in texts:
        for line in _RESERVED.split(well_formed(text[:left])):
            for start in range(0, len(line), _LINE):
                yield line[start : start + _LINE]
        left -= len(text)
        if left <= 0:
            note = f"note: the tokenizer learns from the first {TRAINING_LIMIT:,} characters"
            print(note, file=sys.stderr)
            return


# ---------------------------------------------------------------------------- which characters


def learn(
    lines: Sequence[str], *, type: str, vocab_size: int
) -> tuple[bytes, RareCharacters | None]:
    """Return the model, and counts of the characters that it encodes in bytes; None if there are
    none.

    A character's own piece takes the place of a longer piece. So at first only the `_n_common` most
    frequent characters get one. If the text allows too few longer pieces to fill the vocabulary,
    the next most frequent characters get the remaining places. Raises `RuntimeError` if
    SentencePiece cannot train on the text.
    """
    n_pieces = vocab_size - FIRST_PIECE
    different = _ALWAYS.union(*lines)
    if len(different) <= n_pieces:
        return _train(lines, type, vocab_size)[0], None
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line)
    ranking = sorted(different - _ALWAYS, key=lambda character: (-counts[character], character))
    n_common = _n_common([counts[c] for c in ranking], counts.total(), n_pieces, type)
    model, size = _train(_without(lines, ranking[n_common:]), type, vocab_size)
    if size < vocab_size:
        n_common += vocab_size - size
        model, _ = _train(_without(lines, ranking[n_common:]), type, vocab_size)
    rare = ranking[n_common:]
    share = sum(counts[character] for character in rare) / counts.total()
    return model, RareCharacters(len(different), len(rare), share)


def _n_common(counts: Sequence[int], total: int, n_pieces: int, type: str) -> int:
    """Return how many characters get a piece. `counts` are their occurrences, largest first, in a
    text of `total` characters.

    For `char`, all `n_pieces` pieces are characters. Otherwise a character gets a piece if it
    occurs at least 1/`COMMON` as often as the average piece; at most half of the pieces are
    characters.
    """
    if type == "char":
        return n_pieces - len(_ALWAYS)
    common = sum(count * COMMON * n_pieces >= total for count in counts)
    return max(1, min(common, n_pieces // 2 - len(_ALWAYS)))


def _without(lines: Iterable[str], characters: Iterable[str]) -> list[str]:
    """Remove `characters`; return the text between them, from which the pieces are learnt."""
    removed = re.compile(f"[{re.escape(''.join(characters))}]+")
    return [text for line in lines for text in removed.split(line) if text]


def _train(lines: Sequence[str], type: str, vocab_size: int) -> tuple[bytes, int]:
    """Train once, or twice if the text allows fewer pieces; return the model and its size."""
    import sentencepiece

    model, settings = io.BytesIO(), {"hard_vocab_limit": type != "char", **_LOSSLESS}
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, model_type=type,
            vocab_size=vocab_size, **settings,
        )  # fmt: skip
    except RuntimeError as error:
        if not (largest := re.search(r"set it to a value <= (\d+)", str(error))):
            raise
        return _train(lines, type, int(largest[1]))
    content = model.getvalue()
    return content, sentencepiece.SentencePieceProcessor(model_proto=content).vocab_size()


# ---------------------------------------------------------------------------- the child process

_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from data.vocabulary import run_child
run_child()
"""


def _in_child(
    request: dict[str, Any], lines: Sequence[str], task: str
) -> tuple[dict[str, Any], bytes]:
    """Run `learn` in a child process; return its reply ("error", "rare") and the model.

    Prints `task` and the seconds that it takes on stderr. `multiprocessing` is not used: its child
    would first import the command, and torch with it.
    """
    start = time.perf_counter()
    _print_elapsed(task, None)
    command = [sys.executable, "-c", _PROGRAM, str(Path(__file__).parents[1])]
    replies: list[bytes] = []
    with (
        contextlib.suppress(BrokenPipeError),  # the child ended early: its exit code is read below
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child,
    ):
        assert child.stdin is not None and child.stdout is not None
        reader = threading.Thread(target=_read_all, args=(child.stdout, replies), daemon=True)
        reader.start()
        try:
            _send(child.stdin, [request, *lines])
            while reader.is_alive():
                reader.join(_POLL)
                _print_elapsed(task, time.perf_counter() - start)
            child.wait()
        finally:
            child.kill()  # after Ctrl-C; otherwise the child has ended
    _print_elapsed(task, time.perf_counter() - start, done=True)
    if child.returncode < 0:
        raise UserError(
            "the process that trained the tokenizer was killed, possibly out of memory: free some "
            "memory or give less text; tokenizer.type=bpe needs less than unigram"
        )
    if child.returncode:
        raise RuntimeError(f"training the tokenizer failed with exit code {child.returncode}")
    reply, _, model = replies[0].partition(b"\n")
    return json.loads(reply), model


def _send(stream: IO[bytes], values: Iterable[Any]) -> None:
    """Write one line of JSON per value, then an empty line. The stream stays open."""
    for value in values:
        stream.write(json.dumps(value).encode() + b"\n")
    stream.write(b"\n")
    stream.flush()


def _read_all(stream: IO[bytes], replies: list[bytes]) -> None:
    replies.append(stream.read())


def _print_elapsed(task: str, seconds: float | None, *, done: bool = False) -> None:
    """Print the task and its time on one line of stderr. A terminal's line is rewritten while the
    task runs; otherwise the time is printed at the end."""
    terminal = sys.stderr.isatty()
    if seconds is None or terminal:
        elapsed = "" if seconds is None else f"{seconds:.1f} s" if done else f"{seconds:.0f} s"
        start = "\r" if terminal else ""
        print(f"{start}{task} {elapsed}", end="\n" if done else "", file=sys.stderr, flush=True)
    elif done:
        print(f"{seconds:.1f} s", file=sys.stderr)


def run_child() -> None:
    """Run `learn` in this process: request and lines from stdin, reply and model to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and kills this process
    values = []
    while (line := sys.stdin.buffer.readline()) != b"\n":
        if not line:  # the parent has ended
            sys.exit(1)
        values.append(json.loads(line))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    request, *lines = values
    error, rare, model = None, None, b""
    try:
        model, rare = learn(lines, **request)
    except RuntimeError as problem:  # of SentencePiece, such as "no pieces are loaded"
        error = str(problem)
    sys.stdout.buffer.write(json.dumps({"error": error, "rare": rare}).encode() + b"\n" + model)
    sys.stdout.flush()


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when the parent ends, which writes nothing more
    os._exit(1)
