"""What every export ends with: the written model computes what ours computes, window included.

A window that is dropped on the way changes nothing before W tokens. So the check reads T = 3 W + 5
tokens, and demands two things: the logits equal ours, and they differ from those of full attention.
Then the other program writes `N_GENERATED` tokens through its own cache, and the logits of each
step must equal ours for the same text.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from errors import require
from model.config import ModelConfig
from model.transformer import Transformer, empty_model

N_GENERATED = 200
TOLERANCE = 1e-4  # of the largest logit: rounding in fp32 stays far below
TOLD_APART = 10  # a wrong window must change the logits by so many times the tolerance
WITHOUT_WINDOW = 200  # tokens
SEED = 0

# Prompt (T,) and number of tokens -> logits of the prompt (T, V), the whole text (T + n,), and
# the logits from which each new token was chosen (n, V).
Answer = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Check:
    """Largest differences of logits, measured on `n_tokens` random tokens."""

    peer: str  # the program that opened the export
    n_tokens: int
    difference: float  # theirs to ours
    full_difference: float | None  # ours to ours with full attention; None: there is no window
    generated_difference: float  # theirs to ours, over the tokens that they generated
    largest_logit: float
    tolerance: float = TOLERANCE

    @property
    def problem(self) -> str | None:
        """What is wrong, in words; None if nothing is."""
        allowed = self.tolerance * max(1.0, self.largest_logit)
        full = self.full_difference
        if not self.difference <= allowed:  # also if it is NaN
            return f"its logits differ from ours by {self.difference:.2g}"
        if not self.generated_difference <= allowed:
            return (
                f"through its cache, its logits differ from ours by {self.generated_difference:.2g}"
            )
        if full is not None and not full > TOLD_APART * allowed:
            return (
                f"full attention changes the logits by {full:.2g} only, too little to tell "
                "whether the window is kept: train the model first"
            )
        return None

    def __str__(self) -> str:
        full = self.full_difference
        window = (
            "there is no window"
            if full is None
            else f"full attention would differ by {full:.2g}, so the window is kept"
        )
        return (
            f"checked with {self.peer} on {self.n_tokens:,} tokens: logits differ from ours by at "
            f"most {self.difference:.2g} (largest logit {self.largest_logit:.3g}); {window}; over "
            f"{N_GENERATED} tokens generated through its cache: {self.generated_difference:.2g}"
        )


def n_checked(model: ModelConfig) -> int:
    """Return 3 W + 5 tokens for the widest window W, or `WITHOUT_WINDOW` if there is none."""
    windows = [window for window in model.windows if window is not None]
    return 3 * max(windows) + 5 if windows else WITHOUT_WINDOW


@torch.no_grad()
def check(
    peer: str,
    model: Transformer,
    answer: Callable[[Tensor, int], Answer],
    tolerance: float = TOLERANCE,
) -> Check:
    """Compare `model` with the program behind `answer`."""
    generator = torch.Generator().manual_seed(SEED)
    config = model.config
    prompt = torch.randint(config.vocab_size, (n_checked(config),), generator=generator)
    theirs, text, steps = answer(prompt, N_GENERATED)
    assert len(steps) == N_GENERATED
    ours = model(prompt[None])[0].float()
    written = model(text[None])[0].float()[len(prompt) - 1 : -1]
    full = None
    if set(config.windows) != {None}:
        full = largest(ours - with_full_attention(model)(prompt[None])[0].float())
    return Check(
        peer=peer,
        n_tokens=len(prompt),
        difference=largest(theirs.float() - ours),
        full_difference=full,
        generated_difference=largest(steps.float() - written),
        largest_logit=largest(ours),
        tolerance=tolerance,
    )


def largest(values: Tensor) -> float:
    """Return the largest absolute value."""
    return values.abs().max().item()


def with_full_attention(model: Transformer) -> Transformer:
    """Return the same weights with full attention in all layers; `model` does not change."""
    full = empty_model(replace(model.config, sliding_window=None))
    full.load_state_dict(model.state_dict(), assign=True)
    return full.eval()


def require_transformers() -> Any:
    """Return the library, without its progress bars and warnings.

    Raises `UserError` if it is not installed.
    """
    transformers = require("transformers", "export")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def check_huggingface(folder: Path, model: Transformer) -> Check:
    """Open `folder` with transformers and compare it with `model`."""
    transformers = require_transformers()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return check_opened(theirs, f"transformers {transformers.__version__}", model)


def check_opened(theirs: Any, library: str, model: Transformer) -> Check:
    """Compare a model that `library`, with its version, has opened as transformers does."""
    transformers = require_transformers()

    def answer(prompt: Tensor, n_tokens: int) -> Answer:
        config = transformers.GenerationConfig(
            do_sample=False, max_new_tokens=n_tokens, min_new_tokens=n_tokens, pad_token_id=0
        )
        written = theirs.generate(
            input_ids=prompt[None],
            generation_config=config,
            attention_mask=torch.ones_like(prompt[None]),
            return_dict_in_generate=True,
            output_logits=True,
        )
        return theirs(prompt[None]).logits[0], written.sequences[0], torch.cat(written.logits)

    return check(f"{library} ({type(theirs).__name__})", model, answer)
