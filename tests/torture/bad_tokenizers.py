"""Every character through every kind of tokenizer, and damaged tokenizers in native parsers.

One case of "every character" is a block of 256 Unicode scalar values; its key names the block. Two
kinds of tokenizer get every block, the others every eighth.
"""

import functools
import json
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from json_models import EOS, byte_level, llama_sentencepiece
from kites import SIZE, TEXT
from torture.confined import Attempt, confined, in_memory
from torture.family import Case, Family

from data.json_tokenizer import mark_specials
from data.tokenizer import Tokenizer, open_tokenizer
from data.vocabulary import learn
from interop.tokenizer_json import tokenizer_json

SPECIALS = ("<s>", "</s>", "<unk>", "<pad>", EOS, "<0x41>", "<0x0A>", "[INST]", "\u2581<s>")


@functools.cache
def models() -> dict[str, bytes]:
    """Return a tokenizer of each kind, by name."""
    kinds = {kind: learn(TEXT, type=kind, vocab_size=size)[0] for kind, size in SIZE.items()}
    llama = tokenizer_json(llama_sentencepiece()).encode()
    return kinds | {
        "byte-level JSON": mark_specials(byte_level(), None, EOS),
        "Llama JSON": mark_specials(llama, "<s>", "</s>"),
    }


@functools.cache
def opened(kind: str) -> Tokenizer:
    """Return the tokenizer of a kind."""
    return open_tokenizer(models()[kind])


# ------------------------------------------------------------------- texts and ids


def _restored(kind: str, text: str) -> str | None:
    """Return what is wrong with the ids of a text and the text of the ids."""
    tokenizer = opened(kind)
    ids = tokenizer.encode(text)
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if any("\ud800" <= c <= "\udfff" for c in text):  # each lone one becomes U+FFFD
        expected = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    if kind == "Llama JSON":  # its models were trained so
        expected = expected.replace("\u2581", " ")
    if not all(0 <= id < tokenizer.vocab_size for id in ids):
        return "an id is not in the vocabulary"
    if {tokenizer.bos_id, tokenizer.eos_id} & set(ids):
        return "a special token was spelled"
    if tokenizer.decode(ids) != expected:
        return f"{text!r} comes back as {tokenizer.decode(ids)!r}"[:300]
    return _streamed(kind, ids)


def _streamed(kind: str, ids: list[int]) -> str | None:
    """Return what is wrong with the stream of ids: it must hold back incomplete characters."""
    tokenizer = opened(kind)
    whole = b"".join(map(tokenizer.token_bytes, ids)).decode("utf-8", "replace")
    stream, given, n_bytes, n_said = tokenizer.stream(), 0, 0, 0
    is_text = "\ufffd" not in whole
    for id in ids:
        piece = stream.push(id)
        if not whole.startswith(piece, given):
            return f"the stream gave {piece!r} too early"
        given += len(piece)
        n_bytes += len(tokenizer.token_bytes(id))
        n_said += len(piece.encode())
        if is_text and n_bytes - n_said > 3:
            return "the stream holds a complete character back"
    if whole[given:] != stream.flush() or stream.flush():
        return "the stream is not the text of all ids"
    return None


def _block(kind: str, first: int) -> str | None:
    """Check 256 scalar values: in a row, and each between letters."""
    characters = [chr(n) for n in range(first, first + 256) if not 0xD800 <= n < 0xE000]
    text = "".join(characters)
    if not characters:
        return _restored(kind, "".join(map(chr, range(first, first + 256))))
    spaced = "".join(f"a{c} " for c in characters)
    tokenizer = opened(kind)
    back = tokenizer.decode(tokenizer.encode(spaced))
    if back != (spaced.replace("\u2581", " ") if kind == "Llama JSON" else spaced):
        return "a character between letters is lost"
    return _restored(kind, text)


def _random_ids(kind: str, seed: int) -> str | None:
    """Decode random ids."""
    draw, tokenizer = random.Random(seed), opened(kind)
    return _streamed(kind, [draw.randrange(tokenizer.vocab_size) for _ in range(200)])


def _random_text(kind: str, seed: int) -> str | None:
    """Encode random bytes as a command line gives them, with surrogates."""
    draw = random.Random(seed)
    raw = bytes(draw.choice((draw.randrange(256), 0xE2, 0x96, 0x81, 0x20, 0x3C)) for _ in range(90))
    return _restored(kind, raw.decode("utf-8", "surrogateescape"))


def _special(kind: str, text: str) -> str | None:
    return _restored(kind, text)


@in_memory
def character_cases(folder: Path, fast: bool) -> Iterator[Case]:
    """Every scalar value in blocks, surrogates, random bytes, spelled specials, random ids."""

    def attempts() -> Iterator[Attempt]:
        for kind in models():
            is_whole = kind in ("bpe", "byte-level JSON")  # the others share code with these two
            for first in range(0, 0x110000, 256 if is_whole else 2_048):
                if not fast or first < 512 or first in (0x2500, 0xD800, 0xFF00) or first % 77 == 0:
                    name = f"{kind}: 256 scalars from U+{first:04X}"
                    yield Attempt(name, partial(_block, kind, first))
            for seed in range(5 if fast else 150):
                yield Attempt(f"{kind}: random ids {seed}", partial(_random_ids, kind, seed))
                yield Attempt(f"{kind}: random bytes {seed}", partial(_random_text, kind, seed))
            for special in SPECIALS:
                for around in ("{}", " {}", "{} ", "a{}b", "{0}{0}", "\n{}\n", "<{}>", "\0{}"):
                    text = around.format(special)
                    yield Attempt(f"{kind}: {text!r}", partial(_special, kind, text))
            for length in (1_000,) if fast else (1_000, 20_000):
                for unit in ("x", " ", "\n", "\u2581", "\U0001f642", "\ud800", "<s>", "ab "):
                    text = unit * (length // len(unit))
                    key = f"{kind}: {length} characters of {unit!r}"
                    yield Attempt(key, partial(_restored, kind, text), 100 * len(text))

    warm = lambda: [_restored(kind, "the kite") for kind in models()]  # noqa: E731
    return confined(attempts(), folder, warm, 4 if fast else 1)


# ------------------------------------------------------------------- damaged models


def _use(content: bytes) -> str | None:
    """Open a damaged tokenizer; it must restore text, or be refused."""
    tokenizer = open_tokenizer(content)
    for text in ("the old kite\n  walks <s> \u00e9\u2581\U0001f642", "", " a", "\0\t"):
        ids = tokenizer.encode(text)
        if not all(0 <= id < tokenizer.vocab_size for id in ids):
            return "an id is not in the vocabulary"
        tokenizer.encode_prompt(text)
    for id in range(tokenizer.vocab_size):
        tokenizer.token_bytes(id)
        tokenizer.piece(id)
    tokenizer.decode(range(tokenizer.vocab_size))
    len(tokenizer.piece_ids)
    return None


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def _bytes_mutants(content: bytes, fast: bool) -> Iterator[tuple[str, bytes]]:
    """Flip, cut, repeat and remove bytes; put huge lengths in their place."""
    step = 211 if fast else 3
    for place in range(0, len(content), step):
        flipped = bytes([content[place] ^ 1 << place % 8])
        yield f"bit of byte {place} flipped", content[:place] + flipped + content[place + 1 :]
    for size in range(0, len(content), 701 if fast else 31):
        yield f"cut to {size} bytes", content[:size]
        yield f"bytes {size} to {size + 9} removed", content[:size] + content[size + 9 :]
        yield f"bytes {size} to {size + 40} twice", content[: size + 40] + content[size:]
    for number in (2**31 - 1, 2**32, 2**63, 2**64 - 1, 2**70):
        for tag in (b"\x0a", b"\x12", b"\x1a", b"\x08", b"\x2a"):
            yield f"{number} after {tag!r}", tag + _varint(number) + content
            yield f"{number} at the end after {tag!r}", content + tag + _varint(number)
    for count in (10, 1000):
        yield f"itself {count} times", content * count
    yield "groups", b"\x0b" * 100_000
    yield "zeros", bytes(100_000)
    yield "text", b"Once upon a time " * 9


_TEMPLATES: tuple[Any, ...] = (
    None, {}, [], "x", 3, -1, 2**64, True, {"type": "x"}, {"type": "Sequence"},
    {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
    {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False},
    {"type": "Replace", "pattern": {"Regex": "(.*)*x"}, "content": "y" * 99},
    {"type": "Replace", "pattern": {"String": ""}, "content": "y"},
    {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10_000},
    {"type": "Prepend", "prepend": "x" * 10_000},
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    {"type": "Metaspace", "replacement": "xx", "prepend_scheme": "always", "split": True},
    {"type": "Metaspace", "replacement": "", "prepend_scheme": "x"},
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "Strip", "content": " ", "start": 2**63, "stop": 0}, {"type": "Lowercase"},
    {"type": "WordPiece", "prefix": "##", "cleanup": True}, {"type": "CTC"}, {"type": "NFKC"},
    {"type": "TemplateProcessing", "single": "$A", "pair": "$A $B", "special_tokens": {}},
    {"type": "Python", "code": "import os; os.system('id')"},
    {"type": "Sequence", "normalizers": [], "pretokenizers": [], "decoders": []},
)  # fmt: skip


def _json_mutants(content: bytes, fast: bool) -> Iterator[tuple[str, bytes]]:
    """Replace each part of a tokenizer.json; nest, repeat and empty it."""
    whole = json.loads(content)

    def changed(**parts: Any) -> bytes:
        return json.dumps(whole | parts).encode()

    for key in [*whole, "unknown", "chat_template", "auto_map"]:
        for index, value in enumerate(_TEMPLATES[:: 9 if fast else 1]):
            yield f"{key} is value {index}", changed(**{key: value})
            if key in ("normalizer", "pre_tokenizer", "decoder"):
                member = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}
                inside = {"type": "Sequence", member.get(key, "decoders"): [value, whole[key]]}
                yield f"{key} begins with value {index}", changed(**{key: inside})
        yield f"without {key}", json.dumps({k: v for k, v in whole.items() if k != key}).encode()
    model = whole["model"]
    for key in model:
        values: tuple[Any, ...] = (None, {}, [], "x", 3, -1, 2**64, {"a": -1}, {"a": 2**40},
                                   {"": 0}, [["a"]], [["a", "b", "c"]], ["a b c"])  # fmt: skip
        for index, value in enumerate(values):
            yield f"model {key} is value {index}", changed(model=model | {key: value})
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        first = next(iter(vocab))
        for number in (-1, 3, 2**31, 2**32 - 1, 2**32, 2**63, 10_000_000, 1.5, None, "1"):
            other = model | {"vocab": vocab | {first: number}}
            yield f"the first id is {number}", changed(model=other)
    for number, token in enumerate(whole["added_tokens"]):
        for key, value in [
            (k, v) for k in token for v in (None, -1, 2**40, "", "a", True, [], " ")
        ]:
            others = [*whole["added_tokens"]]
            others[number] = token | {key: value}
            yield f"added token {number}: {key} is {value!r}", changed(added_tokens=others)
    deep = b'{"model":' * 50_000
    for key, value in {
        "nested": deep, "nested lists": b'{"model":' + b"[" * 200_000, "twice": content[:-1] +
        b',"model":' + json.dumps(model).encode() + b"}", "two values": content * 2,
        "byte order mark": b"\xef\xbb\xbf" + content, "an open brace": b"{",
        "braces": b"{" * 99_999,
        "empty": b"{}", "NaN": b'{"model": NaN, "added_tokens": []}',
    }.items():  # fmt: skip
        yield key, value


@in_memory
def model_cases(folder: Path, fast: bool) -> Iterator[Case]:
    """Damaged tokenizers of both formats."""

    def attempts() -> Iterator[Attempt]:
        for kind, content in models().items():
            mutants = [*_bytes_mutants(content, fast or kind == "unigram")]
            if content.startswith(b"{"):
                mutants += _json_mutants(content, fast)
            for key, mutant in mutants:
                yield Attempt(f"{kind}: {key}", partial(_use, mutant), len(mutant))

    warm = lambda: [_use(content) for content in models().values()]  # noqa: E731
    return confined(attempts(), folder, warm, 6 if fast else 1)


FAMILIES = [
    Family("every character", "restored, never a special, streams hold back", character_cases),
    Family("damaged tokenizers", "restores text, or refused in one line", model_cases),
]
