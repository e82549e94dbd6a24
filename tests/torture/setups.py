"""What the family of exact resume trains: crossings of settings that have, or could have, state.

Twelve steps of four sequences. An epoch of the text has about seven steps, the warm-up two, and
the decay of wsd the last three. Windows change after steps 2 and 4 (grow) or after step 3 (depth).
"""

import contextlib
import io
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tiny

from model import native
from storage import cache_folder

BASE = [
    "train.max_steps=12", "train.save_interval=5", "train.eval_interval=4", "sample.max_tokens=4",
    "train.native=false", "data.val_fraction=0.1",
]  # fmt: skip
OPTIMIZERS = {
    "muon": ["train.optimizer=muon"],
    "adamw": ["train.optimizer=adamw", "train.lr=0.003"],
}
PRECISIONS = {name: [f"train.precision={name}"] for name in ("fp32", "bf16")}
ACCUMULATED = {
    "4 at once": [],
    "4 times 1": ["train.micro_batch_size=1", "train.grad_accum_steps=4"],
}
_WIDENING = ["train.window_from=2", "train.window_steps=6"]
WINDOWS = {
    "constant": [],
    "grow": ["train.window_schedule=grow", *_WIDENING],
    "depth": ["train.window_schedule=depth", *_WIDENING],
    "random": ["train.window_schedule=random", "train.window_choices=[2, 5, null]"],
}
TIED = {"untied": [], "tied": ["model.tie_embeddings=true"]}
_MIXED = [
    "data.source=stories", "data.path=null",  # the defaults: the mixture names its own
    'data.mix={{"files:{text}": 3, "files:{documents}": 1}}',
]  # fmt: skip
MORE = {
    "linear": ["train.schedule=linear", "train.warmup_steps=0"],
    "wsd": ["train.schedule=wsd", "train.decay_fraction=0.25"],
    "drills": ["train.drill_steps=3", "train.drill_share=0.3"],
    "drills while windows grow": [
        "train.drill_steps=2", "train.drill_share=0.3", *WINDOWS["grow"], "data.seq_len=48",
    ],
    "document mask": ["data.path={documents}", "data.document_mask=true"],
    "mixture": _MIXED,
    "mixture with drills": [*_MIXED, "train.drill_share=0.4"],
    "mixture with drills, no learning": [  # the first evaluation stays the best
        *_MIXED, "train.drill_share=0.4", "train.lr=1e-17", "train.weight_decay=0",
    ],
    "prompts": ["data.path={answers}", "data.prompt_field=question", "data.field=answer"],
    "attention sinks": ["model.attention_sinks=2"],
    "sink token": ["model.sink_token=true"],
    "sink logits": ["model.sink_logits=true"],
    "two windows": ["model.sliding_window=[4, null]", "model.rope_theta_local=100"],
    "yarn": ["model.rope_scaling=yarn", "model.rope_original_len=16", "model.rope_factor=4"],
    "no clipping": ["train.grad_clip=0", "train.weight_decay=0"],
    "bpe": ["tokenizer.type=bpe", "tokenizer.vocab_size=300"],
    "another seed": ["seed=123456789012345678"],
    "patience": [
        "train.lr=1e-17", "train.weight_decay=0", "train.patience=2", "train.eval_interval=3",
    ],
    "from another run": [
        "train.init_from={base}", "tokenizer.type=bpe", "tokenizer.vocab_size=2048",
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """Settings of a run, beside those of tests/tiny.py. In braces: files of `write_texts`."""

    name: str
    more: tuple[str, ...]
    marked: str = ""  # the fast slice looks for it

    def settings(self, folder: Path) -> list[str]:
        """Return the settings, with the paths in `folder`."""
        names = {"text": "text.txt", "documents": "documents", "answers": "answers.jsonl",
                 "base": "base"}  # fmt: skip
        paths = {name: folder / file for name, file in names.items()}
        return [*BASE, *(each.format(**paths) for each in self.more)]

    def text(self, folder: Path) -> Path:
        """Return the text."""
        return folder / "text.txt"

    def refusal(self) -> str | None:
        """Return why it cannot run on this machine, or None."""
        if "train.compile=true" in self.more and not shutil.which(os.environ.get("CXX", "g++")):
            return "torch.compile needs a C++ compiler, and there is no g++"
        return native.training_refusal() if "train.native=true" in self.more else None


def _crossings() -> Iterator[Setup]:
    axes = (OPTIMIZERS, PRECISIONS, ACCUMULATED, WINDOWS, TIED)
    for names in itertools.product(*axes):
        settings = [each[name] for each, name in zip(axes, names, strict=True)]
        name = ", ".join(names)
        fast = "fast 1" if name == "muon, fp32, 4 times 1, grow, untied" else ""
        yield Setup(name, tuple(itertools.chain(*settings)), fast)


def _others() -> Iterator[Setup]:
    for (one, first), (two, second) in itertools.product(OPTIMIZERS.items(), MORE.items()):
        fast = "fast 2" if (one, two) == ("adamw", "mixture with drills, no learning") else ""
        rates = ["train.adamw_lr=1e-17"] if (one, two) == ("muon", "patience") else []
        yield Setup(f"{one}, {two}", (*first, *second, *rates), fast)
    for (one, first), (two, second) in itertools.product(OPTIMIZERS.items(), ACCUMULATED.items()):
        native_kernels = ["train.native=true", "train.precision=bf16"]
        yield Setup(f"{one}, {two}, native", (*first, *second, *native_kernels))
    adapters = ["train.init_from={base}", "tokenizer.type=bpe", "tokenizer.vocab_size=2048",
                "train.lora_rank=2", "train.lora_alpha=8", *OPTIMIZERS["adamw"]]  # fmt: skip
    for (one, first), (two, second) in itertools.product(ACCUMULATED.items(), PRECISIONS.items()):
        yield Setup(f"LoRA, {one}, {two}", (*adapters, *first, *second))


def _compiled() -> Iterator[Setup]:
    for (one, first), (two, second) in itertools.product(OPTIMIZERS.items(), ACCUMULATED.items()):
        yield Setup(f"{one}, {two}, compiled", (*first, *second, "train.compile=true"))


SETUPS = [*_others(), *_crossings(), *_compiled()]


@contextlib.contextmanager
def write_texts(folder: Path, with_base: bool) -> Iterator[None]:
    """Write the texts into `folder`, `with_base` also a run to start from. The cache of tokens lies
    there, too, but not that of compiled kernels."""
    compiled, cache = cache_folder(), folder / "cache"
    cache.mkdir()
    for name in ("native", "compiled"):
        (compiled / name).mkdir(exist_ok=True)
        (cache / name).symlink_to((compiled / name).absolute())
    (folder / "text.txt").write_text(tiny.english(1_000))
    (folder / "documents").mkdir()
    for number, line in enumerate(tiny.english(900, seed=1).splitlines()):
        (folder / f"documents/{number:02}.txt").write_text(line)
    rows = [{"question": tiny.english(30, seed=n), "answer": tiny.english(20, seed=n + 1)}
            for n in range(24)]  # fmt: skip
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = os.environ.get("BREEZE_CACHE")
    os.environ["BREEZE_CACHE"] = str(cache)
    try:
        if with_base:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                assert tiny.start(folder / "base", folder / "text.txt", *BASE) == 0
        yield
    finally:
        if before is None:
            del os.environ["BREEZE_CACHE"]
        else:
            os.environ["BREEZE_CACHE"] = before
