"""The tokenizer of an imported model, as Hugging Face's tokenizer.json describes it.

Two kinds of vocabulary can be turned into bytes, which streams need:

    byte-level BPE     GPT-2, Llama 3, SmolLM    "Ġtime" is " time": each byte has a character
    SentencePiece      Llama 2, Mistral          "▁time" is " time", "<0x0A>" is a newline

Some tokenizers put a space in front of every text, so that its first word is spelled as all others
("dummy prefix"). Here that space belongs to the beginning of a document: `encode_prompt` and
`encode_document` add it, `encode` does not, so that decode(encode(text)) == text. What a tokenizer
does to a text beyond that, such as Unicode normalization, is kept: the model was trained so.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from data.tokenizer import Tokenizer, blocks, well_formed
from errors import UserError, require

# The key of an added token under which we record that it is "bos", "eos" or "bos eos". `tokenizers`
# ignores an unknown key there, but not at the top of the file.
_ROLES = "breeze"
# Steps of a decoder that treat each token on its own. "Strip" removes the dummy prefix again, which
# is done to a whole text only.
_STEPS = {"ByteLevel", "ByteFallback", "Fuse", "Replace", "Metaspace", "Strip"}
_SAMPLE = " a  \u00e9\n\u4e2d \U0001f642 "  # spaces, and characters that may have no token
_MOST_UNUSED = 10_000  # ids that no token has
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


class JsonTokenizer(Tokenizer):
    """A tokenizer.json in which BOS and EOS are marked (`mark_specials`).

    No text gives a special token, even if it spells one. Raises `UserError` if the bytes are no
    such file, if its tokens cannot be turned into bytes, if it loses text (spaces, rare
    characters), and if the library `tokenizers` is missing.
    """

    file_name = "tokenizer.json"

    def __init__(self, model_bytes: bytes) -> None:
        self.model_bytes = model_bytes
        added = _parse(model_bytes)["added_tokens"]
        self._first = _backend(model_bytes.decode())  # with a dummy prefix, if there is one
        roles = {role: token["content"] for token in added for role in _roles(token)}
        if roles.keys() != {"bos", "eos"}:
            raise UserError("the tokenizer.json does not say which tokens are BOS and EOS")
        self.bos_id, self.eos_id = (self._first.token_to_id(roles[role]) for role in ("bos", "eos"))
        content = json.loads(self._first.to_str())  # every field is there, in today's form
        self._bytes = self._all_bytes(content)
        _remove_dummy_prefix(content)
        self._inner = _backend(json.dumps(content))
        if (text := self.decode(self.encode(_SAMPLE))) != _SAMPLE:
            raise UserError(
                f"the tokenizer.json loses text: {_SAMPLE!r} comes back as {text[:60]!r}"
            )

    @property
    def piece_ids(self) -> list[int]:
        known = self._first.get_vocab().values()
        return [
            id for id in sorted(known) if self._bytes[id] and not _BYTE.fullmatch(self.piece(id))
        ]

    def encode(self, text: str) -> list[int]:
        return self._encode(text, self._inner)

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a text that a model continues: BOS, and the text with its dummy prefix,
        if the tokenizer has one."""
        return [self.bos_id, *self._encode(text, self._first)]

    def _encode(self, text: str, backend: Any) -> list[int]:
        """Encode the first block by `backend`, the others as the inside of a text."""
        ids: list[int] = []
        for block in blocks(well_formed(text)):
            ids += backend.encode(block, add_special_tokens=False).ids
            backend = self._inner
        return ids

    def piece(self, id: int) -> str:
        self.token_bytes(id)
        return self._first.id_to_token(int(id)) or ""

    def _all_bytes(self, content: Mapping[str, Any]) -> list[bytes]:
        """Return the bytes of each id; b"" for an id that no token has."""
        token_bytes = _Decoder(content["decoder"])
        added = {token["id"]: token for token in content["added_tokens"]}
        names = {id: name for name, id in self._first.get_vocab().items()}
        found = [b""] * (max(names) + 1)
        for id, name in names.items():
            if id not in added:
                found[id] = token_bytes(name)
            elif not added[id]["special"]:
                found[id] = name.encode()
        return found


def mark_specials(tokenizer_json: bytes, bos_token: str | None, eos_token: str) -> bytes:
    """Return a tokenizer.json in which BOS and EOS are marked, as `JsonTokenizer` reads it.

    A model without a BOS, such as Qwen's, gets its EOS as BOS: documents begin with a token that
    the model has seen between documents. Raises `UserError` if the bytes are no tokenizer.json, or
    if a token is not among its added tokens.
    """
    content = _parse(without_marks(tokenizer_json))
    added = {token["content"]: token for token in content["added_tokens"]}
    for role, name in ("bos", bos_token or eos_token), ("eos", eos_token):
        if name not in added:
            raise UserError(f"the tokenizer.json has no added token {name!r}, the model's {role}")
        added[name]["special"] = True
        added[name][_ROLES] = " ".join([*_roles(added[name]), role])
    return json.dumps(content, ensure_ascii=False).encode()


def without_marks(model_bytes: bytes) -> bytes:
    """Return the tokenizer.json as others write it, without the marks of BOS and EOS."""
    content = _parse(model_bytes)
    for token in content["added_tokens"]:
        token.pop(_ROLES, None)
    return json.dumps(content, ensure_ascii=False).encode()


def _parse(tokenizer_json: bytes) -> dict[str, Any]:
    """Read a tokenizer.json as far as we change it: a model, and added tokens with their text."""
    try:
        content = json.loads(tokenizer_json)
        if "model" not in content or not all(
            isinstance(token["content"], str) for token in content["added_tokens"]
        ):
            raise ValueError
        _refuse_odd_ids(content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError("the tokenizer is no tokenizer.json of Hugging Face") from error
    return content


def _refuse_odd_ids(content: Mapping[str, Any]) -> None:
    """Raise `ValueError` for ids that are given twice or are far beyond the number of tokens.

    The library ends the process for the first, and takes memory up to the largest id.
    """
    vocabulary, added = content["model"].get("vocab", {}), content["added_tokens"]
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else [*range(len(vocabulary))]
    largest = 2 * (len(ids) + len(added)) + _MOST_UNUSED
    if len(set(ids)) < len(ids):
        raise ValueError("two tokens have one id")
    if not all(type(id) is int and 0 <= id < largest for id in [*ids, *(t["id"] for t in added)]):
        raise ValueError("an id is far beyond the number of tokens")


def _roles(added_token: Mapping[str, Any]) -> list[str]:
    return str(added_token.get(_ROLES, "")).split()


def _backend(content: str) -> Any:
    """Return the library's tokenizer, with nothing cut, padded or spelled into a special token."""
    tokenizers = require("tokenizers", "export")
    try:
        backend = tokenizers.Tokenizer.from_str(content)
        backend.encode(_SAMPLE)  # fails if unknown characters have no token
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # `tokenizers` raises Exception; its panics are no Exception
        raise UserError(f"the tokenizer.json cannot be used: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # as ordinary text
    return backend


def _remove_dummy_prefix(content: dict[str, Any]) -> None:
    """Change a tokenizer.json so that it puts no space in front of a text."""
    for step in _steps(content["normalizer"], "normalizers"):
        if step["type"] == "Prepend":
            step["prepend"] = ""
    for step in _steps(content["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "ByteLevel":
            step["add_prefix_space"] = False
        elif step["type"] == "Metaspace":
            step["prepend_scheme"] = "never"


def _steps(component: dict[str, Any] | None, members: str) -> list[dict[str, Any]]:
    """Return the steps of a normalizer, pre-tokenizer or decoder, which may be a sequence."""
    if component is None:
        return []
    if component["type"] != "Sequence":
        return [component]
    return [step for member in component[members] for step in _steps(member, members)]


class _Decoder:
    """The bytes of a token by its name, as the decoder of a tokenizer.json gives them.

    Raises `UserError` for a decoder whose text of a token depends on its neighbours.
    """

    def __init__(self, decoder: dict[str, Any] | None) -> None:
        steps = _steps(decoder, "decoders")
        kinds = {step["type"] for step in steps}
        if not kinds or kinds - _STEPS:
            name = ", ".join(sorted(kinds - _STEPS)) or "none"
            raise UserError(
                f"the tokenizer.json has the decoder {name}, which gives no bytes of single tokens"
            )
        self._alphabet = _byte_alphabet() if "ByteLevel" in kinds else None
        self._has_bytes = "ByteFallback" in kinds
        self._replaced = [_replacement(s) for s in steps if s["type"] in ("Replace", "Metaspace")]

    def __call__(self, name: str) -> bytes:
        if self._alphabet is not None:
            try:
                return bytes(self._alphabet[character] for character in name)
            except KeyError:  # as `tokenizers` decodes it
                return name.encode()
        if self._has_bytes and _BYTE.fullmatch(name):
            return bytes([int(name[3:5], 16)])
        for before, after in self._replaced:
            name = name.replace(before, after)
        return name.encode()


def _replacement(step: Mapping[str, Any]) -> tuple[str, str]:
    if step["type"] == "Metaspace":
        return step["replacement"], " "
    if "String" not in step["pattern"]:
        raise UserError("the tokenizer.json has a decoder that replaces a pattern, not a string")
    return step["pattern"]["String"], step["content"]


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each character of byte-level BPE (GPT-2's).

    A printable byte of Latin-1 is its own character; the others, in order, are U+0100 and up.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + number): byte for number, byte in enumerate(rest)
    }
