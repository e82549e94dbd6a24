"""Is the loss normal? What a validation loss is compared with, and what to try if it is far off.

Three marks hold for every text, in nats per token:

    ln V              guesses uniformly among V tokens: an untrained model is here
    unigram entropy   knows how frequent each token is, but no context
    xz                a general compressor, which finds repeated strings

A band holds for one config: where the runs of other seeds and machines lie at a step. docs/loss.md
explains both. A verdict is plain arithmetic on the lines of metrics.jsonl.
"""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from configs.band import band_of
from configs.settings import Config
from data.corpus import Corpus, hash_of
from data.entropy import COMPRESSED, COUNTED, unigram_entropy, xz_size
from data.mixture import MixedCorpus
from data.tokenizer import Tokenizer
from storage import atomic_write, cache_folder

SETTLING = 200  # steps after drills and warm-up in which a model learns to use the context
NEAR_UNIGRAM = 0.98  # a loss above this share of the unigram entropy hardly uses the context
THROWN = 1.1  # a training loss above so many ln V: too large updates, not an untrained model
RISE = 1.01  # validation loss, as a multiple of the lowest, that is more than noise

Record = Mapping[str, Any]  # a line of metrics.jsonl


@dataclass(frozen=True)
class Marks:
    """Losses of models that need no training, in nats per token."""

    uniform: float  # ln V
    unigram: float
    xz: float
    xz_bpb: float  # the same in bits per byte


@dataclass(frozen=True)
class Verdict:
    """What is printed about one evaluation."""

    place: str  # "below xz, 3.27"
    advice: str | None  # None: nothing, or the same as at the evaluation before


@dataclass(frozen=True)
class UsualLoss:
    """What the validation loss of a run is compared with."""

    marks: Marks
    band: Mapping[int, tuple[float, float]]  # step -> lowest and highest usual loss; may be empty
    source: str  # what the band is of, or why there is none
    warm: int  # steps of drills and of the warm-up
    last: int  # step
    rates: str  # the settings of the learning rate
    is_pretrained: bool

    def verdict(self, records: Sequence[Record]) -> Verdict:
        """Judge the last evaluation among `records`, the lines of metrics.jsonl, oldest first."""
        advice = self.advice(records)
        evaluated = [number for number, record in enumerate(records) if "val_loss" in record]
        repeated = len(evaluated) > 1 and advice == self.advice(records[: evaluated[-2] + 1])
        last = records[evaluated[-1]]
        return Verdict(self.place(last["step"], last["val_loss"]), None if repeated else advice)

    def place(self, step: int, loss: float) -> str:
        """Say where a validation loss lies: in, above or below the band; without a band, below
        which mark."""
        if step in self.band:
            low, high = self.band[step]
            side = "usual:" if low <= loss <= high else f"{_side(loss, low)} the usual"
            return f"{side} {low:.4f} to {high:.4f}"
        marks = {
            "ln V": self.marks.uniform,
            "the unigram entropy": self.marks.unigram,
            "xz": self.marks.xz,
        }
        passed = [name for name in marks if loss < marks[name]]
        lowest = min(passed or ["ln V"], key=marks.__getitem__)
        return f"{_side(loss, marks[lowest])} {lowest}, {marks[lowest]:.2f}"

    def advice(self, records: Sequence[Record]) -> str | None:
        """Say what to try, if the last evaluation among `records` is far off."""
        evaluations = [record for record in records if "val_loss" in record]
        step, loss = evaluations[-1]["step"], evaluations[-1]["val_loss"]
        if step in self.band:
            return self._outside(loss, *self.band[step])
        lowest = min(evaluations, key=lambda record: record["val_loss"])
        if _overfits(records, evaluations, lowest):
            return (
                f"val_loss has risen since step {lowest['step']:,} while the training loss fell: "
                "the model memorizes the text. Use more text or fewer steps; train.patience ends "
                "such a run"
            )
        if step <= self.warm:
            return None
        is_thrown = loss > THROWN * self.marks.uniform
        is_settled = step >= min(self.warm + SETTLING, self.last)
        if is_thrown or (is_settled and loss >= NEAR_UNIGRAM * self.marks.unigram):
            return self._far_off(loss, [r["train_loss"] for r in records if "train_loss" in r])
        return None

    def _outside(self, loss: float, low: float, high: float) -> str | None:
        if low <= loss <= high:
            return None
        if loss < low:
            return (
                "fewer than 1 in 100 such runs lie below. If you changed the code, check that no "
                "token sees a later one: python -m scripts.verify CONFIG"
            )
        return (
            "fewer than 1 in 100 such runs lie above. Check the code with python -m scripts.verify "
            "CONFIG, and this machine with train.precision=fp32 train.compile=false "
            "train.native=false"
        )

    def _far_off(self, loss: float, train_losses: Sequence[float]) -> str:
        """Say what to try if val_loss is still near the unigram entropy, or far above ln V.

        Updates that are too large show in the training loss first: they throw it above ln V, where
        no untrained model is.
        """
        thrown, highest = THROWN * self.marks.uniform, max(train_losses, default=loss)
        last = train_losses[-1] if train_losses else loss
        if last < NEAR_UNIGRAM * self.marks.unigram or highest < thrown < loss:
            return (
                "val_loss is far above the training loss: the validation text is unlike the "
                "training text. Check the files and data.split"
            )
        if highest > thrown:
            misfit = ", or the weights of train.init_from do not fit this text"
            return (
                "the loss was far above ln V, which is worse than guessing: the learning rate is "
                f"too high{misfit * self.is_pretrained}. Lower {self.rates}"
            )
        return (
            "val_loss is not clearly below the unigram entropy: the model hardly uses the context "
            f"yet. Raise {self.rates}, or train.max_steps"
        )


def usual_loss(config: Config, corpus: Corpus | MixedCorpus, tokenizer: Tokenizer) -> UsualLoss:
    """Measure the marks on the training text, and look for the band of the config."""
    train = config.train
    band, source = band_of(config, corpus.data_hash)
    return UsualLoss(
        marks_of(corpus, tokenizer),
        band.spans if band else {},
        source,
        warm=train.drill_steps + train.warmup_steps,
        last=train.max_steps,
        rates="train.lr and train.adamw_lr" if train.optimizer == "muon" else "train.lr",
        is_pretrained=train.init_from is not None,
    )


def marks_of(corpus: Corpus | MixedCorpus, tokenizer: Tokenizer) -> Marks:
    """Return the marks of the training text: measured, in about a second, or from the cache."""
    key = {"text": corpus.data_hash, "counted": COUNTED, "compressed": COMPRESSED}
    file = cache_folder() / "marks" / f"{hash_of(key)[:16]}.json"
    with suppress(OSError, ValueError, TypeError):  # missing or damaged
        return Marks(**json.loads(file.read_bytes()))
    tokens = corpus.marked_tokens("train")
    xz, xz_bpb = xz_size(tokens, tokenizer.token_bytes)
    marks = Marks(math.log(tokenizer.vocab_size), unigram_entropy(tokens), xz, xz_bpb)
    file.parent.mkdir(exist_ok=True)
    atomic_write(file, json.dumps(asdict(marks)).encode())
    return marks


def _side(loss: float, bound: float) -> str:
    return "below" if loss < bound else "above"


def _overfits(records: Sequence[Record], evaluations: Sequence[Record], lowest: Record) -> bool:
    """Return whether two evaluations or more lie behind the lowest, the last one higher by `RISE`,
    while the training loss fell."""
    n = evaluations.index(lowest)
    rises = len(evaluations) > n + 2 and evaluations[-1]["val_loss"] > RISE * lowest["val_loss"]
    if not rises:
        return False
    before = _mean_train_loss(records, evaluations[n - 1]["step"] if n else 0, lowest["step"])
    now = _mean_train_loss(records, evaluations[-2]["step"], evaluations[-1]["step"])
    return before is not None and now is not None and now < before


def _mean_train_loss(records: Sequence[Record], after: int, until: int) -> float | None:
    """Return the mean of the training losses of steps after + 1 to `until`, without those of drills
    alone; None if none was logged."""
    losses = [
        record["train_loss"]
        for record in records
        if "train_loss" in record
        and after < record["step"] <= until
        and record.get("drill_share", 0) < 1
    ]
    return sum(losses) / len(losses) if losses else None
