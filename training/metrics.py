"""metrics.jsonl, written and read: one JSON object a line, in the order of the run's steps.

    {"step": 10, "train_loss": 5.1, "grad_norm": 0.9, "lr": 0.01, "tokens_per_s": 9000, "mfu": 0.3}
    {"step": 400, "val_loss": 1.6, "val_bpb": 0.55, "stepping_s": 81.2}

In a run with drills (data/drills.py), `"drill_share": 0.25` says that a quarter of the step's
sequences were drills. `train_loss` contains them, `val_loss` never does.

If prompts are left out of the loss (data/prompts.py), all losses are means over the other tokens.

samples.txt beside it holds the text that the model wrote at each evaluation.
"""

import json
import re
from pathlib import Path
from typing import Any

from errors import UserError
from storage import atomic_write


class MetricsLog:
    """Append measurements to `path`.

    Lines of steps after `step` are removed first, because a resumed run writes them again.
    """

    def __init__(self, path: Path, step: int) -> None:
        if path.exists():
            lines = path.read_bytes().splitlines()
            kept = [line for line in lines if (record := _parse(line)) and record["step"] <= step]
            atomic_write(path, b"".join(line + b"\n" for line in kept))
        self._path = path

    def write(self, step: int, **values: Any) -> None:
        """Append one line with the values measured at `step`."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the measurements in `path`, one dictionary a line, each with its `step`.

    A line that is not a measurement, such as the torn last line after a crash, is skipped. Raises
    `UserError` if the file does not exist.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: train the run first")
    records = (_parse(line) for line in path.read_bytes().splitlines())
    return [record for record in records if record is not None]


class SamplesLog:
    """Append samples of text to `path`.

    Samples of steps after `step`, and one that was not written to its end, are removed first.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        if path.exists():
            content = path.read_bytes()
            headings = re.finditer(rb"^=== step (\d+), .* ===$", content, re.MULTILINE)
            later = min((h.start() for h in headings if int(h[1]) > step), default=len(content))
            # Each sample ends with an empty line: what follows the last one is torn.
            atomic_write(path, b"".join(content[:later].rpartition(b"\n\n")[:2]))

    def write(self, step: int, bpb: float, text: str) -> None:
        """Append the text that the model wrote at `step`, under its bits per byte."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"=== step {step}, {bpb:.4f} bits per byte ===\n{text}\n\n")


def _parse(line: bytes) -> dict[str, Any] | None:
    """Parse one line; None if it is not an object with a whole number `step`."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_record = isinstance(record, dict) and type(record.get("step")) is int
    return record if is_record else None
