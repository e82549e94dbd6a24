"""metrics.jsonl: one JSON object a line, the run's measurements in the order of its steps."""

import json
from pathlib import Path
from typing import Any

from storage import atomic_write


class MetricsLog:
    """Append to `path`. Lines past `step` are cut first: a resumed run writes them again."""

    def __init__(self, path: Path, step: int) -> None:
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step(line) <= step]
            atomic_write(path, "".join(line + "\n" for line in kept).encode())
        self._file = path.open("a", buffering=1)

    def write(self, step: int, **values: Any) -> None:
        """Append one line of values measured at `step`."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")


def _step(line: str) -> float:
    """The step of a line; infinite for one that a crash left torn, so that it is cut."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
