"""TensorBoard: event files in the folder `tensorboard` of the run."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TensorBoard:
    """Writes each value at once, so that a kill loses nothing. Values have 32 bits."""

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.shown_by = f"tensorboard --logdir {shlex.quote(str(folder))}"
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        settings = json.dumps(config, indent=2)
        self._add_text("config", "\n".join(f"    {line}" for line in settings.splitlines()), step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write one scalar for each value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def sample(self, step: int, text: str) -> None:
        """Write the text, in which a line break of Markdown ends each line."""
        self._add_text("sample", text.replace("\n", "  \n"), step)

    def saved(self) -> None:
        """Do nothing: all steps are written already."""

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _add_text(self, name: str, text: str, step: int) -> None:
        self._writer.add_text(name, text, step)
        self._writer.flush()
