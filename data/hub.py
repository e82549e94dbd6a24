"""Datasets of the Hugging Face Hub."""

from collections.abc import Iterator

from data.documents import Document, Source


class Hub(Source):
    """A dataset by its id."""

    def __init__(
        self, path: str | None, config: str | None = None, split: str = "train", *,
        field: str = "text", revision: str | None = None, streaming: bool = True,
    ) -> None:  # fmt: skip
        raise NotImplementedError

    def fingerprint(self) -> str:
        raise NotImplementedError

    def part(self, number: int) -> Iterator[Document]:
        raise NotImplementedError
