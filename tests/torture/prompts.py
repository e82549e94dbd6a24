"""Hostile prompts and options of `scripts.sample`, in process, with a tiny trained model."""

import contextlib
import functools
import io
import os
import random
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from torture.bad_tokenizers import SPECIALS
from torture.confined import Attempt, confined, in_memory
from torture.family import Case, Family
from torture.hostile_values import NUMBERS, TEXTS
from torture.subject import trained

from inference.text import continue_text
from inference.trained import TrainedModel, open_trained
from model.sampling import Sampling
from scripts import sample

LIMITS = {"--max-tokens": 4}  # a valid number of tokens is generated; a large one takes long
OPTIONS = ("--max-tokens", "--samples", "--seed", "--temperature", "--top-k", "--top-p", "--min-p",
           "--repetition-penalty", "--stop", "--weights", "--checkpoint")  # fmt: skip


@functools.cache
def opened() -> TrainedModel:
    """Open the tiny model once."""
    return open_trained(trained() / "run")


def _continued(prompts: Sequence[str], greedy: bool = True) -> str | None:
    """Continue prompts by three tokens; return what is wrong."""
    sampling = Sampling(temperature=0.0 if greedy else 1.0)
    pieces = list(continue_text(opened(), prompts, max_tokens=3, sampling=sampling))
    texts = ["".join(p.text for p in pieces if p.row == row) for row in range(len(prompts))]
    if any("\ud800" <= c <= "\udfff" for text in texts for c in text):
        return "the text holds a surrogate"
    if [p.row for p in pieces if p.finish_reason] != sorted(
        (p.row for p in pieces if p.finish_reason), key=lambda row: row
    ) and len(prompts) == 1:
        return "a row ended twice"
    if {p.row for p in pieces if p.finish_reason} != set(range(len(prompts))):
        return "a row did not end"
    tokens = opened().tokenizer.encode(prompts[0])
    if {opened().tokenizer.bos_id, opened().tokenizer.eos_id} & set(tokens):
        return "the prompt has a special token"
    return None


def _commanded(argv: Sequence[str]) -> str | None:
    """Run `scripts.sample`; it must write text, or refuse in one line."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in "ab")
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        code = sample.main([str(trained() / "run"), *argv])
    err.seek(0)
    lines = err.read().splitlines()
    if code == 0:
        return None if lines[-1].startswith("[") else f"no count of tokens: {lines}"
    if code != 2 or len(lines) != 1 or not lines[0].startswith("error: "):
        return f"exit code {code}: {lines}"[:300]
    return None if lines[0].isprintable() else f"not printable: {lines[0]!r}"


def _prompts(fast: bool) -> Iterator[tuple[str, str]]:
    """Yield (key, prompt)."""
    for text in TEXTS:
        yield f"{text[:40]!r} of {len(text)}", text
    for special in SPECIALS:
        for around in ("{} ", "a {}", "{0}{0}", " {}", "\n{}", "{}\n"):
            yield f"special {around.format(special)!r}", around.format(special)
    for length in (1, 7, 8, 9, 15, 16, 17, 31, 33, 100, 1_000) + (() if fast else (20_000,)):
        for unit in ("a", " ", "\n", "\ud83d", "\U0001f642"):
            yield f"{length} of {unit!r}", unit * length
    seen: dict[str, list[str]] = {}
    for number in range(0x110000):
        category = unicodedata.category(chr(number))
        if len(seen.setdefault(category, [])) < (2 if fast else 25):
            seen[category].append(chr(number))
    for category, characters in seen.items():
        for character in characters:
            yield f"{category} U+{ord(character):04X}", f"a {character}b{character} "
    draw = random.Random(0)
    for number in range(20 if fast else 400):
        raw = draw.randbytes(draw.randint(1, 60))
        yield f"random bytes {number}", raw.decode("utf-8", "surrogateescape")


def _options(fast: bool) -> Iterator[list[str]]:
    """Yield the words of each command line."""
    values = [*(str(number) for number in NUMBERS), *TEXTS, "1_0", "0x1", "1e2", "+1", "١", "inf"]
    for option in OPTIONS:
        for number, value in enumerate(dict.fromkeys(values)):
            if (fast and (number + len(option)) % 17) or len(value) > 60_000:
                continue
            with contextlib.suppress(ValueError):  # a number of tokens or texts that takes long
                if option in ("--max-tokens", "--samples") and int(value) > 100:
                    continue
            yield [f"{option}={value}"]
            yield [option, value]
    for value in TEXTS:
        if len(value) < 60_000:
            yield ["--prompt", value]
            yield [f"--prompt={value}", "--weights", "int8"]
            yield [f"--prompt={value}", "--samples", "2"]
            yield [value]
            if value:
                yield [f"--{value}"]


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (key, content) of prompt files."""
    draw = random.Random(1)
    for number in range(60):
        yield f"random {number}", draw.randbytes(draw.randint(0, 40))
    for text in TEXTS:
        yield f"text {text[:30]!r} of {len(text)}", text.encode("utf-8", "surrogatepass")
        yield f"UTF-16 {text[:30]!r} of {len(text)}", text.encode("utf-16", "surrogatepass")
        yield f"lines {text[:30]!r} of {len(text)}", f"\ufeff{text}\r\n".encode("utf-8", "ignore")


@in_memory
def cases(folder: Path, fast: bool) -> Iterator[Case]:
    """Prompts in process, options on the command line, prompt files."""
    short = ["--max-tokens", "3"]

    def attempts() -> Iterator[Attempt]:
        for key, prompt in _prompts(fast):
            yield Attempt(f"greedy: {key}", partial(_continued, [prompt]), 200 * len(prompt))
            if not fast:
                run = partial(_continued, [prompt, "a", ""], False)
                yield Attempt(f"drawn, three rows: {key}", run, 200 * len(prompt))
        for words in _options(fast):
            base = [*short] if not words[0].startswith("--max-tokens") else []
            has_prompt = any(word.startswith("--prompt") for word in words)
            argv = [*base, *([] if has_prompt else ["--prompt", "a"]), *words]
            key = " ".join(
                word if len(word) < 40 else f"{word[:40]}...{len(word)}" for word in words
            )
            yield Attempt(f"{len(words)} words {key!r}", partial(_commanded, argv), 100_000)
        for number, (key, content) in enumerate(_files(folder)):
            if not fast or number % 9 == 0:
                path = folder / f"prompt-{number}.txt"
                argv = ["--prompt-file", str(path), *short]
                prepare = partial(path.write_bytes, content)
                yield Attempt(f"file: {key}", partial(_commanded, argv), 200 * len(content),
                              prepare=prepare)  # fmt: skip

    def warm() -> None:
        _continued(["a", ""], False)
        for weights in ("fp32", "int8"):
            _commanded(["--prompt", "a", *short, "--weights", weights])

    stdin = sys.stdin
    with Path(os.devnull).open(encoding="utf-8") as sys.stdin:
        yield from confined(attempts(), folder, warm, 9 if fast else 1)
    sys.stdin = stdin


FAMILIES = [Family("prompts", "text that can be printed, or refused in one line", cases)]
