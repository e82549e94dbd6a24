"""Read a config: from a YAML file and `section.key=value` overrides to a checked `Config`.

All errors are reported together, in one line that names the file, the line and the key.
"""

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from configs import strict_yaml
from configs.rules import (
    conflicts,
    for_adapters,
    for_trained_weights,
    is_local_path,
    of_trained_model,
    too_long,
    without_effect,
)
from configs.setting import spell
from configs.settings import SECTIONS, SETTINGS, Config, value_of
from configs.spelling import meant_by, refuse_spaces, unknown
from errors import UserError, printable

SHIPPED = Path(__file__).parent  # the folder of the configs that come with Breeze
QUICKSTART = "configs/quickstart.yaml"  # the default config, as users name it
MAX_BYTES = 65_536  # a config is much smaller; a larger file is refused before it is read
SHOWN = 10  # errors listed in one line; the rest are counted

# A setting that would be changed to fit stays if the user asked for one of these.
TOGETHER = {
    "train.window_schedule": ("train.window_schedule", "train.window_from", "train.window_steps")
}


# The settings of the weights from which a run starts: the section `model`, and `vocab_size`.
TrainedSettings = Callable[[Config], Mapping[str, Any]]


class Given(NamedTuple):
    """A value, and where it was written."""

    value: Any
    place: str  # "line 12: ", "command line: "
    is_asked_for: bool = False  # by this user, not by a shipped config or one that a run saved


def split_arguments(words: Sequence[str]) -> tuple[str, list[str]]:
    """Split `[CONFIG] [section.key=value ...]`, in any order, into the path and the overrides.

    Without CONFIG, the path is that of quickstart.yaml. Raises `UserError` for `key = value` with
    spaces.
    """
    refuse_spaces(words)
    for n, word in enumerate(words):
        if "=" not in word or (_has_suffix(word) and word.partition("=")[0] not in SETTINGS):
            return word, [*words[:n], *words[n + 1 :]]
    default = SHIPPED / Path(QUICKSTART).name
    is_below = default.is_relative_to(Path.cwd())
    return str(default.relative_to(Path.cwd()) if is_below else default), list(words)


def load_config(
    path: str | Path, overrides: Sequence[str] = (), trained: TrainedSettings | None = None
) -> Config:
    """Read a YAML file, then `section.key=value` overrides; the last value of a key counts.

    A relative path that does not exist is looked up where Breeze is installed. A `data.path` given
    after the source sets the source. Settings that do not fit a short run or a trained
    model, and that the user did not ask for, are changed. Notes on stderr report both. `trained`
    returns the model's settings of the weights that the user named in train.init_from; without it,
    the config's stay. Raises `UserError`, one line that names the file and every error. A setting
    that the user asked for and that has no effect is an error.
    """
    path = _locate(Path(path))
    in_file, errors = _read_file(path)
    in_overrides, more = _read_overrides(overrides)
    given = {**in_file, **in_overrides}
    notes = _set_source(given, in_file, in_overrides)
    if "run_dir" not in given or given["run_dir"].value is None:
        given["run_dir"] = Given(f"runs/{path.stem}", "")
    config, shortened = _check(given, [*errors, *more], str(path), trained)
    if ineffective := _ineffective(config, in_file, in_overrides):
        raise UserError(_one_line(str(path), ineffective))
    for note in [*notes, *shortened]:
        print(f"note: {note}", file=sys.stderr)
    return config


def config_from_dict(values: Mapping[str, Any], source: str = "config") -> Config:
    """Build a config from the values of `to_dict`, checked as strictly as a file.

    A missing setting has its default. Raises `UserError`; its message begins with `source`.
    """
    given = {name: Given(value, "") for name, value in _flatten(values).items()}
    return _check(given, [], source)[0]


def to_yaml(config: Config) -> str:
    """Write the whole config as YAML that loads back to an equal config."""
    return strict_yaml.dump(config.to_dict())


# Reading


def _has_suffix(word: str) -> bool:
    return word.endswith((".yaml", ".yml"))


def _locate(path: Path) -> Path:
    """Return `path` if it exists, otherwise the file of that name where Breeze is installed."""
    with suppress(OSError):  # a name that is too long; `_parse` reports it
        if not path.exists() and (SHIPPED.parent / path).is_file():
            return SHIPPED.parent / path
    return path


def _read_file(path: Path) -> tuple[dict[str, Given], list[str]]:
    """Return the settings in a file, and the errors after which reading can continue.

    A file with most settings was saved by a run: it also has values that the user did not ask for.
    """
    document = _parse(path)
    if not isinstance(document.value, dict | None):
        raise UserError(f"{path}: holds {spell(document.value)}, sections with keys are needed")
    values, lines = _flatten(document.value or {}), document.lines
    is_own = path.resolve().parent != SHIPPED and len(values) <= len(SETTINGS) // 2
    given = {
        name: Given(value, f"line {lines[name]}: " if name in lines else "", is_own)
        for name, value in values.items()
    }
    return given, document.duplicates


def _parse(path: Path) -> strict_yaml.Document:
    """Read and parse a file. Raises `UserError` if it is missing, irregular or too large."""
    try:
        if not path.exists():
            raise UserError(f"{path}: no such file{_neighbour(path)}")
        if not path.is_file():  # reading a pipe may never return, and a device may have no end
            raise UserError(f"{path}: not a regular file, a YAML file is needed")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes, too large for a config")
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}), save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return strict_yaml.parse(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _neighbour(path: Path) -> str:
    """Return advice on the name of a file that does not exist."""
    if not _has_suffix(path.name) and (meant := meant_by(str(path))) in SETTINGS:
        return f"; to change a setting write {meant}=VALUE"
    names = [file.name for file in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    return f", did you mean {path.parent / close[0]}?" if close else ""


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn nested values into values by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in SECTIONS and isinstance(value, Mapping):
            flat.update({f"{key}.{leaf}": item for leaf, item in value.items()})
        elif key not in SECTIONS or value is not None:  # a section may be empty
            # A key with a dot in a file is an error; in quotes it matches no setting.
            flat[f'"{key}"' if "." in str(key) else str(key)] = value
    return flat


def _read_overrides(overrides: Sequence[str]) -> tuple[dict[str, Given], list[str]]:
    """Return the settings on the command line, and the errors in them."""
    place = "command line: "
    given, errors = {}, []
    for text in overrides:
        try:
            name, value = _override(text)
        except UserError as error:
            errors.append(f"{place}{error}")
        else:
            given[name] = Given(value, place, is_asked_for=True)
    return given, errors


def _override(text: str) -> tuple[str, Any]:
    """Split `section.key=value`. The value of a text setting is taken literally, others as YAML."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{spell(text)} is not an override, write section.key=value")
    known = SETTINGS.get(name)
    if known and known.is_text:  # `sample.prompt=ROMEO:` would be a mapping in YAML
        return name, (None if known.is_nullable and value == "null" else value)
    try:
        return name, strict_yaml.parse(value).value
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


# Checking


def _set_source(
    given: dict[str, Given], in_file: Mapping[str, Given], in_overrides: Mapping[str, Given]
) -> list[str]:
    """Set `data.source` to files if a path of files is given after the source; return the notes."""
    later = [in_overrides] if "data.path" in in_overrides else [in_file, in_overrides]
    if any(name in each for each in later for name in ("data.source", "data.mix")):
        return []
    path = given["data.path"].value if "data.path" in given else None
    source = given["data.source"].value if "data.source" in given else Config().data.source
    is_mixed = "data.mix" in given and given["data.mix"].value is not None
    if source == "files" or is_mixed or not isinstance(path, str):
        return []
    if not is_local_path(path, source):
        return []
    given["data.source"] = Given("files", "")
    return [f"data.source is files instead of {source}, because data.path names files"]


def _check(
    given: Mapping[str, Given],
    errors: list[str],
    source: str,
    trained: TrainedSettings | None = None,
) -> tuple[Config, list[str]]:
    """Build the config; return it with notes. Raises one `UserError` with all errors."""
    config, wrong = _build(given, errors)
    notes = []
    fitting = []
    if config.train.init_from and _is_asked_for("train.init_from", given):
        if trained is not None and not errors:
            config, more = _fit_model(config, trained(config), given, errors)
            notes += more
        fitting.append((for_trained_weights, "train.init_from names a trained model"))
    if config.train.lora_rank and _is_asked_for("train.lora_rank", given):
        fitting.append((for_adapters, "train.lora_rank trains adapters"))
    fitting.append((too_long, f"train.max_steps is {config.train.max_steps}"))
    for rule, reason in fitting:
        for name, value in rule(config).items():
            if not any(_is_asked_for(asked, given) for asked in TOGETHER.get(name, (name,))):
                was = value_of(config, name)
                notes.append(f"{name} is {value} instead of {was}, because {reason}")
                changed = {name.removeprefix("train."): value}
                config = replace(config, train=replace(config.train, **changed))
    for names, conflict in conflicts(config):
        # A wrong value is replaced by the default, whose conflicts are not the user's.
        if wrong.isdisjoint(names):
            place = next((given[name].place for name in names if name in given), "")
            errors.append(f"{place}{conflict}")
    if errors:
        raise UserError(_one_line(source, errors))
    return config, notes


def _fit_model(
    config: Config, model: Mapping[str, Any], given: Mapping[str, Given], errors: list[str]
) -> tuple[Config, list[str]]:
    """Take the settings of a trained `model` that the user did not ask for; return them with a
    note. Add an error for each that the user asked for and that does not fit the weights."""
    asked = {name.removeprefix("model.") for name in given if _is_asked_for(name, given)}
    settings, tokenizer = dict(model), config.tokenizer
    vocab_size = settings.pop("vocab_size")
    if not _is_asked_for("tokenizer.vocab_size", given):
        tokenizer = replace(tokenizer, vocab_size=vocab_size)
    changes, contradictions = of_trained_model(config, settings, asked)
    for key, value in contradictions.items():
        name = f"model.{key}"
        errors.append(
            f"{given[name].place}{name} is {spell(getattr(config.model, key))}, but that of the "
            f"trained model is {spell(value)}, and its weights fit no other: leave {name} out"
        )
    fitted = replace(config, model=replace(config.model, **changes), tokenizer=tokenizer)
    names = [f"model.{key}" for key in changes]
    if tokenizer != config.tokenizer:
        names.append("tokenizer.vocab_size")
    changed = ", ".join(
        f"{name} is {spell(value_of(fitted, name))} instead of {spell(value_of(config, name))}"
        for name in names
    )
    note = f"{changed}, because train.init_from names a trained model"
    return fitted, [note] if names else []


def _build(given: Mapping[str, Given], errors: list[str]) -> tuple[Config, set[str]]:
    """Return the config of all valid values and the names of the wrong settings; add to
    `errors`."""
    wrong = set()
    accepted: dict[str, Any] = {name: {} for name in SECTIONS}
    for name, (value, place, _) in given.items():
        try:
            if name not in SETTINGS:
                # Searching for the nearest name is slow; errors that are not shown do not need it.
                raise UserError(unknown(name, value) if len(errors) < SHOWN else name)
            head, _, key = name.rpartition(".")
            (accepted[head] if head else accepted)[key] = SETTINGS[name].accept(value)
        except UserError as error:
            errors.append(f"{place}{error}")
            wrong.add(name)
    sections = {name: section(**accepted.pop(name)) for name, section in SECTIONS.items()}
    return Config(**accepted, **sections), wrong


def _is_asked_for(name: str, given: Mapping[str, Given]) -> bool:
    return name in given and given[name].is_asked_for


def _ineffective(
    config: Config, in_file: Mapping[str, Given], in_overrides: Mapping[str, Given]
) -> list[str]:
    """Return an error for each setting that the user asked for and that has no effect.

    A setting in the file that has no effect only because of an override is not an error.
    """
    in_file_alone = without_effect(_build(in_file, [])[0])
    return [
        f"{given[name].place}{name} has no effect: {reason}; change or remove one of the two"
        for name, reason in without_effect(config).items()
        for given in (in_overrides, in_file)
        if _is_asked_for(name, given) and (given is in_overrides or name in in_file_alone)
    ]


def _one_line(source: str, errors: Sequence[str]) -> str:
    count = f"{len(errors)} errors: " if len(errors) > 1 else ""
    more = f"; and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
    return printable(f"{source}: {count}{'; '.join(errors[:SHOWN])}{more}")
