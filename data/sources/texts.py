"""Plain text: the sections of a file, and the documents in a section.

    big.txt    |--- section 0 ---|--- section 1 ---|- 2 -|    about `SECTION` bytes each

A section has `SECTION` bytes and the bytes up to a border. The border is searched for in the next
`REACH` bytes: the first separator of documents, otherwise the first blank line, otherwise the first
end of a line. So the sections depend only on the bytes of the file, and any process can read any
section.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data.sources.kinds import guess_encoding, guess_utf16, not_utf8

SECTION = 16_000_000  # bytes
REACH = 1_000_000  # bytes in which the border is searched for; fewer than `SECTION`
BOM = b"\xef\xbb\xbf"  # the byte order mark: not part of the text
# The end of a line. A \r at the end of the bytes does not match: it may be half of \r\n.
_LINE_END = re.compile(rb"(?:\r\n|\n|\r(?=[^\n]))")
_BLANK_LINE = re.compile(_LINE_END.pattern + rb"(?:[ \t]*" + _LINE_END.pattern + rb")+")
_LINE = re.compile(rb"([^\r\n]*)(?:\r\n|\n|\r|\Z)")  # matches once more, empty, at the end


def sections(stream: BinaryIO, separator: bytes = b"") -> Iterator[bytes]:
    """Yield the sections of a stream. About one section is in memory."""
    buffer = b""  # bytes that are read and not yet yielded
    minimum = SECTION  # bytes of this section before its border is searched for
    while True:
        buffer += stream.read(minimum + REACH - len(buffer))
        if not buffer:
            return
        size = minimum + _border(buffer[minimum:], separator)
        yield buffer[:size]
        minimum += SECTION - size
        buffer = buffer[size:]


def _border(content: bytes, separator: bytes) -> int:
    """Return the position of the border in `content`: the next `REACH` bytes, or fewer at the end
    of the file."""
    if separator:
        start = content.find(separator)
        if start >= 0 or len(content) < REACH:
            return start + len(separator) if start >= 0 else len(content)
    for pattern in (_BLANK_LINE, _LINE_END):
        if match := pattern.search(content):
            return match.end()
    if len(content) < REACH:
        return len(content)
    return next((n for n in range(4) if content[n] & 0xC0 != 0x80), 0)  # the start of a character


def decode(section: bytes, path: Path, start: int) -> str:
    """Decode the section of a file that starts at byte `start`. Raises `Unreadable` if it is not
    UTF-8; the error names the encoding that it probably has."""
    try:
        text = section.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(path, start + error.start, guess_encoding(section)) from None
    if encoding := guess_utf16(section):
        raise not_utf8(path, start + section.index(0), encoding)
    return text


def split_documents(content: bytes, documents: str, separator: bytes = b"") -> Iterator[bytes]:
    """Yield the documents of a section: the text between separators if there is a `separator`,
    otherwise the lines or the paragraphs. Documents of white space alone are skipped."""
    if separator:
        yield from (document for document in content.split(separator) if document.strip())
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
