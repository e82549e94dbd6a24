"""Rules between settings: conflicts, and settings that have no effect."""

from collections.abc import Iterator
from typing import Any

from configs.setting import spell
from configs.settings import SETTINGS, SOURCES, Config, model_config, value_of
from errors import UserError


def ignored(config: Config) -> list[str]:
    """Name the settings that differ from their default and yet do nothing, each with the reason."""
    model, data, train = config.model, config.data, config.train
    pattern = model.sliding_window
    all_full = set(pattern if isinstance(pattern, tuple) else [pattern]) == {None}
    without = "no layer has a window"
    widening = train.window_schedule in ("grow", "depth")
    sources = {name.partition(":")[0] for name in data.mix} if data.mix else {data.source}

    def unless(*wanted: str) -> Any:
        read = f"data.source is {' and '.join(sorted(sources))}, only {' and '.join(wanted)} read"
        return sources.isdisjoint(wanted) and f"{read}{'s' if len(wanted) == 1 else ''} it"

    mixed = data.mix is not None and "data.mix says what is read"
    own = sources == {"stories"} and "stories have splits of their own"
    idle = {
        "data.source": mixed,
        "data.path": mixed or unless("files", "hub"),
        "data.field": unless("files", "hub"),
        "data.documents": unless("files"),
        "data.stories": unless("stories"),
        "data.near": unless("stories"),
        "data.far": unless("stories"),
        "data.hub_config": unless("hub"),
        "data.hub_split": unless("hub"),
        "data.revision": unless("hub"),
        "data.streaming": unless("hub"),
        "data.split": own,
        "data.val_fraction": own,
        "data.test_fraction": own,
        "train.adamw_lr": train.optimizer == "adamw" and "under adamw all weights follow train.lr",
        "model.rope_factor": model.rope_scaling == "none" and "model.rope_scaling is none",
        "model.rope_original_len": model.rope_scaling != "yarn" and "only yarn reads it",
        "model.rope_theta_local": all_full and without,
        "model.attention_sinks": all_full and without,
        "train.window_from": not widening and "only train.window_schedule grow and depth read it",
        "train.window_steps": not widening and "only train.window_schedule grow and depth read it",
        "train.window_choices": train.window_schedule != "random"
        and "only train.window_schedule random reads it",
        "tokenizer.type": train.init_from and "the tokenizer is that of train.init_from",
        "tokenizer.vocab_size": train.init_from and "the tokenizer is that of train.init_from",
        "train.decay_fraction": train.schedule != "wsd" and "only train.schedule wsd reads it",
        "sample.top_k": config.sample.temperature == 0 and "sample.temperature is 0",
        "sample.top_p": config.sample.temperature == 0 and "sample.temperature is 0",
        "sample.min_p": config.sample.temperature == 0 and "sample.temperature is 0",
    }
    return [
        f"{name} has no effect: {reason}"
        for name, reason in idle.items()
        if reason and value_of(config, name) != SETTINGS[name].default
    ]


def conflicts(config: Config) -> Iterator[tuple[list[str], str]]:
    """Yield what is wrong between settings that are right alone, with their names."""
    data, train = config.data, config.train
    try:
        model_config(config, config.tokenizer.vocab_size)
    except UserError as error:
        shape = [name for name in SETTINGS if name.startswith("model.")]
        named = [name for name in shape if f"{name} " in str(error)]  # these lines are shown first
        yield [*named, *shape, "tokenizer.vocab_size"], str(error)
    for name, path in (("run_dir", config.run_dir), ("data.path", data.path)):
        if path is not None and (not path or "\0" in path):
            yield [name], f"{name} is {spell(path)}, a path or null is needed"
    if data.near > data.far:
        names = ["data.near", "data.far"]
        yield names, f"data.near is {data.near}, more than data.far, {data.far}: make it smaller"
    for name in data.mix or ():
        source, colon, path = name.partition(":")
        wants_path = source in ("files", "hub")
        if source not in SOURCES or bool(path) != wants_path or bool(colon) != wants_path:
            known = "stories, shakespeare, files:PATH or hub:ID"
            given = spell(dict(data.mix or {}))
            yield ["data.mix"], f"data.mix is {given}, for {spell(name)} one of {known} is needed"
    if train.window_schedule == "random" and not train.window_choices:
        names = ["train.window_schedule", "train.window_choices"]
        yield names, "train.window_schedule random needs train.window_choices, such as [16, 64]"
    if train.window_schedule in ("grow", "depth") and not train.window_steps:
        names = ["train.window_schedule", "train.window_steps"]
        yield names, f"train.window_schedule {train.window_schedule} needs train.window_steps"
    if data.val_fraction + data.test_fraction >= 1:
        names = ["data.val_fraction", "data.test_fraction"]
        total = f"{data.val_fraction:g} + {data.test_fraction:g}"
        yield names, f"{' + '.join(names)} is {total}: nothing is left to train on"
    decay = round(train.decay_fraction * train.max_steps) if train.schedule == "wsd" else 0
    if train.warmup_steps > train.max_steps - max(decay, 1):
        names = ["train.warmup_steps", "train.max_steps", "train.decay_fraction", "train.schedule"]
        plus = f" plus {decay} steps of decay" if decay else ""
        ends = f"it must end before train.max_steps ({train.max_steps})"
        yield names, f"train.warmup_steps is {train.warmup_steps}{plus}: {ends}"
