"""Kinds of files: a table, plain text, or neither.

The first bytes of a file decide whether it is text, its ending whether it is a table:

    .jsonl .ndjson    one JSON value in each line          .csv .tsv   a table with a header
    .json             an array, lines or one object        .parquet    a table in columns
    any other ending  plain text, in UTF-8
"""

import re
from pathlib import PurePath
from typing import NamedTuple

from errors import UserError

TABLES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".jsonlines": "jsonl", ".json": "json",
    ".csv": "csv", ".tsv": "csv", ".tab": "csv", ".parquet": "parquet",
}  # fmt: skip
HEAD = 8192  # bytes of a file from which its kind is recognised
_NUL_SHARE = 0.1  # of the bytes; English in UTF-16 has 0.5, text in UTF-8 has none


class Unreadable(UserError):
    """A file that cannot be read: an error if it is the only one, otherwise skipped with a note."""

    def __init__(self, reason: str, remedy: str = "", field: str = "path") -> None:
        super().__init__(reason + (f": {remedy}" if remedy else ""), field)
        self.reason, self.remedy = reason, remedy


class NotText(Unreadable):
    """A file that is not plain text, such as an image; `kind` names its kind."""

    def __init__(self, path: PurePath, kind: str, remedy: str) -> None:
        super().__init__(f"{path} is {kind}, not text", remedy)
        self.kind = kind


class Kind(NamedTuple):
    """The name of a kind of file, and how the user gets the text of such a file."""

    name: str
    remedy: str = "name a file of text"


_UNPACK = "unpack it and name the folder"
_TEXT = "save it as plain text (.txt, UTF-8)"
_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"PK\x03\x04", Kind("a zip archive", _UNPACK)),
    (b"PK\x05\x06", Kind("an empty zip archive")),
    (b"%PDF-", Kind("a PDF document", "extract its text, for example with pdftotext")),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Kind("an old Office document", _TEXT)),
    (b"{\\rtf", Kind("a rich text (RTF) document", _TEXT)),
    (b"\x1f\x8b", Kind("a gzip file", "give it the ending .gz, after that of its content")),
    (b"\x28\xb5\x2f\xfd", Kind("a Zstandard file", "give it the ending .zst, after that of its "
                                                   "content")),
    (b"BZh", Kind("a bzip2 file", "unpack it, for example with bunzip2")),
    (b"\xfd7zXZ\0", Kind("an xz file", "unpack it, for example with unxz")),
    (b"7z\xbc\xaf\x27\x1c", Kind("a 7-zip archive", _UNPACK)),
    (b"Rar!\x1a\x07", Kind("a RAR archive", _UNPACK)),
    (b"\x89PNG", Kind("an image (PNG)")),
    (b"\xff\xd8\xff", Kind("an image (JPEG)")),
    (b"GIF8", Kind("an image (GIF)")),
    (b"RIFF", Kind("a sound, a film or an image (RIFF)")),
    (b"ID3", Kind("a sound (MP3)")),
    (b"OggS", Kind("a sound (Ogg)")),
    (b"\x7fELF", Kind("a program (ELF)")),
    (b"MZ\x90\0", Kind("a program (Windows)")),
    (b"SQLite format 3\0", Kind("an SQLite database", "export the column of text as .csv")),
    (b"ARROW1", Kind("an Arrow file", "save it as .parquet")),
    (b"\x93NUMPY", Kind("an array (NumPy)")),
)  # fmt: skip
_ZIPPED = {  # ending -> what a zip archive of that name is
    ".docx": Kind("a Word document", _TEXT),
    ".odt": Kind("an OpenDocument text", _TEXT),
    ".xlsx": Kind("an Excel table", "save it as .csv, in UTF-8"),
    ".ods": Kind("an OpenDocument table", "save it as .csv, in UTF-8"),
    ".pptx": Kind("a PowerPoint document", _TEXT),
    ".epub": Kind("an e-book (EPUB)", "convert it to plain text, for example with pandoc"),
    ".npz": Kind("arrays (NumPy)"),
    ".pt": Kind("a PyTorch file"),
    ".whl": Kind("a Python package"),
    ".jar": Kind("a Java package"),
}


def recognise(head: bytes, path: PurePath, suffix: str) -> str:
    """Return how a file is read: jsonl, json, csv, parquet or text.

    `head` is the first `HEAD` bytes of its decompressed content, `suffix` the ending of its name
    without the ending of its compression. Raises `NotText` for a binary file, and `Unreadable` for
    text in UTF-16.
    """
    if head.startswith(b"PAR1"):
        return "parquet"
    if head[257:262] == b"ustar":
        raise NotText(path, "a tar archive", _UNPACK)
    for magic, kind in _MAGIC:
        if head.startswith(magic) and _is_certain(magic, head):
            if magic.startswith(b"PK"):
                kind = _ZIPPED.get(suffix, kind)
            raise NotText(path, *kind)
    if TABLES.get(suffix) == "parquet":
        return "parquet"
    if encoding := guess_utf16(head):
        raise not_utf8(path, _first_bad_byte(head), encoding)
    if b"\0" in head:
        raise NotText(path, "a binary file", Kind("").remedy)
    return TABLES.get(suffix, "text")


def _is_certain(magic: bytes, head: bytes) -> bool:
    """Return whether a file that begins with `magic` is certainly binary. Text may begin with
    letters such as "BZh"; it is binary if it also has a zero byte or is not UTF-8."""
    return not magic.isalnum() or b"\0" in head or _first_bad_byte(head) < len(head)


# ---------------------------------------------------------------------------- other encodings


def guess_utf16(content: bytes) -> str:
    """Return the name of the UTF-16 encoding of `content`, or "" if it is not UTF-16.

    English text in UTF-16 is also valid UTF-8, in which every other byte is zero.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    if content.count(0) <= len(content) * _NUL_SHARE:
        return ""
    zeros = [content[start::2].count(0) for start in (0, 1)]
    if min(zeros) > max(zeros) * 0.2:  # zeros at even and odd positions: binary numbers
        return ""
    return "UTF-16LE" if zeros[1] > zeros[0] else "UTF-16BE"


def guess_encoding(content: bytes) -> str:
    """Return the probable encoding of `content`, which is not UTF-8; "" if it is unknown."""
    if encoding := guess_utf16(content):
        return encoding
    unused = rb"[\x00-\x08\x0e-\x1f\x81\x8d\x8f\x90\x9d]"  # bytes that Windows-1252 does not define
    return "" if re.search(unused, content) else "WINDOWS-1252"


def conversion(encoding: str) -> str:
    """Return the advice for text that is probably in `encoding`; "" for an unknown encoding."""
    command = f"iconv -f {encoding} -t UTF-8 FILE > CONVERTED"
    return f"it looks like {encoding}: {command}" if encoding else ""


def not_utf8(path: PurePath, place: int, encoding: str) -> Unreadable:
    """Return the error for a file that is not UTF-8 at byte `place`."""
    advice = conversion(encoding)
    remedy = "save it as UTF-8" + (f"; {advice}" if advice else "")
    return Unreadable(f"{path} is not UTF-8 (byte {place:,})", remedy)


def _first_bad_byte(content: bytes) -> int:
    """Return the position of the first byte that is not UTF-8, otherwise of the first zero byte,
    otherwise the length."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return error.start
    return content.find(0) if b"\0" in content else len(content)
