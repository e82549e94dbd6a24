"""Rules between settings: conflicts, settings without effect, settings that others decide."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from configs.setting import spell
from configs.settings import SETTINGS, Config, keys_of, model_config, value_of
from data.choices import SOURCES
from errors import UserError
from model.config import ModelConfig

# Settings of the model that decide the names or shapes of weights, or what a head is.
_OF_WEIGHTS = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "sink_token",
    "sink_logits", "tie_embeddings",
)  # fmt: skip
_DERIVED = ("head_dim", "hidden_dim")  # null: computed from the other sizes

# Settings that only some sources read.
_READERS = {
    "data.path": ("files", "hub"),
    "data.field": ("files", "hub"),
    "data.prompt_field": ("files", "hub"),
    "data.strict": ("files", "hub"),
    "data.documents": ("files",),
    "data.separator": ("files",),
    "data.stories": ("stories",),
    "data.near": ("stories",),
    "data.far": ("stories",),
    "data.hub_config": ("hub",),
    "data.hub_split": ("hub",),
    "data.revision": ("hub",),
    "data.streaming": ("hub",),
}


# Settings that others decide


def is_local_path(path: str, source: str) -> bool:
    """Return whether `path` names files of this computer, not a dataset of the Hub (`owner/name`).

    A path that exists does. If `source` is not hub, so does a path that looks like one of files.
    """
    try:
        if Path(path).expanduser().exists():
            return True
    except (OSError, RuntimeError, ValueError):  # too long, no home folder, a null character
        return False
    looks_like_files = re.search(r"^[./~\\]|^\w:\\|[*?\[]|[/\\]$|\.[A-Za-z]\w{0,7}$", path)
    return source != "hub" and looks_like_files is not None


def too_long(config: Config) -> dict[str, Any]:
    """Return the settings that last too long for a run of `train.max_steps`, with a number of steps
    that fits: a tenth of the run, or less."""
    train, tenth = config.train, config.train.max_steps // 10
    shorter: dict[str, Any] = {}
    drills = train.drill_steps
    if train.warmup_steps > _longest_warmup(config):
        shorter["train.warmup_steps"] = min(tenth, _longest_warmup(config))
    if train.drill_steps >= train.max_steps:
        shorter["train.drill_steps"] = drills = tenth
    if _widens(config) and drills + train.window_steps > train.max_steps:
        shorter["train.window_steps"] = max(1, min(tenth, train.max_steps - drills))
    return shorter


def _widens(config: Config) -> bool:
    return config.train.window_schedule in ("grow", "depth")


def for_trained_weights(config: Config) -> dict[str, Any]:
    """Return the settings that only an untrained model needs, with values for a trained one: no
    steps of drills, and windows of full width."""
    trained: dict[str, Any] = {}
    if config.train.drill_steps:
        trained["train.drill_steps"] = 0
    if _widens(config):
        trained["train.window_schedule"] = "constant"
    return trained


def of_trained_model(
    config: Config, trained: Mapping[str, Any], asked: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compare the section `model` with the settings of a `trained` model, all by their keys.

    Returns the values to take over, of settings that are not in `asked`, and the trained model's
    values that settings in `asked` contradict. Whatever fits the same weights, such as the window,
    is free. The kernel is not the model's.
    """
    ours = vars(config.model)
    free: dict[str, Any] = {}
    contradicted: dict[str, Any] = {}
    for key, value in trained.items():
        is_null = key in _DERIVED and ours[key] is None
        if ours[key] == value or key == "attention":
            continue
        if is_null and _derived(trained, key) == value:
            continue
        if key == "sliding_window" and _windows(trained, value) == _windows(trained, ours[key]):
            continue
        if key not in asked or is_null:
            free[key] = value
        elif key in _OF_WEIGHTS:
            contradicted[key] = value
    return free, contradicted


def _windows(model: Mapping[str, Any], pattern: Any) -> Any:
    """Return the windows that a pattern gives the layers of `model`; None if it does not fit."""
    with suppress(UserError):
        return ModelConfig(vocab_size=1, **{**model, "sliding_window": pattern}).windows
    return None


def _derived(model: Mapping[str, Any], key: str) -> Any:
    """Return what null means for `key`; None if the other sizes do not decide it."""
    with suppress(UserError):
        return getattr(ModelConfig(vocab_size=1, **{**model, key: None}), key)
    return None


def for_adapters(config: Config) -> dict[str, Any]:
    """Return the settings that adapters need: Muon would make their updates orthogonal."""
    return {"train.optimizer": "adamw"} if config.train.optimizer != "adamw" else {}


def _longest_warmup(config: Config) -> int:
    """Return the largest `train.warmup_steps` that fits: it ends before the rate falls."""
    return config.train.max_steps - max(_decay_steps(config), 1)


def _decay_steps(config: Config) -> int:
    """Return the number of steps in which wsd lowers the learning rate; 0 for other schedules."""
    train = config.train
    return round(train.decay_fraction * train.max_steps) if train.schedule == "wsd" else 0


# Settings without effect


def without_effect(config: Config) -> dict[str, str]:
    """Return the settings that differ from their default and have no effect, with the reason."""
    reasons = {**_data_without_effect(config), **_others_without_effect(config)}
    return {
        name: reason
        for name, reason in reasons.items()
        if reason and value_of(config, name) != SETTINGS[name].default
    }


def _data_without_effect(config: Config) -> dict[str, Any]:
    data = config.data
    sources = {name.partition(":")[0] for name in data.mix} if data.mix else {data.source}
    where = f"data.{'mix' if data.mix else 'source'} is {' and '.join(sorted(sources))}"
    reasons: dict[str, Any] = {}
    for name, readers in _READERS.items():
        verb = "reads" if len(readers) == 1 else "read"
        reason = f"{where}, only {' and '.join(readers)} {verb} it"
        reasons[name] = sources.isdisjoint(readers) and reason
    if data.mix:
        reasons["data.source"] = "data.mix names the sources"
        reasons["data.path"] = "data.mix names the paths"
    if sources == {"stories"}:
        for name in ("data.split", "data.val_fraction", "data.test_fraction"):
            reasons[name] = f"{where}, and the stories have fixed splits"
    return reasons


def _others_without_effect(config: Config) -> dict[str, Any]:
    model, train, sample = config.model, config.train, config.sample
    pattern = model.sliding_window
    is_full = set(pattern if isinstance(pattern, tuple) else [pattern]) == {None}
    full = is_full and "model.sliding_window is null, no layer has a window"
    schedule = f"train.window_schedule is {train.window_schedule}"
    widening = not _widens(config) and schedule
    greedy = sample.temperature == 0 and "sample.temperature is 0"
    no_adapters = not train.lora_rank and "train.lora_rank is 0, nothing has an adapter"
    initial = train.init_from and "the tokenizer is that of train.init_from"
    return {
        "model.attention_sinks": full,
        "model.rope_theta_local": full,
        "model.rope_factor": model.rope_scaling == "none" and "model.rope_scaling is none",
        "model.rope_original_len": model.rope_scaling != "yarn"
        and f"model.rope_scaling is {model.rope_scaling}, only yarn reads it",
        "tokenizer.type": initial,
        "tokenizer.vocab_size": initial,
        "train.lora_alpha": no_adapters,
        "train.lora_targets": no_adapters,
        "train.adamw_lr": train.optimizer == "adamw"
        and "train.optimizer is adamw, all weights follow train.lr",
        "train.momentum": train.optimizer == "adamw"
        and "train.optimizer is adamw, whose averages have fixed lengths",
        "train.decay_fraction": train.schedule != "wsd"
        and f"train.schedule is {train.schedule}, only wsd reads it",
        "train.window_from": widening,
        "train.window_steps": widening,
        "train.window_choices": train.window_schedule != "random" and schedule,
        "sample.top_k": greedy,
        "sample.top_p": greedy,
        "sample.min_p": greedy,
    }


# Conflicts


def conflicts(config: Config) -> Iterator[tuple[list[str], str]]:
    """Yield (names of settings, message) for each conflict between values that are valid alone."""
    yield from _model_conflicts(config)
    yield from _data_conflicts(config)
    yield from _training_conflicts(config)


def _model_conflicts(config: Config) -> Iterator[tuple[list[str], str]]:
    keys = keys_of("model") | {"vocab_size": "tokenizer.vocab_size"}
    try:
        model_config(config, config.tokenizer.vocab_size)
    except UserError as error:
        conflict = error.renamed(keys)
        named = [name for name in (conflict.field, *conflict.others) if name]
        yield [*named, *keys.values()], str(conflict)  # the lines of those named are shown first


def _data_conflicts(config: Config) -> Iterator[tuple[list[str], str]]:
    data = config.data
    for name, path in (("run_dir", config.run_dir), ("data.path", data.path)):
        if path is not None and (not path or "\0" in path):
            yield [name], f"{name} is {spell(path)}, a path or null is needed"
    if data.prompt_field == data.field:
        names = ["data.prompt_field", "data.field"]
        same = f"data.prompt_field and data.field are both {data.field}"
        yield names, f"{same}: name the columns of the prompts and of the text"
    if data.near > data.far:
        names = ["data.near", "data.far"]
        yield names, f"data.near is {data.near}, more than data.far, {data.far}: make it smaller"
    given = spell(dict(data.mix or {}))  # once: a file may have thousands of names
    for name in data.mix or ():
        source, colon, path = name.partition(":")
        needs_path = source in ("files", "hub")
        if source not in SOURCES or bool(path) != needs_path or bool(colon) != needs_path:
            known = "stories, shakespeare, files:PATH or hub:ID"
            yield ["data.mix"], f"data.mix is {given}, for {spell(name)} one of {known} is needed"
    if data.val_fraction + data.test_fraction >= 1:
        names = ["data.val_fraction", "data.test_fraction"]
        total = f"{data.val_fraction:g} + {data.test_fraction:g}"
        yield names, f"{' + '.join(names)} is {total}: nothing is left to train on"


def _training_conflicts(config: Config) -> Iterator[tuple[list[str], str]]:
    train = config.train
    if train.lora_rank and not train.init_from:
        names = ["train.lora_rank", "train.init_from"]
        yield names, "train.lora_rank needs a trained model to adapt: name it with train.init_from"
    if train.lora_rank and train.optimizer != "adamw":
        names = ["train.optimizer", "train.lora_rank"]
        yield names, "train.lora_rank trains adapters with AdamW: set train.optimizer to adamw"
    if train.window_schedule == "random" and not train.window_choices:
        names = ["train.window_schedule", "train.window_choices"]
        yield names, "train.window_schedule random needs train.window_choices, such as [16, 64]"
    if _widens(config) and not train.window_steps:
        names = ["train.window_steps", "train.window_schedule"]
        yield names, f"train.window_schedule {train.window_schedule} needs train.window_steps"
    if _widens(config) and train.drill_steps + train.window_steps > train.max_steps:
        names = ["train.window_steps", "train.drill_steps", "train.max_steps"]
        plus = f" plus {train.drill_steps} steps of drills" if train.drill_steps else ""
        ends = f"windows must reach their size within train.max_steps ({train.max_steps})"
        yield names, f"train.window_steps is {train.window_steps}{plus}: {ends}"
    if train.window_from == ():
        yield ["train.window_from"], "train.window_from is an empty list: give a window, such as 8"
    if train.warmup_steps > _longest_warmup(config):
        names = ["train.warmup_steps", "train.max_steps", "train.decay_fraction", "train.schedule"]
        decay = _decay_steps(config)
        plus = f" plus {decay} steps of decay" if decay else ""
        ends = f"it must end before train.max_steps ({train.max_steps})"
        yield names, f"train.warmup_steps is {train.warmup_steps}{plus}: {ends}"
    if train.drill_steps >= train.max_steps:
        names = ["train.drill_steps", "train.max_steps"]
        ends = f"it must be less than train.max_steps ({train.max_steps})"
        yield names, f"train.drill_steps is {train.drill_steps}: {ends}"
