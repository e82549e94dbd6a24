"""Stories for beginners (prose/primer.txt): a fact is used soon after it is stated.

From them, a model learns early in training to attend to facts. If all uses are rare and far, it
learns the sentences but guesses the facts. Such a story is a series of steps. A step is news, which
states a fact, or a use of a known fact. Sometimes scenes pass the time before a use.
"""

from functools import cache
from typing import NamedTuple

from data.stories.probes import MARK
from data.stories.scenes import count_words, draw_scenes, pass_time, say, tell_beat
from data.stories.templates import Beat, fields_of, read_scripts
from data.stories.world import World

PRIMER = "primer"  # the name of these stories among the plots
SHORT = 160  # words; a story with a smaller drawn distance is a story for beginners
STEPS = 16  # a story has 16 to 31 steps
PAUSE, PAUSES = 40, 5  # of the distances of at least 40 words, scenes fill one in 5
PARAGRAPH = 6  # steps in a paragraph, on average
INTRODUCTION = 3  # facts that are stated before most steps are uses


class _Step(NamedTuple):
    """A beat, the fact that it is about (such as k.place), and the facts that it requires."""

    beat: Beat
    fact: str
    required: frozenset[str]


_WORD_FACTS = {"n": "n.number", "t": "t.treat", "w": "w.word"}  # things with a single fact


@cache
def _steps(part: str) -> tuple[_Step, ...]:
    """Read the steps of a part of prose/primer.txt: begin, news, uses or end.

    The fields of a beat show which facts it states and which it uses. The event `need FACT` names
    a fact that it requires without using it.
    """
    (script,) = (script for script in read_scripts(PRIMER) if script.name == part)
    steps = []
    for beat in script.beats:
        stated, used = [], set()
        for field in (field for telling in beat.tellings for field in fields_of(telling)):
            thing, dot, part_name = field.lower().partition(".")
            if not dot or thing not in "krntw":
                continue
            kind, _, role = part_name.rpartition("_")  # colour_fact; {k.noun} needs the colour
            fact = _WORD_FACTS.get(thing) or f"{thing}.{kind or 'colour'}"
            if role == "fact":
                stated.append(fact)
            else:
                used.add(fact)
        fact = [*stated, *sorted(used - {"k.colour"}), "k.colour"][0]
        needed = {event.split()[1] for event in beat.events if event.startswith("need")}
        steps.append(_Step(beat, fact, frozenset(used - set(stated) | needed)))
    return tuple(steps)


def tell_primer(world: World, near: int, far: int) -> list[str]:
    """Return the paragraphs of a story for beginners.

    Each use draws its own distance from its fact, from `near` to `far` words.
    """
    return _Primer(world, near, far).tell()


class _Primer:
    """The state of a story for beginners: what it has mentioned, and which steps are possible."""

    def __init__(self, world: World, near: int, far: int) -> None:
        self._world, self._draw = world, world.draw
        self._near, self._far = near, far
        self._scenes = draw_scenes(world.draw)
        self._words = 0
        self._mentioned: dict[str, int] = {}  # by fact: the word at which it was mentioned last
        self._news = list(_steps("news"))
        self._uses = [(step, list(step.beat.tellings)) for step in _steps("uses")]
        self._unlock()

    def tell(self) -> list[str]:
        """Return the paragraphs."""
        draw = self._draw
        paragraphs = [tell_beat(self._world, draw.choose(_steps("begin")).beat)]
        for _ in range(STEPS + draw.below(STEPS)):
            distance = draw.distance(self._near, self._far)
            introduced = len(self._mentioned) >= INTRODUCTION
            pause = introduced and distance >= PAUSE and not draw.below(PAUSES)
            if pause:
                scenes = pass_time(self._world, self._scenes, distance)
                self._words += sum(map(count_words, scenes))
                paragraphs += scenes
            text = self._next_step(distance, introduced)
            if text is None:
                break
            self._remember(text)
            if pause or not draw.below(PARAGRAPH):
                paragraphs.append(text)
            else:
                paragraphs[-1] += " " + text
        ends = [step for step in _steps("end") if step.required <= self._mentioned.keys()]
        return [*paragraphs, tell_beat(self._world, draw.choose(ends).beat)]

    def _unlock(self) -> None:
        """Find the news and the uses whose required facts are known."""
        known = self._mentioned.keys()
        self._possible_news = [step for step in self._news if step.required <= known]
        self._possible_uses = [use for use in self._uses if use[0].required <= known and use[1]]

    def _next_step(self, distance: int, introduced: bool) -> str | None:
        """Return the text of a use or of news, or None if no step is possible. After the
        introduction, uses are more frequent than news."""
        draw, news = self._draw, self._possible_news
        if self._possible_uses and (not news or draw.below(4 if introduced else 2)):
            return self._tell_use(distance)
        if news:
            step = draw.choose(news if introduced else news[:2])
            self._news.remove(step)
            news.remove(step)
            return tell_beat(self._world, step.beat)
        return None

    def _tell_use(self, distance: int) -> str:
        """Return the text of the use whose fact was mentioned about `distance` words ago.

        Of all possible uses, the one is chosen whose ratio of the two distances is closest to 1.
        """
        words, mentioned = self._words, self._mentioned
        ratios = [
            age / distance
            if (age := words - mentioned[step.fact]) > distance
            else distance / max(age, 1)
            for step, _ in self._possible_uses
        ]
        use = self._possible_uses[ratios.index(min(ratios))]
        tellings = use[1]
        telling = tellings.pop(self._draw.below(len(tellings)))
        if not tellings:
            self._possible_uses.remove(use)
        return say(self._world, telling)

    def _remember(self, text: str) -> None:
        """Record where a marked text mentions facts, and count its words."""
        words, mentioned = self._words, self._mentioned
        n_known = len(mentioned)
        for mark in MARK.finditer(text):
            mentioned[mark[1]] = words + text.count(" ", 0, mark.start())
        self._words = words + count_words(text)
        if len(mentioned) > n_known:
            self._unlock()
