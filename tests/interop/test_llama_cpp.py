"""llama.cpp opens our GGUF files and computes the same, through its rolling cache.

llama-cpp-python has no wheel: `make test-slow` builds it. Where it is missing, these tests are
skipped. tests/interop/test_gguf.py reads the same files without it.
"""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import random_model, save_random_run

from data.tokenizer import SPACE_MARK, Tokenizer, open_tokenizer
from data.vocabulary import train_tokenizer
from errors import UserError
from inference.trained import open_trained
from interop import gguf_file
from interop.gguf_check import check_file
from interop.gguf_export import export_gguf
from interop.gguf_file import write_gguf
from interop.llama_cpp import BATCH, LlamaCpp
from interop.matrix import llama_cpp_rows

pytestmark = pytest.mark.slow
pytest.importorskip(
    "llama_cpp", reason="llama-cpp-python is not installed: make .venv/llama-cpp builds it"
)

ROOT = Path(__file__).parents[2]
W = 64  # 3 W + 205 tokens exceed the 256 cells of the cache, so it rolls
YARN = {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_len": 32}
STACKS: dict[str, dict[str, Any]] = {
    "window": {"sliding_window": W},
    "tied": {"sliding_window": W, "tie_embeddings": True, "head_dim": 24},
    "mixed": {"sliding_window": (W, None)},
    "mixed-tied": {"sliding_window": (W, None), "tie_embeddings": True},
    "own-key-only": {"sliding_window": (1, None)},
    "sink-logits": {"sliding_window": (W, None), "sink_logits": True},
    "sink-logits-tied": {"sliding_window": W, "sink_logits": True, "tie_embeddings": True},
    "sink-logits-full": {"sliding_window": None, "sink_logits": True},
    "full": {"sliding_window": None},
    "theta": {"sliding_window": W, "rope_theta": 500_000.0},
    "local-theta": {"sliding_window": W, "rope_theta_local": 1e3, **YARN},
    "linear": {"sliding_window": (W, None), "rope_scaling": "linear", "rope_factor": 4.0},
    "ntk": {"sliding_window": W, "rope_scaling": "ntk", "rope_factor": 4.0},
    "yarn": {"sliding_window": (W, None), "sink_logits": True, **YARN},
}


def write(model: Any, path: Path, tokenizer: Tokenizer | None = None, **options: Any) -> Path:
    write_gguf(model.config, model.state_dict(), tokenizer, path, seq_len=32, **options)
    return path


@pytest.mark.parametrize("name", STACKS)
def test_llama_cpp_computes_the_same(name: str, tmp_path: Path) -> None:
    """A dropped window, wrong pairs of RoPE or a wrong cache would change what a model says."""
    model = random_model(**STACKS[name])
    found = check_file(write(model, tmp_path / "model.gguf"), model)
    assert "llama.cpp" in found.peer
    assert found.problem is None
    assert max(found.difference, found.generated_difference) < 2e-5
    assert found.full_difference is None or found.full_difference > 0.5


def test_llama_without_a_window(tmp_path: Path) -> None:
    """More programs know llama than granite_swa."""
    model = random_model(sliding_window=None)
    assert check_file(write(model, tmp_path / "model.gguf", arch="llama"), model).problem is None


def test_a_dropped_window_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check would pass what llama and mistral3 do in silence."""
    model = random_model(sliding_window=W)
    monkeypatch.setattr(gguf_file, "refuse", lambda *_: None)
    found = check_file(write(model, tmp_path / "model.gguf", arch="llama"), model)
    assert found.problem is not None and "differ from ours" in found.problem
    assert found.difference == pytest.approx(found.full_difference, abs=1e-4)


def test_the_text_is_ours(tmp_path: Path) -> None:
    """Logits could agree up to rounding, and the texts part at a near tie."""
    model = random_model(sliding_window=(W, None), sink_logits=True)
    prompt = torch.arange(3 * W + 5) % model.config.vocab_size
    with LlamaCpp(write(model, tmp_path / "model.gguf"), len(prompt) + 200) as peer:
        _, text, _ = peer.answer(prompt, 200)
    with torch.no_grad():
        expected = prompt.tolist()
        for _ in range(200):
            expected.append(int(model(torch.tensor([expected]))[0, -1].argmax()))
    assert text.tolist() == expected


@pytest.mark.parametrize("type", ["bpe", "char"])
def test_texts_are_encoded_as_ours(type: str, tmp_path: Path) -> None:
    """A model that reads other tokens than it was trained on writes nonsense."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("m*/*.py")))
    spelled = " <s> </s> <unk> <0x41>" * 300  # so that pieces of these exist
    tokenizer = open_tokenizer(train_tokenizer([code + spelled], type=type, vocab_size=2000))
    model = random_model(vocab_size=tokenizer.vocab_size)
    draw, texts = random.Random(0), ["<s>", "a </s> b", "<0x41>", " ", "   a", "\0", "\r\n\t", "é"]
    for _ in range(1000):
        start = draw.randrange(len(code) - 300)
        texts.append(code[start : start + draw.randint(1, 300)])
        texts.append("".join(chr(draw.randrange(0x110000)) for _ in range(20)))
    with LlamaCpp(write(model, tmp_path / "model.gguf", tokenizer), 64) as peer:
        for text in texts:
            # Surrogates are no text. llama.cpp reads U+2581 as a space, which Breeze does not.
            clean = text.encode("utf-8", "replace").decode().replace(SPACE_MARK, "")
            assert peer.tokenize(clean) == tokenizer.encode(clean), clean


def test_an_export_is_checked_by_llama_cpp(finished: Path, tmp_path: Path) -> None:
    """A file that llama.cpp does not open would be handed on."""
    trained = open_trained(save_random_run(finished, tmp_path / "run"))
    for type in ("f32", "f16", "bf16", "q8_0"):
        found = export_gguf(trained, tmp_path / type, type)  # type: ignore[arg-type]
        assert "llama.cpp" in found.peer and found.problem is None
        assert found.rounded is None or found.rounded.bpb == pytest.approx(
            found.rounded.f32_bpb, rel=0.02
        )
        shutil.rmtree(tmp_path / type)


def test_only_granite_swa_keeps_the_window() -> None:
    """The table of programs would say what was true once."""
    found = {(row.architecture, row.stack): row.verdict for row in llama_cpp_rows()}
    assert {found["granite_swa", stack] for _, stack in found} == {"kept"}
    assert {verdict for (kind, _), verdict in found.items() if kind != "granite_swa"} == {
        "dropped: full attention"
    }


def test_a_file_that_llama_cpp_does_not_open(tmp_path: Path) -> None:
    """Its error is a line among hundreds, or nothing but `failed to load`."""
    model = random_model(sliding_window=W)
    path = write(model, tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"llama\.cpp does not open .*model\.gguf: .*bounds"):
        LlamaCpp(path, BATCH)
