"""Plain text: the sections of a file, and the documents in a section.

    big.txt    |--- section 0 ---|--- section 1 ---|- 2 -|    about `SECTION` bytes each

A section ends at the first separator of documents after its `SECTION` bytes, or else at the first
blank line, or else at the first end of a line, if there is one in the next `REACH` bytes. So the
sections follow from the bytes of the file alone, and any process can read any of them.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data.sources.kinds import guess_encoding, guess_utf16, not_utf8

SECTION = 16_000_000  # bytes
REACH = 1_000_000  # bytes after them in which the end is looked for; fewer than `SECTION`
BOM = b"\xef\xbb\xbf"  # the byte order mark: not part of the text
# The end of a line; at the end of the bytes, \r may be half of \r\n.
_LINE_END = re.compile(rb"(?:\r\n|\n|\r(?=[^\n]))")
_BLANK_LINE = re.compile(_LINE_END.pattern + rb"(?:[ \t]*" + _LINE_END.pattern + rb")+")
_LINE = re.compile(rb"([^\r\n]*)(?:\r\n|\n|\r|\Z)")  # matches once more, empty, at the end


def sections(stream: BinaryIO, separator: bytes = b"") -> Iterator[bytes]:
    """Cut a stream into its sections; about one of them is in memory."""
    ahead = b""  # bytes that are read and not yet yielded
    inside = SECTION  # how many of them are certainly part of this section
    while True:
        ahead += stream.read(inside + REACH - len(ahead))
        if not ahead:
            return
        size = inside + _section_end(ahead[inside:], separator)
        yield ahead[:size]
        inside += SECTION - size
        ahead = ahead[size:]


def _section_end(ahead: bytes, separator: bytes) -> int:
    """Return how many of the `REACH` bytes after a section still belong to it; fewer bytes than
    `REACH` are the last of the file."""
    if separator:
        place = ahead.find(separator)
        if place >= 0 or len(ahead) < REACH:
            return place + len(separator) if place >= 0 else len(ahead)
    for end in (_BLANK_LINE, _LINE_END):
        if found := end.search(ahead):
            return found.end()
    if len(ahead) < REACH:
        return len(ahead)
    return next((n for n in range(4) if ahead[n] & 0xC0 != 0x80), 0)  # the start of a character


def decode(section: bytes, path: Path, start: int) -> str:
    """Decode the section of a file that starts at byte `start`. Raises `Unreadable` if it is not
    UTF-8, with the encoding that it is probably in."""
    try:
        text = section.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(path, start + error.start, guess_encoding(section)) from None
    if encoding := guess_utf16(section):
        raise not_utf8(path, start + section.index(0), encoding)
    return text


def pieces(content: bytes, documents: str, separator: bytes = b"") -> Iterator[bytes]:
    """Cut a section into documents: what stands between separators, if there is a `separator`;
    otherwise its lines or its paragraphs. Documents of white space alone are left out."""
    if separator:
        yield from (piece for piece in content.split(separator) if piece.strip())
    else:
        yield from lines(content) if documents == "line" else paragraphs(content)


def lines(content: bytes) -> Iterator[bytes]:
    """Yield the lines that are not blank, without their ends."""
    for line in _LINE.finditer(content):
        if line[1].strip():
            yield line[1]


def paragraphs(content: bytes) -> Iterator[bytes]:
    """Yield the groups of lines between blank lines, without the end of the last line."""
    start = stop = None
    for line in _LINE.finditer(content):
        if line[1].strip():
            start = line.start() if start is None else start
            stop = line.end(1)
        elif start is not None:
            yield content[start:stop]
            start = None
