"""The model card of an export: what the model is, its own numbers, and how it was made."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from configs.settings import SETTINGS, Config, value_of
from model.config import ModelConfig
from model.window import reach


@dataclass(frozen=True)
class Facts:
    """What a card says. `val_loss` is in nats per token; None: it was not measured."""

    name: str
    model: ModelConfig
    config: Config
    step: int
    imported_from: str | None  # a folder, or OWNER/NAME@COMMIT of the Hub; None: trained here
    val_loss: float | None
    val_bpb: float | None
    checks: Sequence[str]  # one sentence each
    usage: str  # lines of Python that load the model


_CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [breeze, sliding-window-attention]
---

# {name}

A language model of {parameters:,} parameters, {origin}

{shape}

## Its numbers

{numbers}

## How to load it

```python
{usage}
```

## How it was made

`breeze.yaml` in this folder holds all settings. In a checkout of Breeze:

```sh
{command}
```

These settings differ from the defaults:

{settings}
"""


_TRAINED = """trained with Breeze.
It is small: it shows how sliding-window attention works. It is not made for use in products."""


def model_card(facts: Facts) -> str:
    """Return the card in Markdown, with the header that the Hub reads."""
    origin, command = _TRAINED, f"python train.py breeze.yaml run_dir=runs/{facts.name}"
    if facts.imported_from is not None:
        found = re.fullmatch(r"(.+)@([0-9a-f]{40})", facts.imported_from)
        source, commit = found.groups() if found else (facts.imported_from, None)
        origin = f"imported into Breeze from {facts.imported_from}, and not trained further."
        revision = f" --revision {commit}" if commit else ""
        command = f"python -m scripts.import_hf {source}{revision} --out runs/{facts.name}"
    return _CARD.format(
        name=facts.name,
        parameters=sum(facts.model.parameter_counts().values()),
        shape=_shape(facts.model),
        origin=origin,
        command=command,
        numbers=_numbers(facts),
        usage=facts.usage,
        settings=_settings(facts.config),
    )


def _numbers(facts: Facts) -> str:
    """Return a list of what was measured."""
    trained = facts.step * facts.config.tokens_per_step
    numbers = [f"trained for {facts.step:,} steps, {trained:,} tokens"] if trained else []
    if facts.val_loss is not None:
        bits = "" if facts.val_bpb is None else f", {facts.val_bpb:.4f} bits per byte"
        numbers.append(f"validation: {facts.val_loss:.4f} nats per token{bits}")
    return "\n".join(f"- {line}" for line in (*numbers, *facts.checks))


def _shape(model: ModelConfig) -> str:
    """Return a table of the architecture."""
    windows = ", ".join("full" if window is None else f"{window:,}" for window in model.windows)
    tokens = reach(model.windows)
    rows = {
        "layers": f"{model.n_layers}",
        "width": f"{model.dim}",
        "heads": f"{model.n_heads} of {model.head_dim}, {model.n_kv_heads} for keys and values",
        "sliding window of each layer": windows,
        "reach through the layers": f"{tokens:,} tokens" if tokens else "all earlier tokens",
        "vocabulary": f"{model.vocab_size:,}",
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _settings(config: Config) -> str:
    """Return a list of the settings that are not the default."""
    changed = {
        name: value_of(config, name)
        for name, setting in SETTINGS.items()
        if name != "run_dir" and value_of(config, name) != setting.default
    }
    return "\n".join(f"- `{name}`: {value}" for name, value in changed.items()) or "- none"
