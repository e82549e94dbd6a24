"""Every setting of a run: type, default, unit, range and one line on what it means.

The dataclasses mirror the YAML: `train: {lr: 0.02}` is `config.train.lr`, and `train.lr=0.02` on
the command line. This module does not import torch; `ModelConfig` checks the model's shape.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from configs.setting import Setting, declared, setting
from model.config import ATTENTION, SCALING, ModelConfig

SOURCES = ("stories", "shakespeare", "files", "hub")


@dataclass(frozen=True)
class ModelSettings:
    """The architecture; `ModelConfig` without `vocab_size`, which the tokenizer gives."""

    dim: int = setting(ModelConfig.dim, "width of the residual stream", unit="numbers")
    # The bound keeps a misplaced digit from building a list of windows that fills the memory.
    n_layers: int = setting(ModelConfig.n_layers, "transformer blocks", maximum=10_000)
    n_heads: int = setting(ModelConfig.n_heads, "query heads in a layer")
    n_kv_heads: int = setting(ModelConfig.n_kv_heads, "key/value heads; divides n_heads (GQA)")
    head_dim: int | None = setting(
        ModelConfig.head_dim, "width of a head; null: dim / n_heads", unit="numbers"
    )
    hidden_dim: int | None = setting(
        ModelConfig.hidden_dim, "width inside the feed-forward; null: 8/3 * dim", unit="numbers"
    )
    sliding_window: int | tuple[int | None, ...] | None = setting(
        ModelConfig.sliding_window,
        "keys a query sees, its own included; null: all; a list is tiled",
        unit="tokens",
    )
    attention_sinks: int = setting(
        ModelConfig.attention_sinks, "first tokens that every query goes on seeing", unit="tokens"
    )
    sink_token: bool = setting(
        ModelConfig.sink_token, "a trained vector in front of every text, seen for ever"
    )
    sink_logits: bool = setting(
        ModelConfig.sink_logits, "a trained score in each head's softmax that has no value"
    )
    rope_theta: float = setting(ModelConfig.rope_theta, "base of the rotary wavelengths")
    rope_theta_local: float | None = setting(
        ModelConfig.rope_theta_local, "the base in layers with a window; null: rope_theta"
    )
    rope_scaling: str = setting(
        ModelConfig.rope_scaling, "how positions are stretched for longer texts", choices=SCALING
    )
    rope_factor: float = setting(
        ModelConfig.rope_factor, "how many times longer than trained", minimum=1
    )
    rope_original_len: int | None = setting(
        ModelConfig.rope_original_len,
        "the trained length, which yarn needs",
        unit="tokens",
        minimum=1,
    )
    norm_eps: float = setting(ModelConfig.norm_eps, "added under RMSNorm's root")
    tie_embeddings: bool = setting(
        ModelConfig.tie_embeddings, "one table for input and output tokens"
    )
    attention: str = setting(
        ModelConfig.attention, "how attention is computed, not what", choices=ATTENTION
    )


@dataclass(frozen=True)
class DataSettings:
    """Where the text comes from, and how it is cut."""

    source: str = setting("stories", "where documents come from", choices=SOURCES)
    stories: int = setting(
        4000, "how many stories source: stories tells", unit="stories", minimum=20
    )
    near: int = setting(
        5, "least distance wished for from a story's fact to its use", unit="words", minimum=1
    )
    far: int = setting(1000, "greatest such distance wished for", unit="words", minimum=1)
    path: str | None = setting(None, "files: a file, a folder, a glob; hub: a dataset's id")
    field: str = setting("text", "column of the text in .jsonl, .csv, .parquet, the Hub's data")
    documents: str = setting(
        "file", "what a document is in .txt and .md files", choices=("file", "line", "paragraph")
    )
    separator: str | None = setting(
        None, "text that separates documents in text files, as <|endoftext|>"
    )
    strict: bool = setting(False, "refuse rows that have no text instead of skipping them")
    hub_config: str | None = setting(None, "configuration of the Hub's dataset, if it has some")
    hub_split: str = setting("train", "which split of the Hub's dataset is read")
    revision: str | None = setting(None, "branch, tag or commit of the Hub's data; null: main")
    streaming: bool = setting(True, "read the Hub's data as it arrives; false: download it first")
    mix: Mapping[str, float] | None = setting(
        None,
        "weights of sources, {stories: 3, files:DIR: 1}; null: source",
        exclusiveMinimum=0,
    )
    processes: int | None = setting(
        None, "processes that cut text into tokens; null: one for each core", minimum=1
    )
    seq_len: int = setting(256, "length of a training sequence", unit="tokens", minimum=1)
    document_mask: bool = setting(
        False, "tokens see only their own document, whose positions begin at 0"
    )
    split: str = setting(
        "document", "what is held out: whole documents or the end", choices=("document", "tail")
    )
    val_fraction: float = setting(
        0.05, "share held out for validation", exclusiveMinimum=0, exclusiveMaximum=1
    )
    test_fraction: float = setting(
        0.05, "share held out for the last test", minimum=0, exclusiveMaximum=1
    )


@dataclass(frozen=True)
class TokenizerSettings:
    """How text becomes tokens."""

    type: str = setting("bpe", "how text is cut into tokens", choices=("bpe", "unigram", "char"))
    vocab_size: int = setting(
        2048, "size of the vocabulary; char: at most", unit="tokens", minimum=1
    )


@dataclass(frozen=True)
class TrainSettings:
    """The optimization; a step is one update of the weights."""

    init_from: str | None = setting(
        None, "a run or checkpoint whose weights and tokenizer to begin with"
    )
    max_steps: int = setting(800, "length of the run", unit="steps", minimum=1)
    micro_batch_size: int = setting(
        16, "sequences that pass the model at once", unit="sequences", minimum=1
    )
    grad_accum_steps: int = setting(
        1, "micro-batches summed in a step", unit="micro-batches", minimum=1
    )
    optimizer: str = setting(
        "muon", "muon: matrices by Muon, the rest by AdamW", choices=("muon", "adamw")
    )
    lr: float = setting(
        0.02, "peak learning rate of the matrices (muon) or of all (adamw)", exclusiveMinimum=0
    )
    adamw_lr: float = setting(
        3e-3, "peak rate of embeddings, norms and output under muon", exclusiveMinimum=0
    )
    weight_decay: float = setting(0.1, "decoupled weight decay of matrices", minimum=0)
    grad_clip: float = setting(1.0, "largest norm of the gradient; 0: off", minimum=0)
    schedule: str = setting(
        "cosine", "how the rate falls after the warm-up", choices=("cosine", "linear", "wsd")
    )
    warmup_steps: int = setting(40, "steps in which the rate rises", unit="steps", minimum=0)
    decay_fraction: float = setting(
        0.2, "share of max_steps in which wsd decays", exclusiveMinimum=0, maximum=1
    )
    min_lr_ratio: float = setting(0.1, "last rate as a share of the peak", minimum=0, maximum=1)
    window_schedule: str = setting(
        "constant",
        "how the window changes in training (see training/windows.py)",
        choices=("constant", "grow", "depth", "random"),
    )
    window_from: int = setting(
        16, "window that grow and depth begin with", unit="tokens", minimum=1
    )
    window_steps: int = setting(
        0, "steps until grow and depth have reached every window", unit="steps", minimum=0
    )
    window_choices: tuple[int | None, ...] | None = setting(
        None, "what random draws from at each step; null in it: full", unit="tokens", minimum=1
    )
    precision: str = setting(
        "auto", "arithmetic of the forward pass", choices=("auto", "fp32", "bf16")
    )
    compile: bool | str = setting("auto", "use torch.compile", choices=("auto", True, False))
    device: str = setting("auto", "where to train", choices=("auto", "cpu", "cuda", "mps"))
    eval_interval: int = setting(100, "steps between evaluations", unit="steps", minimum=1)
    save_interval: int = setting(100, "steps between checkpoints", unit="steps", minimum=1)
    log_interval: int = setting(10, "steps between lines of metrics", unit="steps", minimum=1)
    keep_checkpoints: int = setting(
        2, "newest checkpoints kept beside the best", unit="files", minimum=2
    )
    patience: int = setting(
        0, "evaluations without a better val_loss before stopping; 0: off", minimum=0
    )
    eval_batch_size: int = setting(16, "sequences evaluated at once", unit="sequences", minimum=1)


@dataclass(frozen=True)
class SampleSettings:
    """How text is drawn at each evaluation; also the defaults of scripts/sample.py."""

    prompt: str = setting("", 'text to continue; "": from the beginning')
    max_tokens: int = setting(200, "length of the sample", unit="tokens", minimum=1)
    temperature: float = setting(0.8, "divides the logits; 0: the likeliest token", minimum=0)
    top_k: int | None = setting(None, "draw from the k likeliest", unit="tokens", minimum=1)
    top_p: float = setting(
        1.0, "draw from the likeliest that sum to p; 1: off", exclusiveMinimum=0, maximum=1
    )
    min_p: float = setting(
        0.0, "drop what is below p times the likeliest; 0: off", minimum=0, exclusiveMaximum=1
    )
    repetition_penalty: float = setting(
        1.0, "weakens tokens already there; 1: off", minimum=0.01, maximum=100
    )


@dataclass(frozen=True)
class Config:
    """One run, wholly: what a YAML file and the command line amount to."""

    run_dir: str | None = setting(None, "the run's folder; null: runs/ and the config's name")
    seed: int = setting(0, "decides weights, batches and samples", minimum=0)
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    sample: SampleSettings = field(default_factory=SampleSettings)

    @property
    def folder(self) -> Path:
        """The run's folder; `load_config` has filled it in."""
        assert self.run_dir is not None
        return Path(self.run_dir)

    @property
    def tokens_per_step(self) -> int:
        """Training tokens that one process reads for one update."""
        return self.train.micro_batch_size * self.train.grad_accum_steps * self.data.seq_len

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested values, as JSON and YAML know them."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # tuples become lists
        return plain


SECTIONS: dict[str, Any] = {f.name: f.type for f in fields(Config) if is_dataclass(f.type)}
SETTINGS: dict[str, Setting] = {known.name: known for known in declared(Config)}


def model_config(config: Config, vocab_size: int) -> ModelConfig:
    """Return the architecture for a tokenizer of `vocab_size` tokens."""
    return ModelConfig(vocab_size=vocab_size, **vars(config.model))


def value_of(config: Config, name: str) -> Any:
    """Return the value of the setting with the dotted `name`, such as `train.lr`."""
    section, _, key = name.rpartition(".")
    return getattr(getattr(config, section) if section else config, key)
