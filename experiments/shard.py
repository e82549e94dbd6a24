"""How fast is a large text tokenized, in how much memory? `python -m experiments.shard`

Writes stories of the story world as .jsonl files and prepares them as training would: with one
process, with one process per core, and once more with one per core, killed in the middle (kill -9)
and started again. Prints MB of text per second, the peak memory of all processes together, and
whether the shards are equal to the byte. Linux only: memory is read from /proc.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from arguments import add_config, read_config
from errors import ArgumentParser, UserError, command
from experiments.result import add_json, write_json
from storage import atomic_write, sha256_of

STORIES_PER_FILE = 10_000  # about 31 MB
POLL_SECONDS = 0.1  # between two measurements of memory
# Arguments: tokenizer | shards, then CONFIG and its overrides.
PROGRAM = """
import sys
from configs.load import load_config, split_arguments
from configs.settings import keys_of
from data.text import open_sources, open_text, text_tokenizer
from errors import fields_named
config = load_config(*split_arguments(sys.argv[2:]))
with fields_named(keys_of("data", "tokenizer")):
    if sys.argv[1] == "tokenizer":
        text_tokenizer(config.data, config.tokenizer, open_sources(config.data))
    else:
        open_text(config.data, config.tokenizer)
"""


@dataclass(frozen=True)
class Preparation:
    """How one preparation of the text went."""

    processes: int
    killed: bool  # in the middle, and started again
    seconds: float
    mb_per_s: float  # MB of text
    peak_bytes: int  # of memory, all processes together
    shards_hash: str  # of the names and contents of all files
    n_files: int


@dataclass(frozen=True)
class ShardResult:
    """The preparations of one text."""

    text_bytes: int
    preparations: list[Preparation]
    identical: bool  # all shards are equal to the byte


class Cost(NamedTuple):
    """What one start of the program took."""

    seconds: float
    peak_bytes: int


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per preparation; exit code 1 if the shards differ."""
    parser = ArgumentParser(
        prog="python -m experiments.shard",
        description="Measure speed and memory of tokenizing a large text, also after a kill -9.",
        epilog="example: python -m experiments.shard --gigabytes 0.1",
    )
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the text in GB (2)")
    parser.add_argument("--folder", help="folder for temporary files (the system's)")
    add_config(parser)
    add_json(parser)
    arguments = parser.parse_args(argv)
    if not 0 < arguments.gigabytes <= 1000:
        raise UserError(f"--gigabytes is {arguments.gigabytes}: give more than 0, at most 1000")
    if not Path("/proc/self/status").exists():
        raise UserError("experiments.shard reads memory from /proc, which only Linux has")
    read_config(arguments)  # reports mistakes before the text is written
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="shards-") as path:
        folder = Path(path)
        text_bytes = _write_stories(folder / "text", round(arguments.gigabytes * 1e9))
        print(f"{text_bytes:,} bytes of stories in {folder / 'text'}", flush=True)
        _run(folder, ["tokenizer", *arguments.words], 1)  # trained once, for all preparations
        print(f"{'processes':12}{'seconds':>9}{'MB/s':>7}{'peak MB':>9}  hash of the shards")
        preparations = list(_preparations(folder, arguments.words, text_bytes))
    identical = len({preparation.shards_hash for preparation in preparations}) == 1
    print("the shards are equal to the byte" if identical else "THE SHARDS DIFFER")
    write_json(arguments.json, ShardResult(text_bytes, preparations, identical))
    return 0 if identical else 1


def _preparations(folder: Path, words: Sequence[str], text_bytes: int) -> Iterator[Preparation]:
    """Prepare the text three times; print and yield each preparation."""
    cores = os.cpu_count() or 2
    for processes, killed in ((1, False), (cores, False), (cores, True)):
        costs = [_run(folder, ["shards", *words], processes, kill=True)] if killed else []
        costs.append(_run(folder, ["shards", *words], processes))
        seconds = sum(cost.seconds for cost in costs)
        preparation = Preparation(
            processes, killed, seconds, text_bytes / seconds / 1e6,
            max(cost.peak_bytes for cost in costs), *_remove_shards(folder / "cache" / "shards"),
        )  # fmt: skip
        label = f"{processes} killed" if killed else f"{processes}"
        print(
            f"{label:12}{seconds:9.1f}{preparation.mb_per_s:7.1f}"
            f"{preparation.peak_bytes / 1e6:9,.0f}  {preparation.shards_hash} "
            f"({preparation.n_files} files)",
            flush=True,
        )
        yield preparation


def _write_stories(folder: Path, size: int) -> int:
    """Write files of stories until they have `size` bytes of text; return the bytes of text."""
    from tqdm import tqdm

    folder.mkdir()
    written = 0
    bar = tqdm(desc="writing stories", total=size, unit="B", unit_scale=True, leave=False,
               disable=None)  # fmt: skip
    with bar, get_context("spawn").Pool() as pool:
        for number, (lines, n_bytes) in enumerate(pool.imap(_story_lines, range(1 << 20))):
            atomic_write(folder / f"stories-{number:05d}.jsonl", lines)
            written += n_bytes
            bar.update(n_bytes)
            if written >= size:
                break
    return written


def _story_lines(number: int) -> tuple[bytes, int]:
    """Return the content of file `number`, and the bytes of text in it."""
    from data.stories.telling import story

    first = number * STORIES_PER_FILE
    texts = [story(0, index).text for index in range(first, first + STORIES_PER_FILE)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    return lines.encode(), sum(len(text.encode()) for text in texts)


def _run(folder: Path, arguments: Sequence[str], processes: int, *, kill: bool = False) -> Cost:
    """Run PROGRAM on the text in new processes; with `kill`, kill it (-9) when half of the chunks
    are tokenized. Raises `UserError` with the end of its stderr if it fails."""
    cache = folder / "cache"
    settings = ["data.source=files", f"data.path={folder / 'text'}", f"data.processes={processes}"]
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments, *settings], stderr=subprocess.PIPE, text=True,
        env=os.environ | {"BREEZE_CACHE": str(cache)},
    )  # fmt: skip
    n_files = len(list((folder / "text").iterdir()))
    while process.poll() is None:
        peak = max(peak, sum(map(_memory, _descendants(process.pid))))
        if kill and 2 * len(list(cache.glob("shards/*/chunks/*.json"))) >= n_files:
            process.kill()
        time.sleep(POLL_SECONDS)
    stderr = process.communicate()[1]
    if process.returncode and not kill:
        raise UserError(f"preparing failed: {stderr.strip()[-300:]}")
    return Cost(time.perf_counter() - start, peak)


def _remove_shards(shards: Path) -> tuple[str, int]:
    """Delete the shards; return a hash of the names and contents of all files, and their number."""
    files = sorted(shards.glob("*/*"))
    digest = hashlib.sha256("".join(f"{file.name} {sha256_of(file)}\n" for file in files).encode())
    shutil.rmtree(shards)
    return digest.hexdigest()[:16], len(files)


def _descendants(pid: int) -> Iterator[int]:
    """Yield a process, the processes that it started, those that these started, and so on."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids = children.read_text().split()
        except OSError:  # the process has ended
            continue
        for child in pids:
            yield from _descendants(int(child))


def _memory(pid: int) -> int:
    """Return the resident memory of a process in bytes, shared pages included; 0 if it ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    found = [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
    return found[0] * 1024 if found else 0


if __name__ == "__main__":
    sys.exit(main())
