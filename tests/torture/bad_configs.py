"""Config files with mutated bytes, and every setting with every hostile value.

A config must load, and then its dump must load back equal, or it must be refused in one line that
names the file or the key.
"""

import itertools
import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from torture.confined import Attempt, confined, in_memory
from torture.family import Case, Family
from torture.hostile_values import JSON_VALUES, TEXTS

from configs.load import MAX_BYTES, config_from_dict, load_config, to_yaml
from configs.settings import SECTIONS, SETTINGS

# A config with each kind of value; short, because PyYAML reads slowly.
SEED_TEXT = """\
# a comment
seed: 3
run_dir: runs/x
model: {dim: 64, n_layers: 2, sliding_window: [8, null]}
data:
  source: files
  path: "a b.txt"
  val_fraction: 0.05
  mix:
tokenizer:
  type: char
train:
  lr: 3e-4
  max_steps: 1_000
  compile: auto
  loggers: [jsonl]
sample:
  prompt: 'Once upon: a time'
  top_k: null
"""
TOKENS = (
    "!!python/object/apply:os.system ['id']", "!!python/name:os.system", "!!python/object:x.y {}",
    "!!binary aWQ=", "!!set {a}", "!!timestamp 2001-01-01", "!x 3", "! 3", "!<tag:x> 3", "&a", "*a",
    "&a [*a]", "<<: *a", "<<: {a: 1}", "? a", "? [a]", "? {a: b}", ": ", "- ", "[", "]", "{", "}",
    "[[[[[[[[[[", "{{{{{{{{{{", "|", ">", "|9", ">-", "---", "...", "--- \n---", "%YAML 9.9\n---",
    "%YAML 1." + "9" * 5000 + "\n---", "%TAG ! x\n---", "\t", "\r", "\r\n", "\0", "\x07", "\x1b[2J",
    "\x7f", "\x85", "\u2028", "\ufeff", "\ud800", "\uffff", "\U0010ffff", '"\\x41"', '"\\ud800"',
    '"\\UFFFFFFFF"', '"\\U0010ffff"', '"\\0"', '"', "'", "`", "@", "#", "3e-4", "1e-3", "1.e5",
    ".5", "5.", "012", "0o14", "0x1F", "0b11", "1:30", "1_0", "_1", "+3", "-0", "on", "off", "yes",
    "no", "y", "n", "True", "TRUE", "~", "Null", "NULL", ".inf", "-.inf", ".nan", ".NaN", "nan",
    "inf", "1e999", "-1e999", "1e-999", "9" * 99, "9" * 101, "9" * 5000, "0." + "9" * 5000,
    "1e" + "9" * 99, "2001-01-01", "12:00:00", "=", "<<", "key: value", "a" * 200, "model:",
    "model: 3", "seed: 4", "model: {dim: 3}", "train.lr: 3", '"train.lr": 3', "null: 3", "3: 3",
    "true: 3", "[]: 3", "'': 3", "__class__: 3", "to_dict: 3", "folder: x",
)  # fmt: skip


def _load(path: Path, content: bytes, *overrides: str) -> str | None:
    """Load a config; return what is wrong with what was loaded."""
    path.write_bytes(content)
    config = load_config(path, overrides)
    if config_from_dict(config.to_dict()) != config:
        return "the values do not load back"
    if yaml.safe_load(json.dumps(config.to_dict())) is None:
        return "no values"
    path.write_bytes(to_yaml(config).encode())
    if load_config(path) != config:
        return "the dump does not load back equal"
    return None


# ------------------------------------------------------------------- mutated files


def _mutants(seed_text: str, n_random: int) -> Iterator[tuple[str, bytes]]:
    """Yield (key, content) of changes of each byte, line and token, and random ones."""
    content = seed_text.encode()
    for place in range(len(content)):
        for bit in range(8):
            flipped = bytes([content[place] ^ 1 << bit])
            yield f"bit {bit} of byte {place}", content[:place] + flipped + content[place + 1 :]
        yield f"byte {place} removed", content[:place] + content[place + 1 :]
        yield f"cut before byte {place}", content[:place]
    lines = seed_text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        others = lines[:number] + lines[number + 1 :]
        yield f"line {number} removed", "".join(others).encode()
        yield f"line {number} twice", "".join([*lines[:number], line, *lines[number:]]).encode()
        yield f"line {number} last", "".join([*others, line]).encode()
        yield (
            f"line {number} indented",
            "".join([*lines[:number], "  ", line, *lines[number + 1 :]]).encode(),
        )
        for index, token in enumerate(TOKENS):
            key, colon, _ = line.partition(":")
            raw = token.encode("utf-8", "surrogatepass")
            before, after = "".join(lines[:number]).encode(), "".join(lines[number + 1 :]).encode()
            yield (
                f"line {number} has the value {index}",
                b"%b%b %b\n%b" % (before, (key + colon).encode(), raw, after),
            )
            if number % 4 == 0:
                yield f"before line {number}: {index}", before + raw + b"\n" + line.encode() + after
    draw = random.Random(0)
    for number in range(n_random):
        mutant = bytearray(content)
        for _ in range(draw.randint(2, 12)):
            start = draw.randrange(len(mutant) + 1)
            stop = min(len(mutant), start + draw.choice((0, 1, 2, 5, 20)))
            token = draw.choice(TOKENS).encode("utf-8", "surrogatepass")[:50]
            mutant[start:stop] = draw.choice((b"", token, bytes(mutant[stop : stop + 9])))
        yield f"random {number}", bytes(mutant)


def _whole_files() -> Iterator[tuple[str, bytes]]:
    """Yield (key, content) of files that are hostile as a whole."""
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghi")
    )
    full = MAX_BYTES - 100
    files: dict[str, bytes] = {
        "billion laughs": laughs.encode(), "nothing": b"", "spaces": b" " * full,
        "newlines": b"\n" * full, "tabs": b"\t" * full, "a comment": b"#" * full,
        "zeros": bytes(full), "too large": b"#" * (MAX_BYTES + 1), "a list": b"- a\n- b\n",
        "a number": b"3", "a text": b"hello", "null": b"null", "a tag": b"!!python/x {}",
        "UTF-16": SEED_TEXT.encode("utf-16"), "UTF-16-LE": SEED_TEXT.encode("utf-16-le"),
        "UTF-32": SEED_TEXT.encode("utf-32"), "UTF-8 with BOM": SEED_TEXT.encode("utf-8-sig"),
        "UTF-7": b"model: +AGEA-", "Latin-1": "data: {path: é}".encode("latin-1"),
        "CRLF": SEED_TEXT.replace("\n", "\r\n").encode(),
        "CR": SEED_TEXT.replace("\n", "\r").encode(), "a pickle": b"\x80\x04\x95\x0b.",
        "many unknown keys": b"".join(b"k%d: 1\n" % n for n in range(6_000)),
        "many long keys": b"".join(b"k%d%b: 1\n" % (n, b"x" * 90) for n in range(600)),
        "many keys twice": b"seed: 1\n" * 8_000, "a long list": b"seed: [" + b"1," * 30_000 + b"]",
        "a long mapping": b"data: {mix: {" + b"".join(b"a%d: 1," % n for n in range(7_000)) + b"}}",
        "a long word": b"seed: " + b"x" * full, "a long number": b"seed: " + b"9" * full,
        "a long fraction": b"train: {lr: 0." + b"9" * (full - 9) + b"}",
        "a long key": b"x" * full + b": 1", "a long quoted key": b'"' + b"x" * 1000 + b'": 1',
        "a long quoted text": b'seed: "' + b"x" * full + b'"',
        "a folded text": b"seed: >\n" + b"  x\n" * 16_000, "open brackets": b"[" * full,
        "open braces": b"{" * full, "closed brackets": b"]" * full, "colons": b": " * (full // 2),
        "dashes": b"- " * (full // 2), "questions": b"? " * (full // 2), "quotes": b"'" * full,
        "stars": b"*a " * (full // 3), "anchors": b"&a " * (full // 3), "tags": b"! " * (full // 2),
        "percents": b"%" * full, "documents": b"---\n" * (full // 4),
        "ends": b"...\n" * (full // 4),
        "commas": b"seed: [" + b"," * full, "escapes": b'seed: "' + b"\\x41" * (full // 4) + b'"',
        "indents": b"".join(b" " * n + b"a:\n" for n in range(340)),
        "flow pairs": b"seed: [" + b"a: b, " * 10_000 + b"]",
        "windows": b"model: {sliding_window: [" + b"8," * 30_000 + b"]}",
        "layers": b"model: {n_layers: 10000, sliding_window: [" + b"8," * 9_999 + b"8]}",
    }  # fmt: skip
    yield from files.items()


@in_memory
def mutated_cases(folder: Path, fast: bool) -> Iterator[Case]:
    """Mutants of a config file."""
    path = folder / "mine.yaml"

    def attempts() -> Iterator[Attempt]:
        mutants = [*_mutants(SEED_TEXT, 40 if fast else 3_000)]
        files = [*_whole_files()]
        for key, content in [*mutants[:: 67 if fast else 1], *files[:: 17 if fast else 1]]:
            yield Attempt(key, partial(_load, path, content), len(content), str(path))

    return confined(attempts(), folder, partial(_load, path, b""))


# ------------------------------------------------------------------- every setting, every value


def _in_yaml(value: Any) -> str:
    """Write a value in flow style, as JSON does; YAML reads it."""
    return json.dumps(value).replace("NaN", ".nan").replace("Infinity", ".inf")


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:36]}... of {len(text)}, {hash_of(text)}"


def hash_of(text: str) -> int:
    """Return a short number that tells long texts apart."""
    return sum(ord(c) * (n + 1) for n, c in enumerate(text)) % 10**6


@in_memory
def setting_cases(folder: Path, fast: bool) -> Iterator[Case]:
    """Each setting with each hostile value, in a file and on the command line."""
    path = folder / "mine.yaml"

    def attempts() -> Iterator[Attempt]:
        for number, name in enumerate([*SETTINGS, *SECTIONS, "unknown", "model.unknown", ""]):
            section, _, key = name.rpartition(".")
            for index, value in enumerate(JSON_VALUES):
                if fast and (number + index) % 41:
                    continue
                text = f"{_in_yaml(key)}: {_in_yaml(value)}"
                content = f"{section}: {{{text}}}" if section else f"{{{text}}}"
                run: Callable[[], str | None] = partial(_load, path, content.encode())
                label = _short(_in_yaml(value))
                yield Attempt(f"file: {name} is {label}", run, len(content))
                word = f"{name}={value if isinstance(value, str) else _in_yaml(value)}"
                run = partial(_load, path, b"", word)
                kind = type(value).__name__
                yield Attempt(f"command line: {name}= {kind} {label}", run, len(word))
        for text in TEXTS:
            yield Attempt(f"the word {_short(text)!r}", partial(_load, path, b"", text), len(text))

    return confined(attempts(), folder, partial(_load, path, b""), 4 if fast else 1)


FAMILIES = [
    Family("mutated configs", "a config that loads back equal, or one line", mutated_cases),
    Family("hostile settings", "a config that loads back equal, or one line", setting_cases),
]
