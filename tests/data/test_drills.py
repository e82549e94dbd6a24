"""data/drills.py: chains of segments three times in a row, beside a text in its own order."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from data.batches import Batches
from data.drills import DrilledBatches, Drills, longest_segment
from data.mixture import MixedBatches
from data.tokenizer import open_tokenizer
from data.vocabulary import train_tokenizer
from errors import UserError

PIECES = list(range(300, 900, 3))


def drills(pieces: list[int] = PIECES, *, seq_len: int = 256, seed: int = 0) -> Drills:
    return Drills(pieces, seq_len=seq_len, seed=seed)


def segments_of(row: list[int], longest: int) -> list[list[int]]:
    """Cut a row into segments, by looking for three equal passes; the last may be cut off."""
    found, start = [], 0
    while start < len(row):
        rest = row[start:]
        for p in range(4, longest + 1):
            expected = (rest[:p] * 3)[: len(rest)]
            if rest[: 3 * p] == expected and len(set(rest[:p])) == len(rest[:p]):
                break
        else:
            raise AssertionError(f"no segment at {start}: {rest[:80]}")
        found.append(rest[:p])
        start += 3 * p
    return found


@pytest.mark.parametrize("longest", [4, 6, 12, 24, 48])
@pytest.mark.parametrize("seq_len", [1, 7, 12, 256, 1000])
def test_a_row_is_segments_three_times_in_a_row(seq_len: int, longest: int) -> None:
    """Shape and type; a segment that is written twice, has a token twice, or is too long."""
    rows = drills(seq_len=seq_len).rows(5, 6, longest)
    assert rows.shape == (6, seq_len + 1) and rows.dtype == np.int64
    assert set(rows.flatten().tolist()) <= set(PIECES)
    for row in rows.tolist():
        segments_of(row, longest)


def test_lengths_and_pieces_are_drawn_alike() -> None:
    """One length or one token could be drawn more often, or never."""
    lengths: Counter[int] = Counter()
    tokens: Counter[int] = Counter()
    for row in drills().rows(0, 2000, 9).tolist():
        complete = segments_of(row, 9)[:-1]
        # The row's end cuts the last segments off, the long ones more often: count the first four.
        lengths.update(map(len, complete[:4]))
        tokens.update(token for segment in complete for token in segment)
    assert lengths.keys() == set(range(4, 10)) and tokens.keys() == set(PIECES)
    assert max(lengths.values()) < 1.15 * min(lengths.values())
    assert max(tokens.values()) < 1.5 * min(tokens.values())


def test_rows_depend_on_seed_step_and_row_alone() -> None:
    """A drill that is repeated; one that depends on how many rows its step has."""
    one = drills()
    rows = one.rows(7, 3, 6)
    assert (one.rows(7, 5, 6)[:3] == rows).all() and (drills().rows(7, 3, 6) == rows).all()
    others = [one.rows(step, 3, 6) for step in range(20)] + [drills(seed=1).rows(7, 3, 6)]
    assert len({row.tobytes() for each in others for row in each}) == 63
    assert one.rows(7, 0, 6).shape == (0, 257)


def test_drills_are_the_same_on_every_machine() -> None:
    """A change of the drills changes all runs with drills, and the rest of a resumed one."""
    rows = drills().rows(123, 8, 24).astype("<i8")
    digest = hashlib.sha256(rows.tobytes()).hexdigest()
    assert digest == "193e14ed873cf33ee5a3860c17171a79771682ce0ec4f3848b43dbc762607710"


def test_the_text_of_runs_without_drills_is_that_of_before() -> None:
    """The hash shared with drills could change the order of all texts. The value is of commit
    4ef7536, before there were drills."""
    batches = Batches(np.arange(1000, dtype=np.uint16), seq_len=8, batch_size=6, seed=3)
    found = b"".join(batches.batch(step).astype("<i8").tobytes() for step in (0, 1, 50, 1000))
    assert hashlib.sha256(found).hexdigest() == (
        "29ba512507faa0cddd7baf07d427b8c5d67406d3958c58986f2ac5aa9a628eea"
    )


def test_small_vocabularies() -> None:
    """Segments are no longer than there are pieces; with fewer than four there is no segment."""
    rows = drills(PIECES[:5]).rows(0, 4, 24).tolist()
    assert {len(s) for row in rows for s in segments_of(row, 5)[:-1]} == {4, 5}
    assert len(segments_of(drills(PIECES[:4]).rows(0, 1, 24)[0].tolist(), 4)) == 22
    with pytest.raises(
        UserError, match=r"^drills need 4 tokens beside specials and bytes"
    ) as found:
        drills(PIECES[:3])
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("type", ["bpe", "unigram", "char"])
def test_pieces_are_neither_specials_nor_bytes(type: str) -> None:
    """<s> in a drill would begin a document; byte tokens hardly occur in a text."""
    text = ["the quick brown fox jumps over the lazy dog again and again. " * 20]
    tokenizer = open_tokenizer(train_tokenizer(text, type=type, vocab_size=300))
    names = [tokenizer.piece(id) for id in tokenizer.piece_ids]
    assert len(names) > 10 and not any(name.startswith("<") for name in names)
    rest = set(range(tokenizer.vocab_size)) - set(tokenizer.piece_ids)
    assert len(rest) == 3 + 256 and {0, tokenizer.bos_id, tokenizer.eos_id} <= rest


def test_longest_segment_of_a_window() -> None:
    """A segment longer than the window cannot be copied."""
    table = {1: 4, 4: 4, 5: 4, 6: 4, 8: 6, 16: 12, 31: 23, 32: 24, 64: 48, 100_000: 48}
    assert {width: longest_segment(width) for width in table} == table
    assert all(longest_segment(width) <= width for width in range(4, 100))


def numbered(n_sequences: int, source: int, batch_size: int) -> Batches:
    """Sequence k of a source begins with 1000 * source + 2k + 1; drills below have other tokens."""
    tokens = 1000 * source + 1 + np.arange(n_sequences * 2 + 1)
    return Batches(tokens, seq_len=2, batch_size=batch_size, seed=5)


def text(mixed: bool, batch_size: int) -> Batches | MixedBatches:
    one = numbered(40, 0, batch_size)
    if not mixed:
        return one
    other = numbered(90, 1, batch_size)
    return MixedBatches([one, other], [700, 300], batch_size=batch_size, seed=5)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("n_drills", [[6, 6, 2], [0, 1, 0, 0, 1], [3], [0]])
def test_the_text_is_read_in_its_own_order(n_drills: list[int], mixed: bool) -> None:
    """A sequence that is skipped or read twice where drills take its place, within a step or
    between steps. The oracle counts the steps one by one."""
    counts = (n_drills * 40)[:40]
    batches = DrilledBatches(
        text(mixed, 1), Drills(list(range(5000, 5100)), seq_len=2, seed=5), batch_size=6,
        drills_before=lambda step: sum(counts[:step]), longest=lambda step: 4,
    )  # fmt: skip
    plain = text(mixed, 6)
    stream = [row.tolist() for step in range(40) for row in plain.batch(step)]
    backwards = {step: batches.batch(step) for step in reversed(range(39))}
    for step in range(39):
        n = counts[step]
        rows = backwards[step].tolist()
        assert len(rows) == 6
        assert rows[: 6 - n] == stream[: 6 - n]
        assert all(min(row) >= 5000 for row in rows[6 - n :])
        stream = stream[6 - n :]
