"""RoPE as `config.json` describes it, in the settings of Breeze.

transformers 5 writes `rope_parameters`, earlier versions `rope_theta` and `rope_scaling`; if both
are there, it reads `rope_scaling`. The scaling's kind is `rope_type`, earlier `type`.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from configs.setting import spell
from errors import UserError
from model.window import Window

THETA = 10_000.0  # transformers' default


def rope_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return rope_scaling, rope_factor and rope_original_len.

    Raises `UserError` for a scaling that Breeze does not compute.
    """
    rope = _parameters(values)
    kind = rope.get("rope_type", rope.get("type", "default"))
    share = rope.get("partial_rotary_factor", values.get("partial_rotary_factor"))
    if share not in (None, 1):
        raise UserError(f"partial_rotary_factor is {spell(share)}: Breeze rotates all of a head")
    if kind == "default":
        return {}
    if kind not in ("linear", "yarn"):
        raise UserError(
            f"the rope type is {spell(kind)}: Breeze scales RoPE by linear or yarn only"
        )
    settings: dict[str, Any] = {"rope_scaling": kind, "rope_factor": number(rope, "factor")}
    if kind == "yarn":
        _refuse_other_yarn(rope)
        key = "original_max_position_embeddings"
        length = values.get(key) or rope.get(key) or values.get("max_position_embeddings")
        if type(length) is not int:
            raise UserError(f"{key} is {spell(length)}: yarn needs the trained length in tokens")
        settings["rope_original_len"] = length
    return settings


def _parameters(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of all layers. Raises `UserError` if they differ between layers."""
    key = "rope_scaling" if values.get("rope_scaling") else "rope_parameters"
    rope = values.get(key) or {}
    if not isinstance(rope, dict):
        raise UserError(f"{key} is {spell(rope)}: an object is needed")
    for name, value in rope.items():
        if isinstance(value, dict):
            raise UserError(f"{key} has its own parameters for {name}: Breeze cannot read these")
    return rope


def _refuse_other_yarn(rope: Mapping[str, Any]) -> None:
    """Raise `UserError` for constants of YaRN other than the paper's (`model/rope.py`)."""
    from model.rope import FAST, SLOW  # imports torch

    for key, value in (("beta_fast", FAST), ("beta_slow", SLOW), ("truncate", True)):
        if rope.get(key, value) not in (None, value):
            raise UserError(f"{key} is {spell(rope[key])}: Breeze's yarn has {value}")
    magnitude = 0.1 * math.log(number(rope, "factor")) + 1
    given = rope.get("attention_factor")
    if given is not None and not math.isclose(number(rope, "attention_factor"), magnitude):
        raise UserError(
            f"attention_factor is {given}: Breeze's yarn has 0.1 ln(factor) + 1 = {magnitude:g}"
        )
    if given is None and rope.get("mscale") and rope.get("mscale_all_dim"):
        raise UserError("mscale and mscale_all_dim are set: Breeze's yarn has neither")


def local_theta(values: Mapping[str, Any], windows: Sequence[Window]) -> tuple[float, float | None]:
    """Return rope_theta and rope_theta_local, which is None if all layers have one theta.

    Raises `UserError` if layers of one kind have different bases, or a base of 0 (no RoPE).
    """
    rope = _parameters(values)
    theta = number(rope if "rope_theta" in rope else values, "rope_theta", THETA)
    each = values.get("layer_rope_theta")
    if each is None:
        return theta, None
    if not isinstance(each, list) or len(each) != len(windows):
        raise UserError(f"layer_rope_theta is {spell(each)}: a number for each layer is needed")
    if 0 in each:
        raise UserError("layer_rope_theta has a 0: in Breeze, every layer rotates (RoPE)")
    each = [number({"layer_rope_theta": base}, "layer_rope_theta") for base in each]
    local = {base for base, window in zip(each, windows, strict=True) if window is not None}
    full = {base for base, window in zip(each, windows, strict=True) if window is None}
    if len(local) > 1 or len(full) > 1:
        raise UserError(
            f"layer_rope_theta is {spell(each)}: Breeze has one base for layers with a window and "
            "one for the others"
        )
    if not local or not full or local == full:
        return (full or local).pop(), None
    if rope_settings(values):
        raise UserError(
            "layer_rope_theta and a scaling of RoPE: Breeze scales only the layers without a window"
        )
    return full.pop(), local.pop()


def number(values: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """Return a finite number, or `default` for null. Raises `UserError` if it is something else."""
    value = values.get(key)
    value = default if value is None else value
    if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:  # type: ignore[arg-type]
        raise UserError(f"{key} is {spell(value)}: a number is needed")
    return float(value)  # type: ignore[arg-type]
