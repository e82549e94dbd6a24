"""Does the story world keep its promises? `python -m experiments.audit`

Tells a million stories, in as many processes as there are cores, and prints each promise beside
what was measured: words, plots, no two stories alike, the same bytes everywhere, speed, how much
there is to learn, splits that share nothing, distances from fact to use, grammar. Exit code 1 when
one is broken.
"""

import hashlib
import lzma
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from errors import ArgumentParser, UserError, command

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
BATCH = 1_000  # stories that a process tells before it reports
HASHED = 100  # stories that two other processes tell too
SPEED = 1_000  # stories told for the speed, three times
COMPRESSED = 20_000_000  # bytes

# What is promised.
WORDS, PLOTS = 2_000, 40
MB_PER_S = 5.0
XZ_RATIO = 0.15
NEAR, FAR = 5, 1_000  # words between a fact and its use, from at most to at least


class Row(NamedTuple):
    """A promise, what was measured, and whether it holds."""

    name: str
    promised: str
    measured: str
    holds: bool

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "FAILS"
        return f"{self.name:34}{self.promised:>14}{self.measured:>14}  {verdict}"


class Told(NamedTuple):
    """What a process reports of the stories it told, in their order."""

    texts: "NDArray"  # a hash of each, 64 bits: two of a million agree by chance in 3e-8 of cases
    combinations: "NDArray"  # a hash of each story's plot, hero and thing
    words: set[str]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each promise, then the distances; returns 1 if a promise is broken."""
    parser = ArgumentParser(
        prog="python -m experiments.audit",
        description="Measure what the story world promises.",
        epilog="example: python -m experiments.audit --stories 20000 --judged 200",
    )
    parser.add_argument("--stories", type=int, default=1_000_000, help="to compare (1,000,000)")
    parser.add_argument("--judged", type=int, default=2_000, help="to read for grammar (2,000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another world (0)")
    parser.add_argument("--processes", type=int, help="that tell stories (one for each core)")
    arguments = parser.parse_args(argv)
    for name, value in vars(arguments).items():
        if value is not None and value < (name != "seed"):
            raise UserError(f"--{name} is {value}: at least {int(name != 'seed')}")
    seed, count = arguments.seed, arguments.stories
    print(f"{'':34}{'promised':>14}{'measured':>14}", flush=True)
    rows = []
    for row in _rows(seed, count, arguments.judged, arguments.processes or os.cpu_count() or 1):
        print(row, flush=True)
        rows.append(row)
    print(f"\nstories 0 to {HASHED - 1} have the sha256 {hash_of(seed)}")
    print(*_distances(seed, min(count, 20 * SPEED)), sep="\n")
    broken = sum(not row.holds for row in rows)
    print(f"\nbroken: {broken} of {len(rows)} promises" if broken else "\nall promises hold")
    return 1 if broken else 0


def _rows(seed: int, count: int, judged: int, processes: int) -> Iterator[Row]:
    """Measure one promise after the other, the quick ones first."""
    speed = _speed(seed)
    yield Row("MB/s on one core", f">= {MB_PER_S}", f"{speed:.1f}", speed >= MB_PER_S)
    plots = len(re.findall("^== ", _prose("plots"), re.MULTILINE))
    yield Row("plots", f">= {PLOTS}", f"{plots:,}", plots >= PLOTS)
    hashes = {_hash_elsewhere(seed, hash_seed) for hash_seed in ("1", "2")} | {hash_of(seed)}
    yield Row(f"{HASHED} stories in 3 processes", "1 hash", f"{len(hashes)}", len(hashes) == 1)
    slips = _slips(seed, judged)
    yield Row(f"slips in {judged:,} stories", "0", f"{slips:,}", slips == 0)
    distances = [words for _, words, _ in _uses(seed, min(count, 20 * SPEED))]
    near, far = min(distances), max(distances)
    yield Row("words from fact to use, at least", f"<= {NEAR}", f"{near:,}", near <= NEAR)
    yield Row("words from fact to use, at most", f">= {FAR:,}", f"{far:,}", far >= FAR)
    ratio, size = _xz_ratio(seed, count)
    yield Row(f"xz ratio of {size / 1e6:.1f} MB", f">= {XZ_RATIO}", f"{ratio:.4f}",
              ratio >= XZ_RATIO)  # fmt: skip
    told = _tell_all(seed, count, processes)
    yield Row("distinct words", f">= {WORDS:,}", f"{len(told.words):,}", len(told.words) >= WORDS)
    yield from _comparisons(told)


def _comparisons(told: Told) -> Iterator[Row]:
    """Look for stories that are alike, and for combinations in more than one split."""
    import numpy as np

    from data.stories.world import split_of

    alike = len(told.texts) - len(np.unique(told.texts))
    yield Row(f"alike of {len(told.texts):,} stories", "0", f"{alike:,}", alike == 0)
    splits = np.array([split_of(index) for index in range(len(told.texts))])
    of_split = {split: np.unique(told.combinations[splits == split])
                for split in ("train", "val", "test")}  # fmt: skip
    _, splits_each = np.unique(np.concatenate(list(of_split.values())), return_counts=True)
    shared = int((splits_each > 1).sum())
    total = f"shared of {len(splits_each):,} combinations"
    yield Row(total, "0", f"{shared:,}", shared == 0)


# ---------------------------------------------------------------------------- one figure each


def _speed(seed: int) -> float:
    """MB of text a second, of the fastest of three times."""
    from data.stories.telling import story

    fastest, size = float("inf"), 0
    for _ in range(3):
        start = time.perf_counter()
        size = sum(len(story(seed, index).text.encode()) for index in range(SPEED))
        fastest = min(fastest, time.perf_counter() - start)
    return size / 1e6 / fastest


def hash_of(seed: int) -> str:
    """Hash the first stories with their probes, hexadecimal."""
    from data.stories.telling import story

    stories = [tuple(story(seed, index)) for index in range(HASHED)]
    return hashlib.sha256(repr(stories).encode()).hexdigest()


def _hash_elsewhere(seed: int, hash_seed: str) -> str:
    """The same in a fresh process, in which sets of words have another order."""
    code = f"from experiments.audit import hash_of; print(hash_of({seed}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
    )  # fmt: skip
    return done.stdout.strip()


def _prose(name: str) -> str:
    from data.stories import telling

    return (Path(telling.__file__).parent / "prose" / f"{name}.txt").read_text(encoding="utf-8")


def _xz_ratio(seed: int, count: int) -> tuple[float, int]:
    """Compressed by original size of the first stories, and that size."""
    from data.stories.telling import story

    text = bytearray()
    for index in range(count):
        text += story(seed, index).text.encode()
        if len(text) >= COMPRESSED:
            break
    content = bytes(text[:COMPRESSED])
    return len(lzma.compress(content, preset=9)) / len(content), len(content)


def _slips(seed: int, count: int) -> int:
    """Faults of grammar that the judge finds; the first few are shown."""
    from tqdm import tqdm

    from data.stories.judge import slips
    from data.stories.telling import story

    found = 0
    for index in tqdm(range(count), "reading", leave=False, disable=None):
        for slip in slips(story(seed, index).text):
            found += 1
            if found <= 10:
                print(f"story {index}: {slip}", file=sys.stderr)
    return found


def _uses(seed: int, count: int) -> Iterator[tuple[str, int, int]]:
    """Yield each probe's kind, and the words, and the words and marks, from its fact to its use."""
    from data.stories.telling import story

    for index in range(count):
        text, probes = story(seed, index)
        for probe in probes:
            between = text[probe.fact[1] : probe.use[0]]
            marks = len(re.findall(r"\w+|[^\w\s]", between))
            yield probe.kind, between.count(" ") + 1, marks + 1


def _distances(seed: int, count: int) -> Iterator[str]:
    """Show how far facts are from their uses, and what they are about."""
    kinds: Counter[str] = Counter()
    in_words: Counter[int] = Counter()  # by octave: 3 is 8 to 15
    with_marks: Counter[int] = Counter()
    for kind, words, marks in _uses(seed, count):
        kinds[kind] += 1
        in_words[words.bit_length() - 1] += 1
        with_marks[marks.bit_length() - 1] += 1
    total = sum(kinds.values())
    yield f"\n{total:,} probes in {count:,} stories: " + ", ".join(
        f"{kind} {n / total:.0%}" for kind, n in kinds.most_common()
    )
    yield f"{'from fact to use':>20}{'words':>9}{'with marks':>12}"
    for octave in range(min(in_words), max(with_marks) + 1):
        share = in_words[octave] / total
        span = f"{2**octave:,} to {2 * 2**octave - 1:,}"
        bar = "#" * round(100 * share)
        yield f"{span:>20}{share:9.1%}{with_marks[octave] / total:12.1%}  {bar}".rstrip()


# ---------------------------------------------------------------------------- all stories


def _tell_all(seed: int, count: int, processes: int) -> Told:
    """Tell all stories, in several processes, a batch at a time."""
    import numpy as np
    from tqdm import tqdm

    from data.chunks import follow_parent

    firsts = range(0, count, BATCH)
    # Not forked: a fork of a process with threads may hang.
    pool = ProcessPoolExecutor(
        min(processes, len(firsts)), multiprocessing.get_context("spawn"), follow_parent
    )
    told: list[Told] = []
    words: set[str] = set()
    try:
        futures = [pool.submit(_tell, seed, n, min(BATCH, count - n)) for n in firsts]
        with tqdm(desc="telling", total=count, unit=" stories", leave=False, disable=None) as bar:
            for future in futures:
                told.append(future.result())
                words |= told[-1].words
                told[-1].words.clear()  # of a thousand sets that are nearly alike, one is enough
                bar.update(len(told[-1].texts))
    except BrokenProcessPool:
        raise UserError(
            "a process that told stories was killed, perhaps for want of memory: --processes 1 "
            "takes the least"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
    return Told(
        np.concatenate([part.texts for part in told]),
        np.concatenate([part.combinations for part in told]),
        words,
    )


def _tell(seed: int, first: int, count: int) -> Told:
    import numpy as np

    from data.stories.telling import combination, story

    texts, combinations, words = [], [], set()
    for index in range(first, first + count):
        text = story(seed, index).text
        texts.append(_hash(text))
        combinations.append(_hash("/".join(combination(seed, index))))
        words.update(re.findall(r"[a-z]+", text.lower()))
    return Told(np.array(texts, np.uint64), np.array(combinations, np.uint64), words)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


if __name__ == "__main__":
    sys.exit(main())
