"""Open a source of documents by its name: the story world, Shakespeare's works, the user's own
files, or a dataset of the Hub.

Text is not changed: no line end is translated, no white space is removed.
"""

import hashlib
from collections.abc import Iterator

from data.choices import SOURCES
from data.documents import Document, Source
from data.stories import FAR, NEAR, VERSION, story
from data.stories.world import split_of
from errors import UserError

STORIES_PER_CHUNK = 1000
STORY_BYTES = 3_100  # approximate, for the progress bar


def open_source(
    source: str,
    *,
    path: str | None = None,
    field: str = "text",
    prompt_field: str | None = None,
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
    """Return the source called `source`. The other arguments are documented in the classes that
    take them: `Stories`, `Files` and `Hub`.

    Raises `UserError` for a name that is not in `SOURCES` and for a path that cannot be read.
    """
    if source not in SOURCES:
        raise UserError(f"source is {source!r}: one of {', '.join(SOURCES)}", "source")
    if source == "stories":
        return Stories(stories, near, far)
    if source == "shakespeare":
        from data.sources.shakespeare import Shakespeare

        return Shakespeare()
    if source == "files":
        from data.sources.files import Files

        return Files(path, field, documents, separator, strict, prompt_field)
    from data.sources.hub import Hub

    return Hub(path, hub_config, hub_split, field=field, revision=revision, streaming=streaming,
               strict=strict, prompt_field=prompt_field)  # fmt: skip


class Stories(Source):
    """The first `count` stories of seed 0 (data/stories). Each story has a fixed split.

    `near` and `far` bound the distance in words from a fact to its use. Raises `UserError` if
    `near` is greater than `far`.
    """

    def __init__(self, count: int, near: int = NEAR, far: int = FAR) -> None:
        if near > far:
            raise UserError(
                f"near is {near}, more than far, {far}: make it smaller", "near", ["far"]
            )
        self._count, self._near, self._far = count, near, far
        self.n_chunks = -(-count // STORIES_PER_CHUNK)

    def fingerprint(self) -> str:
        settings = f"{self._count} {self._near} {self._far} {VERSION}"
        return hashlib.sha256(settings.encode()).hexdigest()

    def chunk(self, number: int) -> Iterator[Document]:
        for index in range(
            number * STORIES_PER_CHUNK, min((number + 1) * STORIES_PER_CHUNK, self._count)
        ):
            text = story(0, index, near=self._near, far=self._far).text
            yield Document(f"story-{index}", text, split_of(index))

    def chunk_bytes(self, number: int) -> int:
        return min(STORIES_PER_CHUNK, self._count - number * STORIES_PER_CHUNK) * STORY_BYTES
