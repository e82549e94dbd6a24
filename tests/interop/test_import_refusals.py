"""What Breeze cannot carry is refused by name, in one line, and nothing is written."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import byte_tokenizer, change_config, change_tensors, save_foreign

from errors import UserError
from interop.huggingface_import import open_folder, shapes_of
from scripts import import_hf

pytest.importorskip("transformers", reason="not installed: pip install -e '.[dev]'")

LAYER = "model.layers.1."


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in three shards. Tests must not write to it."""
    return save_foreign(tmp_path_factory.mktemp("foreign") / "model", shard="40KB")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one file of weights. Tests must not write to it."""
    return save_foreign(tmp_path_factory.mktemp("foreign") / "single")


def refusal(folder: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """Import `folder`, which must fail in one line and write nothing; return that line."""
    assert import_hf.main([str(folder), "--out", str(out), *more]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert not out.exists() and not list(out.parent.glob(".*"))
    return captured.err


CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen3ForCausalLM.*QK norm": {"architectures": ["Qwen3ForCausalLM"]},
    "MixtralForCausalLM.*mixture of experts": {"architectures": ["MixtralForCausalLM"]},
    "Qwen2ForCausalLM.*biases": {"architectures": ["Qwen2ForCausalLM"]},
    "MistralModel.*no output": {"architectures": ["MistralModel"]},
    "FutureForCausalLM.*Mistral, Ministral, Llama, GraniteSWA": {
        "architectures": ["FutureForCausalLM"]
    },
    "architectures and model_type are missing": {"architectures": None, "model_type": None},
    "attention_bias is true": {"attention_bias": True},
    "mlp_bias is true": {"mlp_bias": True},
    "num_local_experts is 8": {"num_local_experts": 8},
    "use_qk_norm is true": {"use_qk_norm": True},
    'hidden_act is "gelu"': {"hidden_act": "gelu"},
    '"llama3".*linear or yarn': {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
    '"longrope"': {"rope_parameters": {"type": "longrope", "rope_theta": 1e4}},
    '"dynamic"': {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "beta_fast is 16": {"rope_scaling": {"type": "yarn", "factor": 2.0, "beta_fast": 16}},
    "attention_factor is 1.0": {
        "rope_scaling": {"type": "yarn", "factor": 2.0, "attention_factor": 1.0}
    },
    "mscale": {
        "rope_scaling": {"type": "yarn", "factor": 2.0, "mscale": 1.0, "mscale_all_dim": 1.0}
    },
    "factor is null": {"rope_scaling": {"type": "linear"}},
    "factor is 0.5": {"rope_scaling": {"type": "linear", "factor": 0.5}},
    "its own parameters for full_attention": {"rope_parameters": {"full_attention": {}}},
    "partial_rotary_factor is 0.5": {"partial_rotary_factor": 0.5},
    "attn_logit_softcapping is 50.0": {"attn_logit_softcapping": 50.0},
    "final_logit_softcapping is 30": {"final_logit_softcapping": 30},
    "quantized .gptq": {"quantization_config": {"quant_method": "gptq"}},
    'layer_types has "chunked_attention"': {"layer_types": ["chunked_attention"] * 4},
    "a kind for each of the 4 layers": {"layer_types": ["full_attention"]},
    r"layer_types has \[": {"layer_types": [[], {}, 1, None]},
    "the architecture is .*'mistral'": {"architectures": None, "model_type": ["mistral"]},
    "layer_types is .*Ministral": {
        "layer_types": ["full_attention", "sliding_attention"] * 2
    },
    "sliding_window is 6, but transformers gives LlamaForCausalLM no window": {
        "architectures": ["LlamaForCausalLM"]
    },
    "sliding_window is 0": {"sliding_window": 0},
    'sliding_window is "wide"': {"sliding_window": "wide"},
    "hidden_size is missing": {"hidden_size": None},
    "num_hidden_layers is 4.5": {"num_hidden_layers": 4.5},
    "head_dim is 7.*even": {"head_dim": 7},
    "not divisible by num_attention_heads .5.": {"num_attention_heads": 5, "head_dim": None},
    "num_key_value_heads .*3": {"num_key_value_heads": 3},
    "rms_norm_eps is 2": {"rms_norm_eps": 2},
    "attention_multiplier is 1:": {"architectures": ["GraniteSWAForCausalLM"]},
    "embedding_multiplier is 12": {
        "architectures": ["GraniteSWAForCausalLM"], "embedding_multiplier": 12,
    },
    "layer_rope_theta has a 0": {
        "architectures": ["GraniteSWAForCausalLM"], "layer_rope_theta": [0, 1e4, 1e4, 1e4],
    },
    "layer_rope_theta is .*a number is needed": {
        "architectures": ["GraniteSWAForCausalLM"], "layer_rope_theta": [[], {}, 1e4, 1e4],
    },
    "rms_norm_eps is 1000.*a number is needed": {"rms_norm_eps": 10**400},
    "one base for layers with a window": {
        "architectures": ["GraniteSWAForCausalLM"], "layer_rope_theta": [10.0, 20.0, 30.0, 40.0],
    },
    # The shapes of the tensors are compared with those that config.json asks for.
    r"gate_proj.weight is \(48, 32\), but config.json asks for \(64, 32\)": {
        "intermediate_size": 64
    },
    r"embed_tokens.weight is \(270, 32\), but config.json asks for \(300, 32\)": {
        "vocab_size": 300
    },
    "lacks the tensor model.layers.4.self_attn.q_proj.weight": {"num_hidden_layers": 5},
    "has the tensor model.layers.3.input_layernorm.weight and 8 more": {"num_hidden_layers": 3},
    "tie_word_embeddings is true, but lm_head.weight differs": {"tie_word_embeddings": True},
}  # fmt: skip


@pytest.mark.parametrize("expected", CONFIGS)
def test_config_json(
    expected: str, mistral: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key that is ignored changes the outputs, and nobody would notice."""
    folder = Path(shutil.copytree(mistral, tmp_path / "model"))
    change_config(folder, **CONFIGS[expected])
    line = refusal(folder, tmp_path / "run", capsys)
    assert str(folder) in line
    assert re.search(expected, line), line


WEIGHT = torch.zeros(32)
TENSORS: dict[str, dict[str, Any]] = {
    "q_proj.bias: .*no biases": {f"{LAYER}self_attn.q_proj.bias": WEIGHT},
    "q_norm.weight: .*QK norm": {f"{LAYER}self_attn.q_norm.weight": torch.ones(8)},
    r"experts.0.w1.weight: .*\(MoE\)": {f"{LAYER}mlp.experts.0.w1.weight": WEIGHT},
    "qweight: the weights are quantized": {f"{LAYER}mlp.up_proj.qweight": WEIGHT},
    "has the tensor extra, which config.json does not": {"extra": WEIGHT},
    "norm.weight is stored as I32": {"model.norm.weight": torch.ones(32, dtype=torch.int32)},
    "norm.weight has numbers that are not finite": {"model.norm.weight": WEIGHT / 0},
    r"norm.weight is \(33,\), but config.json asks for \(32,\)": {
        "model.norm.weight": torch.ones(33)
    },
}


@pytest.mark.parametrize("expected", TENSORS)
def test_tensors(
    expected: str, single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tensor without a place would be dropped, and the model would compute something else."""
    folder = Path(shutil.copytree(single, tmp_path / "model"))
    change_tensors(folder, **TENSORS[expected])
    line = refusal(folder, tmp_path / "run", capsys)
    assert re.search(expected, line), line


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _only_pickle(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def _truncated(folder: Path) -> None:
    path = next(folder.glob("model-00002*"))
    path.write_bytes(path.read_bytes()[:100])


def _other_index(folder: Path, change: Callable[[dict[str, str]], None]) -> None:
    path = folder / "model.safetensors.index.json"
    values = json.loads(path.read_text())
    change(values["weight_map"])
    path.write_text(json.dumps(values))


def _only(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        (folder / name).write_text("{}")

    return change


FOLDERS: dict[str, Callable[[Path], None]] = {
    "is no model of Hugging Face: it has no config.json": _remove("config.json"),
    "only an adapter of PEFT": _only("adapter_config.json"),
    "only params.json of Mistral's own format": _only("params.json"),
    "is not a JSON object": lambda folder: (folder / "config.json").write_text("[1"),
    "pytorch_model.bin, a pickle.*save_pretrained": _only_pickle,
    "lacks the shard model-00002-of-": lambda f: next(f.glob("model-00002*")).unlink(),
    "model-00002.* is damaged": _truncated,
    "has shards but no model.safetensors.index.json": _remove("model.safetensors.index.json"),
    "no file of its folder": lambda folder: _other_index(
        folder, lambda places: places.update({"model.norm.weight": "../x.safetensors"})
    ),
    "lacks other.weight, which": lambda folder: _other_index(
        folder, lambda places: places.update({"other.weight": places["model.norm.weight"]})
    ),
    "has no tokenizer.json and no tokenizer.model": _remove("tokenizer.json"),
    "the tokenizer has 280 tokens, but vocab_size in config.json is 270": (
        lambda folder: byte_tokenizer(280).save_pretrained(folder)
    ),
    "names eos_token": lambda folder: (folder / "tokenizer_config.json").write_text("{}"),
}


@pytest.mark.parametrize("expected", FOLDERS)
def test_files(
    expected: str, mistral: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that lacks a part, or an index that leads out of it."""
    folder = Path(shutil.copytree(mistral, tmp_path / "model"))
    FOLDERS[expected](folder)
    line = refusal(folder, tmp_path / "run", capsys)
    assert re.search(expected, line), line


def test_a_model_of_another_shape(single: Path) -> None:
    """A saved config may ask for another model than the one that is in the folder now."""
    foreign = open_folder(single)
    shapes = shapes_of(replace(foreign.model, hidden_dim=64))
    with pytest.raises(UserError, match=r"w1.weight is \(48, 32\) there, and \(64, 32\) here"):
        foreign.weights(shapes)


def test_names(mistral: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that are overwritten, or a name that is taken for another kind."""
    line = refusal(tmp_path / "a" / "b" / "c", tmp_path / "run", capsys)
    assert "there is no folder" in line and "OWNER/NAME" in line
    line = refusal(mistral / "config.json", tmp_path / "run", capsys)
    assert "is not a folder" in line
    line = refusal(mistral, tmp_path / "run", capsys, "--revision", "v1")
    assert "--revision is for models of the Hub" in line
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "run", tmp_path / "file" / "runs" / "run"):
        assert import_hf.main([str(mistral), "--out", str(out)]) == 2
        assert "would be within a file" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("")
    assert import_hf.main([str(mistral), "--out", str(tmp_path / "mine")]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]
