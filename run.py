"""TrainingRun: what a config becomes in memory, and what a checkpoint brings back of it.

Here the rooms are wired together: settings, text, model, optimizer and checkpoint do not know each
other.
"""

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.load import config_from_dict, to_yaml
from configs.settings import Config, model_config
from data.batches import evaluation_sequences
from data.corpus import Corpus
from data.mixture import MixedCorpus
from data.text import open_text
from data.tokenizer import Tokenizer
from errors import UserError
from model import Sampling, Transformer, generate
from model.loss import next_token_loss
from model.window import Window
from storage import atomic_write, cache_folder
from training import checkpoint as checkpoints
from training import device as machine
from training.checkpoint import Checkpoint
from training.evaluation import Score, evaluate
from training.optimizer import Optimizer
from training.resume import refuse_changes
from training.windows import windows_at


@dataclass
class TrainingRun:
    """A run in progress: what was made from the config, and how far it is."""

    config: Config
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

    @property
    def bos_id(self) -> int | None:
        """The token at which documents are kept apart; None: they are not."""
        return self.tokenizer.bos_id if self.config.data.document_mask else None

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean nats per token of the model on (B, T) inputs and targets."""
        with machine.autocast(self.device, self.dtype):
            return next_token_loss(self.model, inputs, targets, self.bos_id)

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
        return model_config(self.config, self.tokenizer.vocab_size).windows

    def score(self, split: str) -> Score:
        """Score the model on a whole split, every token predicted once."""
        windows = evaluation_sequences(
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


def start_run(config: Config, checkpoint: Checkpoint | None) -> TrainingRun:
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
    tokenizer, corpus = open_text(config.data, config.tokenizer, tokenizer)
    if checkpoint is not None:
        before = config_from_dict(checkpoint.metadata["config"], str(checkpoint.path))
        refuse_changes(
            checkpoint,
            _lasting(before),
            _lasting(config),
            tokenizer=tokenizer.model_bytes,
            data_hash=corpus.data_hash,
            name=str(config.folder),
        )
    dtype, dtype_reason = machine.choose_precision(train.precision, device)
    torch.manual_seed(config.seed)
    model = Transformer(model_config(config, tokenizer.vocab_size)).to(device)
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
    run = TrainingRun(config, tokenizer, corpus, model, optimizer, device, dtype, reasons, peak)
    if started is not None:
        _load(model, started)
    if checkpoint is not None:
        _restore(run, checkpoint)
    atomic_write(run.folder / "config.yaml", to_yaml(config).encode())
    atomic_write(run.folder / "tokenizer.model", tokenizer.model_bytes)
    return run


def _load(model: Transformer, checkpoint: Checkpoint) -> None:
    """Take the weights of `checkpoint`."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in checkpoint.weights(_shapes(model)).items():
            parameters[name].copy_(weight)


def _restore(run: TrainingRun, checkpoint: Checkpoint) -> None:
    """Continue from `checkpoint`: moments, step, what was measured."""
    run.optimizer.restore(checkpoint.moments(_shapes(run.model)), checkpoint.step)
    run.step = checkpoint.step
    run.history = {
        key: checkpoint.metadata[key] for key in checkpoints.HISTORY if key in checkpoint.metadata
    }


def _lasting(config: Config) -> dict[str, Any]:
    """The config as a checkpoint records it: without the folder, which says nothing about it."""
    return {key: value for key, value in config.to_dict().items() if key != "run_dir"}


def _shapes(model: Transformer) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
