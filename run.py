"""TrainingRun: the objects that a config describes, what they compute, and how they are saved.

The rooms are connected here: settings, text, model, optimizer and checkpoint do not import each
other.
"""

from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from configs.settings import Config, lora_config, model_config
from data.batches import Batches, evaluation_sequences
from data.corpus import Corpus
from data.drills import DrilledBatches, Drills, longest_segment
from data.mixture import MixedBatches, MixedCorpus
from data.tokenizer import Tokenizer
from inference.text import configured_sampling, continue_text
from inference.weights import TrainedWeights, read_weights
from model import Transformer, native
from model.config import LoraConfig
from model.loss import next_token_loss
from model.window import Window
from training.checkpoint import MOMENTS, Checkpoint, save_tensors, tensors_of
from training.device import (
    Hardware,
    autocast,
)
from training.distributed import ALONE, World, own_part, part_of, whole_weights
from training.evaluation import Score, evaluate
from training.header import HISTORY
from training.optimizer import Optimizer
from training.run_folder import prune
from training.run_log import RunLog, SilentLog
from training.schedule import lr_ratio
from training.sharded import save_sharded
from training.windows import windows_at
from usual import UsualLoss, usual_loss


@dataclass
class TrainingRun:
    """A run in progress: the objects built from the config, and the number of updates done."""

    config: Config
    tokenizer: Tokenizer
    corpus: Corpus | MixedCorpus
    model: Transformer
    replica: nn.Module  # the model as the processes train it together; alone it is `model`
    optimizer: Optimizer
    hardware: Hardware
    peak_flops: float  # FLOP/s of a plain matrix product on this device: 100% of the MFU
    step: int = 0  # updates done
    history: dict[str, Any] = field(default_factory=dict)  # last and best validation loss
    world: World = ALONE
    saving: Future[Path | None] | None = None  # a save in the background
    saved: Path | None = None  # the last checkpoint

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
            return next_token_loss(self.replica, inputs, targets, self.bos_id)

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
            return evaluate(self.loss, sequences, self.corpus.n_bytes(split), self.device,
                            self.world)  # fmt: skip

    def sample(self) -> str:
        """Return a prompt and its continuation, as the config's section `sample` describes them."""
        settings = self.config.sample
        with torch.compiler.set_stance("force_eager"), whole_weights(self.model):
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

    def save(self) -> None:
        """Write a checkpoint, then delete those that are neither recent nor the best.

        Processes that hold parts of the weights write them in the background, after the save before
        has ended; otherwise the first process writes.
        """
        self.finish_saving()
        folder = self.folder / "checkpoints"
        keep = self.config.train.keep_checkpoints
        metadata = {
            "config": recorded_config(self.config),
            "data_hash": self.corpus.data_hash,
            "windows": self.inference_windows,
            **self.history,
        }
        tensors = tensors_of(self._weights, self.optimizer.moments(), self.tokenizer.model_bytes)
        if self.world.size > 1 and self.config.train.parallel == "fsdp":
            self.saving = save_sharded(
                folder, self.step, tensors, metadata, self.world, lambda path: prune(path, keep)
            )
            return
        if self.world.is_first:
            self.saved = save_tensors(folder, self.step, tensors, metadata)
            prune(self.saved, keep)
        self.world.wait()

    def finish_saving(self) -> Path | None:
        """Wait for a save in the background; return the path of the last checkpoint that this
        process saved. Raises an `OSError` of the disk."""
        if self.saving is not None:
            saving, self.saving = self.saving, None
            self.saved = saving.result()
            self.world.wait()
        return self.saved

    def open_log(self) -> RunLog:
        """Open the run's log, in the first process; elsewhere one that writes nothing."""
        if not self.world.is_first:
            return SilentLog()
        return RunLog(self.folder, self.step, self.config.train.loggers, self.config.to_dict())

    def load_weights(self, checkpoint: Checkpoint) -> None:
        """Replace the weights by those of `checkpoint`; its architecture must be the model's."""
        checkpoint.refuse_other_weights(self._shapes)
        checkpoint.read_into(self._weights)

    def start_from(self, trained: TrainedWeights) -> None:
        """Take the weights of a trained model, whose architecture must be the model's.

        Its adapters are merged into them; those of this run stay as they were drawn.
        """
        for name, weight in read_weights(trained, self.model.config).items():
            self._weights[name].copy_(part_of(weight, self._weights[name]))

    def is_finite(self) -> bool:
        """Return whether all weights and moments are finite, in every process."""
        tensors = [*self._weights.values(), *self.optimizer.moments().values()]
        is_broken = not all(own_part(tensor).isfinite().all() for tensor in tensors)
        return not self.world.largest(int(is_broken))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from `checkpoint`: weights, moments, step and validation losses."""
        self.optimizer.start_at(checkpoint.step)
        moments = {MOMENTS + name: moment for name, moment in self.optimizer.moments().items()}
        checkpoint.refuse_other_weights(self._shapes)
        checkpoint.refuse_other_moments({n: tuple(m.shape) for n, m in moments.items()})
        checkpoint.read_into(self._weights | moments)
        self.step = checkpoint.step
        metadata = checkpoint.metadata
        self.history = {name: metadata[name] for name in HISTORY if name in metadata}

    @property
    def _weights(self) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in self.model.named_parameters()}

    @property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(weight.shape) for name, weight in self.model.named_parameters()}


def recorded_config(config: Config) -> dict[str, Any]:
    """Return the config as a checkpoint records it: without `run_dir`, which may change."""
    return {key: value for key, value in config.to_dict().items() if key != "run_dir"}
