"""TrainingRun: the objects that a config describes, how they start, and how they are saved.

The rooms are connected here: settings, text, model, optimizer and checkpoint do not import each
other.
"""

import os
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.load import config_from_dict, to_yaml
from configs.settings import Config, keys_of, lora_config, model_config
from data.batches import Batches, evaluation_sequences
from data.corpus import Corpus
from data.drills import DrilledBatches, Drills, longest_segment
from data.mixture import MixedBatches, MixedCorpus
from data.text import open_text
from data.tokenizer import Tokenizer, open_tokenizer
from errors import UserError, fields_named
from inference.text import configured_sampling, continue_text
from inference.weights import TrainedWeights, read_weights
from model import Transformer, native
from model.adapters import add_adapters
from model.config import LoraConfig
from model.cost import training_memory
from model.loss import next_token_loss
from model.native.build import refusal
from model.window import Window
from storage import atomic_write, cache_folder
from training.checkpoint import Checkpoint, prune, save
from training.device import (
    Hardware,
    autocast,
    choose_hardware,
    keep_freed_memory,
    matmul_flops_per_s,
)
from training.evaluation import Score, evaluate
from training.header import HISTORY
from training.memory import refuse_too_large
from training.optimizer import Optimizer
from training.resume import refuse_changes
from training.schedule import lr_ratio
from training.windows import windows_at
from usual import UsualLoss, usual_loss


@dataclass
class TrainingRun:
    """A run in progress: the objects built from the config, and the number of updates done."""

    config: Config
    tokenizer: Tokenizer
    corpus: Corpus | MixedCorpus
    model: Transformer
    optimizer: Optimizer
    hardware: Hardware
    peak_flops: float  # FLOP/s of a plain matrix product on this device: 100% of the MFU
    step: int = 0  # updates done
    history: dict[str, Any] = field(default_factory=dict)  # last and best validation loss

    @property
    def folder(self) -> Path:
        """The folder that holds all files of the run."""
        return self.config.folder

    @property
    def device(self) -> torch.device:
        """The device of model and batches."""
        return self.hardware.device

    @property
    def lora(self) -> LoraConfig | None:
        """The adapters that are trained; None if the weights themselves are."""
        return lora_config(self.config)

    @property
    def bos_id(self) -> int | None:
        """The token that separates documents in attention; None if they are not separated."""
        return self.tokenizer.bos_id if self.config.data.document_mask else None

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the model's mean loss in nats per token on (B, T) inputs and targets."""
        with native.enabled(self.hardware.native), autocast(self.device, self.hardware.dtype):
            return next_token_loss(self.model, inputs, targets, self.bos_id)

    def lr_ratio_at(self, step: int) -> float:
        """Return the learning rate of update `step` as a share of the peak."""
        train = self.config.train
        return lr_ratio(
            step,
            schedule=train.schedule,
            max_steps=train.max_steps,
            warmup_steps=train.warmup_steps,
            min_lr_ratio=train.min_lr_ratio,
            decay_fraction=train.decay_fraction,
        )

    def windows_at(self, step: int) -> tuple[Window, ...]:
        """Return the sliding window of each layer in update `step`."""
        train = self.config.train
        return windows_at(
            step,
            self._configured_windows,
            schedule=train.window_schedule,
            narrow=(first,) if isinstance(first := train.window_from, int) else first,
            start=train.drill_steps,
            steps=train.window_steps,
            choices=train.window_choices or (),
            seed=self.config.seed,
            seq_len=self.config.data.seq_len,
        )

    def batches(self) -> Batches | MixedBatches | DrilledBatches:
        """Return the training batches, by step. Raises `UserError` if the text fills no sequence,
        or if the vocabulary is too small for drills."""
        config, seq_len = self.config, self.config.data.seq_len
        has_drills = config.train.drill_steps > 0 or config.train.drill_share > 0
        batch_size = 1 if has_drills else config.batch_size
        text = self.corpus.batches(seq_len=seq_len, batch_size=batch_size, seed=config.seed)
        if not has_drills:
            return text

        def longest(step: int) -> int:
            widest = max(window or seq_len for window in self.windows_at(step))
            return longest_segment(min(widest, seq_len))

        return DrilledBatches(
            text,
            Drills(self.tokenizer.piece_ids, seq_len=seq_len, seed=config.seed),
            batch_size=config.batch_size,
            drills_before=config.drills_before,
            longest=longest,
        )

    @property
    def inference_windows(self) -> tuple[Window, ...]:
        """Windows for evaluation and inference: those of the last update; if each update draws
        its own at random, the configured ones."""
        if self.config.train.window_schedule == "random":
            return self._configured_windows
        return self.windows_at(max(0, self.step - 1))

    @property
    def _configured_windows(self) -> tuple[Window, ...]:
        return model_config(self.config, self.tokenizer.vocab_size).windows

    def score(self, split: str) -> Score:
        """Score the model on a whole split; every token but those of prompts is predicted once."""
        sequences = evaluation_sequences(
            self.corpus.marked_tokens(split),
            self.config.data.seq_len,
            batch_size=self.config.train.eval_batch_size,
        )
        with torch.compiler.set_stance("force_eager"):  # no second compilation for evaluation
            return evaluate(self.loss, sequences, self.corpus.n_bytes(split), self.device)

    def sample(self) -> str:
        """Return a prompt and its continuation, as the config's section `sample` describes them."""
        settings = self.config.sample
        with torch.compiler.set_stance("force_eager"):
            pieces = continue_text(
                self,
                [settings.prompt],
                max_tokens=settings.max_tokens,
                sampling=configured_sampling(settings),
                seed=self.config.seed,
            )
            continuation = "".join(piece.text for piece in pieces)
        # As the tokenizer reads the prompt: broken bytes of a command line are replaced.
        return self.tokenizer.decode(self.tokenizer.encode(settings.prompt)) + continuation

    @cached_property
    def usual(self) -> UsualLoss:
        """What the validation loss is compared with."""
        return usual_loss(self.config, self.corpus, self.tokenizer)

    def save(self) -> Path:
        """Write a checkpoint, then delete those that are neither recent nor the best."""
        path = save(
            self.folder / "checkpoints",
            self.step,
            weights=dict(self.model.named_parameters()),
            moments=self.optimizer.moments(),
            tokenizer=self.tokenizer.model_bytes,
            metadata={
                "config": _recorded(self.config),
                "data_hash": self.corpus.data_hash,
                "windows": self.inference_windows,
                **self.history,
            },
        )
        prune(path, self.config.train.keep_checkpoints)
        return path

    def load_weights(self, checkpoint: Checkpoint) -> None:
        """Replace the weights by those of `checkpoint`; its architecture must be the model's."""
        self._copy(checkpoint.weights(self._shapes))

    def start_from(self, trained: TrainedWeights) -> None:
        """Take the weights of a trained model, whose architecture must be the model's.

        Its adapters are merged into them; those of this run stay as they were drawn.
        """
        self._copy(read_weights(trained, self.model.config))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from `checkpoint`: weights, moments, step and validation losses."""
        self.load_weights(checkpoint)
        self.optimizer.restore(checkpoint.moments(self._shapes), checkpoint.step)
        self.step = checkpoint.step
        metadata = checkpoint.metadata
        self.history = {name: metadata[name] for name in HISTORY if name in metadata}

    @torch.no_grad()
    def _copy(self, weights: dict[str, Tensor]) -> None:
        parameters = dict(self.model.named_parameters())
        for name, weight in weights.items():
            parameters[name].copy_(weight)

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(weight.shape) for name, weight in self.model.named_parameters()}


@fields_named(keys_of("data", "tokenizer", "train"))
def start_run(
    config: Config, checkpoint: Checkpoint | None, initial: TrainedWeights | None = None
) -> TrainingRun:
    """Build everything that training needs, for a new run or from a checkpoint of this run.

    A new run starts from the weights and the tokenizer of `initial`, the trained model that
    train.init_from names; a run that continues has both in its checkpoint. Raises `UserError` if
    the run cannot fit in memory, or if model, tokenizer or text are not those of the checkpoint.
    """
    keep_freed_memory()
    hardware = _choose_hardware(config)
    # A short text may give a smaller vocabulary than the config's: here it is counted as one token.
    _refuse_too_large(config, 1, hardware)
    tokenizer = None  # trained on the text, unless the weights come with one
    if config.train.init_from is not None:
        trained = checkpoint or initial
        assert trained is not None, "open what train.init_from names"
        tokenizer = open_tokenizer(trained.tokenizer())
    tokenizer, corpus = open_text(config.data, config.tokenizer, tokenizer)
    _refuse_too_large(config, tokenizer.vocab_size, hardware)
    if checkpoint is not None:
        _refuse_changes(checkpoint, config, tokenizer, corpus.data_hash)
    model, optimizer = _build(config, tokenizer.vocab_size, hardware)
    peak_flops = matmul_flops_per_s(hardware.device, hardware.dtype)
    run = TrainingRun(config, tokenizer, corpus, model, optimizer, hardware, peak_flops)
    if checkpoint is not None:
        run.restore(checkpoint)
    elif initial is not None:
        run.start_from(initial)
    atomic_write(run.folder / "config.yaml", to_yaml(config).encode())
    atomic_write(run.folder / tokenizer.file_name, tokenizer.model_bytes)
    return run


def _choose_hardware(config: Config) -> Hardware:
    """Choose what to train on. Raises `UserError` if it cannot train this config."""
    train = config.train
    hardware = choose_hardware(
        train.device, train.precision, train.compile, train.native, native.training_refusal
    )
    if hardware.device.type == "cpu":  # now, not in the middle of training, where it writes text
        refusal("decode", bf16=False)
    if config.model.attention == "flex" and hardware.device.type != "cuda":
        raise UserError(
            f"model.attention flex trains on CUDA only, this is {hardware.device.type}: use auto "
            "or blocked"
        )
    return hardware


def _build(config: Config, vocab_size: int, hardware: Hardware) -> tuple[Transformer, Optimizer]:
    """Build the model, with weights and adapters drawn from the seed, and its optimizer."""
    train, lora = config.train, lora_config(config)
    torch.manual_seed(config.seed)
    model = Transformer(model_config(config, vocab_size))
    if lora is not None:
        add_adapters(model, lora)
    model = model.to(hardware.device)
    optimizer = Optimizer(
        model.named_parameters(),
        name=train.optimizer,
        lr=train.lr,
        adamw_lr=train.adamw_lr,
        weight_decay=train.weight_decay,
        momentum=train.momentum,
        dtype=hardware.dtype,
    )
    if hardware.compiled:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
        warnings.filterwarnings("ignore", message="Torchinductor does not support code generation")
        model.compile_blocks()
    return model, optimizer


def _refuse_too_large(config: Config, vocab_size: int, hardware: Hardware) -> None:
    """Raise `UserError` if training cannot fit in the memory of the device."""
    memory = training_memory(
        model_config(config, vocab_size),
        config.train.micro_batch_size,
        config.data.seq_len,
        config.train.optimizer,
        hardware.dtype.itemsize,
        lora=lora_config(config),
    )
    refuse_too_large(memory.total, memory.activations, hardware.device)


def _refuse_changes(
    checkpoint: Checkpoint, config: Config, tokenizer: Tokenizer, data_hash: str
) -> None:
    """Raise `UserError` if config, tokenizer or text differ from those of the checkpoint."""
    before = config_from_dict(checkpoint.metadata["config"], str(checkpoint.path))
    refuse_changes(
        checkpoint,
        _recorded(before),
        _recorded(config),
        tokenizer=tokenizer.model_bytes,
        data_hash=data_hash,
        folder=str(config.folder),
    )


def _recorded(config: Config) -> dict[str, Any]:
    """Return the config as a checkpoint records it: without `run_dir`, which may change."""
    return {key: value for key, value in config.to_dict().items() if key != "run_dir"}
