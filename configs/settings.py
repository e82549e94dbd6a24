"""Every setting of a run: type, default, unit, range and one line on what it means.

The dataclasses mirror the YAML: `train: {lr: 0.02}` is `config.train.lr`, and `train.lr=0.02` on
the command line. The packages that use a setting list its allowed values. `ModelConfig` checks the
model's shape. This module does not import torch.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from configs.setting import Setting, declared, setting
from data.choices import DOCUMENTS, SOURCES, SPLIT_RULES, TOKENIZERS
from model.config import ATTENTION, LINEARS, MOST_LAYERS, SCALING, LoraConfig, ModelConfig
from training.choices import (
    DEVICES,
    LOGGERS,
    OPTIMIZERS,
    PARALLEL,
    PRECISIONS,
    SCHEDULES,
    WINDOW_SCHEDULES,
)


@dataclass(frozen=True)
class ModelSettings:
    """The architecture; `ModelConfig` without `vocab_size`, which the tokenizer gives."""

    dim: int = setting(ModelConfig.dim, "width of the residual stream", unit="numbers")
    n_layers: int = setting(ModelConfig.n_layers, "transformer blocks", maximum=MOST_LAYERS)
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
        ModelConfig.attention_sinks,
        "first tokens that stay visible behind the window",
        unit="tokens",
    )
    sink_token: bool = setting(
        ModelConfig.sink_token, "a learned vector before every text that always stays visible"
    )
    sink_logits: bool = setting(
        ModelConfig.sink_logits, "a learned term in each head's softmax without a value vector"
    )
    rope_theta: float = setting(ModelConfig.rope_theta, "base of the rotary frequencies (RoPE)")
    rope_theta_local: float | None = setting(
        ModelConfig.rope_theta_local, "rope_theta of layers with a window; null: rope_theta"
    )
    rope_scaling: str = setting(
        ModelConfig.rope_scaling,
        "how RoPE is scaled for texts longer than trained",
        choices=SCALING,
    )
    rope_factor: float = setting(
        ModelConfig.rope_factor, "longest text as a multiple of the trained length", minimum=1
    )
    rope_original_len: int | None = setting(
        ModelConfig.rope_original_len,
        "the trained length; yarn needs it",
        unit="tokens",
        minimum=1,
    )
    norm_eps: float = setting(ModelConfig.norm_eps, "added to the mean square in RMSNorm")
    tie_embeddings: bool = setting(
        ModelConfig.tie_embeddings, "input and output embeddings share one matrix"
    )
    attention: str = setting(
        ModelConfig.attention, "attention kernel: same result, different speed", choices=ATTENTION
    )


@dataclass(frozen=True)
class DataSettings:
    """The text: where it comes from, how it is split and cut into sequences."""

    source: str = setting("stories", "where documents come from", choices=SOURCES)
    stories: int = setting(
        4000, "number of stories that source stories generates", unit="stories", minimum=20
    )
    near: int = setting(
        5, "shortest distance from a story's fact to its use", unit="words", minimum=1
    )
    far: int = setting(
        1000, "longest distance from a story's fact to its use", unit="words", minimum=1
    )
    path: str | None = setting(None, "files: a file, folder or glob; hub: the dataset's id")
    field: str = setting("text", "column of the text in tables (.jsonl, .csv, ...) and on the Hub")
    prompt_field: str | None = setting(
        None, "column of a prompt before the text, left out of the loss"
    )
    documents: str = setting(
        "file", "what one document is in files of plain text", choices=DOCUMENTS
    )
    separator: str | None = setting(
        None,
        "separates documents in text files, such as <|endoftext|>",
    )
    strict: bool = setting(False, "refuse files with rows without text; false: skip the rows")
    hub_config: str | None = setting(None, "configuration of the Hub's dataset, if it has several")
    hub_split: str = setting("train", "split of the Hub's dataset to read")
    revision: str | None = setting(None, "branch, tag or commit of the Hub's data; null: main")
    streaming: bool = setting(True, "read the Hub's data while it downloads; false: after that")
    mix: Mapping[str, float] | None = setting(
        None,
        "weights of several sources, {stories: 3, files:DIR: 1}",
        exclusiveMinimum=0,
    )
    processes: int | None = setting(None, "processes that tokenize; null: one per core", minimum=1)
    seq_len: int = setting(256, "length of a training sequence", unit="tokens", minimum=1)
    document_mask: bool = setting(
        False, "tokens see only their own document; positions restart in it"
    )
    split: str = setting(
        "document", "what is held out: whole documents or the end", choices=SPLIT_RULES
    )
    val_fraction: float = setting(
        0.05, "share held out for validation", exclusiveMinimum=0, exclusiveMaximum=1
    )
    test_fraction: float = setting(
        0.05, "share held out for the final test", minimum=0, exclusiveMaximum=1
    )


@dataclass(frozen=True)
class TokenizerSettings:
    """How text becomes tokens."""

    type: str = setting("bpe", "how text is tokenized", choices=TOKENIZERS)
    vocab_size: int = setting(2048, "largest size of the vocabulary", unit="tokens", minimum=1)


@dataclass(frozen=True)
class TrainSettings:
    """The optimization; a step is one update of the weights."""

    init_from: str | None = setting(
        None, "a trained run, checkpoint or Hugging Face folder to start from"
    )
    lora_rank: int = setting(
        0, "rank of the adapters (LoRA) that alone are trained; 0: off", minimum=0
    )
    lora_alpha: float = setting(
        16.0, "adapters are scaled by lora_alpha / lora_rank", exclusiveMinimum=0
    )
    lora_targets: tuple[str, ...] = setting(
        tuple(LINEARS), "matrices in a layer with an adapter", choices=tuple(LINEARS)
    )
    max_steps: int = setting(800, "length of the run", unit="steps", minimum=1)
    micro_batch_size: int = setting(
        16, "sequences in one forward pass", unit="sequences", minimum=1
    )
    grad_accum_steps: int = setting(
        1, "micro-batches summed in a step", unit="micro-batches", minimum=1
    )
    optimizer: str = setting(
        "muon", "muon: matrices by Muon, the rest by AdamW", choices=OPTIMIZERS
    )
    lr: float = setting(
        0.02,
        "peak learning rate of matrices (muon), or of all (adamw)",
        exclusiveMinimum=0,
    )
    adamw_lr: float = setting(
        3e-3, "peak learning rate of all other weights under muon", exclusiveMinimum=0
    )
    momentum: float = setting(
        0.95,
        "muon: weight of the earlier gradients in their average",
        minimum=0,
        exclusiveMaximum=1,
    )
    weight_decay: float = setting(0.1, "decoupled weight decay of matrices", minimum=0)
    grad_clip: float = setting(1.0, "largest gradient norm; 0: no clipping", minimum=0)
    schedule: str = setting(
        "cosine", "how the learning rate falls after the warm-up", choices=SCHEDULES
    )
    warmup_steps: int = setting(
        40, "steps in which the learning rate rises", unit="steps", minimum=0
    )
    decay_fraction: float = setting(
        0.2, "wsd: share of max_steps in which the rate falls", exclusiveMinimum=0, maximum=1
    )
    min_lr_ratio: float = setting(
        0.1, "last learning rate as a share of the peak", minimum=0, maximum=1
    )
    window_schedule: str = setting(
        "constant",
        "how the window changes in training (see training/windows.py)",
        choices=WINDOW_SCHEDULES,
    )
    window_from: int | tuple[int, ...] = setting(
        16, "grow, depth: first window; list: for each of the last layers", unit="tokens", minimum=1
    )
    window_steps: int = setting(
        0,
        "grow, depth: steps of widening, after the drills",
        unit="steps",
        minimum=0,
    )
    window_choices: tuple[int | None, ...] | None = setting(
        None, "random: windows to draw from; null: full attention", unit="tokens", minimum=1
    )
    drill_steps: int = setting(
        0, "first steps, which train on drills only (see data/drills.py)", unit="steps", minimum=0
    )
    drill_share: float = setting(
        0.0,
        "share of the sequences of later steps that are drills",
        minimum=0,
        exclusiveMaximum=1,
    )
    precision: str = setting("auto", "number format of matrix products", choices=PRECISIONS)
    compile: bool | str = setting("auto", "use torch.compile", choices=("auto", True, False))
    native: bool | str = setting(
        "auto", "use the C++ kernels of model/native", choices=("auto", True, False)
    )
    device: str = setting("auto", "where to train", choices=DEVICES)
    parallel: str = setting(
        "ddp", "how the processes of torchrun share the weights: copies or parts", choices=PARALLEL
    )
    eval_interval: int = setting(100, "steps between evaluations", unit="steps", minimum=1)
    save_interval: int = setting(100, "steps between checkpoints", unit="steps", minimum=1)
    log_interval: int = setting(10, "steps between lines of metrics", unit="steps", minimum=1)
    loggers: tuple[str, ...] = setting(
        ("jsonl",), "where metrics and samples go; jsonl always gets them", choices=LOGGERS
    )
    keep_checkpoints: int = setting(
        2, "newest checkpoints kept beside the best", unit="files", minimum=2
    )
    patience: int = setting(
        0, "evaluations without a better val_loss before stopping; 0: off", minimum=0
    )
    eval_batch_size: int = setting(16, "sequences evaluated at once", unit="sequences", minimum=1)


@dataclass(frozen=True)
class SampleSettings:
    """How text is sampled at each evaluation; also the defaults of scripts/sample.py."""

    prompt: str = setting("", 'text to continue; "": start a new text')
    max_tokens: int = setting(200, "length of the sample", unit="tokens", minimum=1)
    temperature: float = setting(0.8, "divides the logits; 0: the most likely token", minimum=0)
    top_k: int | None = setting(
        None, "draw from the k most likely tokens", unit="tokens", minimum=1
    )
    top_p: float = setting(
        1.0, "draw from the most likely that sum to p; 1: off", exclusiveMinimum=0, maximum=1
    )
    min_p: float = setting(
        0.0, "drop tokens below min_p times the most likely; 0: off", minimum=0, exclusiveMaximum=1
    )
    repetition_penalty: float = setting(
        1.0, "weakens tokens that occurred already; 1: off", minimum=0.01, maximum=100
    )


@dataclass(frozen=True)
class Config:
    """All settings of one run, from a YAML file and the command line."""

    run_dir: str | None = setting(None, "the run's folder; null: runs/ and the config's name")
    seed: int = setting(0, "seed of weights, batches and samples", minimum=0)
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    sample: SampleSettings = field(default_factory=SampleSettings)

    @property
    def folder(self) -> Path:
        """The run's folder, which `load_config` sets."""
        assert self.run_dir is not None
        return Path(self.run_dir)

    @property
    def batch_size(self) -> int:
        """Sequences that all processes together read in one update."""
        return self.train.micro_batch_size * self.train.grad_accum_steps

    @property
    def tokens_per_step(self) -> int:
        """Training tokens that all processes together read in one update."""
        return self.batch_size * self.data.seq_len

    def drills_before(self, step: int) -> int:
        """Return how many sequences of the updates 0 .. step - 1 are drills (`data/drills.py`)."""
        first = min(step, self.train.drill_steps) * self.batch_size
        later = step * self.batch_size - first
        return first + int(later * self.train.drill_share + 0.5)

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested values, as JSON and YAML know them."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # tuples become lists
        return plain


SECTIONS: dict[str, Any] = {f.name: f.type for f in fields(Config) if is_dataclass(f.type)}
SETTINGS: dict[str, Setting] = {entry.name: entry for entry in declared(Config)}


def model_config(config: Config, vocab_size: int) -> ModelConfig:
    """Return the architecture for a tokenizer of `vocab_size` tokens. Raises `UserError` if the
    model's shape is not valid."""
    return ModelConfig(vocab_size=vocab_size, **vars(config.model))


def lora_config(config: Config) -> LoraConfig | None:
    """Return the adapters that are trained; None if the weights themselves are."""
    train = config.train
    if not train.lora_rank:
        return None
    return LoraConfig(train.lora_rank, train.lora_alpha, train.lora_targets)


def keys_of(*sections: str) -> dict[str, str]:
    """Return the keys of sections by the names that the rooms use: {"path": "data.path", ...}.

    `errors.fields_named` takes it.
    """
    keys = {}
    for name in SETTINGS:
        section, _, field = name.rpartition(".")
        if section in sections:
            keys[field] = name
    return keys


def value_of(config: Config, name: str) -> Any:
    """Return the value of the setting with the dotted `name`, such as `train.lr`."""
    section, _, key = name.rpartition(".")
    return getattr(getattr(config, section) if section else config, key)
