"""Resuming: the model, the tokenizer and the text must be those of the checkpoint."""

import sys
from collections.abc import Mapping
from typing import Any

from errors import UserError
from training.checkpoint import Checkpoint

# Where the text lies and how many processes tokenize it may change: the text itself is compared.
FREE_SETTINGS = {("data", "path"), ("data", "processes")}
SECTIONS = ("model", "tokenizer", "data", "train", "sample")


def refuse_changes(
    checkpoint: Checkpoint,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    tokenizer: bytes,
    data_hash: str,
    name: str,
) -> None:
    """Compare a run with its checkpoint: configs as nested values, tokenizer, text.

    Raises `UserError` if model, tokenizer, text or optimizer changed; prints a note for every
    other change. `name` is the run's folder, for the messages.
    """
    remedy = "change it back, or begin another run with run_dir=runs/NAME"
    if before["seed"] != now["seed"]:
        print(f"note: seed was {before['seed']} and is now {now['seed']}", file=sys.stderr)
    for section in SECTIONS:
        for key, value in now[section].items():
            if before[section][key] == value or (section, key) in FREE_SETTINGS:
                continue
            change = f"{section}.{key} was {before[section][key]} and is now {value}"
            if section in ("model", "tokenizer", "data") or key == "optimizer":
                raise UserError(f"cannot resume {name}: {change}; {remedy}")
            print(f"note: {' '.join(change.split())}", file=sys.stderr)
    if tokenizer != checkpoint.tokenizer():
        raise UserError(
            f"cannot resume {name}: the tokenizer is not the one in its checkpoint; {remedy}"
        )
    if data_hash != checkpoint.metadata["data_hash"]:
        raise UserError(
            f"cannot resume {name}: the text is not the one it was trained on; {remedy}"
        )
