"""The story world: small worlds are simulated first, then told in plain English.

    story(seed, index) -> Story(text, probes)

The terms of this package, each with one meaning:

    fact      a word that a story states and may need later: "the kite is in the *barn*"
    use       a word that only an earlier fact decides: "it was still in the *barn*"
    probe     a use as data: its span, the span of the fact, the right word, wrong words
    distance  the words from the last mention of a fact to its use; drawn from NEAR to FAR
    beat      one step of a script: events that change the world, and tellings, ways to say so
    plot      the script of a story: beats that state facts, pass time and use them
    scene     a short script that fits into any plot; scenes pass the time between fact and use
    refrain   a sentence after some scenes that recalls the plot
    frame     a script around the plot: how a story begins and ends
    primer    the script of stories for beginners, in which uses follow facts soon
    field     a word in braces that the world fills in: {A}, {k.noun}
    mark      the notation of a fact or a use in a text from which probes are made

A fact may be overwritten before it is used: the kite is moved. The same (seed, index) gives the
same bytes on every machine. Of 20 stories one is `val` and one `test`. No two splits share a
combination of hero, thing and plot.

docs/stories.md describes the template language and how to add to the world.
"""

from data.stories.probes import Probe, Story
from data.stories.telling import FAR, NEAR, combination, story

# The version of the stories' bytes: a corpus of another version is prepared again. A golden hash in
# tests/data/stories/test_stories.py holds it.
VERSION = 2

__all__ = ["FAR", "NEAR", "VERSION", "Probe", "Story", "combination", "story"]
