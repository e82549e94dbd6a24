"""The right name of a setting, for misspelled names and for names that other projects use."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from configs.setting import spell
from configs.settings import SECTIONS, SETTINGS
from errors import UserError

_ELSEWHERE = {  # our setting -> its names in nanoGPT, transformers, PyTorch Lightning and papers
    "data.path": "file dataset dataset_path data_path data_dir input input_file corpus train_file",
    "data.prompt_field": "prompt_column prompt_key instruction_field input_field",
    "data.seq_len": "block_size context_length context_size ctx_len max_seq_len max_length n_ctx "
    "max_position_embeddings sequence_length",
    "model.dim": "n_embd d_model hidden_size embed_dim embedding_dim",
    "model.hidden_dim": "intermediate_size ffn_dim d_ff",
    "model.n_heads": "n_head num_heads num_attention_heads",
    "model.n_kv_heads": "num_key_value_heads n_kv_head",
    "model.n_layers": "n_layer num_layers num_hidden_layers depth",
    "model.norm_eps": "rms_norm_eps layer_norm_eps",
    "model.sliding_window": "window window_size attention_window",
    "model.tie_embeddings": "tie_word_embeddings weight_tying",
    "run_dir": "out_dir output_dir save_dir log_dir",
    "sample.max_tokens": "max_new_tokens",
    "tokenizer.vocab_size": "vocabulary_size n_vocab",
    "train.compile": "torch_compile",
    "train.eval_interval": "eval_steps eval_every val_interval",
    "train.grad_accum_steps": "gradient_accumulation_steps accumulate_grad_batches grad_accum",
    "train.grad_clip": "max_grad_norm clip_grad gradient_clip_val",
    "train.init_from": "model_name_or_path pretrained checkpoint",
    "train.log_interval": "logging_steps log_every",
    "train.lr": "learning_rate max_lr",
    "train.max_steps": "max_iters iters iterations n_steps num_steps total_steps max_train_steps",
    "train.micro_batch_size": "batch_size batch train_batch_size per_device_train_batch_size",
    "train.min_lr_ratio": "min_lr",
    "train.patience": "early_stopping early_stopping_patience",
    "train.precision": "dtype amp fp16 mixed_precision",
    "train.save_interval": "save_steps save_every checkpoint_interval",
    "train.schedule": "lr_scheduler lr_scheduler_type lr_schedule",
    "train.warmup_steps": "warmup_iters warmup",
    "train.weight_decay": "wd",
}
LONGEST_NAME = 100  # characters; a longer name is no misspelling, and is cut in messages
_SETTING_OF = {name: key for key, names in _ELSEWHERE.items() for name in names.split()}
_ABSENT = {  # names of other projects for which there is no setting
    "dropout": "there is no dropout; train.weight_decay regularizes",
    "epochs": "the length of a run is train.max_steps",
    "num_epochs": "the length of a run is train.max_steps",
    "num_train_epochs": "the length of a run is train.max_steps",
}


def unknown(name: str, value: Any) -> str:
    """Return the error message for an unknown key, with the probable setting if there is one."""
    if name in SECTIONS:
        example = f"write {name}.key=value, or keys below it"
        return f"{name} is {spell(value)}, but it is a section: {example}"
    if absent := _ABSENT.get(_leaf(name)):
        return f"{name} is unknown: {absent}"
    meant = meant_by(name)
    shown = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."
    return f"{shown} is unknown" + (f", did you mean {meant}?" if meant else "")


def advice(option: str) -> str | None:
    """Return what to write instead of an unknown option such as `--max_iters=100`, or None."""
    name, _, value = option.lstrip("-").partition("=")
    name = name.replace("-", "_")
    if absent := _ABSENT.get(_leaf(name)):
        return absent
    meant = meant_by(name)
    return f"write {meant}={value or 'VALUE'}" if meant in SETTINGS else None


def meant_by(name: str) -> str | None:
    """Return the setting or section probably meant by `name` (`trian.lr`), or None."""
    leaf = _leaf(name)
    if len(name) > LONGEST_NAME:
        return None
    if name in SETTINGS or name in SECTIONS:
        return name
    for setting in SETTINGS:
        if _leaf(setting) == leaf:
            return setting
    close = difflib.get_close_matches(name, [*SETTINGS, *SECTIONS], n=1)
    return _SETTING_OF.get(leaf) or (close[0] if close else None)


def refuse_spaces(words: Sequence[str]) -> None:
    """Raise `UserError` if `key=value` is spread over several words: `train.lr = 0.01`."""
    for n, word in enumerate(words):
        second, third = [*words[n + 1 : n + 3], "", ""][:2]
        name = word.removesuffix("=")
        is_split = word.endswith("=") and second and "=" not in second and meant_by(name)
        if re.fullmatch(r"[\w.]+", name) and (second.startswith("=") or is_split):
            value = second.lstrip("=") or third or "VALUE"
            raise UserError(f"write {meant_by(name) or name}={value}, without spaces")


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
