"""A trained run that is as small as possible, for families that damage its files."""

import atexit
import contextlib
import functools
import io
import os
import shutil
import tempfile
from pathlib import Path

import tiny

STEPS = 5  # each is saved
SMALLER = [
    "model.dim=8", "model.head_dim=4", "model.hidden_dim=8", "data.seq_len=16",
    f"train.max_steps={STEPS}", "train.save_interval=1", f"train.keep_checkpoints={STEPS}",
    "train.eval_interval=2", "sample.max_tokens=3",
]  # fmt: skip


@functools.cache
def trained() -> Path:
    """Train once in this process; return a folder with `run` and `text.txt`, which must not
    change. It is removed when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="subject-"))
    atexit.register(shutil.rmtree, folder)  # forked children end with os._exit, without this
    if "BREEZE_CACHE" not in os.environ:
        os.environ["BREEZE_CACHE"] = str(tiny.own_cache(folder))
    text = folder / "text.txt"
    text.write_text(tiny.english(6_000), encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        assert tiny.start(folder / "run", text, *SMALLER) == 0, printed.getvalue()
    assert len(tiny.saved(folder / "run")) == STEPS
    return folder
