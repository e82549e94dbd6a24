"""Models of others for the tests of imports: random, tiny, written by transformers itself."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WINDOW = 6
SHAPE: dict[str, Any] = {
    "vocab_size": 270, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 0,
    "eos_token_id": 1, "initializer_range": 0.3,
}  # fmt: skip


def byte_tokenizer(vocab_size: int = SHAPE["vocab_size"]) -> Any:
    """Return a byte-level BPE tokenizer of transformers with `vocab_size` tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["the old king walks under the old house"] * 9, trainer)
    assert bpe.get_vocab_size() == vocab_size
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


def save_foreign(
    folder: Path,
    family: str = "Mistral",
    *,
    dtype: torch.dtype = torch.float32,
    shard: str = "1GB",
    **changes: Any,
) -> Path:
    """Write a random model of transformers' class `family`, and a tokenizer; return `folder`."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    window = {} if family == "Llama" else {"sliding_window": WINDOW}
    config = getattr(transformers, f"{family}Config")(**SHAPE | window | changes)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:  # norms of 1 and sinks of 0 would hide mistakes
                weight.add_(torch.randn_like(weight) * 0.3)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    byte_tokenizer(config.vocab_size).save_pretrained(folder)
    return folder


def change_config(folder: Path, remove: tuple[str, ...] = (), **changes: Any) -> None:
    """Change values of config.json; None stays as null."""
    path = folder / "config.json"
    values = json.loads(path.read_text()) | changes
    for key in remove:
        del values[key]
    path.write_text(json.dumps(values))


def change_tensors(folder: Path, **changes: torch.Tensor) -> None:
    """Add or replace tensors of model.safetensors."""
    path = folder / "model.safetensors"
    save_file(load_file(path) | changes, path)
