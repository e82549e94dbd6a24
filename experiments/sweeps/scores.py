"""Bits per byte of a run on a split, under any window. What was measured once is kept.

    RUN/scores.json    {"step-00001500-9f86d081884c7d65 test all 64,64,64,64+0": 0.2298, ...}

The name of a checkpoint carries the hash of its content, so a kept number is never of other
weights. Computed in fp32; every token is predicted once, in sequences of the trained length.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.settings import keys_of
from errors import fields_named
from model.window import Window
from storage import atomic_write
from training.run_folder import find

if TYPE_CHECKING:  # torch is imported only when a model is opened
    from inference.trained import TrainedModel

FILE = "scores.json"


@dataclass(frozen=True)
class Look:
    """What the tokens of a model see: the window of each layer, and the first tokens."""

    windows: tuple[Window, ...]
    sinks: int  # first tokens that stay visible; a sink token is not counted

    def __str__(self) -> str:
        windows = ",".join("full" if window is None else str(window) for window in self.windows)
        return f"{windows}+{self.sinks}"


class Scorer:
    """Scores runs on one split; the text that several runs share is opened once."""

    def __init__(self, split: str, tokens: int | None = None) -> None:
        self.split, self.tokens = split, tokens  # None: the whole split
        self._texts: dict[tuple[str, str], tuple[Any, int]] = {}

    def score(self, run: Path, looks: Sequence[Look]) -> list[float]:
        """Return the bits per byte of the best checkpoint of a run under each look.

        Raises `UserError` if its text is not the trained one or has no such split.
        """
        checkpoint = find(run)
        path = (run.parent if run.is_file() else run) / FILE
        kept = _read(path)
        found, trained = [], None
        for look in looks:
            key = f"{checkpoint.path.stem} {self.split} {self.tokens or 'all'} {look}"
            if key not in kept:
                from inference.trained import open_checkpoint

                trained = trained or open_checkpoint(checkpoint)
                value = self._measure(trained, look, f"{run.parent.name}/{run.name}")
                kept = _read(path) | {key: value}
                atomic_write(path, (json.dumps(kept, indent=1) + "\n").encode())
            found.append(kept[key])
        return found

    def _measure(self, trained: "TrainedModel", look: Look, title: str) -> float:
        from tqdm import tqdm

        from data.batches import evaluation_sequences
        from training.evaluation import evaluate

        changes: dict[str, Any] = {"sliding_window": look.windows}
        if any(window is not None for window in look.windows):
            changes["attention_sinks"] = look.sinks
        changed = trained.with_settings(**changes)
        tokens, n_bytes = self._text(trained)
        seq_len, rows = trained.config.data.seq_len, trained.config.train.eval_batch_size
        sequences = evaluation_sequences(tokens, seq_len, batch_size=rows)
        total = -(-(len(tokens) - 1) // (seq_len * rows))
        bar = tqdm(sequences, f"{title} under {look}", total=total, leave=False, disable=None)
        return evaluate(changed.loss, bar, n_bytes, trained.device).bpb

    def _text(self, trained: "TrainedModel") -> tuple[Any, int]:
        """Return the tokens and the bytes of the split, or of its first `tokens` tokens."""
        from data.text import open_split

        key = trained.checkpoint.metadata["data_hash"], trained.tokenizer.fingerprint()
        if key not in self._texts:
            with fields_named(keys_of("data")):
                tokens, n_bytes = open_split(
                    trained.config.data, trained.tokenizer, self.split, key[0]
                )
            if self.tokens is not None and self.tokens < len(tokens):
                tokens = tokens[: self.tokens]
                counted = (int(id) for id in tokens if id >= 0)  # without prompts
                n_bytes = sum(len(trained.tokenizer.token_bytes(id)) for id in counted)
            self._texts[key] = tokens, n_bytes
        return self._texts[key]


def trained_look(run: Path) -> Look:
    """Return what the tokens of a run's best checkpoint saw in the last step of its training."""
    metadata = find(run).metadata
    model = metadata["config"]["model"]
    return Look(tuple(metadata["windows"]), model["attention_sinks"])


def _read(path: Path) -> dict[str, float]:
    """Return what is kept; nothing if the file is missing or damaged."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): float(value) for key, value in kept.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
