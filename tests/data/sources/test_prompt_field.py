"""prompt_field in tables: which characters of a document are its prompt, which rows are read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from configs.settings import DataSettings, TokenizerSettings, keys_of
from data.sources.files import Files
from data.text import open_text
from errors import UserError, fields_named

ROWS: list[dict[str, Any]] = [
    {"question": "Why? ", "answer": "So, é", "other": "x"},
    {"question": "", "answer": "alone"},
    {"question": "\U0001f642", "answer": "after a smile"},
]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def array(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows, indent=1))


def csv(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = [f'"{row["answer"]}",x,{row["question"]}\n' for row in rows]
    path.write_text("".join(["answer,other,question\n", *lines]), encoding="utf-8")


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def pairs(path: Path, **settings: Any) -> list[tuple[str, str, str]]:
    """Return (number of the row, prompt, text) of each document."""
    source = Files(str(path), "answer", prompt_field="question", **settings)
    return [
        (d.name.partition("#")[2], d.text[: d.prompt_length], d.text[d.prompt_length :])
        for d in source.documents()
    ]


def refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        pairs(path, **settings)
    return str(caught.value).replace(f"{path.parent}/", "")


@pytest.mark.parametrize("write", [jsonl, array, csv, parquet])
def test_prompt_and_text_of_every_kind_of_table(
    tmp_path: Path, write: Callable[[Path, list[dict[str, Any]]], None]
) -> None:
    """The columns could be swapped, or something inserted between them."""
    suffix = {"array": "json"}.get(write.__name__, write.__name__)
    write(tmp_path / f"rows.{suffix}", ROWS)
    expected = [(str(n), row["question"], row["answer"]) for n, row in enumerate(ROWS)]
    assert pairs(tmp_path / f"rows.{suffix}") == expected


def test_rows_without_a_prompt_or_an_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """null and "" are empty prompts. An answer that is empty, or a column that is missing, would
    silently become a document without anything to learn, or one that is counted as a whole."""
    rows = [
        {"question": None, "answer": "a"}, {"question": "q", "answer": ""}, {"answer": "b"},
        {"question": 7, "answer": "c"}, {"question": "q", "answer": None},
        {"question": [{"role": "user", "content": "Hello"}], "answer": "Hi"},
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    jsonl(path, rows)
    assert pairs(path) == [("0", "", "a"), ("5", "user: Hello", "Hi")]
    printed = capsys.readouterr().err
    for part in ("column question holds the turns", "empty text in column answer (1 of 6 rows",
                 "no column question (1 of 6 rows, first: line 3)", "a number in column question",
                 "null in column answer"):  # fmt: skip
        assert part in printed
    assert refusal(path, strict=True) == (
        "rows.jsonl, line 2: empty text in column answer; data.strict=false skips such rows"
    )


@pytest.mark.parametrize("write", [jsonl, array, csv, parquet])
def test_a_missing_column_is_named_with_the_others(
    tmp_path: Path, write: Callable[[Path, list[dict[str, Any]]], None]
) -> None:
    """A misspelled name; without an error the run would train on answers alone."""
    suffix = {"array": "json"}.get(write.__name__, write.__name__)
    path = tmp_path / f"rows.{suffix}"
    write(path, ROWS[:2])
    with pytest.raises(UserError) as caught, fields_named(keys_of("data")):
        Files(str(path), "answer", prompt_field="questoin")
    line = str(caught.value)
    assert line.startswith("data.prompt_field: ") and "has no column questoin, but " in line
    assert "question" in line and "name the column of the prompts" in line


def test_text_files_have_no_prompts(tmp_path: Path) -> None:
    """The setting would have no effect. Beside a table, plain text is read without prompts."""
    (tmp_path / "a.txt").write_text("plain text\n" * 99)
    settings = DataSettings(source="files", path=str(tmp_path), prompt_field="question",
                            field="answer", split="tail")  # fmt: skip
    with pytest.raises(UserError) as caught, fields_named(keys_of("data")):
        open_text(settings, TokenizerSettings("char", 300))
    assert str(caught.value).startswith(
        "data.prompt_field is question, but no file of the text is a table"
    )
    jsonl(tmp_path / "rows.jsonl", ROWS[:2] * 9)
    _, corpus = open_text(settings, TokenizerSettings("char", 300))
    assert 0 < corpus.n_prompt_tokens("test") < corpus.n_tokens("test")
