"""metrics.jsonl: one JSON object a line, the run's measurements in the order of its steps.

samples.txt beside it: what the model wrote at each evaluation, for people to read.
"""

import json
import re
from pathlib import Path
from typing import Any

from storage import atomic_write


class MetricsLog:
    """Append to `path`. Lines past `step` are cut first: a resumed run writes them again."""

    def __init__(self, path: Path, step: int) -> None:
        if path.exists():
            kept = [line for line in path.read_bytes().splitlines() if _step(line) <= step]
            atomic_write(path, b"".join(line + b"\n" for line in kept))
        self._file = path.open("a", buffering=1)

    def write(self, step: int, **values: Any) -> None:
        """Append one line of values measured at `step`."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")


class SamplesLog:
    """Append to `path`. What was written past `step` is cut first, as in the metrics."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        if path.exists():
            content = path.read_bytes()
            heads = re.finditer(rb"^=== step (\d+), .* ===$", content, re.MULTILINE)
            ends = [head.start() for head in heads if int(head[1]) > step]
            atomic_write(path, content[: min(ends, default=len(content))])

    def write(self, step: int, bpb: float, text: str) -> None:
        """Append one sample of the model at `step`."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"=== step {step}, {bpb:.4f} bits per byte ===\n{text}\n\n")


def _step(line: bytes) -> float:
    """The step of a line; infinite for one that a crash left torn, so that it is cut."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
