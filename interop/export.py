"""From a trained model to a folder of files in another format, checked before it is there."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from configs.load import to_yaml
from errors import UserError
from inference.trained import TrainedModel
from interop.card import Facts, model_card
from interop.check import Check, check_huggingface, require_transformers
from interop.huggingface import architecture, model_files
from interop.tokenizer_json import tokenizer_files
from storage import atomic_folder, atomic_write
from training.header import val_loss
from training.metrics import read_metrics

_USAGE = """from transformers import pipeline

write = pipeline("text-generation", model="{folder}")
print(write("Once upon a time")[0]["generated_text"])"""


def export_huggingface(trained: TrainedModel, out: Path) -> Check:
    """Write the folder `out`, which transformers opens, and return what its check measured.

    Raises `UserError`, with nothing left behind, if no architecture of transformers carries the
    model, if `out` is not empty, or if the check fails.
    """
    architecture(trained.model.config)  # refuses before anything is loaded or written
    require_transformers()
    tokenizer, config = trained.tokenizer, trained.config
    with atomic_folder(out) as folder:
        files = model_files(
            trained.model.config,
            trained.model.state_dict(),
            seq_len=config.data.seq_len,
            sample=config.sample,
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
        )
        files |= tokenizer_files(tokenizer, trained=trained.checkpoint.step > 0)
        files["breeze.yaml"] = to_yaml(replace(config, run_dir=None)).encode()
        for name, content in files.items():
            atomic_write(folder / name, content)
        check = check_huggingface(folder, trained.model)
        refuse_failed(check, out)
        usage = _USAGE.format(folder=out)
        atomic_write(folder / "README.md", card(trained, out.name, check, usage).encode())
    return check


class Checked(Protocol):
    """What the check of an export found."""

    @property
    def peer(self) -> str: ...
    @property
    def problem(self) -> str | None: ...


def refuse_failed(check: Checked, out: Path) -> None:
    """Raise `UserError` if the check failed."""
    if check.problem is not None:
        raise UserError(f"{out} was not written: {check.peer} opened it, but {check.problem}")


def card(trained: TrainedModel, name: str, check: Check, usage: str) -> str:
    """Return the model card of a trained model."""
    checkpoint = trained.checkpoint
    loss = val_loss(checkpoint.metadata)
    measured: dict[int, Any] = {}
    log = checkpoint.path.parent.parent / "metrics.jsonl"
    if log.is_file():  # a checkpoint that was moved has none beside it
        measured = {r["step"]: r["val_bpb"] for r in read_metrics(log) if "val_bpb" in r}
    facts = Facts(
        name=name,
        model=trained.model.config,
        config=trained.config,
        step=checkpoint.step,
        imported_from=checkpoint.metadata.get("imported_from"),
        val_loss=loss if loss < float("inf") else None,
        val_bpb=measured.get(checkpoint.step),
        checks=[str(check)],
        usage=usage,
    )
    return model_card(facts)
