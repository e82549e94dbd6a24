"""Bands: the validation losses of finished runs of a shipped config, by step.

`configs/bands/NAME.json` belongs to `configs/NAME.yaml`. `python -m experiments.usual_loss` writes
it; docs/loss.md says how a band is computed and what it means. It applies to a run whose text is
equal and whose settings are equal in all that changes the loss.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.settings import SETTINGS, Config, value_of

BANDS = Path(__file__).parent / "bands"

# Settings that do not change the loss at a step, beside those of `sample`. The seed, the precision
# and the machine change it a little: the runs of a band differ in them. `data.path` is free because
# the content of the text is compared.
FREE = {
    "run_dir", "seed", "data.path", "data.processes", "model.attention", "train.precision",
    "train.compile", "train.native", "train.device", "train.parallel", "train.loggers",
    "train.eval_interval", "train.save_interval", "train.log_interval", "train.keep_checkpoints",
    "train.patience", "train.eval_batch_size",
}  # fmt: skip
_BATCH = {"train.micro_batch_size", "train.grad_accum_steps"}  # only their product matters

NEAR = 4  # a band that differs in so many settings is named, with the settings


@dataclass(frozen=True)
class Band:
    """Where 99 of 100 runs of a config lie, as far as the measured ones tell."""

    name: str  # of the config
    settings: Mapping[str, Any]  # see `deciding`
    data_hash: str
    runs: int
    spans: Mapping[int, tuple[float, float]]  # step -> lowest and highest usual val_loss


def deciding(config: Config) -> dict[str, Any]:
    """Return the settings that change the loss, by dotted name, as plain JSON values."""
    names = [name for name in SETTINGS if not name.startswith("sample.") and name not in FREE]
    settings = {name: value_of(config, name) for name in names if name not in _BATCH}
    plain: dict[str, Any] = _plain(settings | {"batch_size": config.batch_size})
    return plain


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the names of the settings that differ; a setting that is missing has its default."""

    def value(settings: Mapping[str, Any], name: str) -> Any:
        default = SETTINGS[name].default if name in SETTINGS else None
        return settings.get(name, _plain(default))

    return [name for name in {**one, **other} if value(one, name) != value(other, name)]


def _plain(value: Any) -> Any:
    """Return the value as JSON has it: tuples become lists."""
    return json.loads(json.dumps(value))


def band_file(name: str) -> Path:
    """Return the path of the band of configs/NAME.yaml, which may not exist."""
    return BANDS / f"{name}.json"


def read_band(path: Path) -> Band:
    """Read a file that `experiments.usual_loss` wrote."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    spans = {int(step): (span["low"], span["high"]) for step, span in stored["steps"].items()}
    return Band(path.stem, stored["settings"], stored["data_hash"], len(stored["runs"]), spans)


def band_of(config: Config, data_hash: str) -> tuple[Band | None, str]:
    """Return the band that applies to a run of `config` on the text `data_hash`, with its source;
    or None with the reason why none applies."""
    ours = deciding(config)
    bands = [read_band(path) for path in sorted(BANDS.glob("*.json"))]
    if not bands:
        return None, "no config has a band"
    by_distance = {band.name: differences(ours, band.settings) for band in bands}
    nearest = min(bands, key=lambda band: len(by_distance[band.name]))
    different, file = by_distance[nearest.name], f"configs/{nearest.name}.yaml"
    if len(different) > NEAR:
        return None, "only shipped configs as they are have a band"
    if different:
        verb = "differs" if len(different) == 1 else "differ"
        return None, f"{', '.join(different)} {verb} from {file}"
    if data_hash != nearest.data_hash:
        return None, f"the text or its tokenizer is not that of {file}"
    return nearest, f"{nearest.runs} runs of {file}"
