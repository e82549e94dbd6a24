"""What a source of text is: documents in a fixed order, and the parts in which they can be read.

A source never holds its text. It is cut into parts that can be read apart, by any process, in any
order: a thousand stories, sixteen megabytes of a file, a file of a dataset. What the parts yield,
one after the other, is the corpus; how many processes read them changes nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

OWN_TEXT = "use your own text: data.source=files data.path=FILE"  # a way out that is always open


@dataclass(frozen=True)
class Document:
    """A text that stands for itself. `name`, one of its own in its source, decides its split, so it
    must not depend on time or machine; `text` is never empty. `split`, where a source has splits of
    its own, is train, val or test."""

    name: str
    text: str
    split: str | None = None


class Source(ABC):
    """What the rest of the room asks of a source. It is sent to other processes: it holds names and
    numbers, no open files and no text."""

    n_parts: int = 1

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash what the documents are made from; equal hash, equal documents and equal parts."""

    @abstractmethod
    def part(self, number: int) -> Iterator[Document]:
        """Yield the documents of one part, 0 to n_parts - 1, in the same order each time. Raises
        `UserError` if it cannot."""

    def part_bytes(self, number: int) -> int:
        """Say about how many bytes a part has, for the progress bar and the choice of processes."""
        return 1

    def documents(self) -> Iterator[Document]:
        """Yield every document, part after part."""
        for number in range(self.n_parts):
            yield from self.part(number)
