"""The words of `--windows`: what each one changes in a config, and the name of its folder.

8  full  [32,full]    keys in every layer, all earlier tokens, a pattern tiled over the layers
rising:64             doubles from layer to layer up to 64 in the last: 8, 16, 32, 64
falling:64            the reverse: 64, 32, 16, 8
constant:64           64 in every step, whatever train.window_schedule of the config is
grow:64  depth:64     grows from an eighth of it in the first half (see training/windows.py)
random:64             each step draws 8, 16, 32 or 64, and 64 is used in the end
W+4 W+token W+logits  W with 4 sinks, with a sink token, with sink logits; they may follow
                      each other, as in 64+4+logits
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from configs.settings import Config
from errors import UserError

GRAMMAR = (
    "number of keys | full | [32,full], tiled over the layers | rising:64, falling:64, which "
    "double and halve by layer | constant:64, grow:64, depth:64, random:64, schedules in training; "
    "sinks follow a plus: 64+4, 64+token, 64+logits"
)
SINKS = {"token": "model.sink_token=true", "logits": "model.sink_logits=true"}
NARROW = 8  # schedules begin with a window that is so many times narrower
LARGEST = 10**9  # keys; more is a slip of the keyboard


@dataclass(frozen=True)
class Choice:
    """One word of `--windows`."""

    word: str
    overrides: tuple[str, ...]  # section.key=value

    @property
    def folder(self) -> str:
        """The name of its folder in a sweep, such as window-8, window-32-full, window-64-plus-4."""
        name = re.sub(r"[^A-Za-z0-9]+", "-", self.word.replace("+", "-plus-"))
        return f"window-{name.strip('-')}"


def choices_of(words: Sequence[str], config: Config) -> list[Choice]:
    """Return the choices that the words of `--windows` stand for, each once, in their order.

    A word may hold several, separated by commas. Layers and steps are those of `config`. Raises
    `UserError` for a word that is not one.
    """
    split = [part for word in words for part in _split(word)]
    found = {choice.folder: choice for choice in (_choice(word, config) for word in split)}
    if not found:
        raise UserError("--windows is empty: give windows, such as 8,32,full")
    return list(found.values())


def _split(word: str) -> list[str]:
    """Split at the commas that are not in brackets: "8,[32,full],full" has three parts."""
    word = word.replace(" ", "")
    return [part for part in re.split(r",(?![^\[]*\])", word) if part]


def _choice(word: str, config: Config) -> Choice:
    attention, *sinks = word.split("+")
    kind, colon, width = attention.rpartition(":")
    if colon:
        name, overrides = _by_kind(word, kind, width, config)
    else:
        name, overrides = _plain(word, attention)
    for sink in sinks:
        if sink in SINKS:
            overrides.append(SINKS[sink])
        elif sink.isdecimal() and int(sink) > 0:
            if name == "full":
                raise UserError(f"--windows {word}: full attention sees the first tokens anyway")
            overrides.append(f"model.attention_sinks={int(sink)}")
        else:
            raise UserError(f"--windows {word}: after + give a number of sinks, token or logits")
    return Choice("+".join([name, *sinks]), tuple(overrides))


def _plain(word: str, attention: str) -> tuple[str, list[str]]:
    """Read a number, `full` or a pattern in brackets."""
    if not (attention.startswith("[") and attention.endswith("]")):
        window = _window(word, attention)
        return window, [f"model.sliding_window={_yaml(window)}"]
    windows = [_window(word, part) for part in attention[1:-1].split(",")]
    if len(set(windows)) == 1:
        return windows[0], [f"model.sliding_window={_yaml(windows[0])}"]
    pattern = ",".join(windows)
    return f"[{pattern}]", [f"model.sliding_window=[{', '.join(map(_yaml, windows))}]"]


def _by_kind(word: str, kind: str, width: str, config: Config) -> tuple[str, list[str]]:
    """Read KIND:W."""
    window = _window(word, width)
    train, n_layers = config.train, config.model.n_layers
    if window == "full" and kind in ("rising", "falling", "random"):
        raise UserError(f"--windows {word}: {kind} needs a number of keys, such as {kind}:64")
    if kind in ("rising", "falling"):
        widths = [max(1, int(window) >> (n_layers - 1 - layer)) for layer in range(n_layers)]
        ordered = widths if kind == "rising" else widths[::-1]
        overrides = [f"model.sliding_window=[{', '.join(map(str, ordered))}]"]
    elif kind in ("constant", "grow", "depth", "random"):
        overrides = [f"model.sliding_window={_yaml(window)}", f"train.window_schedule={kind}"]
        widest = config.data.seq_len if window == "full" else int(window)
        if kind in ("grow", "depth"):
            steps = max(1, (train.max_steps - train.drill_steps) // 2)
            overrides += [f"train.window_from={max(1, widest // NARROW)}"]
            overrides += [f"train.window_steps={steps}"]
        if kind == "random":
            drawn = sorted({max(1, widest >> n) for n in range(NARROW.bit_length())})
            overrides.append(f"train.window_choices=[{', '.join(map(str, drawn))}]")
    else:
        raise UserError(f"--windows {word}: give {GRAMMAR}")
    return f"{kind}:{window}", overrides


def _window(word: str, text: str) -> str:
    """Return "full" or the number of keys, without leading zeros."""
    if text == "full":
        return text
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= LARGEST:
        raise UserError(f"--windows {word}: give {GRAMMAR}")
    return str(int(text))


def _yaml(window: str) -> str:
    return "null" if window == "full" else window
