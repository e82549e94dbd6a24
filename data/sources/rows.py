"""A row of a table, its text, and counts over the rows of a table."""

from dataclasses import dataclass, field
from typing import Any

from data.sources.kinds import conversion, guess_encoding
from errors import UserError

_COLUMNS = 20  # names of columns that are stored for an error message
_KINDS = {bool: "true or false", int: "a number", float: "a number", list: "a list",
          dict: "an object", bytes: "bytes"}  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are read: of the text and, if rows have one, of the prompt."""

    text: str
    prompt: str | None = None

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [self.text] if self.prompt is None else [self.text, self.prompt]


@dataclass(frozen=True)
class Row:
    """One row of a table. `record` maps columns to values; if the row is broken, `problem` says
    why. `number` counts the rows from 0; `place` says where the row is in the file."""

    number: int
    place: str
    record: Any = None
    problem: str = ""

    def text(self, field: str) -> tuple[str, str]:
        """Return (text of the column `field`, "") or ("", why the row has no text)."""
        if self.problem:
            return "", self.problem
        if not isinstance(self.record, dict):
            return "", "not an object with columns"
        if field not in self.record:
            return "", f"no column {field}"
        value = self.record[field]
        text = join_turns(value) or value
        if not isinstance(text, str):
            kind = "null" if value is None else _KINDS.get(type(value), type(value).__name__)
            return "", f"{kind} in column {field}"
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return "", _bad_characters(text, text[error.start], field)
        return text, "" if text else f"empty text in column {field}"

    def document(self, columns: Columns) -> tuple[str, int, str]:
        """Return (prompt and text, characters of the prompt, "") or ("", 0, why it has no text).

        Nothing is inserted between prompt and text. A prompt may be null or empty.
        """
        text, reason = self.text(columns.text)
        if not text or columns.prompt is None:
            return text, 0, reason
        prompt, reason = self.text(columns.prompt)
        if prompt or reason.startswith(("null ", "empty ")):
            return prompt + text, len(prompt), ""
        return "", 0, reason


def is_absent(reason: str) -> bool:
    """Return whether `reason` says that a row has no value for the text, or an empty one."""
    return reason.startswith(("no column ", "null ", "empty "))


def join_turns(value: Any) -> str:
    """Join the turns of a conversation, [{"role": "user", "content": "Hello"}, ...], each as
    "user: Hello" on a line of its own. Return "" for any other value."""
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        return ""
    turns = [(turn.get("role"), turn.get("content")) for turn in value]
    if not all(isinstance(role, str) and isinstance(content, str) for role, content in turns):
        return ""
    return "\n".join(f"{role}: {content}" for role, content in turns)


def _bad_characters(text: str, character: str, field: str) -> str:
    """Return why a text cannot be encoded in UTF-8. `character` is the first that cannot. One of
    U+DC80 to U+DCFF stands for a byte that is not UTF-8 (Python's "surrogateescape")."""
    if not "\udc80" <= character <= "\udcff":
        return f"half of a character (a lone surrogate) in column {field}"
    escaped = bytes(ord(c) - 0xDC00 for c in text if "\udc80" <= c <= "\udcff")
    advice = conversion(guess_encoding(escaped))
    return f"bytes that are not UTF-8 in column {field}" + (f" ({advice})" if advice else "")


@dataclass
class Skipped:
    """Rows that are skipped for one reason: how many, and where the first is."""

    first: str
    count: int = 0


@dataclass
class RowCounts:
    """Counts the rows of the table `name`. If `strict`, a row without text is an error."""

    name: str
    read: Columns
    strict: bool = False
    n_rows: int = 0
    n_texts: int = 0
    turns: dict[str, None] = field(default_factory=dict)  # columns with turns of conversations
    columns: dict[str, None] = field(default_factory=dict)  # names, at most about `_COLUMNS`
    skipped: dict[str, Skipped] = field(default_factory=dict)  # by reason

    def document(self, row: Row) -> tuple[str, int]:
        """Count a row and return (prompt and text, characters of the prompt), ("", 0) if it has no
        text. Raises `UserError` if `strict`."""
        text, prompt_length, reason = row.document(self.read)
        self.n_rows += 1
        if isinstance(row.record, dict) and len(self.columns) < _COLUMNS:
            self.columns |= dict.fromkeys(row.record)
        if text:
            self.n_texts += 1
            turns = (name for name in self.read.names if isinstance(row.record[name], list))
            self.turns |= dict.fromkeys(turns)
        elif self.strict:
            place = f"{self.name}, {row.place}"
            raise UserError(f"{place}: {reason}; data.strict=false skips such rows", "path")
        else:
            self.skipped.setdefault(reason, Skipped(row.place)).count += 1
        return text, prompt_length

    def __str__(self) -> str:
        """Return how many rows have no text, and why."""
        return ", ".join(
            f"{reason} ({skipped.count:,} of {self.n_rows:,} rows, first: {skipped.first})"
            for reason, skipped in self.skipped.items()
        )
