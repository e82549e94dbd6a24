"""Train several runs side by side, each in a process of its own. A killed one continues later.

Every run is `train.py ... --resume`, so a second call trains only what is missing. Equal configs
train equal models, whatever the number of processes and threads.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.load import load_config, split_arguments
from configs.settings import Config
from errors import UserError
from experiments.benchmarks.children import TRAIN, metrics_of
from experiments.benchmarks.machine import ROOT

POLL = 0.5  # seconds between looks at the processes


@dataclass(frozen=True)
class Training:
    """One run to train: the words of its command line, without run_dir, and its folder."""

    words: tuple[str, ...]  # [CONFIG] [section.key=value ...]
    folder: Path

    def config(self) -> Config:
        """Read the config. Raises `UserError` with all its errors."""
        path, overrides = split_arguments(self.words)
        return load_config(path, [*overrides, f"run_dir={self.folder}"])


def train_runs(trainings: Sequence[Training], jobs: int | None = None) -> None:
    """Train the runs that are not finished, at most `jobs` at once; None: one on each core.

    The cores are shared evenly. Progress is shown with the time that is left. Raises `UserError`
    with the message of the first run that fails, after the others have saved and stopped.
    """
    from tqdm import tqdm  # not at the top: `--help` does not need it

    missing = [training for training in trainings if not is_finished(training)]
    if not missing:
        return
    at_once = min(len(missing), jobs or _cores())
    threads = max(1, _cores() // at_once)
    waiting, running = list(missing), list[_Process]()
    total = sum(training.config().train.max_steps for training in missing)
    done = sum(map(_steps, missing))
    with tqdm(total=total, initial=done, unit="step", desc="training", disable=None) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    running.append(_Process(waiting.pop(0), threads))
                time.sleep(POLL)
                running = [process for process in running if not process.ended()]
                bar.update(sum(map(_steps, missing)) - bar.n)
                bar.set_postfix_str(f"{len(running)} of {len(waiting) + len(running)} runs at once")
        finally:
            for process in running:
                process.stop()


def is_finished(training: Training) -> bool:
    """Return whether the run in the folder has done all steps of this config.

    Raises `UserError` if the folder holds a finished run of another config.
    """
    from training.checkpoint import newest

    config = training.config()
    checkpoint = newest(training.folder / "checkpoints")
    if checkpoint is None or checkpoint.step < config.train.max_steps:
        return False
    trained = {key: value for key, value in config.to_dict().items() if key != "run_dir"}
    if checkpoint.metadata["config"] != trained:
        raise UserError(
            f"{training.folder} holds a run with other settings: choose another --folder, or "
            "remove it"
        )
    return True


class _Process:
    """A training in a process of its own. Its output goes to output.txt in the run's folder."""

    def __init__(self, training: Training, threads: int) -> None:
        self.folder = training.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, TRAIN, *training.words, f"run_dir={self.folder}", "--resume"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
        self._output = self.folder / "output.txt"
        with self._output.open("wb") as output:
            # A session of its own: Ctrl-C reaches this process only, which stops the others.
            self._process = subprocess.Popen(
                words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self._command = shlex.join(words[1:])

    def ended(self) -> bool:
        """Return whether the process has ended well. Raises `UserError` if it failed."""
        code = self._process.poll()
        if code:
            lines = self._output.read_text(errors="replace").strip().splitlines()
            errors = [line for line in lines if line.startswith("error: ")] or lines[-1:]
            reason = " ".join(errors).removeprefix("error: ")
            raise UserError(f"{self._command} ended with exit code {code}: {reason}")
        return code == 0

    def stop(self) -> None:
        """Let the run save and stop, and wait for it."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()


def _steps(training: Training) -> int:
    """Return the steps that a run has logged."""
    return int(max((line["step"] for line in metrics_of(training.folder)), default=0))


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
