"""Texts on which two tokenizers may differ, by kind, drawn from a seed."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random

from data.stories import story

_PLANES = range(17)  # of Unicode, 65,536 code points each
_SCRIPTS = (  # ranges of code points
    (0x61, 0x7B), (0xC0, 0x250), (0x391, 0x3CA), (0x410, 0x450), (0x5D0, 0x5EB), (0x621, 0x64B),
    (0x904, 0x93A), (0xE01, 0xE2F), (0x3041, 0x3097), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4),
)  # fmt: skip
_MARKS = "\u0301\u0308\u0323\u093f\u094d\u0e34"
_WHITE = " \t\n\r\v\f\0\u00a0\u1680\u2003\u2028\u200b\u3000\ufeff"
_EMOJI: tuple[Sequence[str], ...] = (  # pictures, flags, what joins and changes them, spaces
    [chr(n) for n in range(0x1F300, 0x1F650)],
    [chr(n) for n in range(0x1F1E6, 0x1F200)],
    ["\u200d", "\ufe0f", "\u20e3", *(chr(n) for n in range(0x1F3FB, 0x1F400))],
    [" "],
)
_LITERALS = (
    "<s>", "</s>", "<unk>", "<pad>", "\u2581", "\u2581\u2581the", "<0x0A>", "<0xE2>", "<0x0a>",
    "<0x", "<|endoftext|>", "[INST]", "<", ">",
)  # fmt: skip


def _planes(draw: Random) -> str:
    """Characters of one plane. Surrogates, which are none, become spaces."""
    plane = draw.choice(_PLANES) << 16
    codes = [plane + draw.randrange(1 << 16) for _ in range(draw.randint(1, 30))]
    return "".join(" " if 0xD800 <= code < 0xE000 else chr(code) for code in codes)


def _stories(draw: Random) -> str:
    return _excerpt(draw, _story_text())


def _code(draw: Random) -> str:
    return _excerpt(draw, _source_code())


def _white_space(draw: Random) -> str:
    """Runs of white space between words, at the beginning and at the end."""
    return "".join(
        draw.choice(_WHITE) * draw.randint(1, 5) if draw.random() < 0.6 else _word(draw)
        for _ in range(draw.randint(1, 20))
    )


def _emoji(draw: Random) -> str:
    return "".join(draw.choice(draw.choice(_EMOJI)) for _ in range(draw.randint(1, 20)))


def _scripts(draw: Random) -> str:
    """Words of several scripts, some with combining marks."""
    words = []
    for _ in range(draw.randint(1, 12)):
        script = range(*draw.choice(_SCRIPTS))
        letters = [chr(draw.choice(script)) for _ in range(draw.randint(1, 8))]
        words.append("".join(letters) + draw.choice(("", "", draw.choice(_MARKS))))
    return draw.choice((" ", ", ", "-")).join(words)


def _literals(draw: Random) -> str:
    """Spellings of special tokens, bytes and the mark of a space, among words."""
    parts = [draw.choice(_LITERALS) if draw.random() < 0.5 else _word(draw) for _ in range(12)]
    return draw.choice(("", " ")).join(parts[: draw.randint(1, 12)])


def _repetition(draw: Random) -> str:
    """One to three characters or words again and again: where merges of a piece overlap."""
    text = _story_text()
    start = draw.randrange(len(text) - 9)
    return text[start : start + draw.randint(1, 6)] * draw.randint(2, 40)


KINDS: dict[str, Callable[[Random], str]] = {
    "Unicode planes": _planes, "stories": _stories, "code": _code, "white space": _white_space,
    "emoji": _emoji, "mixed scripts": _scripts, "literals": _literals, "repetition": _repetition,
}  # fmt: skip


def draw_samples(kind: str, count: int, seed: int) -> list[str]:
    """Return `count` texts of a kind of `KINDS`, the same for the same seed."""
    draw = Random(f"{seed} {kind}")
    return [KINDS[kind](draw) for _ in range(count)]


def _word(draw: Random) -> str:
    return draw.choice(_words())


def _excerpt(draw: Random, text: str) -> str:
    length = draw.choice((1, 30, 300, 3000))
    start = draw.randrange(len(text) - length)
    return text[start : start + length]


@cache
def _story_text() -> str:
    """Fifty stories that no config trains on: their seed is 1."""
    return "\n\n".join(story(1, index).text for index in range(50))


@cache
def _words() -> Sequence[str]:
    return sorted(set(_story_text().split()))


@cache
def _source_code() -> str:
    """The Python files of this folder, as they are today."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return "\n".join(path.read_text(encoding="utf-8") for path in files)
