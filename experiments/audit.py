"""Does the story world keep its promises? `python -m experiments.audit`

Generates a million stories, in one process per core, and prints each promise beside what was
measured: speed, plots, equal bytes in every process, grammar, distances from fact to use, words, no
duplicates, and splits that share no combination. Exit code 1 if a promise is broken.
"""

import hashlib
import lzma
import multiprocessing
import operator
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from data.chunks import follow_parent
from data.stories import combination, story
from data.stories.language import language_errors
from data.stories.templates import read_scripts
from data.stories.world import SPLITS, split_of
from errors import ArgumentParser, UserError, command
from experiments.result import add_json, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
BATCH = 1_000  # stories that a process generates before it reports
HASHED = 100  # stories that two other processes generate too
TIMED = 1_000  # stories that are generated three times to measure the speed
MEASURED = 20_000  # stories, at most, whose distances are measured
COMPRESSED = 20_000_000  # bytes, at most, that are compressed
EXAMPLES = 10  # language errors that are printed

# The bounds of the promises.
MIN_WORDS, MIN_PLOTS = 2_000, 40
MIN_MB_PER_S = 5.0
NEAR, FAR = 5, 1_000  # words: the distances reach from at most NEAR to at least FAR

_RELATIONS = {">=": operator.ge, "<=": operator.le, "=": operator.eq}


@dataclass(frozen=True)
class Promise:
    """A promise. It holds if `measured` stands in this relation to `bound`."""

    name: str
    relation: str  # >=, <= or =
    bound: float
    measured: float
    holds: bool


@dataclass(frozen=True)
class Compression:
    """How far xz compresses the first stories. Nothing is promised (docs/stories.md says why)."""

    n_bytes: int
    xz_ratio: float  # compressed by original size


@dataclass(frozen=True)
class Octave:
    """The share of probes whose distance is from `first` to `last`."""

    first: int
    last: int
    in_words: float
    in_words_and_marks: float  # punctuation marks count as well


@dataclass(frozen=True)
class Distances:
    """Where probes lie and what they are about, in some of the stories."""

    stories: int
    probes: int
    shortest: int  # words
    longest: int
    shares_by_kind: dict[str, float]
    octaves: tuple[Octave, ...]


@dataclass(frozen=True)
class AuditResult:
    """All that was measured."""

    seed: int
    stories: int
    promises: tuple[Promise, ...]
    language_errors: tuple[str, ...]  # the first few
    sha256: str  # of the first stories and their probes
    compression: Compression
    distances: Distances


class StoryHashes(NamedTuple):
    """What a process reports of the stories that it generated, in their order.

    Of a million different texts, two have the same 64-bit hash with a probability of 3e-8.
    """

    texts: "NDArray[np.uint64]"
    combinations: "NDArray[np.uint64]"  # of plot, hero and thing
    words: set[str]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each promise, then the distances; return 1 if a promise is broken."""
    parser = ArgumentParser(
        prog="python -m experiments.audit",
        description="Measure whether the story world keeps its promises.",
        epilog="example: python -m experiments.audit --stories 20000 --judged 200",
    )
    parser.add_argument("--stories", type=int, default=1_000_000, help="how many (1,000,000)")
    parser.add_argument(
        "--judged", type=int, default=2_000, help="stories to search for language errors (2,000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the world (0)")
    parser.add_argument("--processes", type=int, help="processes (one per core)")
    add_json(parser)
    arguments = parser.parse_args(argv)
    for name, least in (("stories", 1), ("judged", 1), ("seed", 0), ("processes", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise UserError(f"--{name} is {value}: give {least} or more")
    processes = arguments.processes or os.cpu_count() or 1
    result = measure(arguments.seed, arguments.stories, arguments.judged, processes)
    write_json(arguments.json, result)
    _print(result)
    return 0 if all(promise.holds for promise in result.promises) else 1


def measure(seed: int, stories: int, judged: int, processes: int) -> AuditResult:
    """Measure everything; the speed first, while nothing else runs."""
    speed = _speed(seed)
    sha256 = hash_of(seed)
    hashes = {sha256, *(_hash_elsewhere(seed, hash_seed) for hash_seed in ("1", "2"))}
    errors = _language_errors(seed, judged)
    distances = _distances(seed, min(stories, MEASURED))
    generated = _hash_all(seed, stories, processes)
    promises = (
        _promise("MB/s on one core", ">=", MIN_MB_PER_S, speed),
        _promise("plots", ">=", MIN_PLOTS, len(read_scripts("plots"))),
        _promise(f"hashes of {HASHED} stories in 3 processes", "=", 1, len(hashes)),
        _promise(f"language errors in {judged:,} stories", "=", 0, len(errors)),
        _promise("shortest distance, words", "<=", NEAR, distances.shortest),
        _promise("longest distance, words", ">=", FAR, distances.longest),
        _promise("different words", ">=", MIN_WORDS, len(generated.words)),
        *_comparisons(generated),
    )
    return AuditResult(
        seed,
        stories,
        promises,
        tuple(errors[:EXAMPLES]),
        sha256,
        _compression(seed, stories),
        distances,
    )


def _promise(name: str, relation: str, bound: float, measured: float) -> Promise:
    return Promise(name, relation, bound, measured, _RELATIONS[relation](measured, bound))


# ---------------------------------------------------------------------------- measurements


def _speed(seed: int) -> float:
    """Return MB of text per second of one core's time: the fastest of three measurements."""
    fastest, size = float("inf"), 0
    for _ in range(3):
        start = time.process_time()  # does not count other processes
        size = sum(len(story(seed, index).text.encode()) for index in range(TIMED))
        fastest = min(fastest, time.process_time() - start)
    return size / 1e6 / fastest


def hash_of(seed: int) -> str:
    """Return the SHA-256 of the first stories and their probes, in hexadecimal."""
    stories = [tuple(story(seed, index)) for index in range(HASHED)]
    return hashlib.sha256(repr(stories).encode()).hexdigest()


def _hash_elsewhere(seed: int, hash_seed: str) -> str:
    """Return `hash_of(seed)` of another process, whose sets of words have another order."""
    code = f"from experiments.audit import hash_of; print(hash_of({seed}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
    )  # fmt: skip
    return done.stdout.strip()


def _language_errors(seed: int, count: int) -> list[str]:
    """Return the language errors in the first `count` stories."""
    return [
        f"story {index}: {error}"
        for index in tqdm(range(count), "judging", leave=False, disable=None)
        for error in language_errors(story(seed, index).text)
    ]


def _distances(seed: int, count: int) -> Distances:
    """Measure the distances from fact to use in the first `count` stories."""
    kinds: Counter[str] = Counter()
    words: list[int] = []
    words_and_marks: list[int] = []
    for index in tqdm(range(count), "measuring", leave=False, disable=None):
        text, probes = story(seed, index)
        for probe in probes:
            between = text[probe.fact[1] : probe.use[0]]
            kinds[probe.kind] += 1
            words.append(between.count(" ") + 1)
            words_and_marks.append(len(re.findall(r"\w+|[^\w\s]", between)) + 1)
    total = len(words)
    by_words = Counter(n.bit_length() - 1 for n in words)  # octave 3 is 8 to 15
    by_both = Counter(n.bit_length() - 1 for n in words_and_marks)
    octaves = tuple(
        Octave(2**n, 2 * 2**n - 1, by_words[n] / total, by_both[n] / total)
        for n in range(min(by_words), max(by_both) + 1)
    )
    shares = {kind: n / total for kind, n in kinds.most_common()}
    return Distances(count, total, min(words), max(words), shares, octaves)


def _compression(seed: int, count: int) -> Compression:
    """Compress the first `count` stories, or as many as fill `COMPRESSED` bytes."""
    text = bytearray()
    for index in range(count):
        text += story(seed, index).text.encode()
        if len(text) >= COMPRESSED:
            break
    content = bytes(text[:COMPRESSED])
    return Compression(len(content), len(lzma.compress(content, preset=9)) / len(content))


def _comparisons(generated: StoryHashes) -> Iterator[Promise]:
    """Look for duplicates, and for combinations that occur in more than one split."""
    texts, combinations, _ = generated
    duplicates = len(texts) - len(np.unique(texts))
    yield _promise(f"duplicates among {len(texts):,} stories", "=", 0, duplicates)
    splits = np.array([split_of(index) for index in range(len(texts))])
    of_each = [np.unique(combinations[splits == split]) for split in dict.fromkeys(SPLITS)]
    _, n_splits = np.unique(np.concatenate(of_each), return_counts=True)
    shared = int((n_splits > 1).sum())
    yield _promise(f"combinations in 2 splits, of {len(n_splits):,}", "=", 0, shared)


# ---------------------------------------------------------------------------- all stories


def _hash_all(seed: int, count: int, processes: int) -> StoryHashes:
    """Generate the first `count` stories in several processes, a batch at a time."""
    firsts = range(0, count, BATCH)
    # Spawned, not forked: a fork of a process with threads may hang.
    pool = ProcessPoolExecutor(
        min(processes, len(firsts)), multiprocessing.get_context("spawn"), follow_parent
    )
    batches: list[StoryHashes] = []
    words: set[str] = set()
    try:
        futures = [pool.submit(_hash_batch, seed, n, min(BATCH, count - n)) for n in firsts]
        progress = tqdm(total=count, desc="generating", unit=" stories", leave=False, disable=None)
        with progress:
            for future in futures:
                batches.append(future.result())
                words |= batches[-1].words
                batches[-1].words.clear()  # the sets of all batches are nearly equal: keep one
                progress.update(len(batches[-1].texts))
    except BrokenProcessPool:
        raise UserError(
            "a process that generated stories was killed, possibly out of memory: --processes 1 "
            "needs the least memory"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
    return StoryHashes(
        np.concatenate([batch.texts for batch in batches]),
        np.concatenate([batch.combinations for batch in batches]),
        words,
    )


def _hash_batch(seed: int, first: int, count: int) -> StoryHashes:
    """Generate `count` stories from index `first` on."""
    texts, combinations, words = [], [], set()
    for index in range(first, first + count):
        text = story(seed, index).text
        texts.append(_hash(text))
        combinations.append(_hash("/".join(combination(seed, index))))
        words.update(re.findall(r"[a-z]+", text.lower()))
    return StoryHashes(np.array(texts, np.uint64), np.array(combinations, np.uint64), words)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


# ---------------------------------------------------------------------------- the table


def _print(result: AuditResult) -> None:
    """Print the promises, then the distances."""
    print(f"{'':44}{'promised':>14}{'measured':>14}")
    for promise in result.promises:
        bound = f"{promise.relation} {promise.bound:,}"
        measured = promise.measured
        shown = f"{measured:,}" if isinstance(measured, int) else f"{measured:,.1f}"
        verdict = "holds" if promise.holds else "FAILS"
        print(f"{promise.name:44}{bound:>14}{shown:>14}  {verdict}")
    for error in result.language_errors:
        print(error)
    compression, distances = result.compression, result.distances
    print(f"\nstories 0 to {HASHED - 1} and their probes have the SHA-256 {result.sha256}")
    megabytes = f"{compression.n_bytes / 1e6:.1f} MB"
    print(f"xz compresses {megabytes} to {compression.xz_ratio:.4f} of their size")
    kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in distances.shares_by_kind.items())
    print(f"\n{distances.probes:,} probes in {distances.stories:,} stories: {kinds}")
    print(f"{'from fact to use':>20}{'words':>9}{'with marks':>12}")
    for octave in distances.octaves:
        span = f"{octave.first:,} to {octave.last:,}"
        bar = "#" * round(100 * octave.in_words)
        row = f"{span:>20}{octave.in_words:9.1%}{octave.in_words_and_marks:12.1%}  {bar}"
        print(row.rstrip())
    broken = sum(not promise.holds for promise in result.promises)
    total = len(result.promises)
    print(f"\nbroken: {broken} of {total} promises" if broken else "\nall promises hold")


if __name__ == "__main__":
    sys.exit(main())
