"""A story, from the draw of its plot to its text and probes.

The events of a plot change the `World` first; then a sentence is chosen, and it asks the world what
is true of a thing. So a story cannot contradict itself. Scenes pass the time between a fact and its
use, until the drawn distance is reached. A frame begins and ends the story.
"""

from functools import cache

from data.stories.primer import PRIMER, SHORT, tell_primer
from data.stories.probes import FACT_MARK, Story, unmark
from data.stories.scenes import count_words, draw_scenes, pass_time, tell_beat, tell_paragraph
from data.stories.templates import PARAGRAPH_ENDS, TIME_PASSES, Script, read_scripts
from data.stories.world import Draw, Thing, World, draw_world, split_of

NEAR, FAR = 5, 1000  # words between a fact and its use


def story(seed: int, index: int, *, near: int = NEAR, far: int = FAR) -> Story:
    """Return story `index` of world `seed`: the same bytes on every machine.

    `near` and `far` bound the words from a fact to its use: 1 <= near <= far. The distance is drawn
    for the story, each doubling equally likely; in a story for beginners it is drawn for each
    use. The distance is longer if the plot's own sentences need more words.
    """
    assert 1 <= near <= far and index >= 0
    distance, plot, world = _draw_outline(seed, index, near, far)
    if plot == PRIMER:
        paragraphs = tell_primer(world, near, min(far, SHORT))
    else:
        frame = world.draw.choose(read_scripts("frames")).beats
        middle = [beat.events for beat in frame].index(TIME_PASSES)
        numbered: dict[str, str] = {}
        paragraphs = [tell_paragraph(world, frame[:middle], numbered)]
        paragraphs += _tell_plot(world, _plots()[plot], distance)
        paragraphs.append(tell_paragraph(world, frame[middle + 1 :], numbered))
    return unmark("\n\n".join(paragraphs), world.candidates)


def combination(seed: int, index: int, *, near: int = NEAR, far: int = FAR) -> tuple[str, str, str]:
    """Return the names of a story's plot, hero and thing. No two splits share all three."""
    _, plot, world = _draw_outline(seed, index, near, far)
    thing = world["k"]
    assert isinstance(thing, Thing)
    return plot, str(world["A"]), thing.noun


def _draw_outline(seed: int, index: int, near: int, far: int) -> tuple[int, str, World]:
    """Draw the distance in words, a plot that suits it, and a world for the plot."""
    draw = Draw(seed, index)
    distance = draw.distance(near, far)
    plots = (PRIMER,) if distance < SHORT else tuple(_plots())
    return distance, *draw_world(draw, split_of(index), plots)


@cache
def _plots() -> dict[str, Script]:
    return {plot.name: plot for plot in read_scripts("plots")}


def _tell_plot(world: World, plot: Script, distance: int) -> list[str]:
    """Return the paragraphs of a plot. Where time passes, there are scenes until the last stated
    fact is `distance` words back."""
    paragraphs: list[str] = []
    texts: list[str] = []  # of the current paragraph
    words, scenes = 0, draw_scenes(world.draw)  # words since the last fact
    for beat in plot.beats:
        if beat.events in (TIME_PASSES, PARAGRAPH_ENDS):
            paragraphs.append(" ".join(texts))
            texts = []
            if beat.events == TIME_PASSES:
                paragraphs += pass_time(world, scenes, distance - words, beat.tellings)
        else:
            text = tell_beat(world, beat)
            texts.append(text)
            words += count_words(text)
            if FACT_MARK in text:
                words = text.count(" ", text.rindex(FACT_MARK)) + 1
    return [*paragraphs, " ".join(texts)]
