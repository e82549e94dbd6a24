"""Beats in words, and scenes that pass the time between a fact and its use."""

from collections.abc import Iterator, Sequence
from itertools import count
from math import gcd

from data.stories.templates import Beat, Script, Telling, read_scripts
from data.stories.world import Draw, World

REFRAIN_EVERY = 3  # scenes


def count_words(text: str) -> int:
    """Count words, separated by single spaces."""
    return text.count(" ") + 1


def say(world: World, telling: Telling) -> str:
    """Resolve the choices of a telling and fill its fields."""
    choose = world.draw.choose
    return " ".join([choose(variants) for _, variants in telling]).format_map(world)


def tell_beat(world: World, beat: Beat) -> str:
    """Let the events of a beat happen, then tell it in one of its ways."""
    for event in beat.events:
        world.apply(event)
    return say(world, world.draw.choose(beat.tellings))


def tell_paragraph(world: World, beats: Sequence[Beat], numbered: dict[str, str]) -> str:
    """Tell beats as one paragraph. `numbered` holds the words of its fields such as {bird1}."""
    outer, world.numbered = world.numbered, numbered
    text = " ".join([tell_beat(world, beat) for beat in beats])
    world.numbered = outer
    return text


def draw_scenes(draw: Draw) -> Iterator[Script]:
    """Yield scenes without end, in an order that is drawn.

    No scene is repeated before all scenes have occurred. A scene with events occurs only once,
    because it changes the world.
    """
    scenes = read_scripts("scenes")
    start, step = draw.below(len(scenes)), 1 + draw.below(len(scenes) - 1)
    while gcd(step, len(scenes)) > 1:
        step += 1
    for number in count():
        scene = scenes[(start + number * step) % len(scenes)]
        if number < len(scenes) or not any(beat.events for beat in scene.beats):
            yield scene


def pass_time(
    world: World, scenes: Iterator[Script], words: int, refrains: Sequence[Telling] = ()
) -> list[str]:
    """Return scenes of at least `words` words in all, one per paragraph; none if `words` <= 0.

    After every third scene comes one of the refrains, in turn.
    """
    paragraphs: list[str] = []
    refrain = world.draw.below(12)
    while words > 0:
        paragraphs.append(tell_paragraph(world, next(scenes).beats, {}))
        if refrains and len(paragraphs) % REFRAIN_EVERY == 0:
            refrain += 1
            paragraphs[-1] += " " + say(world, refrains[refrain % len(refrains)])
        words -= count_words(paragraphs[-1])
    return paragraphs
