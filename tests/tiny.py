"""A training run that takes a second: two layers, ten steps, made-up text."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import train
from storage import cache_folder

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = str(ROOT / "configs/quickstart.yaml")
SETTINGS = [  # every setting of quickstart.yaml, so that tests do not depend on it
    "seed=0", "data.source=files", "data.split=tail", "data.far=1000", "data.seq_len=32",
    "data.val_fraction=0.05", "data.test_fraction=0.05",
    "tokenizer.type=char", "tokenizer.vocab_size=400",
    "model.dim=32", "model.n_layers=2", "model.n_heads=2", "model.n_kv_heads=1",
    "model.head_dim=16", "model.hidden_dim=64", "model.sliding_window=8", "model.attention_sinks=0",
    "model.tie_embeddings=false",
    "train.max_steps=10", "train.micro_batch_size=4", "train.grad_accum_steps=1",
    "train.drill_steps=0", "train.drill_share=0", "train.window_schedule=constant",
    "train.window_from=16", "train.window_steps=0",
    "train.optimizer=muon", "train.lr=0.02", "train.adamw_lr=0.003", "train.weight_decay=0.1",
    "train.grad_clip=1", "train.schedule=cosine", "train.warmup_steps=2", "train.min_lr_ratio=0.1",
    "train.eval_interval=4", "train.save_interval=3", "train.log_interval=1", "train.patience=0",
    "train.keep_checkpoints=2", "train.compile=false", "train.device=cpu", "train.precision=fp32",
    "sample.max_tokens=12", "sample.temperature=0.8", "sample.min_p=0",
]  # fmt: skip
_WORDS = [
    "the", "a", "an", "old", "young", "king", "queen", "fool", "river", "stone", "quiet", "bright",
    "walks", "sings", "keeps", "finds", "under", "over", "near", "house", "garden", "and", "but",
    "while", "because", "never", "always", "light", "dark", "bread", "water", "letter", "winter",
]  # fmt: skip


def english(size: int, seed: int = 0) -> str:
    """Make up sentences, at least `size` characters in all."""
    draw, sentences, length = random.Random(seed), [], 0
    while length < size:
        words = " ".join(draw.choice(_WORDS) for _ in range(draw.randint(4, 12)))
        sentences.append(words.capitalize() + draw.choice(".?!") + draw.choice(" \n"))
        length += len(sentences[-1])
    return "".join(sentences)


def words(run: Path, text: Path, *more: str) -> list[str]:
    """Return the command line of a tiny run in the folder `run`; `more` overrides it."""
    return [QUICKSTART, *SETTINGS, f"data.path={text}", f"run_dir={run}", *more]


def start(run: Path, text: Path, *more: str) -> int:
    """Train in this process; returns the exit code."""
    return train.main(words(run, text, *more))


def resume(run: Path, text: Path, *more: str) -> int:
    """Resume in this process; returns the exit code."""
    return train.main(["--resume", *words(run, text, *more)])


def saved(run: Path) -> list[str]:
    """Return the names of the checkpoints, the oldest first. A name carries the hash of the
    content."""
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def step_of(name: str) -> int:
    return int(name.split("-")[1])


def last(run: Path) -> Path:
    """Return the path of the newest checkpoint."""
    return run / "checkpoints" / saved(run)[-1]


def measured(run: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without the values that depend on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {
            key: value
            for key, value in line.items()
            if key not in ("tokens_per_s", "mfu", "stepping_s")
        }
        for line in lines
    ]


def own_cache(folder: Path, shared: Path | None = None) -> Path:
    """Make a cache in `folder` with the compiled kernels of `shared`, by default the present cache:
    building them takes ten seconds."""
    (cache := folder / "cache").mkdir()
    (native := (shared or cache_folder()) / "native").mkdir(exist_ok=True)
    (cache / "native").symlink_to(native)
    return cache


def leftovers(*folders: Path) -> Sequence[Path]:
    """Return the files that were started and not finished."""
    return [path for folder in folders for path in folder.rglob("*.part")]
