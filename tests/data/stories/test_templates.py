"""The parser of the template language: every form, and no field that the world does not know."""

import pytest

from data.stories import telling
from data.stories.templates import (
    FILES,
    PARAGRAPH_ENDS,
    TIME_PASSES,
    fields_of,
    parse,
    read_scripts,
    split_sentences,
)

SAMPLE = """# A comment.
Text before the first script is ignored.

== kite
{A} had {k.colour_fact}.
# A comment between two tellings.
{A} (owned|hid) {k.a}. It was old.

@put k p; give k B
@leave C
{B} went home.

--

...
Time passed.

== end
The end.
"""


def test_scripts_beats_events_and_tellings() -> None:
    kite, end = parse(SAMPLE)
    assert (kite.name, end.name) == ("kite", "end")
    events = [beat.events for beat in kite.beats]
    assert events == [(), ("put k p", "give k B", "leave C"), PARAGRAPH_ENDS, TIME_PASSES]
    assert [len(beat.tellings) for beat in kite.beats] == [2, 1, 0, 1]
    owned, old = kite.beats[0].tellings[1]
    assert owned.parts == (("{A} ",), ("owned", "hid"), (" {k.a}.",))
    assert owned.variants == ("{A} owned {k.a}.", "{A} hid {k.a}.")
    assert old.variants == ("It was old.",)
    assert fields_of(kite.beats[0].tellings[1]) == ["A", "k.a"]


def test_comments_change_nothing() -> None:
    """Above, between and below: the same scripts without them."""
    plain = "".join(line for line in SAMPLE.splitlines(True) if not line.startswith("#"))
    assert parse(plain) == parse(SAMPLE)
    (script,) = parse("== a\n# First.\nOne.\n\n# Second.\nTwo.\n\n# Last.\n")
    assert [beat.tellings[0][0].variants for beat in script.beats] == [("One.",), ("Two.",)]


@pytest.mark.parametrize(
    ("template", "variants"),
    [
        ("a {bird} sat.", ("{a bird} sat.",)),
        ("A (old|young) cat.", ("An old cat.", "A young cat.")),
        ("a (user|one-eyed cat|egg).", ("a user.", "a one-eyed cat.", "an egg.")),
        ("the {cloth}s and {k.noun}s.", ("the {+cloth} and {k.nouns}.",)),
        ('"Ah," {says} {A}.', ('"Ah," {says A}.',)),
        ('"Ah," {says} {A}, {a.who}.', ('"Ah," {says} {A}, {a.who}.',)),
        ("(|{Then} )it ran.", ("it ran.", "{Then} it ran.")),
        ("Nobody knew.", ("Nobody knew.", "No one knew.")),
        ("(nobody|two) of {A}.", ("nobody of {A}.", "two of {A}.")),
    ],
)
def test_choices_and_grammar(template: str, variants: tuple[str, ...]) -> None:
    (script,) = parse(f"== a\n{template}")
    ((sentence,),) = script.beats[0].tellings
    assert sentence.variants == variants


def test_sentences_end_after_quotation_marks_too() -> None:
    assert split_sentences('"Stop!" It rained. "Why?" he asked.\n\nSo') == [
        '"Stop!"', "It rained.", '"Why?"', "he asked.", "So",
    ]  # fmt: skip


def test_every_field_is_known_to_the_world() -> None:
    """Each variant of each sentence is filled, so that a misspelled field fails here."""
    _, _, world = telling._draw_outline(0, 0, 200, 400)
    for event in ("put k p", "put r q", "put m s", "give k A", "give m B"):
        world.apply(event)
    n_variants = 0
    for name in FILES:
        for script in read_scripts(name):
            for beat in script.beats:
                for sentences in beat.tellings:
                    for sentence in sentences:
                        for variant in sentence.variants:
                            assert variant.format_map(world)
                            n_variants += 1
    assert n_variants > 5000
