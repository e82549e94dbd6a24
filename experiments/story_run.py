"""A run that was trained on stories, and the stories that it learned from."""

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from arguments import open_run
from data.stories import Story, story
from data.stories.world import split_of
from errors import UserError

if TYPE_CHECKING:  # torch is imported only when a model is opened
    from inference.trained import TrainedModel

SEED = 0  # of the world that data.source=stories reads


@dataclass(frozen=True)
class StoryRun:
    """A trained model whose data includes stories."""

    path: str
    trained: "TrainedModel"

    def story(self, index: int, far: int | None = None) -> Story:
        """Return a story with the distances of the run's config, data.near and data.far.

        Another `far`, in words, replaces data.far.
        """
        data = self.trained.config.data
        return story(SEED, index, near=data.near, far=far or data.far)

    def training_texts(self) -> list[str]:
        """Return the stories that the model was trained on."""
        indices = range(self.trained.config.data.stories)
        return [self.story(index).text for index in indices if split_of(index) == "train"]

    def unseen(self, split: str = "test", far: int | None = None) -> Iterator[Story]:
        """Yield stories of a split, without end, after all stories of the run's text.

        The model has seen none of them. With split "train" it has seen combinations of hero, thing
        and plot such as theirs; those of val and test are held out.
        """
        for index in count(self.trained.config.data.stories):
            if split_of(index) == split:
                yield self.story(index, far)


def open_story_run(arguments: Namespace, path: str | None = None) -> StoryRun:
    """Open the model of RUN, or of `path`, one of several.

    Raises `UserError` if there is no such run or if stories are not among its sources.
    """
    path = path or arguments.run
    return story_run(path, open_run(arguments, path))


def story_run(path: str, trained: "TrainedModel") -> StoryRun:
    """Return an open model as one of stories. Raises `UserError` if these are no source of it."""
    data = trained.config.data
    sources = [name.partition(":")[0] for name in data.mix or [data.source]]
    if "stories" not in sources:
        raise UserError(
            f"{path} was not trained on stories but on {', '.join(sources)}: name a run with "
            "stories in data.source or data.mix"
        )
    return StoryRun(path, trained)
