"""Progress: a bar on a terminal, lines in a log file, with loss, tokens/s and remaining time."""

import sys
import time

from tqdm import tqdm

LINES = 20  # printed in a whole run if the output is not a terminal


class Progress:
    """Shows a run from `step` to `max_steps`. Time is counted in updates, not in evaluations."""

    def __init__(self, step: int, max_steps: int, tokens_per_step: int) -> None:
        self.step, self.max_steps, self.tokens_per_step = step, max_steps, tokens_per_step
        self.updates, self.seconds = 0, 0.0  # spent on updates since this process began
        self._losses: list[tuple[float, float]] = []  # (loss, weight)
        self._clock = time.perf_counter()
        self._bar = tqdm(
            total=max_steps, initial=step, unit="step", dynamic_ncols=True, disable=None
        )

    def advance(self, loss: float, label: str = "loss", weight: float = 1.0) -> None:
        """Count one update, with its loss, which is printed behind `label`. `weight` is that of
        the update in the mean loss."""
        now = time.perf_counter()
        self.seconds += now - self._clock
        self._clock = now
        self.step += 1
        self.updates += 1
        self._losses.append((loss, weight))
        rate = f"{label} {loss:.3f}, {self.tokens_per_s:,.0f} tokens/s"
        self._bar.set_postfix_str(rate, refresh=False)
        self._bar.update()
        is_early = self.updates == 10  # for a first estimate of the time
        if self._bar.disable and (is_early or self.step % max(1, self.max_steps // LINES) == 0):
            remaining = self.seconds / self.updates * (self.max_steps - self.step)
            self.show(
                f"step {self.step:,}/{self.max_steps:,}: {rate}, {remaining / 60:.1f} min left"
            )

    @property
    def tokens_per_s(self) -> float:
        """Training tokens per second, in the time spent on updates."""
        return self.updates * self.tokens_per_step / max(self.seconds, 1e-9)

    def mean_loss(self) -> float | None:
        """Return the weighted mean loss of the updates since the last call; None if all weights
        are 0."""
        total = sum(loss * weight for loss, weight in self._losses)
        weights = sum(weight for _, weight in self._losses)
        self._losses = []
        return total / weights if weights else None

    def show(self, line: str) -> None:
        """Print a line above the bar. The time since the last update is not counted."""
        self._bar.write(line, file=sys.stderr)
        self._clock = time.perf_counter()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
