"""Parts of an experiment, one for each run: a killed command continues with the missing runs.

    RUN/report/parts/recall-3f0c...json     what `recall` measured in this run

The name holds a hash of the checkpoint's name, which has the hash of its content, of the options,
and of the source files that measure. So a part is not reused for another model, for other options
or after a change of these files. The hash does not cover the rest of the code: after a change of
model/ or data/, delete RUN/report/parts.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from experiments.result import rebuild, report_folder
from storage import atomic_write, make_folder

T = TypeVar("T")


def measured_once(
    run: str, name: str, key: Sequence[Any], files: Sequence[str], kind: type[T],
    measure: Callable[[], T],
) -> T:  # fmt: skip
    """Return the stored part of `run`, or measure and store it; `kind` is its dataclass.

    `key` is the checkpoint's name and the options, as plain values; `files` are the sources that
    measure.
    """
    digest = hashlib.sha256(json.dumps(key).encode())
    for file in files:
        digest.update(Path(file).read_bytes())
    path = report_folder(Path(run)) / "parts" / f"{name}-{digest.hexdigest()[:16]}.json"
    try:
        return rebuild(kind, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged: measure it
        part = measure()
    make_folder(path.parent)
    atomic_write(path, json.dumps(asdict(part)).encode())  # type: ignore[call-overload]
    return part
