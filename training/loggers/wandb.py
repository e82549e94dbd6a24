"""Weights & Biases: offline, in the folder `wandb` of the run, unless WANDB_MODE says otherwise.

Each process of a run writes a folder `offline-run-TIME-ID`; the ID is the same in all of them, and
`wandb sync` uploads them as one run. Only what the run measures is recorded: no machine, no code,
no console, no reports of errors. Also read: WANDB_DIR, WANDB_PROJECT.
"""

import os
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from errors import UserError
from training.loggers import PROJECT, place, run_id

FLUSH_S = 0.5  # between a step that wandb gets and its file on the disk


def refuse_without_login() -> None:
    """Raise `UserError` if wandb would have to ask for an API key."""
    if _mode() in ("offline", "disabled"):
        return
    wandb = _library()
    try:
        has_key = wandb.login(prompt=False, verify=False)
    except wandb.errors.AuthenticationError as error:
        raise UserError(f"wandb cannot log in: {error}") from None
    if not has_key:
        raise UserError(
            f"WANDB_MODE is {_mode()}, but wandb has no API key: run wandb login, set "
            "WANDB_API_KEY, or remove WANDB_MODE to write to the run's folder"
        )


class WeightsAndBiases:
    """Holds the steps back until a checkpoint is saved, because wandb cannot take one back.

    If the process is killed within FLUSH_S of a save, wandb lacks the steps of that save.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        wandb, where = _library(), place("WANDB_DIR", folder)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run_id(folder),
            name=folder.resolve().name,
            dir=where,
            config=dict(config),
            mode=_mode(),
            resume="allow",
            settings=wandb.Settings(
                silent=_mode() == "offline",
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
                x_transaction_log_flush_interval=FLUSH_S,
            ),
        )
        pattern = f"{shlex.quote(where)}/wandb/offline-run-*-{self._run.id}"
        self.shown_by = f"wandb sync {pattern}" if _mode() == "offline" else self._run.url or ""
        self._rows: dict[int, dict[str, Any]] = {}  # by step; not sent yet

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Hold the values, with the present time."""
        self._row(step).update(values)

    def sample(self, step: int, text: str) -> None:
        """Hold the text."""
        self._row(step)["sample"] = text

    def saved(self) -> None:
        """Send all steps that are held."""
        for step, row in self._rows.items():
            self._run.log(row, step=step, commit=True)
        self._rows.clear()

    def close(self) -> None:
        """End this process's part of the run. Steps that are held are dropped."""
        self._run.finish()

    def _row(self, step: int) -> dict[str, Any]:
        return self._rows.setdefault(step, {"_timestamp": time.time()})


def _mode() -> str:
    return os.environ.get("WANDB_MODE") or "offline"


def _library() -> Any:
    """Import wandb, without its reports of errors unless the user asks for them."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read at import
    import wandb

    return wandb
