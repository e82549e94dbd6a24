"""The adapters of a run with LoRA as a folder that `peft` loads onto the exported base model.

    layers.3.attention.wq.lora_A
    base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight

A reads the same input in both. The outputs of wq and wk have another order in transformers, so the
rows of their B have it too (interop/names.py). The base is the model that the run started from.
"""

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.load import to_yaml
from errors import UserError, require
from inference.trained import TrainedModel, open_checkpoint
from inference.weights import adapters_of, read_unmerged
from interop.check import Check, check_opened, require_transformers
from interop.export import card, refuse_failed
from interop.huggingface import architecture, json_bytes, model_files
from interop.names import pairs_to_halves, to_huggingface
from model.config import LINEARS, LoraConfig, ModelConfig
from storage import atomic_folder, atomic_write
from training.checkpoint import Checkpoint

_USAGE = """from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("base")  # exported from {base}
model = PeftModel.from_pretrained(base, "{folder}")"""


def export_adapter(checkpoint: Checkpoint, out: Path) -> Check:
    """Write the folder `out`, which peft loads, and return what its check measured.

    Raises `UserError`, with nothing left behind, if the run has no adapters, if no architecture of
    transformers carries the model, if `out` is not empty, or if the check fails.
    """
    lora = adapters_of(checkpoint)
    if lora is None:
        raise UserError(
            f"{checkpoint.path} has no adapters, its run trained without train.lora_rank: "
            "export the whole model instead"
        )
    trained = open_checkpoint(checkpoint)
    shape = trained.model.config
    architecture(shape)  # refuses before anything is loaded or written
    peft = _require_peft()
    weights = read_unmerged(checkpoint, shape, lora)
    with atomic_folder(out) as folder:
        recipe = to_yaml(replace(trained.config, run_dir=None)).encode()
        files = adapter_files(weights, shape, lora) | {"breeze.yaml": recipe}
        for name, content in files.items():
            atomic_write(folder / name, content)
        check = _check(peft, folder, trained, weights)
        refuse_failed(check, out)
        usage = _USAGE.format(folder=out, base=trained.config.train.init_from)
        atomic_write(folder / "README.md", card(trained, out.name, check, usage).encode())
    return check


def adapter_files(
    weights: Mapping[str, Tensor], model: ModelConfig, lora: LoraConfig
) -> dict[str, bytes]:
    """Return the content of each file by name. `weights` have Breeze's names; only adapters are
    written."""
    from safetensors.torch import save

    tensors = {
        _name(name): pairs_to_halves(name, weight, model) if name.endswith("B") else weight
        for name, weight in weights.items()
        if name in lora.shapes(model)
    }
    return {
        "adapter_config.json": json_bytes(adapter_config(lora)),
        "adapter_model.safetensors": save(
            {name: weight.contiguous() for name, weight in tensors.items()}, {"format": "pt"}
        ),
    }


def adapter_config(lora: LoraConfig) -> dict[str, Any]:
    """Return the content of `adapter_config.json`."""
    layers = (to_huggingface(f"layers.0.{LINEARS[t]}.{t}.weight") for t in lora.targets)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,  # the user's own export of the base
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": [layer.split(".")[-2] for layer in layers],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _name(name: str) -> str:
    """Return peft's name of an adapter's matrix."""
    layer, _, factor = name.rpartition(".")
    renamed = to_huggingface(f"{layer}.weight").removesuffix("weight")
    return f"base_model.model.{renamed}{factor}.weight"


def _require_peft() -> Any:
    """Return the library. Raises `UserError` if it is not installed."""
    require_transformers()
    return require("peft", "export")


def _check(peft: Any, folder: Path, trained: TrainedModel, weights: Mapping[str, Tensor]) -> Check:
    """Export the base to a temporary folder, load the adapters onto it with peft, and compare with
    our merged model."""
    transformers, tokenizer, config = require_transformers(), trained.tokenizer, trained.config
    files = model_files(
        trained.model.config,
        {name: weight for name, weight in weights.items() if ".lora_" not in name},
        seq_len=config.data.seq_len,
        sample=config.sample,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
    )
    with tempfile.TemporaryDirectory() as base, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about peft's own calls
        for name, content in files.items():
            atomic_write(Path(base) / name, content)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        adapted = peft.PeftModel.from_pretrained(theirs, folder).eval()
    return check_opened(adapted, f"peft {peft.__version__}", trained.model)
