"""Where documents come from, by name: the story world, Shakespeare's works, the user's own files,
the Hub.

Text is kept as it is: no newline is translated, nothing is stripped.
"""

import hashlib
from collections.abc import Iterator

from data.choices import SOURCES
from data.documents import Document, Source
from data.stories import FAR, NEAR, VERSION, story
from data.stories.world import split_of
from errors import UserError

IN_A_PART = 1000  # stories
STORY_BYTES = 3_100  # about; for the progress bar


def open_source(
    source: str,
    *,
    path: str | None = None,
    field: str = "text",
    documents: str = "file",
    separator: str | None = None,
    strict: bool = False,
    stories: int = 4000,
    near: int = NEAR,
    far: int = FAR,
    hub_config: str | None = None,
    hub_split: str = "train",
    revision: str | None = None,
    streaming: bool = True,
) -> Source:
    """Open the source called `source`. The other arguments are those of the classes: `Stories`,
    `Files`, `Hub`.

    Raises `UserError` for a name that is not in `SOURCES` and for a path that cannot be read.
    """
    if source not in SOURCES:
        raise UserError(f"data.source is {source!r}: one of {', '.join(SOURCES)}")
    if source == "stories":
        return Stories(stories, near, far)
    if source == "shakespeare":
        from data.sources.shakespeare import Shakespeare

        return Shakespeare()
    if source == "files":
        from data.sources.files import Files

        return Files(path, field, documents, separator, strict)
    from data.sources.hub import Hub

    return Hub(path, hub_config, hub_split, field=field, revision=revision, streaming=streaming,
               strict=strict)  # fmt: skip


class Stories(Source):
    """The first `count` stories of world 0 (data/stories), which have splits of their own."""

    def __init__(self, count: int, near: int = NEAR, far: int = FAR) -> None:
        if near > far:
            raise UserError(f"data.near is {near}, more than data.far, {far}: make it smaller")
        self._count, self._near, self._far = count, near, far
        self.n_parts = -(-count // IN_A_PART)

    def fingerprint(self) -> str:
        about = f"{self._count} {self._near} {self._far} {VERSION}"
        return hashlib.sha256(about.encode()).hexdigest()

    def part(self, number: int) -> Iterator[Document]:
        for index in range(number * IN_A_PART, min((number + 1) * IN_A_PART, self._count)):
            told = story(0, index, near=self._near, far=self._far)
            yield Document(f"story-{index}", told.text, split_of(index))

    def part_bytes(self, number: int) -> int:
        return min(IN_A_PART, self._count - number * IN_A_PART) * STORY_BYTES
