"""RunLog: what a run measures and writes, to metrics.jsonl, samples.txt and the trackers.

metrics.jsonl is the source of truth: it is written first, and always. A tracker that fails is
dropped with one warning, and training continues.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from training.loggers import Tracker, open_tracker
from training.metrics import MetricsLog, SamplesLog


class RunLog:
    """The log of the run in `folder`, which continues from `step`.

    Opens the trackers that `names` lists and prints for each the command that shows it. `config`
    are all settings as nested values.
    """

    def __init__(
        self, folder: Path, step: int, names: Iterable[str], config: Mapping[str, Any]
    ) -> None:
        self._metrics = MetricsLog(folder / "metrics.jsonl", step)
        self._samples = SamplesLog(folder / "samples.txt", step)
        self._trackers: dict[str, Tracker] = {}
        for name in names:
            if name == "jsonl":
                continue
            try:
                self._trackers[name] = open_tracker(name, folder, config, step)
            except Exception as error:
                _warn(name, error)
            else:
                print(f"{name:12} {self._trackers[name].shown_by}")

    def write(self, step: int, **values: float) -> None:
        """Log the values measured at `step`."""
        self._metrics.write(step, **values)
        self._each(lambda tracker: tracker.write(step, values))

    def sample(self, step: int, bpb: float, text: str) -> None:
        """Log the text that the model wrote at `step`, whose model has `bpb` bits per byte."""
        self._samples.write(step, bpb, text)
        self._each(lambda tracker: tracker.sample(step, text))

    def saved(self) -> None:
        """Note that a checkpoint was saved: a resumed run will not write these steps again."""
        self._each(lambda tracker: tracker.saved())

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._each(lambda tracker: tracker.close())

    def _each(self, call: Callable[[Tracker], None]) -> None:
        """Call each tracker. One that fails is dropped."""
        for name, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:
                del self._trackers[name]
                _warn(name, error)


class SilentLog(RunLog):
    """The log of a process that is not the first: it writes nothing."""

    def __init__(self) -> None:
        self._trackers = {}

    def write(self, step: int, **values: float) -> None:
        """Do nothing."""

    def sample(self, step: int, bpb: float, text: str) -> None:
        """Do nothing."""


def _warn(name: str, error: Exception) -> None:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    print(
        f"warning: {name} failed ({reason}): training continues without it; metrics.jsonl has "
        "every step",
        file=sys.stderr,
    )
