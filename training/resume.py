"""Resuming: model, tokenizer, text and optimizer must be those of the checkpoint."""

import sys
from collections.abc import Mapping
from typing import Any

from errors import UserError
from training.checkpoint import Checkpoint

# The path of the text may change, because its content is compared. So may the number of processes.
FREE_SETTINGS = {("data", "path"), ("data", "processes")}
# Settings of the training that may not: they decide what is trained, and how.
FIXED_SETTINGS = ("optimizer", "lora_rank", "lora_alpha", "lora_targets")
SECTIONS = ("model", "tokenizer", "data", "train", "sample")


def refuse_changes(
    checkpoint: Checkpoint,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    tokenizer: bytes,
    data_hash: str,
    folder: str,
) -> None:
    """Compare a run with its checkpoint: configs as nested values, tokenizer, text.

    Raises `UserError` if model, tokenizer, text or optimizer changed; prints a note for every
    other change. `folder` is the run's, for the messages.
    """
    remedy = "change it back, or start another run with run_dir=runs/NAME"
    if before["seed"] != now["seed"]:
        print(f"note: seed was {before['seed']} and is now {now['seed']}", file=sys.stderr)
    for section in SECTIONS:
        for key, value in now[section].items():
            if before[section][key] == value or (section, key) in FREE_SETTINGS:
                continue
            change = f"{section}.{key} was {before[section][key]} and is now {value}"
            if section in ("model", "tokenizer", "data") or key in FIXED_SETTINGS:
                raise UserError(f"cannot resume {folder}: {change}; {remedy}")
            print(f"note: {' '.join(change.split())}", file=sys.stderr)
    another_text = (
        f"to train on with another text, start a new run from these weights: "
        f"train.init_from={folder} run_dir=runs/NAME"
    )
    if tokenizer != checkpoint.tokenizer():  # its settings are equal, so the text differs
        raise UserError(
            f"cannot resume {folder}: the text is not the one it was trained on (the tokenizer is "
            f"not the one in its checkpoint); {another_text}"
        )
    if data_hash != checkpoint.metadata["data_hash"]:
        raise UserError(
            f"cannot resume {folder}: the text is not the one it was trained on; {another_text}"
        )
