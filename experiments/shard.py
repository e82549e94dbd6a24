"""What does it take to cut a large text into tokens? `python -m experiments.shard --gigabytes 2`

Makes a corpus of that size from the story world, in .jsonl files, and prepares it as training
would: with one process, with one for each core, and once more, killed in the middle (kill -9) and
taken up again. Prints MB of text in a second, the peak memory of all processes together, and
whether the shards are the same, to the byte. Linux only: memory is read from /proc.
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
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from configs.load import QUICKSTART, load_config, split_arguments
from errors import ArgumentParser, UserError, command
from storage import atomic_write, sha256_of

STORIES = 10_000  # in a file, some 31 MB
GLANCE = 0.1  # seconds between two looks at the memory
PROGRAM = """
import sys
from configs.load import load_config, split_arguments
from data.text import open_sources, open_text, text_tokenizer
config = load_config(*split_arguments(sys.argv[2:]))
if sys.argv[1] == "tokenizer":
    text_tokenizer(config.data, config.tokenizer, open_sources(config.data))
else:
    open_text(config.data, config.tokenizer)
"""


class Measured(NamedTuple):
    """What a preparing took."""

    seconds: float
    peak: int  # bytes of memory, all processes together


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each way; exit code 1 if the shards differ."""
    parser = ArgumentParser(
        prog="python -m experiments.shard",
        description="Measure how fast text becomes tokens, in how much memory, and kill it once.",
        epilog="example: python -m experiments.shard --gigabytes 0.1",
    )
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the text (2)")
    parser.add_argument("--folder", default=None, help="where to work (the system's for such)")
    parser.add_argument("words", nargs="*", metavar="[CONFIG] [section.key=value ...]",
                        help=f"a YAML file (default {QUICKSTART}) and changes")  # fmt: skip
    arguments = parser.parse_args(argv)
    if not 0 < arguments.gigabytes <= 1000:
        raise UserError(f"--gigabytes is {arguments.gigabytes}: above 0, 1000 at most")
    if not Path("/proc/self/status").exists():
        raise UserError("experiments.shard reads memory from /proc, which only Linux has")
    load_config(*split_arguments(arguments.words))  # mistakes are told at once
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="shards-") as place:
        folder = Path(place)
        size = _make(folder / "text", round(arguments.gigabytes * 1e9))
        print(f"{size:,} bytes of stories in {folder / 'text'}", flush=True)
        _prepare(folder, arguments.words, 1, "tokenizer")  # trained once, for all three
        print(f"{'processes':12}{'seconds':>9}{'MB/s':>7}{'peak MB':>9}  hash of the shards")
        cores = os.cpu_count() or 2
        hashes = set()
        for processes, killed in ((1, False), (cores, False), (cores, True)):
            begun = _prepare(folder, arguments.words, processes, "half") if killed else None
            took = _prepare(folder, arguments.words, processes, "all")
            shards = _take_away(folder / "cache" / "shards")
            hashes.add(shards)
            seconds = took.seconds + (begun.seconds if begun else 0)
            peak = max(took.peak, begun.peak if begun else 0)
            label = f"{processes} killed" if killed else f"{processes}"
            speed = size / seconds / 1e6
            print(f"{label:12}{seconds:9.1f}{speed:7.1f}{peak / 1e6:9,.0f}  {shards}", flush=True)
    print("the same, to the byte" if len(hashes) == 1 else "THEY DIFFER")
    return 0 if len(hashes) == 1 else 1


def _make(folder: Path, size: int) -> int:
    """Write stories until there are `size` bytes of text; return how many there are."""
    from tqdm import tqdm

    folder.mkdir()
    made = 0
    bar = tqdm(desc="telling stories", total=size, unit="B", unit_scale=True, leave=False,
               disable=None)  # fmt: skip
    with bar, get_context("spawn").Pool() as pool:
        for number, (lines, n_bytes) in enumerate(pool.imap(_lines, range(1 << 20))):
            atomic_write(folder / f"stories-{number:05d}.jsonl", lines)
            made += n_bytes
            bar.update(n_bytes)
            if made >= size:
                return made
    raise AssertionError("stories have no end")


def _lines(number: int) -> tuple[bytes, int]:
    """Tell the stories of one file: its content, and the bytes of text in it."""
    from data.stories.telling import story

    texts = [story(0, number * STORIES + place).text for place in range(STORIES)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    return lines.encode(), sum(len(text.encode()) for text in texts)


def _prepare(folder: Path, words: Sequence[str], processes: int, what: str) -> Measured:
    """Prepare the text in processes of its own, from where an earlier one was killed, if one was.
    `what` is all, or half (then kill -9), or only the tokenizer."""
    cache = folder / "cache"
    settings = ["data.source=files", f"data.path={folder / 'text'}", f"data.processes={processes}"]
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, what, *words, *settings], stderr=subprocess.PIPE, text=True,
        env=os.environ | {"BREEZE_CACHE": str(cache)},
    )  # fmt: skip
    n_files = len(list((folder / "text").iterdir()))
    while process.poll() is None:
        peak = max(peak, sum(map(_memory, _family(process.pid))))
        if what == "half" and 2 * len(list(cache.glob("shards/*/chunks/*.json"))) >= n_files:
            process.kill()
        time.sleep(GLANCE)
    said = process.communicate()[1]
    if process.returncode and what != "half":
        raise UserError(f"preparing failed: {said.strip()[-300:]}")
    return Measured(time.perf_counter() - start, peak)


def _take_away(shards: Path) -> str:
    """Hash all that lies there, names and content, and delete it."""
    files = sorted(shards.glob("*/*"))
    digest = hashlib.sha256("".join(f"{file.name} {sha256_of(file)}\n" for file in files).encode())
    shutil.rmtree(shards)
    return f"{digest.hexdigest()[:16]} ({len(files)} files)"


def _family(pid: int) -> Iterator[int]:
    """Yield a process and all that it started."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = children.read_text().split()
        except OSError:  # it has ended
            continue
        for child in below:
            yield from _family(int(child))


def _memory(pid: int) -> int:
    """Bytes of memory that a process has in use (resident, shared pages too); 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    found = [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
    return found[0] * 1024 if found else 0


if __name__ == "__main__":
    sys.exit(main())
