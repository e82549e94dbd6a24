"""scripts/import_hf.py and train.init_from: a model of others becomes a run that scripts open."""

import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hub_server
import pytest
import tiny
import torch
from foreign import WINDOW, change_config, save_foreign

import train
from configs.load import load_config
from data.json_tokenizer import JsonTokenizer
from experiments import recall
from inference.trained import open_trained
from interop import import_run
from interop.huggingface_import import open_folder, shapes_of
from scripts import evaluate, export, import_hf, sample, strip
from training.run_folder import find

pytest.importorskip("transformers", reason="not installed: pip install -e '.[dev]'")

LOGITS = re.compile(r"on 23 tokens: logits differ by at most (\S+) \(largest logit (\S+)\)")
SHORT = [
    "train.max_steps=2", "train.warmup_steps=0", "data.seq_len=32", "train.micro_batch_size=4",
    "train.device=cpu", "train.precision=fp32", "sample.max_tokens=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of made-up English, 3 KB."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(tiny.english(3000))
    return path


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers. Tests must not write to it."""
    return save_foreign(tmp_path_factory.mktemp("foreign") / "model")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory, foreign: Path) -> Path:
    """A run made of that folder. Tests must not write to it."""
    run = tmp_path_factory.mktemp("imported") / "runs" / "mistral"
    assert import_hf.main([str(foreign), "--out", str(run)]) == 0
    return run


def own_config(folder: Path, text: Path, *lines: str) -> str:
    """Write a config of few settings, as a user would; return its path."""
    path = folder / "mine.yaml"
    sections = f"data:\n  path: {text}\n  source: files\n" + "".join(f"{line}\n" for line in lines)
    path.write_text(sections)
    return str(path)


def test_the_run_has_its_files_and_says_what_it_is(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that lacks a file, or a check that was not made."""
    run = tmp_path / "runs" / "mistral"
    assert import_hf.main([str(foreign), "--out", str(run)]) == 0
    out = capsys.readouterr().out
    assert f"MistralForCausalLM of {foreign}" in out and "270 tokens" in out
    assert "4 x 6" in out and "tokenizer.json" in out and "48,288 parameters, 4 layers" in out
    found = LOGITS.search(out)
    assert found and float(found[1]) < 1e-4 < float(found[2])
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints", "config.yaml", "tokenizer.json",
    ]  # fmt: skip
    assert find(run).metadata["imported_from"] == str(foreign)
    assert load_config(run / "config.yaml").model.sliding_window == WINDOW


def test_scripts_open_it_or_refuse_in_one_line(
    imported: Path, short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback, or a score on a text that the model was never trained on."""
    path = str(imported)
    assert sample.main([path, "--prompt", "the old", "--max-tokens", "3"]) == 0
    assert capsys.readouterr().out.startswith("the old")
    assert (
        evaluate.main(
            [path, "--file", str(short), "--window", "trained", "full", "--seq-len", "64"]
        )
        == 0
    )
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines()[-2:]]
    assert rows[0][0] == "trained" and rows[0][1] != rows[1][1]
    assert strip.main([path, "--out", str(tmp_path / "a.safetensors")]) == 0
    capsys.readouterr()
    for command, arguments, expected in (
        (evaluate.main, [path], "was imported, so the text of its training is not here; --file"),
        (evaluate.main, [path, "--split", "val"], "was imported"),
        (recall.main, [path], "was not trained on stories"),
        (train.main, [path, "--resume"], "was imported from .* with train.init_from="),
        (train.main, [path], "was imported from .* with train.init_from="),
    ):
        assert command(arguments) == 2  # type: ignore[operator]
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and re.search(expected, error), error


def test_a_difference_to_the_original_is_an_error(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A dropped window would be imported, and nobody would notice before 3 W tokens."""
    original = import_run.open_original

    def without_window(transformers: Any, model: Any) -> Any:
        theirs = original(transformers, model)
        theirs.config.sliding_window = None
        return theirs

    monkeypatch.setattr(import_run, "open_original", without_window)
    assert import_hf.main([str(foreign), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "was not imported" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_transformers_it_says_that_nothing_was_compared(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A missing optional library must not prevent an import, or look like a check that held."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert import_hf.main([str(foreign), "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "not compared" in out and 'pip install -e ".[export]"' in out


def test_a_window_that_the_config_switches_off(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The user's key would be ignored, as transformers ignores it."""
    folder = Path(shutil.copytree(foreign, tmp_path / "model"))
    change_config(folder, use_sliding_window=False)
    assert import_hf.main([str(folder), "--out", str(tmp_path / "run")]) == 0
    captured = capsys.readouterr()
    assert "4 x full" in captured.out and "logits differ by at most" in captured.out
    assert captured.err.startswith("note: use_sliding_window is false")


def test_a_large_window_is_compared_on_fewer_tokens(
    imported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 W + 5 of 4,096 would take minutes; the sentence must say that it was not reached."""
    model = open_trained(imported).model
    monkeypatch.setattr(import_run, "LONGEST_CHECK", 9)
    original = SimpleNamespace(logits=model(torch.zeros(1, 9, dtype=torch.long)))
    result = import_run.compare("them", lambda tokens: original, model)
    assert (result.n_tokens, result.wanted) == (9, 23) and not result.holds
    assert "on 9 tokens (3 W + 5 = 23 would take too long)" in str(result)


def test_init_from_a_folder_trains_its_model(
    foreign: Path, short: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The config's own shape, windows or tokenizer, or drawn weights; and a run that cannot be
    resumed when the folder is gone."""
    folder = Path(shutil.copytree(foreign, tmp_path / "model"))
    start = f"train: {{init_from: {folder}, lr: 1e-9, adamw_lr: 1e-9}}"
    config = own_config(tmp_path, short, start, "model: {sliding_window: 4}")
    words = [config, *SHORT,
             f"run_dir={tmp_path / 'run'}"]  # fmt: skip
    assert train.main(words) == 0
    note = capsys.readouterr().err.splitlines()[0]
    assert note.startswith("note: model.dim is 32 instead of 256, model.hidden_dim is 48 instead")
    assert note.endswith("because train.init_from names a trained model")
    assert "sliding_window" not in note and "model.n_heads" not in note
    tuned = open_trained(tmp_path / "run")
    assert tuned.model.config.windows == (4,) * 4 and isinstance(tuned.tokenizer, JsonTokenizer)
    first = open_folder(folder)
    weights = first.weights(shapes_of(first.model))
    for name, weight in tuned.model.named_parameters():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-6)
    shutil.rmtree(folder)
    assert train.main([*words, "train.max_steps=3", "--resume"]) == 0
    assert find(tmp_path / "run", "last").step == 3
    assert train.main([*words[:-1], f"run_dir={tmp_path / 'other'}"]) == 2
    assert f"there is no run {folder}" in capsys.readouterr().err


def test_a_shape_that_contradicts_the_weights_is_one_line(
    foreign: Path,
    imported: Path,
    short: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Torch's error about sizes, or a message about a file that the user never wrote."""
    for origin in (foreign, imported):
        words = [own_config(tmp_path, short), f"train.init_from={origin}", "model.n_layers=2"]
        assert train.main([*words, f"run_dir={tmp_path / 'run'}"]) == 2
        assert capsys.readouterr().err == (
            f"error: {words[0]}: command line: model.n_layers is 2, but that of the trained model "
            "is 4, and its weights fit no other: leave model.n_layers out\n"
        )
    assert not (tmp_path / "run").exists()


def test_a_run_is_trained_further_with_its_own_config(
    imported: Path, short: Path, tmp_path: Path
) -> None:
    """The command that the import prints."""
    words = [str(imported), f"train.init_from={imported}", f"data.path={short}",
             f"run_dir={tmp_path / 'tuned'}", *SHORT]  # fmt: skip
    assert train.main(words) == 0
    assert evaluate.main([str(tmp_path / "tuned")]) == 0


def test_the_card_says_that_a_model_was_imported(imported: Path, tmp_path: Path) -> None:
    """A card that calls a model of others our own, with a command that trains another one."""
    out = tmp_path / "out"
    assert export.main([str(imported), "--to", "hf", "--out", str(out)]) == 0
    card = (out / "README.md").read_text(encoding="utf-8")
    origin = find(imported).metadata["imported_from"]
    assert f"imported into Breeze from {origin}" in card
    assert f"python -m scripts.import_hf {origin} --out runs/out" in card
    assert "train.py" not in card and "trained for" not in card


def test_a_model_of_the_hub(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The files of another commit, files that an import does not read, or a traceback of the
    network."""
    monkeypatch.setenv("BREEZE_CACHE", str(tmp_path / "cache"))
    hub = tmp_path / "hub"
    for name in ("own/tiny", "own/gated-tiny"):
        shutil.copytree(foreign, hub / name)
        (hub / name / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    shutil.copytree(foreign, hub / "own/qwen")
    change_config(hub / "own/qwen", architectures=["Qwen3ForCausalLM"])
    shutil.copytree(foreign, hub / "own/pickle").joinpath("model.safetensors").rename(
        hub / "own/pickle/pytorch_model.bin"
    )
    with hub_server.serve(hub) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert import_hf.main(["own/tiny", "--out", str(tmp_path / "run")]) == 0
        commit = hub_server.commit_of(hub / "own/tiny")
        assert f"MistralForCausalLM of own/tiny@{commit}" in capsys.readouterr().out
        assert find(tmp_path / "run").metadata["imported_from"] == f"own/tiny@{commit}"
        for name, more, expected in (
            ("own/none", [], "no folder own/none, and the Hub has no such model"),
            ("own/tiny", ["--revision", "v9"], "has no branch, tag or commit v9"),
            ("own/gated-tiny", [], "is gated: ask for access"),
            ("own/qwen", [], "Qwen3ForCausalLM"),
            ("own/pickle", [], "own/pickle has its weights in pytorch_model.bin, a pickle"),
            ("own/down", [], f"the Hub at {address} cannot be reached"),
        ):
            assert import_hf.main([name, "--out", str(tmp_path / "other"), *more]) == 2
            error = capsys.readouterr().err.splitlines()[-1]
            assert error.startswith("error: ") and expected in error
    read = [line for line in asked if "pytorch_model" in line or "qwen/resolve" in line]
    assert read and all(line.endswith(".json") for line in read)  # nothing large, no pickle
    assert not (tmp_path / "other").exists()
