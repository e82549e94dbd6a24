"""A model as a GGUF file: the library gguf reads what was written, or the model is refused."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sentencepiece
import torch
from exported import random_model, save_random_run

from data.tokenizer import open_tokenizer
from errors import UserError
from inference.trained import TrainedModel, open_trained
from interop import gguf_check, gguf_file
from interop.gguf_check import check_file
from interop.gguf_export import export_gguf
from interop.gguf_file import not_quantized, refuse, write_gguf
from interop.gguf_reader import read_gguf
from interop.gguf_vocabulary import vocabulary

W = 8
YARN = {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_len": 32}
STACKS: dict[str, dict[str, Any]] = {
    "window": {"sliding_window": W, "rope_theta": 500_000.0},
    "full": {"sliding_window": None},
    "mixed": {"sliding_window": (W, None), "tie_embeddings": True, "head_dim": 24},
    "sink-logits": {"sliding_window": (W, None), "sink_logits": True, "norm_eps": 1e-3},
    "sink-logits-full": {"sliding_window": None, "sink_logits": True},
    "linear": {"sliding_window": W, "rope_scaling": "linear", "rope_factor": 4.0},
    "ntk": {"sliding_window": W, "rope_scaling": "ntk", "rope_factor": 4.0},
    "yarn": {"sliding_window": (W, None), **YARN},
    "local-theta": {"sliding_window": W, "rope_theta_local": 1e3, **YARN},
}


@pytest.fixture(autouse=True)
def without_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks of this file read back, whether llama-cpp-python is installed or not."""
    monkeypatch.setattr(gguf_check, "is_installed", lambda: False)


@pytest.fixture(scope="module")
def trained(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    """A tiny run with random weights and a tokenizer of characters."""
    return open_trained(save_random_run(finished, tmp_path_factory.mktemp("gguf") / "run"))


def write(model: Any, path: Path, **options: Any) -> Path:
    write_gguf(model.config, model.state_dict(), None, path, **({"seq_len": 32} | options))
    return path


@pytest.mark.parametrize("name", STACKS)
def test_the_file_holds_the_model(name: str, tmp_path: Path) -> None:
    """A window, a sink logit, a RoPE setting or a weight could be lost on the way."""
    model = random_model(**STACKS[name])
    path = write(model, tmp_path / "model.gguf")
    found = check_file(path, model)
    assert found.problem is None
    assert max(found.difference, found.generated_difference) < 1e-5
    assert (found.full_difference is None) == ("full" in name)
    config, weights = read_gguf(path)
    assert config.windows == model.config.windows
    assert config.norm_eps == pytest.approx(model.config.norm_eps)
    for key, weight in model.state_dict().items():
        assert torch.equal(weights[key], weight), key


def test_a_dropped_window_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check would pass what llama.cpp's own converter drops in silence."""
    model = random_model(sliding_window=W)
    whole = gguf_file._hyperparameters
    dropped = {"attention.sliding_window": gguf_file.UNLIMITED}
    monkeypatch.setattr(gguf_file, "_hyperparameters", lambda *a: whole(*a) | dropped)
    found = check_file(write(model, tmp_path / "model.gguf"), model)
    assert found.problem is not None and "differ from ours" in found.problem
    assert found.difference == pytest.approx(found.full_difference, abs=1e-4)


def test_llama_is_for_models_without_windows(tmp_path: Path) -> None:
    """llama.cpp's llama reads no window and has no place for sink logits."""
    model = random_model(sliding_window=None)
    assert check_file(write(model, tmp_path / "model.gguf", arch="llama"), model).problem is None
    for settings, words in (
        ({"sliding_window": (W, None)}, "a window of 8 tokens.*granite_swa"),
        ({"sliding_window": None, "sink_logits": True}, "sink logits.*granite_swa"),
    ):
        with pytest.raises(UserError, match=words):
            refuse(random_model(**settings).config, "llama")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"attention_sinks": 2}, "attention_sinks is 2.*llama.cpp.*model.sink_logits=true"),
        ({"sink_token": True}, "sink_token is true.*model.sink_logits=true"),
        ({"sliding_window": (4, 8)}, "windows of 4 and 8 tokens.*such as"),
        ({"sliding_window": (4, None), "rope_theta_local": 100.0}, "one RoPE for all layers"),
    ],
)
def test_what_llama_cpp_does_not_carry_is_refused(settings: dict[str, Any], words: str) -> None:
    """The exported model would be another one, without a word."""
    with pytest.raises(UserError, match=words):
        refuse(random_model(**settings).config)


@pytest.mark.parametrize(
    ("type", "rounded"),
    [
        ("f16", lambda w: w.half().float()),
        ("bf16", lambda w: w.bfloat16().float()),
        ("q8_0", lambda w: torch.cat([_q8(block) for block in w.split(32, dim=1)], dim=1)),
    ],
)
def test_matrices_are_rounded_and_vectors_are_not(type: Any, rounded: Any, tmp_path: Path) -> None:
    """A wrong format would lose precision, or be read as other numbers."""
    model = random_model(sliding_window=W)
    _, weights = read_gguf(write(model, tmp_path / "model.gguf", type=type))
    for name, weight in model.state_dict().items():
        expected = weight if weight.dim() == 1 else rounded(weight)
        assert torch.allclose(weights[name], expected, rtol=0, atol=1e-6), name


def _q8(block: torch.Tensor) -> torch.Tensor:
    """Round (N, 32) weights to 255 steps of the largest, as q8_0 does; the step is in f16."""
    step = block.abs().amax(dim=1, keepdim=True) / 127
    return torch.round(block / step) * step.half().float()


def test_rows_that_q8_0_cannot_divide_are_f16(tmp_path: Path) -> None:
    """The library would end in a traceback, and llama.cpp would not open the file."""
    model = random_model(sliding_window=W, head_dim=12)  # rows of wo: 48 weights
    kept = not_quantized(model.config)
    assert kept == ["n_heads * head_dim (48)"]
    assert "rows of n_heads * head_dim (48) are no" in str(
        gguf_check.Rounded("q8_0", 0.1, None, None, None, "no text", tuple(kept))
    )
    _, weights = read_gguf(write(model, tmp_path / "model.gguf", type="q8_0"))
    name = "layers.0.attention.wo.weight"
    assert torch.equal(weights[name], model.state_dict()[name].half().float())


def test_a_weight_beyond_f16_is_refused(tmp_path: Path) -> None:
    """It would become infinite, and every output NaN."""
    model = random_model(sliding_window=W)
    with torch.no_grad():
        model.output.weight[0, 0] = 70_000.0
    with pytest.raises(UserError, match=r"output\.weight exceeds 65,504.*bf16"):
        write(model, tmp_path / "model.gguf", type="f16")
    assert not list(tmp_path.iterdir())


# The tokenizer


def test_the_vocabulary_is_that_of_sentencepiece(trained: TrainedModel) -> None:
    """A piece with a wrong id, score or type would change every text."""
    model = sentencepiece.SentencePieceProcessor(model_proto=trained.tokenizer.model_bytes)
    keys = vocabulary(trained.tokenizer, model.vocab_size())
    ids = range(model.vocab_size())
    types = {"unknown": 2, "control": 3, "byte": 6}  # of llama.cpp; others are 1
    assert keys["tokenizer.ggml.tokens"] == [model.id_to_piece(id) for id in ids]
    assert keys["tokenizer.ggml.scores"] == [model.get_score(id) for id in ids]
    assert keys["tokenizer.ggml.token_type"] == [
        next((n for kind, n in types.items() if getattr(model, f"is_{kind}")(id)), 1) for id in ids
    ]
    assert keys["tokenizer.ggml.bos_token_id"] == model.bos_id()
    assert keys["tokenizer.ggml.add_space_prefix"] is False


def test_a_unigram_tokenizer_is_refused() -> None:
    """llama.cpp's has no byte fallback: characters would be lost."""
    import tiny

    from data.vocabulary import train_tokenizer

    model = train_tokenizer([tiny.english(20_000)], type="unigram", vocab_size=330)
    tokenizer = open_tokenizer(model)
    with pytest.raises(UserError, match=r"byte fallback.*tokenizer\.type=bpe"):
        vocabulary(tokenizer, tokenizer.vocab_size)


def test_a_tokenizer_of_hugging_face_is_refused() -> None:
    """A tokenizer.json has no pieces with scores."""
    imported: Any = SimpleNamespace(model_bytes=b'{"version": "1.0", "added_tokens": []}')
    with pytest.raises(UserError, match="the tokenizer is none: export with --to hf"):
        vocabulary(imported, 97)


def test_a_tokenizer_of_another_size_is_refused(trained: TrainedModel) -> None:
    """llama.cpp would read ids that the model does not have."""
    with pytest.raises(UserError, match="do not belong together"):
        vocabulary(trained.tokenizer, 97)


# The export


def test_the_folder_has_the_file_and_a_modelfile(trained: TrainedModel, tmp_path: Path) -> None:
    """Ollama replaces every parameter that is missing by its own default."""
    found = export_gguf(trained, tmp_path / "tiny", "q8_0")
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == ["Modelfile", "tiny.gguf"]
    lines = (tmp_path / "tiny/Modelfile").read_text().splitlines()
    assert "Not tested" in lines[0] and lines[1] == "FROM ./tiny.gguf"
    assert {"PARAMETER temperature 0.8", "PARAMETER top_k 0", 'PARAMETER stop "</s>"'} < set(lines)
    assert found.problem is None and found.rounded is not None
    assert found.rounded.bpb is not None and found.rounded.f32_bpb is not None
    assert found.rounded.bpb != found.rounded.f32_bpb
    assert "so the window is kept" in str(found) and "bits per byte" in str(found)


def test_a_text_that_is_gone_does_not_stop_the_export(
    trained: TrainedModel, tmp_path: Path
) -> None:
    """A run could be exported only on the machine with its text."""
    data = replace(trained.config.data, path=str(tmp_path / "nowhere.txt"))
    moved = replace(trained, config=replace(trained.config, data=data))
    found = export_gguf(moved, tmp_path / "tiny", "f16")
    assert found.rounded is not None and found.rounded.bpb is None
    assert "its loss was not measured" in str(found)


def test_a_failed_check_leaves_nothing(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that computes something else would be used."""
    whole = gguf_file._rope
    monkeypatch.setattr(gguf_file, "_rope", lambda model: whole(model) | {"rope.freq_base": 50.0})
    with pytest.raises(UserError, match=r"tiny was not written.*differ from ours"):
        export_gguf(trained, tmp_path / "tiny")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file would look like a model."""
    whole = gguf_file.gguf_chunks

    def until_full(*arguments: Any, **options: Any) -> Iterator[bytes]:
        for number, chunk in enumerate(whole(*arguments, **options)):
            if number == 5:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield chunk

    monkeypatch.setattr(gguf_file, "gguf_chunks", until_full)
    with pytest.raises(OSError, match="No space left"):
        export_gguf(trained, tmp_path / "tiny")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_is_refused(trained: TrainedModel, tmp_path: Path) -> None:
    """Files of another model would be mixed with those of this one, or lost."""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not an empty folder"):
        export_gguf(trained, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_missing_library_is_named(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ImportError does not say what to install."""
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=re.escape('pip install -e ".[export]"')):
        export_gguf(trained, tmp_path / "tiny")


def test_another_file_is_no_model(tmp_path: Path) -> None:
    """The reader of the library fails in many ways."""
    (tmp_path / "a.gguf").write_bytes(b"GGUF but no model, or not more than a text" * 9)
    with pytest.raises(UserError, match="is not a GGUF file of Breeze"):
        read_gguf(tmp_path / "a.gguf")
