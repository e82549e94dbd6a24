"""Resuming: model, tokenizer, text and optimizer must be those of the checkpoint.

Other settings of the training may change; a note names each. With another `max_steps`, the rest of
the run follows the learning rates of the new length. If the updates that are done had those rates
too, the run ends with the same bytes as one of the new length from the beginning. So it is in the
warm-up, and, under the schedule wsd, before the decay of both lengths begins. Otherwise the run is
that of neither length. A `max_steps` below the checkpoint's step is refused.
"""

import sys
from collections.abc import Mapping
from typing import Any

from errors import UserError
from training.checkpoint import Checkpoint
from training.schedule import lr_ratio

# The path of the text may change, because its content is compared. So may the number of processes.
FREE_SETTINGS = {("data", "path"), ("data", "processes")}
# Settings of the training that may not: they decide what is trained, and how.
FIXED_SETTINGS = ("optimizer", "lora_rank", "lora_alpha", "lora_targets")
_OF_SCHEDULE = ("schedule", "max_steps", "warmup_steps", "min_lr_ratio", "decay_fraction")
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

    Raises `UserError` if model, tokenizer, text or optimizer changed, or if the run is already
    past its new end; prints a note for every other change. `folder` is the run's, for the messages.
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
            if key == "max_steps":
                change += _of_length(checkpoint.step, before["train"], now["train"])
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


def _of_length(step: int, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say what another max_steps means for a run that has done `step` updates, in a few words.

    `before` and `now` are the settings of the training. Raises `UserError` if `step` is past the
    new end.
    """
    length = now["max_steps"]
    if step > length:
        raise UserError(
            f"train.max_steps is {length}, but the run has done {step} steps: make it {step} or "
            "more, or start another run with run_dir=runs/NAME"
        )
    if step == length:
        return ""  # nothing is left to do, which `train.py` says
    old, new = ({name: train[name] for name in _OF_SCHEDULE} for train in (before, now))
    if all(lr_ratio(done, **old) == lr_ratio(done, **new) for done in range(step)):
        so = f"was before too: the run becomes one of {length} steps"
    else:
        so = f"was not before: the run is not one of {length} steps, nor of {old['max_steps']}"
    return f"; from step {step} on the learning rate is that of {length} steps. It {so}"
