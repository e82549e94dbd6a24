"""From a model of others to a run folder that every script opens, checked before it is there.

    config.yaml, the tokenizer, checkpoints/step-00000000-<hash>.safetensors

The checkpoint is of step 0. It has no moments of an optimizer and no text of a training.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from configs.load import to_yaml
from configs.settings import Config, DataSettings, ModelSettings, TokenizerSettings, TrainSettings
from errors import UserError
from inference.trained import TrainedModel, open_trained
from interop.check import SEED, TOLERANCE, n_checked, require_transformers
from interop.huggingface_import import ForeignModel, shapes_of
from model.transformer import Transformer
from storage import atomic_folder, atomic_write
from training.checkpoint import save
from training.memory import allocation_errors, format_bytes, memory_limit

LONGEST_CHECK = 2048  # tokens
CHECK_FLOPS = 4e12  # of the matrices, for one of the two models: about a minute on two cores
LONGEST_SEQ_LEN = 1024  # tokens of a sequence in config.yaml; models of others read more
# For fine-tuning: trained weights need a lower learning rate than drawn ones.
FINE_TUNING = TrainSettings(optimizer="adamw", lr=1e-4)
MEMORY_REMEDY = "import the model on a machine with more memory"


@dataclass(frozen=True)
class Comparison:
    """Largest difference of logits to the original in transformers, on `n_tokens` random tokens.

    `wanted` is 3 W + 5 for the widest window W, which may be more.
    """

    peer: str
    n_tokens: int
    wanted: int
    difference: float
    largest_logit: float

    @property
    def holds(self) -> bool:
        """Whether the difference is rounding; False if it is NaN."""
        return self.difference <= TOLERANCE * max(1.0, self.largest_logit)

    def __str__(self) -> str:
        short = (
            f" (3 W + 5 = {self.wanted:,} would take too long)"
            if self.n_tokens < self.wanted
            else ""
        )
        return (
            f"compared with {self.peer} on {self.n_tokens:,} tokens{short}: logits differ by at "
            f"most {self.difference:.2g} (largest logit {self.largest_logit:.3g})"
        )


def import_model(foreign: ForeignModel, out: Path, origin: str) -> str:
    """Write the run folder `out`; return what the comparison with transformers found.

    `origin` says where the model comes from. Raises `UserError`, with nothing left behind, if `out`
    is not empty, if memory does not suffice, or if the logits differ from those of transformers.
    """
    _refuse_too_large(foreign)
    config = _run_config(foreign, out)
    with atomic_folder(out) as folder, allocation_errors(MEMORY_REMEDY):
        (folder / "checkpoints").mkdir()
        save(
            folder / "checkpoints",
            0,
            weights=foreign.weights(shapes_of(foreign.model)),
            moments={},
            tokenizer=foreign.tokenizer(),
            metadata={
                "config": {k: v for k, v in config.to_dict().items() if k != "run_dir"},
                "data_hash": "",
                "imported_from": origin,
            },
        )
        atomic_write(folder / "config.yaml", to_yaml(config).encode())
        atomic_write(folder / foreign.text_tokenizer.file_name, foreign.tokenizer())
        return _verdict(foreign, open_trained(folder))


def _refuse_too_large(foreign: ForeignModel) -> None:
    """Raise `UserError` if the weights do not fit in memory twice, as to save them needs."""
    needed = 2 * 4 * sum(foreign.model.parameter_counts().values())
    limit = memory_limit(torch.device("cpu"))
    if limit is not None and needed > limit:
        raise UserError(
            f"importing {foreign.folder} needs {format_bytes(needed)} of memory, but this machine "
            f"has {format_bytes(limit)}: {MEMORY_REMEDY}"
        )


def _run_config(foreign: ForeignModel, out: Path) -> Config:
    """Return the config of the run: the model, no text, settings for fine-tuning."""
    return Config(
        run_dir=str(out),
        model=ModelSettings(**foreign.config.settings),
        data=DataSettings(source="files", seq_len=min(foreign.config.max_len, LONGEST_SEQ_LEN)),
        tokenizer=TokenizerSettings(vocab_size=foreign.model.vocab_size),
        train=FINE_TUNING,
    )


def _verdict(foreign: ForeignModel, trained: TrainedModel) -> str:
    """Compare with transformers; return the result in words. Raises `UserError` if it differs."""
    try:
        transformers = require_transformers()
    except UserError as error:
        return f"not compared with the original: {error}"
    try:
        original = open_original(transformers, foreign)
    except Exception as error:  # any error of its own code
        reason = " ".join(str(error).split())[:200]
        return f"not compared with the original, which transformers cannot open: {reason}"
    name = f"transformers {transformers.__version__} ({type(original).__name__})"
    comparison = compare(name, original, trained.model)
    if not comparison.holds:
        raise UserError(
            f"{foreign.folder} was not imported: {comparison}: it has something that Breeze does "
            "not know, please report it"
        )
    return str(comparison)


def open_original(transformers: Any, foreign: ForeignModel) -> Any:
    """Open the folder in transformers, in fp32 and without code of the folder's own."""
    place = {"local_files_only": True, "trust_remote_code": False}
    config = transformers.AutoConfig.from_pretrained(foreign.folder, **place)
    if foreign.config.ignores_window:  # transformers would give every layer the window
        config.sliding_window = None
        if getattr(config, "layer_types", None):
            config.layer_types = ["full_attention"] * foreign.model.n_layers
    model = transformers.AutoModelForCausalLM.from_pretrained(
        foreign.folder, config=config, dtype=torch.float32, **place
    )
    return model.eval()


@torch.no_grad()
def compare(peer: str, original: Any, model: Transformer) -> Comparison:
    """Compare the logits of both models on the same random tokens."""
    shape = model.config
    wanted = n_checked(shape)
    affordable = int(CHECK_FLOPS / (2 * sum(shape.parameter_counts().values())))
    n_tokens = min(wanted, LONGEST_CHECK, max(affordable, 32))
    generator = torch.Generator().manual_seed(SEED)
    tokens = torch.randint(shape.vocab_size, (1, n_tokens), generator=generator)
    ours, theirs = model(tokens), original(tokens).logits
    return Comparison(
        peer, n_tokens, wanted, (ours - theirs).abs().max().item(), ours.abs().max().item()
    )
