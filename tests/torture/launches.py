"""Start the same short training with torchrun many times: `python -m torture.launches [N]`.

Counts launches that hang (for longer than 60 s) or abort, or whose checkpoint is another. Prints
one line. Returns 1 if there is one.
"""

import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import tiny
from torture.processes import Hang, Torchrun

SHORT = ["train.max_steps=2", "train.warmup_steps=0", "train.save_interval=2",
         "train.eval_interval=2", "sample.max_tokens=1"]  # fmt: skip


def main(n: int) -> int:
    """Launch `n` trainings of two processes, one after the other, without restarts."""
    outcomes: Counter[str] = Counter()
    names: Counter[str] = Counter()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="launches-") as name:
        folder = Path(name)
        os.environ.setdefault("BREEZE_CACHE", str(folder / "cache"))
        text = folder / "text.txt"
        text.write_text(tiny.english(20_000), encoding="utf-8")
        for number in range(n):
            run, printed = folder / f"run-{number}", folder / f"printed-{number}.txt"
            try:
                code = Torchrun(2, tiny.words(run, text, *SHORT), printed, restarts=0).code()
            except Hang:
                outcomes["hangs"] += 1
                continue
            if code:
                outcomes["aborts"] += 1
                print(f"launch {number}: {printed.read_text()[-2000:]}", file=sys.stderr)
                continue
            names[tiny.saved(run)[-1]] += 1
    print(
        f"{n} launches of 2 processes: {outcomes['hangs']} hangs, {outcomes['aborts']} aborts, "
        f"{len(names)} different checkpoints, {time.monotonic() - start:.0f} s"
    )
    return 0 if names.total() == n and len(names) == 1 else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
