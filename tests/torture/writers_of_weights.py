"""The writers that need torch: checkpoints, and what is made of them."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torture.tiny_runs import whole
from torture.writers import Writer, nothing

from inference.trained import open_trained
from interop import export, import_run
from interop.huggingface_import import open_folder
from scripts import strip
from training.checkpoint import save
from training.run_folder import newest, prune

Losses = list[float | None]


def _save(folder: Path, step: int, loss: float | None, size: int) -> Path:
    draw = torch.Generator().manual_seed(step)
    weights = {"tok_embeddings.weight": torch.randn(size, 8, generator=draw)}
    moments = {"tok_embeddings.weight.m": torch.randn(size, 8, generator=draw)}
    measured: dict[str, Any] = {} if loss is None else {"val_loss": loss, "val_step": step}
    return save(
        folder, step, weights=weights, moments=moments, tokenizer=b"tokenizer",
        metadata={"config": {}, "data_hash": "", **measured},
    )  # fmt: skip


def _checkpoints(losses: Losses, keep: int, size: int) -> Writer:
    """Save one more checkpoint than there are, and delete what is not kept."""
    *earlier, last = losses

    def before(folder: Path) -> None:
        for step, loss in enumerate(earlier, 1):
            _save(folder, step, loss, size)

    def write(folder: Path) -> None:
        prune(_save(folder, len(losses), last, size), keep)

    def torn(folder: Path) -> str | None:
        found = newest(folder)
        step = found.step if found else 0
        return None if step >= len(earlier) else f"the newest checkpoint is of step {step}"

    return Writer(
        f"checkpoint after {earlier}, {last}, keep {keep}, {size}", before, write, torn=torn
    )


@cache
def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    atexit.register(shutil.rmtree, folder)
    return folder


def _trained() -> Path:
    return whole().run


def _strip(folder: Path) -> int:
    return strip.main([str(_trained()), "--out", str(folder / "small.safetensors")])


@cache
def _foreign() -> Any:
    _check()
    return open_folder(_scratch() / "model")


def _import(folder: Path) -> None:
    with patch.object(import_run, "_verdict"):  # it writes nothing, and takes long
        import_run.import_model(_foreign(), folder / "run", "torture")


def _export(folder: Path) -> None:
    with patch.object(export, "check_huggingface", return_value=_check()):  # as above
        export.export_huggingface(open_trained(_trained()), folder / "out")


@cache
def _check() -> Any:
    return export.export_huggingface(open_trained(_trained()), _scratch() / "model")


HEAVY = [
    _checkpoints([None], 2, 10),
    _checkpoints([3.0, 2.0], 2, 1_000),
    _checkpoints([3.0, 2.0, 1.0], 2, 10),
    _checkpoints([1.0, 2.0, 3.0, 4.0], 2, 10),
    _checkpoints([None, 2.0, None, None, None], 2, 10),
    _checkpoints([None, 2.0, 3.0, None, None], 3, 1_000),
    Writer("scripts.strip", nothing, _strip, as_one=True, slow=True),
    Writer("import of a model", nothing, _import, as_one=True, slow=True),
    Writer("export to Hugging Face", nothing, _export, as_one=True, slow=True),
]
