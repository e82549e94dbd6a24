"""The story world: the same everywhere, disjoint splits, probes that point at what they say."""

import hashlib
import itertools
import os
import re
import subprocess
import sys

import pytest

from data.sources.open import open_source
from data.stories import lexicon
from data.stories.telling import FAR, NEAR, PRIMER, Story, combination, story
from data.stories.world import split_of

MANY = 2000


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    return [story(0, index) for index in range(MANY)]


def test_bytes_are_the_same_in_every_process(stories: list[Story]) -> None:
    """Neither the order of a set nor the hash of a str may reach the text."""
    code = (
        "import hashlib; from data.stories.telling import story;"
        "print(hashlib.sha256(repr([story(0, i) for i in range(200)]).encode()).hexdigest())"
    )
    expected = hashlib.sha256(repr(stories[:200]).encode()).hexdigest()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": "."},
        )  # fmt: skip
        assert done.stdout.strip() == expected


def test_a_story_does_not_depend_on_the_others(stories: list[Story]) -> None:
    """Nothing drawn for one story may be left over for the next."""
    assert story(0, 7) == stories[7]
    assert story(1, 7) != stories[7]


def test_no_two_stories_are_alike(stories: list[Story]) -> None:
    assert len({told.text for told in stories}) == MANY


def test_probes_point_at_fact_and_use(stories: list[Story]) -> None:
    """A probe whose spans are off by one would measure another word."""
    n_probes = 0
    for text, probes in stories:
        for probe in probes:
            n_probes += 1
            fact, use = text[slice(*probe.fact)], text[slice(*probe.use)]
            assert use == probe.right and fact.lower() == use.lower()
            assert probe.fact[1] < probe.use[0]
            assert probe.right not in probe.wrong and len(probe.wrong) >= 2
            between = text[probe.fact[1] : probe.use[0]]
            assert not re.search(rf"\b{re.escape(use)}\b", between, re.IGNORECASE)
    assert n_probes > 2.5 * MANY


def test_an_overwritten_fact_is_asked_for_as_it_is_now() -> None:
    """`moved` puts a thing in two places; the probe is about the second."""
    moved = [told for told in (story(0, index) for index in range(3000))
             if "empty" in told.text and "moved it" in told.text]  # fmt: skip
    assert len(moved) > 10
    for text, probes in moved:
        places = {noun for where in itertools.chain(*lexicon.SETTINGS.values())
                  for noun in [where.split()[-1]]}  # fmt: skip
        last = [probe for probe in probes if probe.kind == "place" and probe.right in places]
        for probe in last:
            *_, told = re.finditer(rf"\b{probe.right}\b", text[: probe.use[0]])
            assert told.span() == probe.fact


@pytest.mark.parametrize(("near", "far"), [(5, 20), (200, 400)])
def test_distance_is_what_was_asked_for(near: int, far: int) -> None:
    """The words from a plot's fact to its use follow `near`, and with it the story's length."""
    longest = []
    for index in range(300):
        text, probes = story(3, index, near=near, far=far)
        words = [text.count(" ", probe.fact[1], probe.use[0]) + 1
                 for probe in probes if probe.kind == "place"]  # fmt: skip
        longest += [max(words)] if words else []
    longest.sort()
    median = longest[len(longest) // 2]
    assert near <= median <= far + 80, median


@pytest.mark.parametrize(("near", "far"), [(5, 20), (20, 80)])
def test_stories_for_beginners_use_a_fact_as_soon_as_is_asked(near: int, far: int) -> None:
    """Each use has a distance of its own, and most lie where they were wished."""
    told = [story(3, index, near=near, far=far) for index in range(100)]
    assert {combination(3, index, near=near, far=far)[0] for index in range(100)} == {PRIMER}
    words = sorted(text.count(" ", probe.fact[1], probe.use[0]) + 1
                   for text, probes in told for probe in probes)  # fmt: skip
    assert len(words) > 2000
    assert near / 2 <= words[len(words) // 4] and words[len(words) * 3 // 4] <= far


def test_scenes_pass_in_stories_for_beginners() -> None:
    """A colour is asked for again further back than 64 tokens about once in a story, so that there
    is something to see for a window; and not where distances are to be short."""
    for near, far, least, most in ((5, 160, 100, 300), (5, 39, 0, 30)):
        told = [story(3, index, near=near, far=far) for index in range(100)]
        beyond = [probe for text, probes in told for probe in probes if probe.kind == "colour"
                  and text.count(" ", probe.fact[1], probe.use[0]) >= 64]  # fmt: skip
        assert least <= len(beyond) <= most, (far, len(beyond))


def test_default_distances_reach_from_near_to_far(stories: list[Story]) -> None:
    words = [told.text.count(" ", probe.fact[1], probe.use[0]) + 1
             for told in stories for probe in told.probes]  # fmt: skip
    assert min(words) <= 2 * NEAR
    assert max(words) >= 0.9 * FAR


def test_splits_share_no_combination(stories: list[Story]) -> None:
    """Held out are combinations of hero, thing and plot, not only indices."""
    assert [split_of(index) for index in (0, 17, 18, 19, 20)] == [
        "train", "train", "val", "test", "train",
    ]  # fmt: skip
    seen: dict[tuple[str, str, str], str] = {}
    for index in range(4000):
        assert seen.setdefault(combination(0, index), split_of(index)) == split_of(index)


def test_every_plot_and_every_list_is_used(stories: list[Story]) -> None:
    """2,000 words and 40 plots, as promised; no field is left in the text."""
    from data.stories.telling import _prose

    assert len(_prose("plots")) >= 40
    words = set(re.findall(r"[a-z]+", " ".join(told.text.lower() for told in stories)))
    assert len(words) >= 2000
    assert not any(re.search(r"[{}<>\[\]|@_]", told.text) for told in stories)


def test_articles_and_quotation_marks(stories: list[Story]) -> None:
    """a before a consonant, an before a vowel (and before an hour), quotation marks in pairs."""
    slip = re.compile(r"\b[Aa] (?!use)[aeiou]|\b[Aa]n (?!hour)(?:[^aeiouAEIOU]|use)")
    for text, _ in stories:
        assert not slip.search(text), text
        assert "  " not in text
        assert all(part.count('"') % 2 == 0 for part in text.split("\n\n")), text


def test_the_source_tells_them(stories: list[Story]) -> None:
    source = open_source("stories", stories=40)
    documents = list(source.documents())
    assert [document.text for document in documents] == [told.text for told in stories[:40]]
    assert [document.split for document in documents].count("val") == 2
    assert source.fingerprint() != open_source("stories", stories=41).fingerprint()
