"""A model of others, from a local Hugging Face folder: config, weights, tokenizer.

    config.json + *.safetensors + tokenizer   ->   ModelConfig, weights under Breeze's names in
                                                   fp32, with rows in Breeze's order, tokenizer

`open_folder` checks names, shapes and sizes from the headers, before anything large is read.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from data.tokenizer import Tokenizer
from errors import UserError
from interop.foreign_tokenizer import folder_tokenizer
from interop.huggingface import NO_SINK_LOGIT
from interop.huggingface_config import ForeignConfig, read_config
from interop.names import halves_to_pairs, to_huggingface
from interop.safetensors_folder import DTYPES, Stored, list_tensors, read
from model.config import ModelConfig
from model.transformer import weight_shapes

Shapes = Mapping[str, tuple[int, ...]]
TIED = "lm_head.weight"
_COMPUTED = re.compile(r"rotary_emb\.inv_freq$")  # stored by some programs, computed by all
# Tensors that Breeze has no place for, with the reason; the first match counts.
_REASONS = (
    (r"\.bias$", "Breeze's matrices have no biases"),
    (r"\.[qk]_norm\.", "Breeze does not normalize queries and keys (QK norm)"),
    (r"experts|block_sparse_moe|\.router\.", "Breeze has no experts (MoE)"),
    (r"\.(qweight|qzeros|scales|g_idx|weight_scale\w*|absmax)$", "the weights are quantized"),
    (r"lora_|\.base_layer\.", "it is an adapter: merge it first (merge_and_unload of PEFT)"),
    (r"vision|visual|image|audio", "Breeze reads text only"),
)


@dataclass(frozen=True)
class ForeignModel:
    """A checked folder. `weights` reads the tensors."""

    folder: Path
    config: ForeignConfig
    text_tokenizer: Tokenizer
    stored: Mapping[str, Stored]  # under Hugging Face's names

    @property
    def model(self) -> ModelConfig:
        """The architecture."""
        return self.config.model

    def tokenizer(self) -> bytes:
        """Return the tokenizer, as a checkpoint holds it."""
        return self.text_tokenizer.model_bytes

    def weights(self, expected: Shapes) -> dict[str, Tensor]:
        """Read the weights as fp32; `expected` are the shapes of the model to fill.

        Raises `UserError` if the shapes of the folder's model are others, if a weight is not
        finite, or if the two tied matrices differ.
        """
        ours = shapes_of(self.model)
        for name in sorted({**ours, **expected}):
            if ours.get(name) != expected.get(name):
                raise UserError(
                    f"{self.folder} is of another architecture than the run's config: {name} is "
                    f"{ours.get(name, 'missing')} there, and {expected.get(name, 'missing')} here"
                )
        weights = {}
        for name in expected:
            theirs = to_huggingface(name)
            weights[name] = halves_to_pairs(name, read(self.stored[theirs], theirs), self.model)
        if self.model.tie_embeddings and TIED in self.stored:
            self._refuse_untied(weights["tok_embeddings.weight"])
        return weights

    def _refuse_untied(self, embeddings: Tensor) -> None:
        if not read(self.stored[TIED], TIED).equal(embeddings):
            raise UserError(
                f"{self.folder / 'config.json'}: tie_word_embeddings is true, but {TIED} differs "
                "from model.embed_tokens.weight: set it to false"
            )


def open_folder(folder: Path) -> ForeignModel:
    """Open and check a folder.

    Raises `UserError` for a model that Breeze cannot carry, files that are missing or damaged,
    tensors that are missing, surplus or of other shapes than config.json asks for, and a tokenizer
    of another size than the vocabulary.
    """
    config = read_config(folder)
    stored = list_tensors(folder)
    _check_tensors(folder, config.model, stored)
    if config.model.sink_logits and not _has_sink_logits(stored):
        config = replace(config, model=replace(config.model, sink_logits=False))
    tokenizer = folder_tokenizer(folder)
    if tokenizer.vocab_size != config.model.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size:,} tokens, but vocab_size in "
            f"config.json is {config.model.vocab_size:,}: use the tokenizer of this model"
        )
    return ForeignModel(folder, config, tokenizer, stored)


def shapes_of(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight, under Breeze's names."""
    return weight_shapes(model)


def _has_sink_logits(stored: Mapping[str, Stored]) -> bool:
    """Return whether a sink logit has an effect: an export without any writes `NO_SINK_LOGIT`."""
    sinks = [name for name in stored if name.endswith(".sinks")]
    return any((read(stored[name], name) > NO_SINK_LOGIT / 2).any() for name in sinks)


def _check_tensors(folder: Path, model: ModelConfig, stored: Mapping[str, Stored]) -> None:
    """Raise `UserError` if names, shapes or number formats are not those of the model."""
    needed = {to_huggingface(name): shape for name, shape in shapes_of(model).items()}
    known = {*needed, TIED} if model.tie_embeddings else needed.keys()
    _refuse_surplus(folder, (name for name in stored if name not in known))
    for name, shape in needed.items():
        if name not in stored:
            untied = name == TIED and ", and tie_word_embeddings in config.json is not true"
            raise UserError(f"{folder} lacks the tensor {name}{untied or ''}: download it again")
        if stored[name].shape != shape:
            raise UserError(
                f"{stored[name].path}: {name} is {stored[name].shape}, but config.json asks for "
                f"{shape}: use the config.json of this model"
            )
        if stored[name].dtype not in DTYPES:
            raise UserError(
                f"{stored[name].path}: {name} is stored as {stored[name].dtype}: Breeze reads "
                f"{', '.join(DTYPES)}, so use the weights before they were quantized"
            )


def _refuse_surplus(folder: Path, surplus: Iterable[str]) -> None:
    """Raise `UserError` that names the first tensor that Breeze has no place for."""
    names = sorted(name for name in surplus if not _COMPUTED.search(name))
    if not names:
        return
    for pattern, reason in _REASONS:
        for name in names:
            if re.search(pattern, name):
                raise UserError(f"{folder} has the tensor {name}: {reason}")
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    raise UserError(f"{folder} has the tensor {names[0]}{more}, which config.json does not ask for")
