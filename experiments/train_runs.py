"""Train several runs side by side, each in a process of its own. A stopped one continues later.

Every run is `train.py ... --resume`, so a second call trains only what is missing. Equal configs
train equal models, whatever the number of processes and threads. The most memory that each process
held is stored in peak_memory.json in the folder of its run.
"""

import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from arguments import trained_settings
from configs.load import config_from_dict, load_config, split_arguments
from configs.settings import Config
from errors import UserError
from experiments.benchmarks.children import TRAIN, metrics_of
from experiments.benchmarks.machine import ROOT
from experiments.groups import is_last
from storage import atomic_write, lock
from training.interrupt import StopRequest

POLL = 0.5  # seconds between looks at the processes
PEAK = "peak_memory.json"


@dataclass(frozen=True)
class Training:
    """One run to train: the words of its command line, without run_dir, and its folder."""

    words: tuple[str, ...]  # [CONFIG] [section.key=value ...]
    folder: Path

    def config(self) -> Config:
        """Read the config, once. Raises `UserError` with all its errors."""
        return _config(self.words, self.folder)


@cache
def _config(words: tuple[str, ...], folder: Path) -> Config:
    path, overrides = split_arguments(words)
    of_the_run = partial(trained_settings, resume=True)
    return load_config(path, [*overrides, f"run_dir={folder}"], of_the_run)


def train_runs(trainings: Sequence[Training], jobs: int | None = None) -> None:
    """Train the runs that are not finished, at most `jobs` at once; None: one on each core.

    The cores are shared evenly, unless OMP_NUM_THREADS says how many each run uses. Progress is
    shown with the time that is left. A signal that stops this process lets all runs save and stop
    (on Windows they stop at once, and continue from their last checkpoints), and raises
    `SystemExit`; a second signal ends at once. Raises `UserError` with the message of
    the first run that fails, after the others have saved and stopped, and before anything is
    trained if a folder holds another run or is in use.
    """
    missing = missing_of(trainings)
    if not missing:
        return
    for training in missing:
        _refuse_held(training.folder)
    with StopRequest() as stop:
        _train(missing, min(len(missing), jobs or cores()), stop)
    if stop.signal:
        # On Windows SIGTERM ends a process at once, so it saves nothing.
        state = "stopped" if sys.platform == "win32" else "saved"
        print(f"all runs are {state}: the same command continues", file=sys.stderr)
        raise SystemExit(128 + stop.signal)


def missing_of(trainings: Sequence[Training]) -> list[Training]:
    """Return the runs that are not finished. Raises `UserError` if a folder holds another run."""
    read_configs(trainings)
    return [training for training in trainings if not is_finished(training)]


def read_configs(trainings: Sequence[Training]) -> None:
    """Read all configs, and print each of their notes once: most runs have the same ones.

    Raises `UserError` with the errors of the first wrong one.
    """
    notes = io.StringIO()
    with contextlib.redirect_stderr(notes):
        for training in trainings:
            training.config()
    for note in dict.fromkeys(notes.getvalue().splitlines()):
        print(note, file=sys.stderr)


def is_finished(training: Training) -> bool:
    """Return whether the run in the folder has done all steps of this config.

    Raises `UserError` if the folder holds a run, finished or not, of another config.
    """
    from training.run_folder import newest

    checkpoint = newest(training.folder / "checkpoints")
    if checkpoint is None:
        return False
    config = training.config()
    trained = config_from_dict(checkpoint.metadata["config"], str(checkpoint.path))
    if change := _first_change(_settings(trained), _settings(config)):
        raise UserError(
            f"{training.folder} holds a run with other settings ({change}): choose another folder, "
            "or remove it"
        )
    return is_last(checkpoint)


def peak_memory(run: Path) -> int | None:
    """Return the most bytes that the training of a run held in RAM; None if not measured."""
    try:
        return int(json.loads((run / PEAK).read_text())["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def cores() -> int:
    """Return the cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _train(missing: Sequence[Training], at_once: int, stop: StopRequest) -> None:
    """Train until all are finished, one fails or a signal stops them."""
    from tqdm import tqdm  # not at the top: `--help` does not need it

    threads = max(1, cores() // at_once)
    waiting, running = list(missing), list[_Process]()
    total = sum(training.config().train.max_steps for training in missing)
    done = sum(map(_steps, missing))
    with tqdm(total=total, initial=done, unit="step", desc="training", disable=None) as bar:
        try:
            while (waiting or running) and not stop.signal:
                while waiting and len(running) < at_once:
                    running.append(_Process(waiting.pop(0), threads))
                time.sleep(POLL)
                for process in [process for process in running if process.ended()]:
                    running.remove(process)
                    left = len(running) + len(waiting)
                    bar.write(f"trained {process.folder}, {left} left", file=sys.stderr)
                bar.update(sum(map(_steps, missing)) - bar.n)
                bar.set_postfix_str(f"{len(running)} of {len(waiting) + len(running)} runs at once")
        finally:
            for process in running:  # all at once, then wait for each
                process.stop()
            for process in running:
                process.wait()


def _refuse_held(folder: Path) -> None:
    """Raise `UserError` if a process works in the folder: one that a killed sweep left behind."""
    if not folder.is_dir():
        return
    try:
        with lock(folder, wait=False):
            pass
    except UserError:
        raise UserError(
            f"another process is training {folder}, perhaps of a sweep that was killed: wait until "
            "it ends, or stop it (SIGTERM: it saves first)"
        ) from None


class _Process:
    """A training in a process of its own. Its output goes to output.txt in the run's folder."""

    def __init__(self, training: Training, threads: int) -> None:
        self.folder = training.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, TRAIN, *training.words, f"run_dir={self.folder}", "--resume"]
        environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | {"PYTHONPATH": str(ROOT)}
        self._output = self.folder / "output.txt"
        with self._output.open("wb") as output:
            # A session of its own: Ctrl-C reaches this process only, which stops the others.
            self._process = subprocess.Popen(
                words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self._command = shlex.join(words[1:])
        self._peak = peak_memory(self.folder) or 0

    def ended(self) -> bool:
        """Return whether the process has ended well. Raises `UserError` if it failed."""
        self._read_peak()
        code = self._process.poll()
        if code:
            lines = self._output.read_text(errors="replace").strip().splitlines()
            errors = [line for line in lines if line.startswith("error: ")] or lines[-1:]
            reason = "".join(f": {line}" for line in errors).replace(": error: ", ": ")
            raise UserError(
                f"{self._command} ended with exit code {code}{reason}; its output is in "
                f"{self._output}"
            )
        if code == 0:
            self._store_peak()
        return code == 0

    def stop(self) -> None:
        """Let the run save and stop."""
        self._read_peak()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Wait until the process has ended."""
        self._process.wait()
        self._store_peak()

    def _read_peak(self) -> None:
        """Read the most memory that the process has held. Other systems than Linux do not say.

        `wait4` would not do: its peak includes the memory of the parent before the process began.
        """
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    self._peak = max(self._peak, 1024 * int(line.split()[1]))

    def _store_peak(self) -> None:
        if self._peak:
            atomic_write(self.folder / PEAK, json.dumps({"bytes": self._peak}).encode() + b"\n")


def _settings(config: Config) -> dict[str, Any]:
    """Return the settings that decide what is trained."""
    plain = config.to_dict()
    del plain["run_dir"], plain["data"]["processes"]
    flat = {k: v for k, v in plain.items() if not isinstance(v, dict)}
    for section, values in plain.items():
        if isinstance(values, dict):
            flat |= {f"{section}.{key}": value for key, value in values.items()}
    return flat


def _first_change(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    for name, value in now.items():
        if before[name] != value:
            return f"{name} is {before[name]} there, here {value}"
    return None


def _steps(training: Training) -> int:
    """Return the steps that a run has logged."""
    return int(max((line["step"] for line in metrics_of(training.folder)), default=0))
