"""Who keeps the window today? `python -m interop.matrix`

One small random model is written for each architecture of each program that is installed here, and
read on 3 W + 5 tokens. A program that keeps the window gives the logits of Breeze. One that drops
it gives those of full attention, or of something else, without a word. Programs that are not
installed are judged by their files: such a row names the file and the commit.
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from configs.settings import SampleSettings
from errors import ArgumentParser, command
from interop.check import TOLERANCE, largest, require_transformers, with_full_attention
from interop.huggingface import config_json, json_bytes, model_files
from interop.llama_cpp import architecture_logits, is_installed, require_llama_cpp
from model.config import ModelConfig
from model.transformer import Transformer
from storage import atomic_write

WINDOW = 16
SHAPE: dict[str, Any] = {"vocab_size": 97, "dim": 64, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2}
STACKS: dict[str, dict[str, Any]] = {
    "one window": {"sliding_window": WINDOW},
    "window and full": {"sliding_window": (WINDOW, None)},
    "sink logits": {"sliding_window": (WINDOW, None), "sink_logits": True},
}


@dataclass(frozen=True)
class Row:
    """One architecture of one program. Differences are of logits; None: not measured."""

    program: str
    architecture: str
    stack: str
    verdict: str
    to_window: float | None = None  # to Breeze with the window
    to_full: float | None = None  # to Breeze with full attention
    source: str = "measured"


_MLX, _VLLM, _OLLAMA = "mlx_lm/models/llama.py", "vllm/attention/layer.py", "model/models"
# Read in the files of programs that cannot run here: a file, its commit, what it says.
READ = tuple(
    Row(program, architecture, stack, verdict, source=source)
    for program, architecture, stack, verdict, source in (
        ("mlx-lm", "mistral", "one window", "dropped: full attention",
         f"{_MLX} 17772c0: without layer_types, which mistral lacks, all layers are full"),
        ("mlx-lm", "ministral, granite_swa", "any", "refused", "it has no file of that name"),
        ("vLLM", "mistral", "one window", "kept",
         f"{_VLLM} 004a5da: each layer takes the window of the model"),
        ("Ollama", "llama", "any", "dropped: full attention",
         f"{_OLLAMA}/llama/model.go 02e2ab6: it reads no window"),
        ("Ollama", "mistral3", "any", "dropped: full attention",
         f"{_OLLAMA}/mistral3/model_text.go 02725d3: it reads no window"),
    )
)  # fmt: skip


def random_model(stack: Mapping[str, Any]) -> Transformer:
    """Return a model in which every weight matters: a fresh model's residual branches are zero."""
    return randomized(Transformer(ModelConfig(**(SHAPE | dict(stack)))))


def randomized(model: Transformer) -> Transformer:
    """Draw all weights of a model from seed 0."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5 if weight.dim() == 1 else 1.5 * weight.shape[-1] ** -0.5)
    return model.requires_grad_(False).eval()


def judged(
    program: str, architecture: str, stack: str, model: Transformer, logits: torch.Tensor
) -> Row:
    """Return the row of a program whose `logits` (T, V) were measured on `prompt()`."""
    to_window, to_full = differences(model, logits)
    allowed = TOLERANCE * max(1.0, logits.abs().max().item())
    kept, full = to_window <= allowed, to_full <= allowed
    verdict = "kept" if kept else "dropped: full attention" if full else "dropped: other logits"
    return Row(program, architecture, stack, verdict, to_window, to_full)


def prompt() -> torch.Tensor:
    """Return 3 W + 5 tokens (T,)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(SHAPE["vocab_size"], (3 * WINDOW + 5,), generator=generator)


def differences(model: Transformer, logits: torch.Tensor) -> tuple[float, float]:
    """Return the largest differences of `logits` to ours: with the window, with full attention."""
    with torch.no_grad():
        ours, full = (each(prompt()[None])[0] for each in (model, with_full_attention(model)))
    return largest(logits.float() - ours), largest(logits.float() - full)


def transformers_rows() -> Iterator[Row]:
    """Measure the architectures of transformers. Raises `UserError` if it is not installed."""
    transformers = require_transformers()
    program = f"transformers {transformers.__version__}"
    for stack, settings in STACKS.items():
        model = random_model(settings)
        for kind, changes in _architectures(model.config).items():
            with tempfile.TemporaryDirectory() as folder:
                files = model_files(
                    model.config, model.state_dict(), seq_len=64, sample=SampleSettings(),
                    bos_id=1, eos_id=2,
                )  # fmt: skip
                config = config_json(model.config, seq_len=64, bos_id=1, eos_id=2) | changes
                for name, content in (files | {"config.json": json_bytes(config)}).items():
                    atomic_write(Path(folder) / name, content)
                theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
            with torch.no_grad():
                logits = theirs.eval()(prompt()[None]).logits[0]
            opened = type(theirs).__name__
            is_own = opened.lower().startswith(kind.replace("_", ""))
            name = kind if is_own else f"{kind} with layer_types, opened as {opened}"
            yield judged(program, name, stack, model, logits)


def _architectures(model: ModelConfig) -> dict[str, dict[str, Any]]:
    """Return what to change in config.json to open the same weights as each architecture."""
    kinds = {
        "llama": "LlamaForCausalLM",
        "mistral": "MistralForCausalLM",
        "ministral": "MinistralForCausalLM",
    }
    changes: dict[str, dict[str, Any]] = {
        kind: {"model_type": kind, "architectures": [name]} for kind, name in kinds.items()
    }
    types = ["full_attention" if w is None else "sliding_attention" for w in model.windows]
    changes["ministral"]["layer_types"] = types
    if len(set(types)) > 1:
        changes["mistral"]["layer_types"] = types
    if model.sink_logits:  # only granite_swa has a place for their weights
        return {"granite_swa": {}}
    return changes


def llama_cpp_rows() -> Iterator[Row]:
    """Measure the architectures of llama.cpp. Raises `UserError` if it is not installed."""
    program = f"llama.cpp (llama-cpp-python {require_llama_cpp().__version__})"
    for stack, settings in STACKS.items():
        model = random_model(settings)
        with tempfile.TemporaryDirectory() as folder:
            for kind, logits in architecture_logits(model, prompt(), Path(folder)):
                yield judged(program, kind, stack, model, logits)


def rows() -> Iterator[Row]:
    """Yield all rows: measured first, then read."""
    yield from transformers_rows()
    if is_installed():
        yield from llama_cpp_rows()
    yield from READ


def table(found: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [
        "| program | architecture | stack | window | to ours | to full attention | known from |",
        "|---|---|---|---|---:|---:|---|",
    ]
    for row in found:
        numbers = ["" if n is None else f"{n:.1e}" for n in (row.to_window, row.to_full)]
        cells = (row.program, row.architecture, row.stack, row.verdict, *numbers, row.source)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = ArgumentParser(
        prog="python -m interop.matrix",
        description="Measure which programs keep a sliding window; list what others' files say.",
        epilog="example: python -m interop.matrix",
    )
    parser.parse_args(argv)
    print(table(list(rows())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
