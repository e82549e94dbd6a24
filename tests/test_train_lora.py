"""Training with LoRA from end to end: only adapters change, and every reader sees them merged."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import english, last, measured, resume, saved, start, step_of, words

import train
from configs.load import load_config
from inference.text import continue_text
from inference.trained import open_trained
from model import Sampling
from model.lora import LoraLinear
from run import TrainingRun
from scripts import evaluate, sample
from start import start_run
from training.run_folder import find

LORA = ["train.lora_rank=2", "train.lora_alpha=8", "train.optimizer=adamw", "train.lr=0.02"]
TOKENIZER = ["tokenizer.type=bpe", "tokenizer.vocab_size=2048"]  # init_from brings its own


def settings(base: Path, *more: str) -> list[str]:
    return [*TOKENIZER, f"train.init_from={base}", *LORA, *more]


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """Return the weights and adapters in the newest checkpoint."""
    names = ("moments/", "tokenizer")
    return {n: t for n, t in load_file(last(run)).items() if not n.startswith(names)}


def update(stored: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Return alpha / r B A of a weight, with alpha / r = 8 / 2."""
    layer = name.removesuffix(".weight")
    return 4.0 * stored[f"{layer}.lora_B"] @ stored[f"{layer}.lora_A"]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """Another text in the same characters."""
    path = tmp_path_factory.mktemp("other") / "other.txt"
    path.write_text(english(20_000, seed=1), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, finished: Path, other: Path) -> Path:
    """A run with LoRA, from the finished run. Tests must not write to it."""
    run = tmp_path_factory.mktemp("adapted") / "run"
    assert start(run, other, *settings(finished)) == 0
    return run


def test_frozen_weights_keep_every_bit(finished: Path, adapted: Path) -> None:
    """A weight that decays, or is rounded, although it is not trained. Moments of it would take
    the memory that LoRA saves."""
    before, stored = tensors(finished), tensors(adapted)
    best = load_file(find(finished).path)
    for name in before:
        assert torch.equal(stored[name], best[name]), name
    adapters = {name for name in stored if ".lora_" in name}
    assert stored.keys() == before.keys() | adapters and len(adapters) == 2 * 2 * 7
    for name in adapters:
        assert stored[name].any(), name
    moments = {name for name in load_file(last(adapted)) if name.startswith("moments/")}
    assert moments == {f"moments/{n}.{m}" for n in adapters for m in ("exp_avg", "exp_avg_sq")}


def test_an_interrupted_run_is_bit_equal_to_an_uninterrupted_one(
    tmp_path: Path, finished: Path, adapted: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter, its moments or the base could be restored wrongly. The base is in the checkpoint:
    the run continues although the folder that it started from is gone."""
    base, parts = Path(shutil.copytree(finished, tmp_path / "base")), tmp_path / "parts"
    step = train.train_step

    def stopping(run: TrainingRun, *rest: Any) -> tuple[float, float]:
        if run.step + 1 == 5:
            signal.raise_signal(signal.SIGTERM)
        return step(run, *rest)

    monkeypatch.setattr(train, "train_step", stopping)
    assert start(parts, other, *settings(base)) == 128 + signal.SIGTERM
    assert step_of(saved(parts)[-1]) == 5
    monkeypatch.setattr(train, "train_step", step)
    shutil.rmtree(base)
    assert resume(parts, other, *settings(base)) == 0
    assert measured(parts) == measured(adapted)
    assert (parts / "samples.txt").read_bytes() == (adapted / "samples.txt").read_bytes()
    ours, theirs = load_file(last(parts)), load_file(last(adapted))
    assert ours.keys() == theirs.keys() and step_of(last(parts).name) == 10
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_checkpoint_opens_with_its_adapters_merged(
    finished: Path, adapted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts that read the frozen weights only, or fail on the names of adapters."""
    stored = tensors(adapted)
    opened = dict(open_trained(adapted, "last").model.named_parameters())
    assert opened.keys() == tensors(finished).keys()
    for name, weight in opened.items():
        has_adapter = name.split(".")[-2] in ("wq", "wk", "wv", "wo", "w1", "w2", "w3")
        expected = stored[name] + (update(stored, name) if has_adapter else 0)
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)
    assert evaluate.main([str(adapted)]) == 0
    assert sample.main([str(adapted), "--prompt", "the", "--max-tokens", "4"]) == 0


def test_a_sample_in_training_comes_from_the_adapted_model(
    tmp_path: Path, finished: Path, other: Path
) -> None:
    """Text of the base model, which does not change however long the adapters are trained."""
    line = words(tmp_path / "run", other, *settings(finished), "sample.temperature=0",
                 "sample.prompt=The king", "sample.max_tokens=24")  # fmt: skip
    line = [word for word in line if not word.startswith("sample.min_p")]
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    run = start_run(load_config(line[0], line[1:]), None, find(finished))

    def text_of(model: Any) -> str:
        pieces = continue_text(model, ["The king"], max_tokens=24, sampling=greedy)
        return "The king" + "".join(piece.text for piece in pieces)

    base, greedy = open_trained(finished), Sampling(temperature=0)
    assert run.sample() == text_of(base)  # B is zero
    torch.manual_seed(0)
    with torch.no_grad():
        for module in run.model.modules():
            if isinstance(module, LoraLinear):
                module.lora_B.normal_(std=0.5)
    run.save()
    adapted = run.sample()
    assert adapted != text_of(base)
    assert adapted == text_of(open_trained(tmp_path / "run"))


def test_the_next_run_starts_from_the_merged_weights(
    tmp_path: Path, adapted: Path, other: Path
) -> None:
    """Adapters that are lost, or trained on, where a run starts from a run with LoRA."""
    still = ["train.lr=1e-9", "train.max_steps=2", "train.warmup_steps=0", "train.optimizer=adamw"]
    expected = dict(open_trained(adapted).model.named_parameters())
    full, more = tmp_path / "full", tmp_path / "more"
    assert start(full, other, *TOKENIZER, f"train.init_from={adapted}", *still) == 0
    assert start(more, other, *TOKENIZER, f"train.init_from={adapted}", *LORA, *still) == 0
    assert tensors(full).keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(tensors(full)[name], weight, rtol=0, atol=1e-6)
        assert torch.equal(tensors(more)[name], weight)


@pytest.mark.parametrize(
    "changed", ["train.lora_rank=3", "train.lora_alpha=4", "train.lora_targets=[wq]"]
)
def test_adapters_of_another_kind_are_another_run(
    tmp_path: Path, finished: Path, adapted: Path, other: Path, changed: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Each of the settings changes what is trained, and none may change when a run is resumed: with
    another alpha, the same adapters are another model."""
    run = Path(shutil.copytree(adapted, tmp_path / "run"))
    assert resume(run, other, *settings(finished, changed)) == 2
    name = changed.partition("=")[0]
    assert f"{name} was" in capsys.readouterr().err
    assert start(tmp_path / "next", other, *settings(finished, changed)) == 0
    a, b = (open_trained(run, "last").model.state_dict() for run in (adapted, tmp_path / "next"))
    assert any(not torch.equal(a[name], b[name]) for name in a)
