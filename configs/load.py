"""Read a config: a YAML file and `section.key=value` overrides become a checked `Config`.

All mistakes are reported together, in one line that names the file, the line and the key.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs import strict_yaml
from configs.rules import conflicts
from configs.setting import spell
from configs.settings import SECTIONS, SETTINGS, Config
from errors import UserError

QUICKSTART = "configs/quickstart.yaml"
MAX_BYTES = 65_536  # a config is a page or two; a larger file is refused unread
SHOWN = 10  # mistakes listed in one line; the rest are counted

Given = tuple[Any, str]  # a value, and where it was given: "line 12: "


def split_arguments(words: Sequence[str]) -> tuple[str, list[str]]:
    """Split `[CONFIG] [section.key=value ...]` into the file, quickstart if none, and the rest."""
    if not words or ("=" in words[0] and not words[0].endswith((".yaml", ".yml"))):
        return QUICKSTART, list(words)
    return words[0], list(words[1:])


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, then `section.key=value` overrides, the later the stronger.

    Raises `UserError`, one line that names the file and every mistake in it.
    """
    path = Path(path)
    document = _document(path)
    if not isinstance(document.value, dict | None):
        raise UserError(f"{path}: holds {spell(document.value)}, sections with keys are needed")
    given = _flatten(document.value or {}, document.lines)
    mistakes = document.twice
    for text in overrides:
        try:
            name, value = _override(text)
        except UserError as error:
            mistakes.append(f"command line: {error}")
        else:
            given[name] = (value, "command line: ")
    config = _check(given, mistakes, str(path))
    return replace(config, run_dir=config.run_dir or f"runs/{path.stem}")


def config_from_dict(values: Mapping[str, Any], source: str = "config") -> Config:
    """Build a config from `to_dict`'s values, checked as strictly as a file.

    A setting that is not there has its default. Raises `UserError` whose line begins with `source`.
    """
    return _check(_flatten(values, {}), [], source)


def to_yaml(config: Config) -> str:
    """Write the whole config as YAML that loads back to an equal config."""
    return strict_yaml.dump(config.to_dict())


def _document(path: Path) -> strict_yaml.Document:
    """Read and parse a file, refusing early what is no small text."""
    try:
        if not path.exists():
            raise UserError(f"{path}: no such file{_neighbour(path)}")
        if not path.is_file():  # a pipe would be waited for, a device never ends
            raise UserError(f"{path}: not a regular file, a YAML file is needed")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes, that is no config")
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
    names = [file.name for file in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    return f", did you mean {path.parent / close[0]}?" if close else ""


def _flatten(values: Mapping[str, Any], lines: Mapping[str, int]) -> dict[str, Given]:
    """Turn nested values into dotted names, each with the place where it was given."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in SECTIONS and isinstance(value, Mapping):
            flat.update({f"{key}.{leaf}": item for leaf, item in value.items()})
        elif key not in SECTIONS or value is not None:  # a section may be left empty
            # A dot in the file's own key is no section: quoted, it is no setting's name either.
            flat[f'"{key}"' if "." in str(key) else str(key)] = value
    return {
        name: (value, f"line {lines[name]}: " if name in lines else "")
        for name, value in flat.items()
    }


def _override(text: str) -> tuple[str, Any]:
    """Split `section.key=value`; text is taken as it is, all else is read as in the file."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{spell(text)} is no override, write section.key=value")
    known = SETTINGS.get(name)
    if known and known.is_text:  # `sample.prompt=ROMEO:` would be a mapping in YAML
        return name, (None if known.is_nullable and value == "null" else value)
    try:
        return name, strict_yaml.parse(value).value
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _check(given: Mapping[str, Given], mistakes: Sequence[str], source: str) -> Config:
    """Build the config, or raise one `UserError` with all that is wrong."""
    mistakes, wrong = list(mistakes), set()
    accepted: dict[str, Any] = {name: {} for name in SECTIONS}
    for name, (value, where) in given.items():
        try:
            if name not in SETTINGS:
                # Looking for the nearest name is slow; what is not shown need not be looked for.
                raise UserError(_unknown(name, value) if len(mistakes) < SHOWN else name)
            head, _, key = name.rpartition(".")
            (accepted[head] if head else accepted)[key] = SETTINGS[name].accept(value)
        except UserError as error:
            mistakes.append(f"{where}{error}")
            wrong.add(name)
    sections = {name: section(**accepted.pop(name)) for name, section in SECTIONS.items()}
    config = Config(**accepted, **sections)
    for names, conflict in conflicts(config):
        # A default that stands in for a mistake would conflict for nothing.
        if wrong.isdisjoint(names):
            where = next((given[name][1] for name in names if name in given), "")
            mistakes.append(f"{where}{conflict}")
    if mistakes:
        raise UserError(_one_line(source, mistakes))
    return config


def _unknown(name: str, value: Any) -> str:
    if name in SECTIONS:
        return f"{name} is {spell(value)}, but a section: write {name}.key=value or keys beneath it"
    leaf = name.rpartition(".")[2]
    elsewhere = [known for known in SETTINGS if known.rpartition(".")[2] == leaf]
    close = elsewhere or difflib.get_close_matches(name, [*SETTINGS, *SECTIONS], n=1)
    return f"{name} is unknown" + (f", did you mean {close[0]}?" if close else "")


def _one_line(source: str, mistakes: Sequence[str]) -> str:
    count = f"{len(mistakes)} mistakes: " if len(mistakes) > 1 else ""
    more = f"; and {len(mistakes) - SHOWN} more" if len(mistakes) > SHOWN else ""
    line = f"{source}: {count}{'; '.join(mistakes[:SHOWN])}{more}"
    return "".join(c if c.isprintable() else "\ufffd" for c in line)  # no terminal escapes
