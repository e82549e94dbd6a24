"""trackio: an SQLite file in the folder `trackio` of the run, or in $TRACKIO_DIR.

This module writes through trackio's storage. `trackio.init` would ask the Hub for the user's name,
start threads, and write half a second late.
"""

import os
import shlex
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from training.loggers import PROJECT, place, run_id


class Trackio:
    """Writes each line at once, so that a kill loses nothing. Nothing leaves this machine."""

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        where = place("TRACKIO_DIR", folder / "trackio")
        os.environ["TRACKIO_DIR"] = where  # read at import: one process trains one run
        from trackio import Markdown
        from trackio.sqlite_storage import SQLiteStorage

        self.shown_by = f"TRACKIO_DIR={shlex.quote(where)} trackio show --project {PROJECT}"
        self._storage, self._markdown = SQLiteStorage, Markdown
        self._name, self._id = folder.resolve().name, run_id(folder)
        self._config: dict[str, Any] | None = dict(config)  # until it is written
        with closing(sqlite3.connect(SQLiteStorage.init_db(PROJECT))) as database, database:
            later = "DELETE FROM metrics WHERE run_id = ? AND step > ?"
            database.execute(later, (self._id, step))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Write one row with the values."""
        self._storage.bulk_log(
            PROJECT, self._name, [dict(values)], [step], config=self._config, run_id=self._id
        )
        self._config = None

    def sample(self, step: int, text: str) -> None:
        """Write one row with the text."""
        self.write(step, {"sample": self._markdown(text)._to_dict()})

    def saved(self) -> None:
        """Do nothing: all steps are written already."""

    def close(self) -> None:
        """Do nothing: each row was written in a transaction of its own."""
