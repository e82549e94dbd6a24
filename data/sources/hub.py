"""Datasets of the Hugging Face Hub.

    revision -> commit (requested once, then saved) -> the dataset at that commit -> chunks

A commit pins the text, so it is part of the fingerprint. If there are shards of a commit, no
network is needed. Each commit has its own folder in the cache: if the Hub cannot be reached,
`datasets` uses what it finds there, and must not find the data of another commit.
"""

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from data.documents import OWN_TEXT, Document, Source
from data.sources.hub_rows import CHUNK_BYTES, HubRows, LibraryRows, TableRows, table_files
from data.sources.rows import Columns, RowCounts
from data.sources.tables import NoColumn, lacks, no_text
from errors import UserError
from storage import atomic_write, cache_folder

TIMEOUT = 5  # seconds after which the Hub counts as unreachable
_NAMED = 10  # chunks whose skipped rows are reported
# These variables switch telemetry off. The libraries read them when they are imported.
_NO_TELEMETRY = {
    "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0",
}  # fmt: skip


class Unreachable(UserError):
    """The Hub does not answer, or answers that it cannot serve requests."""


class Hub(Source):
    """The split `split` of the dataset `path`, OWNER/NAME. A document is a row with text in the
    column `field`, behind the prompt of the column `prompt_field` if there is one; other rows are
    skipped and reported, or refused (`strict`). `config` names the configuration of a dataset that
    has several, `revision` a branch, tag or commit.

    With streaming, a chunk is one of the dataset's files, read as it arrives. With
    streaming=False, the dataset is downloaded first (hub_rows.py says what a chunk is then).
    """

    def __init__(
        self, path: str | None, config: str | None = None, split: str = "train", *,
        field: str = "text", revision: str | None = None, streaming: bool = True,
        strict: bool = False, prompt_field: str | None = None,
    ) -> None:  # fmt: skip
        if not path:
            raise UserError(
                "path is missing: give the id of a dataset, such as roneneldan/TinyStories", "path"
            )
        self._id, self._config, self._split = path, config, split
        self._columns = Columns(field, prompt_field)
        self.has_prompts = prompt_field is not None
        self._revision, self._streaming, self._strict = revision or "main", streaming, strict
        self._opened: HubRows | None = None  # opened when it is first needed, in each process
        self._counts: dict[int, RowCounts] = {}  # of the chunks that have been read

    def __getstate__(self) -> dict[str, Any]:
        """Return what is sent to another process: names and the commit, no open dataset."""
        return self.__dict__ | {"_opened": None}

    def fingerprint(self) -> str:
        text, prompt = self._columns.text, self._columns.prompt
        settings = (self._id, self._config, self._split, text, self._streaming, self._commit)
        with_prompts = (*settings, prompt) if self.has_prompts else settings
        return hashlib.sha256(repr(with_prompts).encode()).hexdigest()

    @property
    def n_chunks(self) -> int:  # type: ignore[override]
        """The number of chunks. Opens the dataset."""
        return self._open().n_chunks

    def chunk(self, number: int) -> Iterator[Document]:
        counts = RowCounts(self._id, self._columns, self._strict)
        try:
            for name, row in self._open().rows(number):
                text, prompt_length = counts.document(row)
                if text:
                    yield Document(name, text, prompt_length=prompt_length)
        except UserError:
            raise
        except Exception as error:  # an error of any parser, or of the network
            raise _refusal(self._id, error) from error
        self._report(number, counts)

    def documents(self) -> Iterator[Document]:
        has_text = False
        for document in super().documents():
            has_text = True
            yield document
        if not has_text:
            counts = next((counts for counts in self._counts.values() if counts.n_rows), None)
            raise no_text(PurePosixPath(self._id), counts or RowCounts(self._id, self._columns))

    def _report(self, number: int, counts: RowCounts) -> None:
        """Report the rows of a chunk that are skipped, when it is first read; at most `_NAMED`."""
        if number in self._counts:
            return
        self._counts[number] = counts
        reported = sum(bool(counts.skipped) for counts in self._counts.values())
        if counts.skipped and reported <= _NAMED:
            print(f"note: {self._id}, chunk {number}: rows are skipped (data.strict=true refuses "
                  f"them): {counts}", file=sys.stderr)  # fmt: skip

    def chunk_bytes(self, number: int) -> int:
        rows = self._open()
        return rows.size // rows.n_chunks if rows.size else CHUNK_BYTES

    # ------------------------------------------------------------------------ the dataset

    @cached_property
    def _commit(self) -> str:
        """The commit of the revision; if the Hub cannot be reached, the last one that was seen."""
        if re.fullmatch("[0-9a-f]{40}", self._revision):
            return self._revision
        saved = cache_folder() / "hub" / quote(f"{self._id}@{self._revision}", safe="@")
        try:
            commit = _request_commit(self._id, self._revision)
        except Unreachable as error:
            if not saved.is_file():
                raise
            commit = saved.read_text()
            reason = str(error).partition(": ")[0]
            print(f"note: {reason}; {self._id} is read at the commit seen last, {commit[:12]}",
                  file=sys.stderr)  # fmt: skip
        else:
            saved.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(saved, commit.encode())
        return commit

    def _open(self) -> HubRows:
        """Return the dataset, which is opened at the first call."""
        if self._opened is None:
            folder = cache_folder() / "hub" / self._commit
            if self._streaming or not any(folder.rglob("*.arrow")):
                _request_commit(self._id, self._commit)  # `datasets` would retry for minutes
                if not self._streaming:
                    print(f"downloading {self._id} into {folder.parent} ...", file=sys.stderr)
            self._opened = self._load(folder)
        return self._opened

    def _load(self, folder: Path) -> HubRows:
        prepare_environment()
        datasets = _quiet_datasets()
        # Of the id alone, `datasets` would first look for a local folder or a parser of that name.
        path = f"hf://datasets/{self._id}"
        place = {"revision": self._commit, "cache_dir": str(folder)}
        try:
            try:
                return self._rows(
                    datasets.load_dataset_builder(path, self._config, **place), folder
                )
            except UserError:
                raise
            except ValueError:  # what `datasets` raises for an unknown configuration or split
                configs = datasets.get_dataset_config_names(path, **place)
                config = self._config or datasets.get_dataset_default_config_name(path, **place)
                if config not in configs:
                    raise self._unknown("hub_config", self._config, configs) from None
                splits = datasets.get_dataset_split_names(path, config, **place)
                if self._split not in splits:
                    raise self._unknown("hub_split", self._split, splits) from None
                raise
        except UserError:
            raise
        except Exception as error:  # an error of any parser, or of the network
            raise _refusal(self._id, error) from error

    def _rows(self, builder: Any, folder: Path) -> HubRows:
        if files := table_files(builder, self._split):
            return TableRows(files, self._columns, None if self._streaming else str(folder))
        if self._streaming:
            dataset = builder.as_streaming_dataset(split=self._split)
        else:
            builder.download_and_prepare()
            dataset = builder.as_dataset(split=self._split)
        if dataset.column_names is not None:  # if None, they are unknown until a row is read
            if lacks(self._columns, dataset.column_names):
                raise NoColumn(PurePosixPath(self._id), self._columns, dataset.column_names)
            dataset = dataset.select_columns(self._columns.names)
        return LibraryRows(dataset, self._split, streaming=self._streaming)

    def _unknown(self, setting: str, value: str | None, known: list[str]) -> UserError:
        message = f"{setting}={value or 'null'}: {self._id} has {', '.join(known)}"
        return UserError(message, setting)


# ---------------------------------------------------------------------------- the libraries


def prepare_environment() -> None:
    """Import huggingface_hub without messages and telemetry, and with its files below our cache. It
    still reads the user's token from its own place."""
    os.environ.setdefault("HF_HUB_CACHE", str(cache_folder() / "hub"))
    os.environ.update(_NO_TELEMETRY)
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)


def _quiet_datasets() -> Any:
    """Import `datasets`, which takes seconds, and silence it: we report its errors ourselves."""
    import datasets

    datasets.config.TORCH_AVAILABLE = False  # otherwise every process that reads imports torch
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    return datasets


def _request_commit(id: str, revision: str) -> str:
    """Ask the Hub for the commit of a revision, without retries. Raises `Unreachable` if there is
    no answer, and `UserError` if there is no such dataset or revision."""
    prepare_environment()
    from huggingface_hub import HfApi, errors

    try:
        commit = HfApi().dataset_info(id, revision=revision, timeout=TIMEOUT).sha
        if commit is None:
            raise ValueError("the answer names no commit")
        return commit
    except errors.HFValidationError:
        raise UserError(f"{id} is not the id of a dataset: give OWNER/NAME", "path") from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"{id} has no branch, tag or commit {revision}: check the spelling", "revision"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"the Hub has no dataset {id}, or it is private: check the spelling, or set HF_TOKEN "
            "to a token that may read it",
            "path",
        ) from None
    except Exception as error:  # no address, no route, no answer, or a wrong one
        raise _unreachable(error) from error


def _unreachable(error: BaseException) -> Unreachable:
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import OfflineModeIsEnabled

    offline = isinstance(error, OfflineModeIsEnabled)
    reason = "HF_HUB_OFFLINE is set" if offline else reason_of(error)
    return Unreachable(
        f"the Hub at {ENDPOINT} cannot be reached ({reason}): check the network and HF_ENDPOINT, "
        f"or use data.source=stories, or {OWN_TEXT}"
    )


def _refusal(id: str, error: BaseException) -> UserError:
    """Return the one-line error of ours for an error of `datasets`."""
    import datasets
    from huggingface_hub.errors import GatedRepoError, HTTPError

    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in causes:
        if isinstance(cause, datasets.exceptions.DatasetNotFoundError | GatedRepoError):
            return UserError(
                f"{id} is gated: ask for access on its page of the Hub, then set HF_TOKEN", "path"
            )
        if isinstance(cause, HTTPError | ConnectionError | TimeoutError):
            return _unreachable(cause)
    return UserError(f"{id} cannot be read: {reason_of(causes[-1])}", "path")


def reason_of(error: BaseException) -> str:
    """Return the message of an error in one line; its type if it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__
