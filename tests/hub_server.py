"""A server with the part of the Hugging Face Hub's protocol that reading from it needs.

    python tests/hub_server.py FOLDER --port 8123 --stories 2000
    HF_ENDPOINT=http://127.0.0.1:8123 python train.py configs/tinystories.yaml train.max_steps=20

FOLDER/owner/name/ holds the files of the dataset or model owner/name, FOLDER/owner/name@v1/ those
of its revision v1. A name that begins with `gated` or `private` needs a token; requests for
`down` get the answer of an overloaded Hub. `--stories` writes a small dataset of our own story
world with the layout of TinyStories, if there is none.
"""

import argparse
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(
    r"/api/(?:datasets|models)/(?P<id>[^/]+/[^/]+)"
    r"(?:/(?P<what>revision|tree|paths-info)/(?P<revision>[^/]+)(?:/(?P<path>.*))?)?"
)
FILE = re.compile(r"(?:/datasets)?/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


class Refusal(Exception):
    """An HTTP status, with the Hub's error code."""

    def __init__(self, status: int, code: str) -> None:
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection; `asked` is the log of all requests."""

    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, asked: list[str], *rest: Any) -> None:
        self.folder, self.asked = folder, asked
        super().__init__(*rest)

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        length = int(self.headers.get("Content-Length", 0))
        words = parse_qs(self.rfile.read(length).decode())
        path = urlsplit(self.path).path
        try:
            if match := API.fullmatch(path):
                self.send_json(self.api(words.get("paths", []), **match.groupdict()))
            elif match := FILE.fullmatch(path):
                self.send_file(**match.groupdict())
            else:
                raise Refusal(404, "EntryNotFound")
        except Refusal as refusal:
            self.send(refusal.status, b"", {"X-Error-Code": refusal.code})

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """Print nothing: `asked` is the log."""

    # ------------------------------------------------------------------------ datasets

    def find(self, id: str, revision: str) -> tuple[Path, str]:
        """Return the folder and the commit of a revision: main, a name or a commit."""
        known = (name for name in (id, *(f"{id}@{p.name.split('@')[1]}" for p in
                 (self.folder / id).parent.glob(f"{Path(id).name}@*"))))  # fmt: skip
        folders = {name.partition("@")[2] or "main": self.folder / name for name in known}
        if id.endswith("/down"):
            raise Refusal(503, "Down")
        private = id.split("/")[1].startswith("private")
        if not folders["main"].is_dir() or (private and not self.authorized()):
            raise Refusal(404 if self.authorized() else 401, "RepoNotFound")
        for name, folder in folders.items():
            if unquote(revision) in (name, commit_of(folder)):
                return folder, commit_of(folder)
        raise Refusal(404, "RevisionNotFound")

    def authorized(self) -> bool:
        return "Authorization" in self.headers

    def api(
        self, paths: list[str], id: str, what: str | None, revision: str | None, path: str | None
    ) -> Any:
        folder, commit = self.find(id, revision or "main")
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        if what in (None, "revision"):
            return {
                "id": id, "sha": commit, "private": False, "gated": False, "tags": [],
                "siblings": [{"rfilename": f.relative_to(folder).as_posix()} for f in files],
            }  # fmt: skip
        if what == "paths-info":
            return [entry(folder, folder / p) for p in paths if (folder / p).exists()]
        below = folder / unquote(path or "")
        if not below.is_dir():
            raise Refusal(404, "EntryNotFound")
        deep = "recursive=true" in self.path.lower()
        return [entry(folder, p) for p in sorted(below.rglob("*") if deep else below.iterdir())]

    # ------------------------------------------------------------------------ responses

    def send_file(self, id: str, revision: str, path: str) -> None:
        folder, commit = self.find(id, revision)
        if id.split("/")[1].startswith("gated") and not self.authorized():
            raise Refusal(401, "GatedRepo")
        file = folder / unquote(path)
        if not file.is_file():
            raise Refusal(404, "EntryNotFound")
        content = file.read_bytes()
        headers = {"ETag": f'"{tag_of(file)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, end = int(span[1]), min(int(span[2] or len(content) - 1) + 1, len(content))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
            self.send(206, content[first:end], headers)
        else:
            self.send(200, content, headers)

    def send_json(self, value: Any) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")  # an open connection would outlive the server
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def entry(folder: Path, path: Path) -> dict[str, Any]:
    """Return what the Hub states about a file or folder."""
    kind, size = ("file", path.stat().st_size) if path.is_file() else ("directory", 0)
    name = path.relative_to(folder).as_posix()
    return {"type": kind, "path": name, "size": size, "oid": tag_of(path)}


def tag_of(path: Path) -> str:
    """Return a hash that changes when the file does."""
    status = path.stat()
    return hashlib.sha1(f"{path} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()


def commit_of(folder: Path) -> str:
    """Return a hash that changes when a file of the folder does; 40 hexadecimal digits."""
    tags = "".join(tag_of(file) for file in sorted(folder.rglob("*")) if file.is_file())
    return hashlib.sha1(tags.encode()).hexdigest()


@contextmanager
def serve(folder: Path, port: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Serve `folder` while the block runs; yield the address and the log of requests."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, folder, asked))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def make_stories(folder: Path, count: int) -> list[str]:
    """Write `count` training stories in four files and a tenth as many for validation in one, as
    TinyStories has them. Return the training texts."""
    import pyarrow
    import pyarrow.parquet

    from data.stories.telling import story

    texts = [story(0, number).text for number in range(count + count // 10)]
    data = folder / "roneneldan" / "TinyStories" / "data"
    data.mkdir(parents=True)
    files = {f"train-{i:05d}-of-00004": texts[count * i // 4 : count * (i + 1) // 4]
             for i in range(4)}  # fmt: skip
    files["validation-00000-of-00001"] = texts[count:]
    for name, stories in files.items():
        pyarrow.parquet.write_table(pyarrow.table({"text": stories}), data / f"{name}.parquet")
    card = (
        "---\nlicense: apache-2.0\n---\nStories of our own world, with the layout of TinyStories.\n"
    )
    (data.parent / "README.md").write_text(card)
    return texts[:count]


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve a folder as the Hugging Face Hub would.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--stories", type=int, help="write this many, if there are none")
    arguments = parser.parse_args()
    if arguments.stories and not (arguments.folder / "roneneldan/TinyStories").exists():
        make_stories(arguments.folder, arguments.stories)
    with serve(arguments.folder, arguments.port) as (address, _):
        print(f"HF_ENDPOINT={address}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("ended")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
