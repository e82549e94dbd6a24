"""A source of text: documents in a fixed order, and the chunks in which they are read.

A source does not hold its text in memory. The text is read in chunks, such as a thousand stories,
sixteen megabytes of a file or one file of a dataset. Any process can read any chunk, in any order.
The corpus is the documents of all chunks, one chunk after the other. It does not depend on the
number of processes that read it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

OWN_TEXT = "use your own text: data.source=files data.path=FILE"  # advice that helps in every case


@dataclass(frozen=True)
class Document:
    """One document. Its `name` is unique in its source and decides its split, so it must not depend
    on the time or the machine. `text` is never empty. `split` is train, val or test if the source
    has its own splits, otherwise None. The first `prompt_length` characters of the text are a
    prompt: the model reads them, and they are left out of the loss (data/prompts.py)."""

    name: str
    text: str
    split: str | None = None
    prompt_length: int = 0


class Source(ABC):
    """The interface of every source. A source is sent to other processes, so it holds names and
    numbers, but no open files and no text."""

    n_chunks: int = 1
    has_prompts: bool = False  # whether a document may begin with a prompt

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash of the content and the settings of the source. Equal hashes mean equal
        documents and equal chunks."""

    @abstractmethod
    def chunk(self, number: int) -> Iterator[Document]:
        """Yield the documents of one chunk, 0 to n_chunks - 1, in the same order each time. Raises
        `UserError` if the chunk cannot be read."""

    def chunk_bytes(self, number: int) -> int:
        """Return the approximate size of a chunk in bytes, for the progress bar and for the number
        of processes."""
        return 1

    def documents(self) -> Iterator[Document]:
        """Yield every document, chunk after chunk."""
        for number in range(self.n_chunks):
            yield from self.chunk(number)
