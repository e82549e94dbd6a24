"""Adapters as peft loads them: names and rows against the merged weights, and against peft."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file
from tiny import last, start

from errors import UserError
from inference.trained import open_trained
from interop import peft
from interop.names import huggingface_weights
from model.adapters import merged_weights
from model.config import LINEARS, LoraConfig, ModelConfig
from training.checkpoint import read, save
from training.run_folder import find

SHAPE = ModelConfig(
    vocab_size=31, dim=24, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, hidden_dim=20
)


def drawn(shapes: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


@pytest.mark.parametrize("targets", [tuple(LINEARS), ("wk", "w2")], ids="-".join)
def test_files_give_the_merged_model_in_the_order_of_transformers(
    targets: tuple[str, ...],
) -> None:
    """A name that peft skips in silence, or rows of B in our order: the merged weights of
    transformers must be those of our merged model."""
    lora = LoraConfig(rank=3, alpha=12.0, targets=targets)
    weights = drawn(
        {
            f"layers.{layer}.{LINEARS[target]}.{target}.weight": shape
            for layer in range(SHAPE.n_layers)
            for target, shape in SHAPE.linear_shapes().items()
        },
        seed=0,
    )
    adapters = drawn(lora.shapes(SHAPE), seed=1)
    files = peft.adapter_files(weights | adapters, SHAPE, lora)
    tensors = load(files["adapter_model.safetensors"])
    config = json.loads(files["adapter_config.json"])
    assert len(tensors) == len(adapters) == 2 * 2 * len(targets)
    base = huggingface_weights(weights, SHAPE)
    expected = huggingface_weights(merged_weights(weights | adapters, 4.0), SHAPE)
    for name, weight in base.items():
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        if name.split(".")[-2] in config["target_modules"]:
            a, b = tensors[f"{layer}.lora_A.weight"], tensors[f"{layer}.lora_B.weight"]
            weight = weight + config["lora_alpha"] / config["r"] * (b @ a)
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, finished: Path, text: Path) -> Path:
    """A run with LoRA whose weights are all random and large. Tests must not write to it."""
    run = tmp_path_factory.mktemp("adapted") / "run"
    lora = ["train.lora_rank=2", "train.optimizer=adamw", "train.max_steps=3",
            "tokenizer.type=bpe", "tokenizer.vocab_size=2048"]  # fmt: skip
    assert start(run, text, f"train.init_from={finished}", *lora) == 0
    checkpoint = read(last(run))
    shapes: dict[str, Any] = {
        name: shape
        for name, (_, shape) in checkpoint.header.items()
        if not name.startswith("moments/") and name != "tokenizer"
    }
    weights = drawn(shapes, seed=2)
    for weight in weights.values():
        weight.mul_(0.5 if weight.dim() == 1 else 1.5 * weight.shape[-1] ** -0.5)
    tokenizer = checkpoint.tokenizer()
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    metadata = {k: v for k, v in checkpoint.metadata.items() if k not in ("format", "step")}
    save(run / "checkpoints", 3, weights=weights, moments={}, tokenizer=tokenizer,
         metadata=metadata)  # fmt: skip
    return run


@pytest.mark.slow  # peft takes seconds to import
def test_peft_computes_the_logits_of_our_merged_model(
    tmp_path: Path, adapted: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `export_adapter` measures: with peft itself, beyond the window and through its cache.
    Rows in our order are caught, and nothing is written."""
    out = tmp_path / "adapter"
    check = peft.export_adapter(find(adapted), out)
    assert check.problem is None and check.difference < 1e-4 * check.largest_logit
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "breeze.yaml"
    ]  # fmt: skip
    assert all(tensor.any() for tensor in load_file(out / "adapter_model.safetensors").values())
    full = 4 * sum(weight.numel() for weight in open_trained(adapted).model.parameters())
    assert (out / "adapter_model.safetensors").stat().st_size < full / 2
    monkeypatch.setattr(peft, "pairs_to_halves", lambda name, weight, model: weight)
    with pytest.raises(UserError, match=r"was not written: peft .* its logits differ"):
        peft.export_adapter(find(adapted), tmp_path / "wrong")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_refusals_are_one_line_and_leave_nothing(
    tmp_path: Path, adapted: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run without adapters, a folder with files in it, and a machine without peft."""
    with pytest.raises(UserError, match=r"has no adapters, .* export the whole model"):
        peft.export_adapter(find(finished), tmp_path / "adapter")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r'needs the library peft: pip install -e "\.\[export\]"'):
        peft.export_adapter(find(adapted), tmp_path / "adapter")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(peft, "_require_peft", lambda: None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("kept")
    with pytest.raises(UserError, match="is not an empty folder"):
        peft.export_adapter(find(adapted), tmp_path / "full")
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "file"]
