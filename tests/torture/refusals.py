"""What must be refused, whatever else is right: repeated keys, ids outside the vocabulary, a config
of any size; and what must never be: bytes that are no character."""

from collections.abc import Callable, Iterator
from pathlib import Path

import tiny
import torch
from torture.family import Case, Family

from configs.load import load_config
from configs.settings import SETTINGS
from data.tokenizer import open_tokenizer
from data.vocabulary import train_tokenizer
from errors import UserError
from model import ModelConfig, Transformer
from model.generation import generate

OUTSIDE = (-1, -2, -100, -(2**31), -(2**63), 0, 1, 100, 2**31, 2**63)  # the last five: above V


def refused(key: str, act: Callable[[], object], words: str) -> Case:
    """Return a case that holds if `act` raises `UserError` with these words."""
    try:
        found = act()
    except UserError as error:
        return Case(key, None if words in str(error) else f"it says {error}")
    except Exception as error:
        return Case(key, f"{type(error).__name__}: {error}")
    return Case(key, f"it was accepted: {found!r}"[:200])


def _configs(folder: Path, fast: bool) -> Iterator[Case]:
    """Give each setting twice, in one file; and a valid file that is too large."""
    path = folder / "config.yaml"
    for name in list(SETTINGS)[:: 20 if fast else 1]:
        section, _, key = name.rpartition(".")
        indent = "  " if section else ""
        lines = [f"{section}:"] * bool(section) + [f"{indent}{key}: null"] * 2
        path.write_text("\n".join(lines))
        yield refused(f"{name} twice", lambda: load_config(path), f"{name} is given twice")
    path.write_text("seed: 1\n" + "#" * 70_000)
    yield refused("a config of 70 KB", lambda: load_config(path), "too large for a config")


def _ids(kind: str) -> Iterator[Case]:
    """Use ids outside the vocabulary; decode each byte alone, and after another."""
    model = train_tokenizer([tiny.english(3_000)], type=kind, vocab_size=350)
    tokenizer = open_tokenizer(model)
    v = tokenizer.vocab_size
    small = Transformer(ModelConfig(vocab_size=v, dim=8, n_layers=1, n_heads=1, n_kv_heads=1,
                                    head_dim=8, hidden_dim=8, sliding_window=8))  # fmt: skip
    for number in OUTSIDE:
        id = number if number < 0 else v + number
        uses: dict[str, Callable[[], object]] = {
            "token_bytes": lambda id=id: tokenizer.token_bytes(id),  # type: ignore[misc]
            "piece": lambda id=id: tokenizer.piece(id),  # type: ignore[misc]
            "decode": lambda id=id: tokenizer.decode([1, id]),  # type: ignore[misc]
            "push": lambda id=id: tokenizer.stream().push(id),  # type: ignore[misc]
            "generate": lambda id=id: list(generate(small, [[1, id]], 1)),  # type: ignore[misc]
        }
        for name, use in uses.items():
            yield refused(f"{kind}: {name} of id {id}", use, "the vocabulary")
    for byte in range(256):
        ids = [3 + byte], [3 + 0xE2, 3 + byte]
        try:
            right = [b"%c" % byte, b"\xe2%c" % byte]
            same = [tokenizer.decode(i) for i in ids] == [
                r.decode("utf-8", "replace") for r in right
            ]
            yield Case(f"{kind}: byte {byte}", None if same else "decoded as other bytes")
        except Exception as error:
            yield Case(f"{kind}: byte {byte}", f"{type(error).__name__}: {error}")


def cases(folder: Path, fast: bool) -> Iterator[Case]:
    """Refuse configs and ids."""
    torch.manual_seed(0)
    yield from _configs(folder, fast)
    for kind in ("char",) if fast else ("char", "bpe", "unigram"):
        yield from _ids(kind)


REFUSALS = Family("plain refusals", "repeated keys and ids out of range are refused", cases)
