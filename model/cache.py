"""RollingKVCache: keys and values of the last W positions of each layer, in a ring (Mistral 7B,
arXiv 2310.06825, section 2, "Rolling Buffer Cache").

Position p is written to slot `p mod W`; every slot remembers which position it holds. W = 4:

    positions written   slot 0   1   2   3       seen by the next query
    0 1 2                    0   1   2   -       0 1 2 + itself          (- is -1: empty)
    0 1 2 3                  0   1   2   3       1 2 3 + itself
    0 1 2 3 4                4   1   2   3       2 3 4 + itself
    0 1 2 3 4 5 6            4   5   6   3       4 5 6 + itself

Masks come from the stored positions, so the order in the ring does not matter and nothing is ever
rolled. With sinks, the first n positions have slots of their own in front of the ring, for ever:
p < n is slot p, later ones are slot `n + (p - n) mod W`. Every key is rotated once, at its own
position: that of a sink is the same in the text and in the cache (see `window.sink_view`).

A chunk of new tokens attends over `held + new` first and is written afterwards: writing first would
overwrite keys that the chunk's early queries still need.

Going back (`crop`) is possible as long as no later query would miss a key that was overwritten: one
token, and one more for every spare slot. Beyond that it is refused, never answered wrongly.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from errors import UserError
from model.config import ModelConfig
from model.window import Window, visible


class Ring:
    """One layer's slots: k and v (B, K, slots, Dh), positions (B, slots) with -1 for empty."""

    def __init__(
        self, shape: tuple[int, int, int, int], sinks: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros_like(self.k)
        self.positions = torch.full((shape[0], shape[2]), -1, device=device)
        self.sinks = sinks
        self.size = shape[2] - sinks  # slots of the ring proper

    def concat_with_cached(self, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """Join what is held with a chunk's k, v (B, K, T, Dh) and positions (B, T)."""
        return (
            torch.cat((self.k, k), dim=2),
            torch.cat((self.v, v), dim=2),
            torch.cat((self.positions, positions), dim=1),
        )

    def write(self, k: Tensor, v: Tensor, positions: Tensor) -> None:
        """Keep the chunk's sinks and, of each row, its last `size` positions; padding (-1) is not
        kept."""
        last = positions.amax(dim=1, keepdim=True)
        kept = (positions >= 0) & ((positions > last - self.size) | (positions < self.sinks))
        row, column = kept.nonzero(as_tuple=True)
        position = positions[row, column]
        slot = torch.where(
            position < self.sinks, position, self.sinks + (position - self.sinks) % self.size
        )
        # Detached: what is held has no gradient, or the graph would grow with every call.
        self.k[row, :, slot] = k.detach()[row, :, column].to(self.k.dtype)
        self.v[row, :, slot] = v.detach()[row, :, column].to(self.v.dtype)
        self.positions[row, slot] = position

    def can_continue(self, at: Tensor, window: Window) -> Tensor:
        """Say of each row (B,) whether all that a query at position `at` (B,) sees before it, and
        so all that later ones see of it, is held."""
        i, j = at[:, None], self.positions
        held = (visible(i, j, window, self.sinks) & (j >= 0) & (j < i)).sum(dim=1)
        left = torch.zeros_like(at) if window is None else (at - window + 1).clamp(min=0)
        return held == at - left + left.clamp(max=self.sinks)


class RollingKVCache:
    """A cache whose memory is fixed when it is made: O(sum of the windows), whatever the length.

    `capacity` is the number of tokens that a layer with full attention can hold; it is required if
    there is one. A window wider than `capacity` holds `capacity` tokens. `spare` slots in each ring
    allow to go back by as many tokens and one. `UserError` if a text outgrows a layer that may not
    forget. A model's sink token is held beside the text and not counted.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int = 1,
        capacity: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        spare: int = 0,
    ) -> None:
        if capacity is None and None in config.windows:
            raise UserError(
                "a layer with full attention keeps every token: give RollingKVCache a capacity, "
                "the number of tokens it must hold"
            )
        assert config.head_dim is not None
        self.windows = config.windows
        self.layers: list[Ring] = []
        self.capacity: int | None = None  # set if some layer may not forget
        self.begin = int(config.sink_token)  # position of the first token of text
        self.primed = not config.sink_token  # whether it holds the sink token, if there is one
        for window in config.windows:
            sinks = 0 if window is None else config.sinks
            slots = None if window is None else window + sinks + spare  # None: one for every token
            if slots is None or (capacity is not None and capacity + self.begin < slots):
                assert capacity is not None
                slots, sinks, self.capacity = capacity + self.begin, 0, capacity
            shape = (batch_size, config.n_kv_heads, slots, config.head_dim)
            try:
                self.layers.append(Ring(shape, sinks, dtype, torch.device(device)))
            except RuntimeError as error:  # what torch raises when memory is short
                raise UserError(f"no memory for a cache of {slots:,} tokens a layer") from error
        self.seen = torch.zeros(batch_size, dtype=torch.int64, device=device)  # tokens per row
        self._longest = 0  # of `seen`, kept here so that checking it costs no transfer

    def place(self, tokens: Tensor) -> Tensor:
        """Give the tokens (B, T) their positions (B, T); a token of -1 is padding: its own is -1.

        Counts them as seen. Raises `UserError` when a layer that may not forget is full.
        """
        if self.capacity is not None and self._longest + tokens.shape[1] > self.capacity:
            raise UserError(
                f"this cache holds {self.capacity:,} tokens and a layer with full attention (or a "
                f"window wider than that) may not forget any: {self._longest + tokens.shape[1]:,} "
                "do not fit; make it with a larger capacity"
            )
        real = tokens >= 0
        positions = torch.where(real, self.begin + self.seen[:, None] + real.cumsum(dim=1) - 1, -1)
        self.seen += real.sum(dim=1)
        self._longest += tokens.shape[1]
        return positions

    def crop(self, length: int | Sequence[int]) -> None:
        """Go back to the first `length` tokens, of each row or row by row.

        Raises `UserError`, with nothing changed, where the next query would miss keys that have
        been overwritten, or where a row has not seen so many tokens.
        """
        kept = torch.as_tensor(length, device=self.seen.device).expand_as(self.seen)
        if bool(((kept < 0) | (kept > self.seen)).any()):
            raise UserError(f"crop to {kept.tolist()}: the rows hold {self.seen.tolist()} tokens")
        at = kept + self.begin
        for ring, window in zip(self.layers, self.windows, strict=True):
            if self.primed and not bool(ring.can_continue(at, window).all()):
                raise UserError(
                    f"crop from {self.seen.tolist()} to {kept.tolist()} tokens: keys that the next "
                    f"token needs were overwritten in a ring of {ring.size:,}; make the cache with "
                    "spare slots, or feed the text again"
                )
        for ring in self.layers:
            ring.positions[ring.positions >= at[:, None]] = -1
        self.seen.copy_(kept)
        self._longest = int(self.seen.max())

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that it holds, to be saved or copied; not copied here."""
        state = {"seen": self.seen, "primed": torch.tensor(self.primed)}
        for n, ring in enumerate(self.layers):
            state |= {f"{n}.k": ring.k, f"{n}.v": ring.v, f"{n}.positions": ring.positions}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state_dict` gave, bit for bit.

        Raises `UserError`, with nothing changed, if it is that of a cache of another shape.
        """
        own = self.state_dict()
        described = [
            {name: (tuple(held.shape), held.dtype) for name, held in each.items()}
            for each in (own, state)
        ]
        if described[0] != described[1]:
            differ = sorted(dict(described[0].items() ^ described[1].items()))
            raise UserError(f"the state is of another cache than this: see {', '.join(differ)}")
        for name, held in own.items():
            held.copy_(state[name])
        self.primed = bool(state["primed"])
        self._longest = int(self.seen.max())

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values: 2 * B * K * Dh * bytes per value * sum of slots."""
        return sum(ring.k.nbytes + ring.v.nbytes for ring in self.layers)
