"""Datasets of the Hugging Face Hub, by the libraries that it is read with.

    revision -> commit (asked once, kept) -> load_dataset at that commit -> parts

A commit names the text for ever, so it stands in the fingerprint; who has shards of it needs no
network any more. What is fetched lies below the cache, a folder for each commit: where the Hub
fails, `datasets` takes what it finds there, and must not find another commit's data.
"""

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from data.documents import OWN_TEXT, Document, Source
from data.sources.files import quiet_datasets
from errors import UserError
from storage import atomic_write, cache_folder

ROWS = 10_000  # of a dataset in full, in a part
PART_BYTES = 16_000_000  # about; where the dataset does not say
PATIENCE = 5  # seconds until the Hub counts as not reachable


class Unreachable(UserError):
    """The Hub does not answer, or answers that it cannot."""


class Hub(Source):
    """The split `split` of the dataset `path`, OWNER/NAME, a document in each row that has text in
    the column `field`; `config` where the dataset has several, `revision` a branch, tag or commit.

    A part is one of its files, read as it arrives, or, with streaming=False, `ROWS` rows of the
    whole, which is downloaded first and mapped into memory.
    """

    def __init__(
        self, path: str | None, config: str | None = None, split: str = "train", *,
        field: str = "text", revision: str | None = None, streaming: bool = True,
    ) -> None:  # fmt: skip
        if not path:
            raise UserError(
                "data.source=hub needs data.path: a dataset's id, roneneldan/TinyStories for one"
            )
        self._id, self._config, self._split, self._field = path, config, split, field
        self._revision, self._streaming = revision or "main", streaming
        self._dataset: Any = None  # opened by whom it is asked

    def __getstate__(self) -> dict[str, Any]:
        """What another process gets: names and the commit, nothing that is open."""
        return self.__dict__ | {"_dataset": None}

    def fingerprint(self) -> str:
        about = (self._id, self._config, self._split, self._field, self._streaming, self._commit)
        return hashlib.sha256(repr(about).encode()).hexdigest()

    @property
    def n_parts(self) -> int:  # type: ignore[override]
        """How many parts there are; opens the dataset."""
        dataset = self._open()
        return dataset.num_shards if self._streaming else -(-len(dataset) // ROWS)

    def part(self, number: int) -> Iterator[Document]:
        try:
            for name, row in self._rows(number):
                if self._field not in row:
                    raise _no_column(self._field, self._id, row)
                text = row[self._field]
                if text is not None and not isinstance(text, str):
                    kind = type(text).__name__
                    raise UserError(
                        f"data.field={self._field}: row {name} of {self._id} holds {kind}, not text"
                    )
                if text:
                    yield Document(name, text)
        except UserError:
            raise
        except Exception as error:  # whatever a parser or the network says
            raise _refusal(self._id, error) from error

    def part_bytes(self, number: int) -> int:
        known = (self._open().info.splits or {}).get(self._split)
        return known.num_bytes // self.n_parts if known and known.num_bytes else PART_BYTES

    def _rows(self, number: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the rows of a part, each with a name that follows from its place."""
        dataset = self._open()
        if self._streaming:
            shard = dataset.shard(num_shards=dataset.num_shards, index=number)
            for row, content in enumerate(shard):
                yield f"{number}.{row}", content
        else:
            rows = range(number * ROWS, min((number + 1) * ROWS, len(dataset)))
            for row, content in zip(rows, dataset.select(rows), strict=True):
                yield str(row), content

    # ------------------------------------------------------------------------ the Hub is asked

    @cached_property
    def _commit(self) -> str:
        """The commit that the revision stands for; where the Hub is out of reach, it last did."""
        if re.fullmatch("[0-9a-f]{40}", self._revision):
            return self._revision
        kept = cache_folder() / "hub" / quote(f"{self._id}@{self._revision}", safe="@")
        try:
            commit = _ask(self._id, self._revision)
        except Unreachable as error:
            if not kept.is_file():
                raise
            commit = kept.read_text()
            reason = str(error).partition(": ")[0]
            print(f"note: {reason}; {self._id} is taken at the commit seen last, {commit[:12]}",
                  file=sys.stderr)  # fmt: skip
        else:
            kept.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(kept, commit.encode())
        return commit

    def _open(self) -> Any:
        """Open the dataset, with the one column where the columns are known beforehand."""
        if self._dataset is None:
            folder = cache_folder() / "hub" / self._commit
            if self._streaming or not any(folder.rglob("*.arrow")):
                _ask(self._id, self._commit)  # `datasets` would try for long
                if not self._streaming:
                    print(f"downloading {self._id} into {folder.parent} ...", file=sys.stderr)
            dataset = self._load(folder)
            if dataset.column_names is not None:  # of .jsonl they are known when it is read
                if self._field not in dataset.column_names:
                    raise _no_column(self._field, self._id, dataset.column_names)
                dataset = dataset.select_columns([self._field])
            self._dataset = dataset
        return self._dataset

    def _load(self, folder: Path) -> Any:
        _quiet_hub()
        datasets = quiet_datasets()
        # By its bare id, a folder or a parser of that name would come first.
        path = f"hf://datasets/{self._id}"
        about = {"revision": self._commit, "cache_dir": str(folder)}
        try:
            try:
                return datasets.load_dataset(
                    path, self._config, split=self._split, streaming=self._streaming, **about
                )
            except ValueError:  # what `datasets` raises for a config or split it does not know
                configs = datasets.get_dataset_config_names(path, **about)
                config = self._config or datasets.get_dataset_default_config_name(path, **about)
                if config not in configs:
                    raise self._unknown("hub_config", self._config, configs) from None
                splits = datasets.get_dataset_split_names(path, config, **about)
                if self._split not in splits:
                    raise self._unknown("hub_split", self._split, splits) from None
                raise
        except UserError:
            raise
        except Exception as error:  # whatever a parser or the network says
            raise _refusal(self._id, error) from error

    def _unknown(self, setting: str, value: str | None, known: list[str]) -> UserError:
        return UserError(f"data.{setting}={value or 'null'}: {self._id} has {', '.join(known)}")


def _quiet_hub() -> None:
    """Make huggingface_hub quiet, with its files below our cache; the user's token stays."""
    os.environ.setdefault("HF_HUB_CACHE", str(cache_folder() / "hub"))  # read at the first import
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)


def _ask(id: str, revision: str) -> str:
    """Ask the Hub once for the commit of a revision."""
    _quiet_hub()
    from huggingface_hub import HfApi, errors

    try:
        commit = HfApi().dataset_info(id, revision=revision, timeout=PATIENCE).sha
        if commit is None:
            raise ValueError("its answer names no commit")
        return commit
    except errors.HFValidationError:
        raise UserError(f"data.path={id} is no dataset's id: give OWNER/NAME") from None
    except errors.RevisionNotFoundError:
        known = "has no such branch, tag or commit"
        raise UserError(f"data.revision={revision}: {id} {known}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"data.path={id}: the Hub has no such dataset, or keeps it private: check the "
            "spelling, or set HF_TOKEN to a token that may read it"
        ) from None
    except Exception as error:  # no name, no route, no answer, no right one
        raise _unreachable(error) from error


def _no_column(field: str, id: str, columns: Any) -> UserError:
    return UserError(f"data.field={field}: {id} has no such column, but {', '.join(columns)}")


def _unreachable(error: BaseException) -> Unreachable:
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import OfflineModeIsEnabled

    offline = isinstance(error, OfflineModeIsEnabled)
    reason = "HF_HUB_OFFLINE is set" if offline else _reason(error)
    return Unreachable(
        f"the Hub at {ENDPOINT} cannot be reached ({reason}): check the network and HF_ENDPOINT, "
        f"or take data.source=stories, or {OWN_TEXT}"
    )


def _refusal(id: str, error: BaseException) -> UserError:
    """Say in a line what stopped `datasets`."""
    import datasets
    from huggingface_hub.errors import GatedRepoError, HTTPError

    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in causes:
        if isinstance(cause, datasets.exceptions.DatasetNotFoundError | GatedRepoError):
            return UserError(
                f"data.path={id} is gated: ask for access on its page of the Hub, then set HF_TOKEN"
            )
        if isinstance(cause, HTTPError | ConnectionError | TimeoutError):
            return _unreachable(cause)
    return UserError(f"data.path={id} cannot be read: {_reason(causes[-1])}")


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
