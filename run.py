"""A run: what a config becomes in memory, and what a checkpoint brings back of it.

`begin` makes a run for train.py; `open_run` opens a trained one for scripts. Here the rooms are
wired together: settings, text, model, optimizer and checkpoint know nothing of each other.
"""

import os
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs import schema
from data.batches import evaluation_windows
from data.corpus import Corpus
from data.documents import Source
from data.mixture import MixedCorpus
from data.prepare import prepare, tokenizer_for
from data.sources import open_source
from data.tokenizer import Tokenizer
from errors import UserError
from model import ModelConfig, Sampling, Transformer, generate
from model.loss import cross_entropy
from model.window import Window
from storage import atomic_write, cache_folder
from training import checkpoint as checkpoints
from training import device as machine
from training.checkpoint import Checkpoint
from training.evaluation import Score, evaluate
from training.optimizer import Optimizer
from training.windows import windows_at


@dataclass
class Run:
    """A run in progress: what was made from the config, and how far it is."""

    config: schema.Config
    tokenizer: Tokenizer
    corpus: Corpus | MixedCorpus
    model: Transformer
    optimizer: Optimizer
    device: torch.device
    dtype: torch.dtype
    reasons: dict[str, str]  # why this device, this precision, compiled or not
    peak_flops: float  # FLOP/s of a plain matrix product here: what MFU is a share of
    step: int = 0  # updates done
    history: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder that holds everything about the run."""
        return self.config.folder

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean nats per token of the model on (B, T) inputs and targets."""
        with machine.autocast(self.device, self.dtype):
            return _loss(self.model, self.config, self.tokenizer, inputs, targets)

    def windows_at(self, step: int) -> tuple[Window, ...]:
        """The sliding window of each layer in update `step`."""
        train = self.config.train
        return windows_at(
            step,
            self._windows,
            schedule=train.window_schedule,
            narrow=train.window_from,
            steps=train.window_steps,
            choices=train.window_choices or (),
            seed=self.config.seed,
            seq_len=self.config.data.seq_len,
        )

    @property
    def lasting_windows(self) -> tuple[Window, ...]:
        """What the model is to be used with: the windows of its last update, and where these are
        drawn at each step, the config's."""
        if self.config.train.window_schedule == "random":
            return self._windows
        return self.windows_at(max(0, self.step - 1))

    @property
    def _windows(self) -> tuple[Window, ...]:
        return schema.model_config(self.config, self.tokenizer.vocab_size).windows

    def score(self, split: str) -> Score:
        """Score the model on a whole split, every token predicted once."""
        windows = evaluation_windows(
            self.corpus.tokens(split),
            self.config.data.seq_len,
            batch_size=self.config.train.eval_batch_size,
        )
        with torch.compiler.set_stance("force_eager"):  # no second compilation for another mode
            return evaluate(self.loss, windows, self.corpus.n_bytes(split), self.device)

    def sample(self) -> str:
        """Let the model write as the config's section `sample` says."""
        wanted = self.config.sample
        sampling = Sampling(
            wanted.temperature, wanted.top_k, wanted.top_p, wanted.min_p, wanted.repetition_penalty
        )
        bos, eos = self.tokenizer.bos_id, self.tokenizer.eos_id
        prompt = [bos, *self.tokenizer.encode(wanted.prompt)]
        with torch.compiler.set_stance("force_eager"):
            written = generate(
                self.model,
                [prompt],
                wanted.max_tokens,
                sampling=sampling,
                seed=self.config.seed,
                stop=[bos, eos],
            )
            ids = [token for (token,) in written if token is not None]
        return self.tokenizer.decode([*prompt, *ids])

    def save(self) -> Path:
        """Write a checkpoint, then delete those that are neither recent nor the best."""
        folder = self.folder / "checkpoints"
        path = checkpoints.save(
            folder,
            self.step,
            weights=dict(self.model.named_parameters()),
            moments=self.optimizer.moments(),
            tokenizer=self.tokenizer.model_bytes,
            metadata={
                "config": _lasting(self.config),
                "data_hash": self.corpus.data_hash,
                "windows": self.lasting_windows,
                **self.history,
            },
        )
        checkpoints.prune(path, self.config.train.keep_checkpoints)
        return path


def begin(config: schema.Config, checkpoint: Checkpoint | None) -> Run:
    """Make all that training needs, from the start or from a checkpoint.

    Raises `UserError` when model, tokenizer or text are not those of the checkpoint.
    """
    machine.keep_freed_memory()
    train = config.train
    device, device_reason = machine.choose_device(train.device)
    if config.model.attention == "flex" and device.type != "cuda":
        raise UserError(
            f"model.attention flex trains on CUDA only, this is {device.type}: use auto or blocked"
        )
    started = checkpoint  # what the tokenizer and the first weights come from
    if started is None and train.init_from is not None:
        started = checkpoints.find(Path(train.init_from))
    tokenizer = None  # of the text, unless weights come with one
    if train.init_from is not None and started is not None:
        tokenizer = Tokenizer(started.tokenizer())
    tokenizer, corpus = open_text(config, tokenizer)
    if checkpoint is not None:
        _refuse_changes(config, tokenizer, corpus, checkpoint)
    dtype, dtype_reason = machine.choose_precision(train.precision, device)
    torch.manual_seed(config.seed)
    model = Transformer(schema.model_config(config, tokenizer.vocab_size)).to(device)
    optimizer = Optimizer(
        model.named_parameters(),
        name=train.optimizer,
        lr=train.lr,
        adamw_lr=train.adamw_lr,
        weight_decay=train.weight_decay,
        dtype=dtype,
    )
    compiled, compile_reason = machine.choose_compile(train.compile, device)
    if compiled:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
        warnings.filterwarnings("ignore", message="Torchinductor does not support code generation")
        for block in model.layers:  # blocks that are alike are compiled once
            block.compile()
    peak = machine.matmul_flops_per_s(device, dtype)
    reasons = {
        "device": f"{device.type} ({device_reason})",
        "precision": f"{str(dtype).removeprefix('torch.')} ({dtype_reason}); a matrix product "
        f"reaches {peak / 1e9:,.0f} GFLOP/s",
        "compile": f"{'yes' if compiled else 'no'} ({compile_reason})",
    }
    run = Run(config, tokenizer, corpus, model, optimizer, device, dtype, reasons, peak)
    if started is not None:
        _load(model, started)
    if checkpoint is not None:
        _restore(run, checkpoint)
    atomic_write(run.folder / "config.yaml", schema.to_yaml(config).encode())
    atomic_write(run.folder / "tokenizer.model", tokenizer.model_bytes)
    return run


def open_sources(data: schema.DataSettings) -> dict[str, Source]:
    """Open what the text is mixed from, or the one source; by name, as `data.mix` spells it."""
    about: dict[str, Any] = {
        name: getattr(data, name)
        for name in ("field", "documents", "stories", "near", "far",
                     "hub_config", "hub_split", "revision", "streaming")
    }  # fmt: skip
    if data.mix is None:
        return {data.source: open_source(data.source, path=data.path, **about)}
    opened = {}
    for name in data.mix:
        source, _, path = name.partition(":")
        opened[name] = open_source(source, path=path or None, **about)
    return opened


def text_tokenizer(config: schema.Config, sources: dict[str, Source]) -> Tokenizer:
    """Train the tokenizer of a config's text, or find it in the cache."""
    weights = config.data.mix or {}
    return tokenizer_for(
        [(source, weights.get(name, 1.0)) for name, source in sources.items()],
        type=config.tokenizer.type,
        vocab_size=config.tokenizer.vocab_size,
        **_shares(config.data),
    )


def open_text(
    config: schema.Config,
    tokenizer: Tokenizer | None = None,
    sources: dict[str, Source] | None = None,
) -> tuple[Tokenizer, Corpus | MixedCorpus]:
    """Get the tokenizer (None: the one trained on the text's training part) and the shards of the
    text, which `sources` are, where they are open already: to open files is to read them."""
    data = config.data
    sources = sources or open_sources(data)
    tokenizer = tokenizer or text_tokenizer(config, sources)
    corpora = {
        name: prepare(source, tokenizer, **_shares(data), processes=data.processes)
        for name, source in sources.items()
    }
    if data.mix is None:
        return tokenizer, corpora[data.source]
    return tokenizer, MixedCorpus(corpora, data.mix)


def _shares(data: schema.DataSettings) -> dict[str, Any]:
    return {"split": data.split, "val_fraction": data.val_fraction,
            "test_fraction": data.test_fraction}  # fmt: skip


@dataclass(frozen=True)
class OpenedRun:
    """A trained model, ready for use."""

    model: Transformer
    tokenizer: Tokenizer
    config: schema.Config
    checkpoint: Checkpoint

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean nats per token of the model on (B, T) inputs and targets."""
        return _loss(self.model, self.config, self.tokenizer, inputs, targets)


def open_run(path: str | Path, **changes: Any) -> OpenedRun:
    """Open RUN, a run's folder or a checkpoint file, for use on the CPU.

    `changes` replace settings of the model that carry no parameters, such as
    `sliding_window=16` or `rope_scaling="linear", rope_factor=2.0`. Raises `UserError` for whatever
    is no valid checkpoint.
    """
    machine.keep_freed_memory()
    checkpoint = checkpoints.find(Path(path))
    config = schema.config_from_dict(checkpoint.metadata["config"], str(checkpoint.path))
    tokenizer = Tokenizer(checkpoint.tokenizer())
    trained = {}
    if config.train.window_schedule != "constant":  # then the config does not say how it ended
        trained["sliding_window"] = checkpoint.metadata["windows"]
    shape = vars(config.model) | trained | changes
    with torch.device("meta"):  # names and shapes are compared before anything is allocated
        model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **shape))
    weights = checkpoint.weights(_shapes(model))
    if config.model.tie_embeddings:
        weights["output.weight"] = weights["tok_embeddings.weight"]
    model.load_state_dict(weights, assign=True)
    if config.model.tie_embeddings:  # assigned, they are two parameters of one memory
        model.output.weight = model.tok_embeddings.weight
    return OpenedRun(model.requires_grad_(False).eval(), tokenizer, config, checkpoint)


def _loss(
    model: Transformer, config: schema.Config, tokenizer: Tokenizer, x: Tensor, y: Tensor
) -> Tensor:
    """Mean nats per token; where the config keeps documents apart, each begins with a BOS."""
    documents = None
    if config.data.document_mask:
        documents = (x == tokenizer.bos_id).cumsum(dim=1)
    return cross_entropy(model(x, documents=documents), y)


def _load(model: Transformer, checkpoint: Checkpoint) -> None:
    """Take the weights of `checkpoint`."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in checkpoint.weights(_shapes(model)).items():
            parameters[name].copy_(weight)


def _restore(run: Run, checkpoint: Checkpoint) -> None:
    """Continue from `checkpoint`: moments, step, what was measured."""
    run.optimizer.restore(checkpoint.moments(_shapes(run.model)), checkpoint.step)
    run.step = checkpoint.step
    run.history = {
        key: checkpoint.metadata[key] for key in checkpoints.HISTORY if key in checkpoint.metadata
    }


# Not where the text lies, nor who cuts it into tokens: the text itself is compared.
_FREE = {("data", "path"), ("data", "processes")}


def _refuse_changes(
    config: schema.Config,
    tokenizer: Tokenizer,
    corpus: Corpus | MixedCorpus,
    checkpoint: Checkpoint,
) -> None:
    """Raise `UserError` if model, tokenizer or text changed since the checkpoint; tell the rest."""
    before = schema.config_from_dict(checkpoint.metadata["config"], str(checkpoint.path))
    then, now = _lasting(before), _lasting(config)
    cannot = f"cannot resume {config.folder}"
    remedy = "change it back, or begin another run with run_dir=runs/NAME"
    if then["seed"] != now["seed"]:
        print(f"note: seed was {then['seed']} and is now {now['seed']}", file=sys.stderr)
    for section in ("model", "tokenizer", "data", "train", "sample"):
        for key, value in now[section].items():
            if then[section][key] == value or (section, key) in _FREE:
                continue
            change = f"{section}.{key} was {then[section][key]} and is now {value}"
            if section in ("model", "tokenizer", "data") or key == "optimizer":
                raise UserError(f"{cannot}: {change}; {remedy}")
            print(
                f"note: {' '.join(change.split())}", file=sys.stderr
            )  # one line, whatever it holds
    if tokenizer.model_bytes != checkpoint.tokenizer():
        raise UserError(f"{cannot}: the tokenizer is not the one in its checkpoint; {remedy}")
    if corpus.data_hash != checkpoint.metadata["data_hash"]:
        raise UserError(f"{cannot}: the text is not the one it was trained on; {remedy}")


def _lasting(config: schema.Config) -> dict[str, Any]:
    """The config as a checkpoint records it: without the folder, which says nothing about it."""
    return {key: value for key, value in config.to_dict().items() if key != "run_dir"}


def _shapes(model: Transformer) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
