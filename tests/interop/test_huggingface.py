"""A model as a Hugging Face folder: transformers computes the same logits, or it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import random_model, save_random_run

from configs.settings import SampleSettings
from errors import UserError
from interop import check, huggingface
from interop.check import check_huggingface
from interop.huggingface import architecture, generation_config, model_files
from model.config import ModelConfig
from scripts.export import main

W = 8
YARN = {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_len": 32}
STACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "window": ("mistral", {"sliding_window": W}),
    "full": ("mistral", {"sliding_window": None}),
    "tied": ("mistral", {"sliding_window": W, "tie_embeddings": True, "head_dim": 24}),
    "mixed": ("ministral", {"sliding_window": (W, None)}),
    "mixed-tied": ("ministral", {"sliding_window": (W, None), "tie_embeddings": True}),
    "sink-logits": ("granite_swa", {"sliding_window": (W, None), "sink_logits": True}),
    "full-sink-logits": ("granite_swa", {"sliding_window": None, "sink_logits": True}),
    "sink-logits-tied": (
        "granite_swa",
        {"sliding_window": W, "sink_logits": True, "tie_embeddings": True, "head_dim": 24},
    ),
    "two-thetas": (
        "granite_swa",
        {"sliding_window": (W, None), "rope_theta": 1e5, "rope_theta_local": 1e3},
    ),
    "local-theta": ("mistral", {"sliding_window": W, "rope_theta_local": 1e3, **YARN}),
    "ntk-behind-the-window": (
        "granite_swa",
        {
            "sliding_window": (W, None),
            "rope_theta_local": 10_000.0,
            "rope_scaling": "ntk",
            "rope_factor": 4.0,
        },
    ),
    "linear": (
        "ministral",
        {"sliding_window": (W, None), "rope_scaling": "linear", "rope_factor": 4.0},
    ),
    "ntk": ("mistral", {"sliding_window": W, "rope_scaling": "ntk", "rope_factor": 4.0}),
    "yarn": ("mistral", {"sliding_window": None, **YARN}),
    "yarn-sinks": ("granite_swa", {"sliding_window": (W, None), "sink_logits": True, **YARN}),
}


def write(model: Any, folder: Path) -> None:
    """Write the folder of a model, without a tokenizer."""
    files = model_files(
        model.config, model.state_dict(), seq_len=32, sample=SampleSettings(), bos_id=1, eos_id=2
    )
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("name", STACKS)
def test_transformers_computes_the_same(name: str, tmp_path: Path) -> None:
    """A dropped window, rows in the wrong order or a wrong RoPE would change what a model says."""
    kind, settings = STACKS[name]
    model = random_model(**settings)
    assert architecture(model.config) == kind
    write(model, tmp_path)
    found = check_huggingface(tmp_path, model)
    assert found.problem is None
    assert max(found.difference, found.generated_difference) < 1e-4
    assert (found.full_difference is None) == (name in ("full", "full-sink-logits", "yarn"))
    assert found.full_difference is None or found.full_difference > 0.5


def test_a_dropped_window_is_caught(tmp_path: Path) -> None:
    """The check would pass what every other path in the field drops in silence."""
    model = random_model(sliding_window=W)
    write(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"sliding_window": None}))
    found = check_huggingface(tmp_path, model)
    assert found.problem is not None and "differ from ours" in found.problem
    assert found.difference == pytest.approx(found.full_difference, abs=1e-4)


def test_a_cache_that_differs_is_caught() -> None:
    """A program whose rolling cache is wrong reads a prompt correctly, and writes nonsense."""
    model = random_model(sliding_window=W)

    def answer(prompt: torch.Tensor, n_tokens: int) -> check.Answer:
        text = torch.cat((prompt, prompt.repeat(n_tokens)[:n_tokens]))
        steps = model(text[None])[0, len(prompt) - 1 : -1]
        return model(prompt[None])[0], text, steps + 0.1 * (torch.arange(len(steps)) > W)[:, None]

    found = check.check("a program", model, answer)
    assert found.problem is not None and "through its cache" in found.problem


def test_the_cache_is_checked_behind_an_eos(tmp_path: Path) -> None:
    """transformers stops at an EOS, so that the cache would be read for one token, and not 200."""
    model = random_model(sliding_window=W)
    write(model, tmp_path)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": list(range(1, 97))}))
    assert check_huggingface(tmp_path, model).problem is None


def test_a_window_without_effect_is_not_called_kept() -> None:
    """For a model that ignores far tokens, the check could not fail."""
    model = random_model(sliding_window=W)
    with torch.no_grad():
        for layer in model.layers:
            layer.attention.wo.weight.zero_()

    def answer(prompt: torch.Tensor, n_tokens: int) -> check.Answer:
        text = torch.cat((prompt, prompt.repeat(n_tokens)[:n_tokens]))
        return model(prompt[None])[0], text, model(text[None])[0, len(prompt) - 1 : -1]

    found = check.check("a program", model, answer)
    assert found.problem is not None and "too little to tell" in found.problem


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"attention_sinks": 2}, "attention_sinks is 2.*model.sink_logits=true"),
        ({"sink_token": True}, "sink_token is true.*model.sink_logits=true"),
        ({"sliding_window": (4, 8)}, "windows of 4 and 8 tokens.*such as"),
        (
            {"sliding_window": (4, None), "rope_theta_local": 10_000.0, **YARN},
            "rope_theta_local with rope_scaling yarn",
        ),
    ],
)
def test_what_no_architecture_carries_is_refused(settings: dict[str, Any], words: str) -> None:
    """The exported model would be another one, without a word."""
    shape: dict[str, Any] = {"vocab_size": 97, "dim": 64, "n_layers": 2, "n_heads": 4}
    with pytest.raises(UserError, match=words):
        architecture(ModelConfig(**shape, **settings))


def test_sampling_is_that_of_the_run() -> None:
    """transformers draws from the 50 most likely tokens if top_k is missing."""
    values = generation_config(SampleSettings(temperature=0.7), bos_id=1, eos_id=2)
    assert (values["temperature"], values["top_k"], values["do_sample"]) == (0.7, 0, True)
    assert generation_config(SampleSettings(temperature=0), bos_id=1, eos_id=2) == {
        "bos_token_id": 1, "eos_token_id": 2, "max_new_tokens": 200, "do_sample": False,
        "repetition_penalty": 1.0,
    }  # fmt: skip


# The command


def test_the_folder_opens_without_code_of_ours(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that only Breeze can open is no export."""
    import transformers

    run, out = save_random_run(finished, tmp_path / "run"), tmp_path / "out"
    assert main([str(run), "--to", "hf", "--out", str(out)]) == 0
    assert "so the window is kept" in capsys.readouterr().out
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    write_text = transformers.pipeline("text-generation", model=str(out))
    assert tokenizer("a b").input_ids[0] == model.config.bos_token_id
    assert write_text("a b", max_new_tokens=3)[0]["generated_text"].startswith("a b")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "python train.py breeze.yaml" in card and "so the window is kept" in card
    assert (out / "breeze.yaml").is_file()


def test_a_failed_check_leaves_nothing(
    tmp_path: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A folder that computes something else would be used."""
    whole = huggingface.config_json
    monkeypatch.setattr(
        huggingface, "config_json", lambda *a, **k: whole(*a, **k) | {"sliding_window": None}
    )
    run, out = save_random_run(finished, tmp_path / "run"), tmp_path / "out"
    assert main([str(run), "--to", "hf", "--out", str(out)]) == 2
    assert "was not written" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_folder_with_files_is_refused(
    tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of another model would be mixed with those of this one, or lost."""
    (tmp_path / "mine.txt").write_text("mine")
    assert main([str(finished), "--to", "hf", "--out", str(tmp_path)]) == 2
    assert "--out: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_present_folder_is_refused(
    tmp_path: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its name is empty, so the files would have none; a traceback of pathlib."""
    monkeypatch.chdir(tmp_path)
    assert main([str(finished), "--to", "hf", "--out", "."]) == 2
    assert "--out: . is the folder where you are" in capsys.readouterr().err
