"""data/sources/tables.py: each row as in the file, independent of other rows and columns."""

import csv
import gzip
import hashlib
import io
import json
import random
import string
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from data.sources import tables, texts
from data.sources.files import Files
from errors import UserError


def read(path: Path, field: str = "text", **settings: Any) -> dict[str, str]:
    """The texts of a file by row, as its documents name it: file#row."""
    source = Files(str(path), field, **settings)
    return {document.name.partition("#")[2]: document.text for document in source.documents()}


def refusal(path: Path, field: str = "text", **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(path, field, **settings)
    return str(caught.value).replace(f"{path.parent}/", "")


def written(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ---------------------------------------------------------------------------- JSON


TEXTS = (
    '"',
    "\\",
    "\n",
    "\r\n",
    "\u2028",
    "\x85",
    "é",
    "🙂",
    "007",
    "2024-01-31",
    "null",
    "",
    " a ",
)
OTHERS = (None, True, False, 0, -1.5, 1e300, 10**30, [], {}, ["x", 1], {"text": "inner"})


def drawn_value(draw: random.Random) -> Any:
    kind = draw.random()
    if kind < 0.7:
        return "".join(
            draw.choice([*TEXTS, *string.ascii_letters]) for _ in range(draw.randrange(9))
        )
    return draw.choice(OTHERS)


def drawn_line(draw: random.Random) -> str:
    """A line of JSON: mostly an object; its columns, their types and their order vary."""
    if draw.random() < 0.1:
        return json.dumps(drawn_value(draw))
    columns = draw.sample(["text", "id", "meta", "date"], draw.randint(0, 4))
    record = {column: drawn_value(draw) for column in columns}
    separators = draw.choice([(",", ":"), (", ", ": "), (" ,\t", " : ")])
    line = json.dumps(record, ensure_ascii=draw.random() < 0.5, separators=separators)
    fault = draw.random()
    if fault < 0.05:
        return line[: draw.randrange(len(line))]  # torn
    if fault < 0.1:
        return line.replace("a", "\\ud83d")  # half of a character
    return line


def expected_text(line: bytes) -> str:
    """What `json.loads` of the line gives, if it is an object with a text that UTF-8 can hold."""
    try:
        text = json.loads(line)["text"]
        text.encode()
    except (ValueError, TypeError, KeyError, AttributeError):
        return ""
    return text


@pytest.mark.parametrize("seed", range(40))
def test_lines_are_read_as_json_loads_reads_each(tmp_path: Path, seed: int) -> None:
    """A library that guesses a type for a column changes rows because of other rows."""
    draw = random.Random(seed)
    lines = [drawn_line(draw).encode("utf-8", "surrogatepass") for _ in range(300)]
    lines = [line for line in lines if line.strip()]
    expected = {str(n): text for n, line in enumerate(lines) if (text := expected_text(line))}
    end = draw.choice([b"\n", b"\r\n", b"\n\n", b"\n \t\n"])  # blank lines are not rows
    content = draw.choice([b"", b"\xef\xbb\xbf"]) + end.join(lines) + draw.choice([b"", end])
    assert read(written(tmp_path / "a.jsonl", content)) == expected
    assert read(written(tmp_path / "a.jsonl.gz", gzip.compress(content))) == expected


@pytest.mark.parametrize("seed", range(40))
def test_an_array_is_read_as_json_loads_reads_it(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a block ends: inside a number, an escape, a string or white space."""
    draw = random.Random(seed)
    rows = [{"text": drawn_value(draw), "id": drawn_value(draw)} for _ in range(draw.randrange(60))]
    rows += [{"text": "last"}, draw.choice(OTHERS)]
    content = json.dumps(rows, indent=draw.choice([None, 1]), ensure_ascii=draw.random() < 0.5)
    monkeypatch.setattr(tables, "_BLOCK", draw.choice([1, 2, 3, 7, 64, 1 << 20]))
    expected = {
        str(n): text
        for n, row in enumerate(rows)
        if (text := expected_text(json.dumps(row).encode()))
    }
    assert read(written(tmp_path / "a.json", f" \n{content}\n ")) == expected
    assert read(written(tmp_path / "a.jsonl", content)) == expected  # the content decides


def test_json_files_of_other_layouts(tmp_path: Path) -> None:
    """Lines, one object over many lines, objects one after the other, all in .json."""
    rows = [{"text": "one", "n": 1}, {"text": "two"}]
    compact, spread = ([json.dumps(row, indent=i) for row in rows] for i in (None, 2))
    assert read(written(tmp_path / "a.json", "\n".join(compact))) == {"0": "one", "1": "two"}
    assert read(written(tmp_path / "b.json", spread[0])) == {"0": "one"}
    assert read(written(tmp_path / "c.json", "\n".join(spread))) == {"0": "one", "1": "two"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"},\n{"text": "b"}', "a.json is not JSON: line 2: , is missing"),
        ('[{"text": "a"}\n{"text": "b"}]', "a.json is not JSON: line 2: , is missing"),
        ('[{"text": "a"},\n{"text": b}]', "a.json is not JSON: line 2: Expecting value"),
        ('[{"text": "a"}]\n\n[]', "a.json is not JSON: line 3: there is more after the array"),
        ('[{"text": "a', "a.json is not JSON: line 1: Unterminated string starting at"),
        (
            '["a", "b"]',
            "a.json has no text: not an object with columns (2 of 2 rows, first: line 1)",
        ),
        (
            '[{"a": 1}, {"b": 2}]',
            "a.json has no column text, but a, b: name the column of the text",
        ),
    ],
)
def test_refused_json(tmp_path: Path, content: str, message: str) -> None:
    assert refusal(written(tmp_path / "a.json", content)).startswith(message)


def test_a_row_of_any_depth_and_size_costs_only_itself(tmp_path: Path) -> None:
    """Python's reader raises other errors than usual for these two."""
    deep = '{"text": "a", "x": ' + "[" * 100_000 + "]" * 100_000 + "}"
    long = '{"text": "b", "x": ' + "1" * 10_000 + "}"
    assert read(written(tmp_path / "a.jsonl", f'{deep}\n{long}\n{{"text": "c"}}\n'))["2"] == "c"


# ---------------------------------------------------------------------------- rows without text


def test_skipped_rows_are_counted_and_located(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """True line numbers, though blank lines are not rows; other columns do not matter."""
    lines = [
        b'{"text": "one", "x": "\\ud83d"}', b"", b'{"text": 5}', b'{"x": 1}', b'{"text": null}',
        b'{"text": "\\ud83d"}', b'{"text": "torn', b'{"text": ""}', b'{"text": 6.5}', b"[1]",
        b'{"text": "caf\xe9"}', b'{"text": "two", "x": "\xe9"}',
    ]  # fmt: skip
    path = written(tmp_path / "a.jsonl", b"\n".join(lines))
    assert read(path) == {"0": "one", "10": "two"}
    note = capsys.readouterr().err.removeprefix(f"note: {path}: ")
    reasons = [
        "a number in column text (2 of 11 rows, first: line 3)",
        "no column text (1 of 11 rows, first: line 4)",
        "null in column text (1 of 11 rows, first: line 5)",
        "half of a character (a lone surrogate) in column text (1 of 11 rows, first: line 6)",
        "not JSON (1 of 11 rows, first: line 7)",
        "empty text in column text (1 of 11 rows, first: line 8)",
        "not an object with columns (1 of 11 rows, first: line 10)",
        "bytes that are not UTF-8 in column text (it looks like WINDOWS-1252: iconv -f "
        "WINDOWS-1252 -t UTF-8 FILE > CONVERTED) (1 of 11 rows, first: line 11)",
    ]
    assert note == f"rows are skipped (data.strict=true refuses them): {', '.join(reasons)}\n"


def test_strict_refuses_the_first_row_without_text(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"text": "a"}\n\n{"text": 3}\n{oops\n')
    assert refusal(path, strict=True) == (
        "a.jsonl, line 3: a number in column text; data.strict=false skips such rows"
    )
    assert read(written(path, '{"text": "a"}\n'), strict=True) == {"0": "a"}


def test_notes_about_many_incomplete_files_are_limited(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        written(tmp_path / f"{number}.jsonl", '{"text": "a"}\n{"text": 1}\n')
    Files(str(tmp_path))
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 11 and notes[-1] == "note: 2 rows of 2 more files are skipped"


def test_turns_of_a_conversation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The most common form of chat data; any other list has no text."""
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi\nthere"}]
    rows = [{"messages": turns}, {"messages": []}, {"messages": [{"role": "user", "content": 1}]}]
    path = written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert read(path, "messages") == {"0": "user: Hello\nassistant: Hi\nthere"}
    assert capsys.readouterr().err.splitlines() == [
        "note: column messages holds the turns of conversations: each becomes a line 'role: "
        "content'",
        f"note: {path}: rows are skipped (data.strict=true refuses them): a list in column "
        "messages (2 of 3 rows, first: line 2)",
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[:1]), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", "messages") == {"0": "user: Hello\nassistant: Hi\nthere"}


def test_a_table_without_the_column_among_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is skipped; but if every table lacks the column, the column's name is wrong."""
    written(tmp_path / "a.txt", "a")
    written(tmp_path / "b.csv", "id,body\n1,x\n")
    written(tmp_path / "c.json", '{"name": "settings of a program"}')
    assert "has no column text, but id, body" in refusal(tmp_path)
    written(tmp_path / "d.jsonl", '{"text": "d"}\n')
    capsys.readouterr()
    assert [document.name for document in Files(str(tmp_path)).documents()] == [
        "a.txt",
        "d.jsonl#0",
    ]
    notes = capsys.readouterr().err
    assert "skipped: " in notes and "c.json has no column text, but name" in notes
    (tmp_path / "b.csv").unlink()
    (tmp_path / "d.jsonl").unlink()
    assert [document.name for document in Files(str(tmp_path)).documents()] == ["a.txt"]


# ---------------------------------------------------------------------------- CSV


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("seed", range(5))
def test_csv_is_read_as_it_was_written(tmp_path: Path, separator: str, seed: int) -> None:
    """Any text in any column, quoted where it must be."""
    draw = random.Random(seed)
    signs = [*TEXTS, *",;\t|", "1", "a", '""', "\n\n"]
    rows = [
        ["".join(draw.choice(signs) for _ in range(draw.randrange(6))) for _ in range(3)]
        for _ in range(200)
    ]
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=separator, lineterminator=draw.choice(["\n", "\r\n"]))
    writer.writerows([["id", "text", "more"], *rows])
    expected = {str(n): row[1] for n, row in enumerate(rows) if row[1]}
    for name in ("a.csv", "a.tsv"):
        content = draw.choice(["", "\ufeff"]) + stream.getvalue()
        assert read(written(tmp_path / name, content)) == expected


@pytest.mark.parametrize(
    ("header", "delimiter"),
    [
        ("id,text", ","), ("id;text", ";"), ("id\ttext", "\t"), ("id|text", "|"),
        ("a,b;text", ";"), ("a;b;c,text", ","), (' id , "text" ', ","), ("x;y,z;v", ";"),
        ("text", "\x1f"),
    ],
)  # fmt: skip
def test_the_delimiter_follows_from_the_header(header: str, delimiter: str) -> None:
    """First the one that gives the column of the text, then the one that gives most columns."""
    assert tables.find_delimiter(header, "text") == delimiter


def test_a_table_of_one_column_has_no_delimiter(tmp_path: Path) -> None:
    """A comma in its rows is text: nothing else could be meant."""
    path = written(tmp_path / "a.csv", 'text\nHello, world\n"a, ""b"""\n007\n')
    assert read(path) == {"0": "Hello, world", "1": 'a, "b"', "2": "007"}


def test_broken_rows_of_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A quotation mark that is not closed does not swallow the rest of the file."""
    lines = [
        "\nid,text", "0,zero", '1,"one', "2,two", "3,three, four", "", "4", '5,"five"', "6,six,,",
        '7,"seven" or "eight"', '8,"nine\nten"',
    ]  # fmt: skip
    path = written(tmp_path / "a.csv", "\n".join(lines) + "\n")
    assert read(path) == {"0": "zero", "2": "two", "5": "five", "6": "six", "8": "nine\nten"}
    note = capsys.readouterr().err
    assert "quotation marks that do not pair (2 of 9 rows, first: line 4)" in note
    assert "more fields than the 2 columns (1 of 9 rows, first: line 6)" in note
    assert "no column text (1 of 9 rows, first: line 8)" in note


def test_bytes_of_another_encoding_cost_their_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = "id,text,more\n1,Füße,\n2,one,ß\n3,two,\n".encode("cp1252")
    assert read(written(tmp_path / "a.csv", content)) == {"1": "one", "2": "two"}
    assert "it looks like WINDOWS-1252: iconv -f WINDOWS-1252" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_has_the_same_advice_in_every_kind(tmp_path: Path, name: str, encoding: str) -> None:
    """Spreadsheets save "Unicode text" in it."""
    message = refusal(written(tmp_path / name, "id\ttext\n1\tone\n".encode(encoding)))
    guess = encoding.upper().replace("UTF-16-", "UTF-16")
    assert message.startswith(f"{name} is not UTF-8 (byte ")
    assert message.endswith(f"iconv -f {guess} -t UTF-8 FILE > CONVERTED")


def test_a_missing_header_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", '0,"One day."\n1,"Two days."\n')
    assert refusal(path) == (
        "a.csv has no column text, but 0, One day.: name the column of the text; "
        "a table needs a first line with the names of its columns"
    )


# ---------------------------------------------------------------------------- as before


def good_tables(folder: Path) -> dict[str, Path]:
    """Tables without surprises, in the three formats."""
    draw = random.Random(0)
    words = ["one", "two", "three", "four", "NA", "null", "12", "é", "🙂"]
    rows = [{"id": n, "text": " ".join(draw.choices(words, k=5))} for n in range(2500)]
    lines = [json.dumps(row) + draw.choice(["\n", "\n\n", "\r\n"]) for row in rows]
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, ["id", "text"])
    writer.writeheader()
    writer.writerows(rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "c.parquet")
    return {
        "json": written(folder / "a.jsonl", "".join(lines)),
        "csv": written(folder / "b.csv", stream.getvalue()),
        "parquet": folder / "c.parquet",
    }


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_good_tables_are_read_as_the_library_reads_them(tmp_path: Path, kind: str) -> None:
    """The rows and their numbers, which decide the splits; `datasets` used to read them."""
    import datasets

    path = good_tables(tmp_path)[kind]
    options = {"keep_default_na": False} if kind == "csv" else {}
    table = datasets.load_dataset(
        kind, data_files=str(path), split="train", streaming=True,
        cache_dir=str(tmp_path / "datasets"), **options,
    )  # fmt: skip
    assert read(path) == {str(n): row["text"] for n, row in enumerate(table)}


def test_fingerprints_change_only_where_what_is_read_changes(tmp_path: Path) -> None:
    """Shards of good tables stay valid; those of tables that were damaged, or trained with their
    braces, do not."""

    def earlier(path: Path) -> str:
        content = path.read_bytes()
        settings = f"text\0file\0{texts.SECTION}\0{texts.REACH}"
        return hashlib.sha256(
            f"{settings}\0{path.name}\0{hashlib.sha256(content).hexdigest()}".encode()
        ).hexdigest()

    gaps = written(
        tmp_path / "gaps.jsonl", '{"text": "a"}\n{"text": null}\n{"x": 1}\n{"text": ""}\n'
    )
    for path in (*good_tables(tmp_path).values(), gaps, written(tmp_path / "a.txt", "a")):
        assert Files(str(path)).fingerprint() == earlier(path), path
    lines = '{"text": "a"}\n{"text": 5}\n'
    for name, content in (("a.jsonl", lines), ("a.json", lines), ("a.tsv", "text\na\n")):
        path = written(tmp_path / name, content)
        assert Files(str(path)).fingerprint() != earlier(path), path


def test_parquet_reads_only_the_column(tmp_path: Path) -> None:
    """Whatever the others hold, and however the text is stored."""
    columns = {
        "text": pyarrow.array(["a", None, "b", "a"]).dictionary_encode(),
        "large": pyarrow.array(["a", "b", "c", "d"], pyarrow.large_string()),
        "date": pyarrow.array([0, 1, 2, 3], pyarrow.timestamp("ns")),
        "number": pyarrow.array([1, 2, 3, 4]),
        "nested": pyarrow.array([[{"x": 1}], None, [], [{"x": 2}]]),
    }
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    assert read(path) == {"0": "a", "2": "b", "3": "a"}
    assert read(path, "large") == {"0": "a", "1": "b", "2": "c", "3": "d"}
    assert refusal(path, "number").startswith(
        "a.parquet has no text: a number in column number (4 of 4 rows, first: row 0)"
    )
    assert refusal(path, "body").startswith(
        "a.parquet has no column body, but text, large, date, number, nested: "
    )
    assert "Parquet" in refusal(written(tmp_path / "b.parquet", b"id,text\n1,a\n"))


def test_parquet_without_its_ending(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "data")
    assert read(tmp_path / "data") == {"0": "a"}
