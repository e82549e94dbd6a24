"""RollingKVCache: keys and values of the last W positions of each layer, in a ring (Mistral 7B,
arXiv 2310.06825, section 2, "Rolling Buffer Cache").

Position p is written to slot `p mod W`; every slot stores the position that it holds. W = 4:

    positions written   slot 0   1   2   3       visible to query 3, 3, 4, 6 (its own key included)
    0 1 2                    0   1   2   -       0 1 2 and 3, once it is written    (-: -1, empty)
    0 1 2 3                  0   1   2   3       0 1 2 3
    0 1 2 3 4                4   1   2   3       1 2 3 4
    0 1 2 3 4 5 6            4   5   6   3       3 4 5 6

Masks are computed from the stored positions, so the order in the ring does not matter and nothing
is ever moved. With sinks, the first n positions have slots of their own in front of the ring and
are never overwritten: p < n is slot p, later ones are slot `n + (p - n) mod W`. Every key is
rotated once, at its own position: queries rotate differently for sinks (see `window.sink_view`).

Writing and attending (`Ring.update`):

    one token      Write it, then attend over the ring in place. This is exact: the slot that the
                   token overwrites holds position p - W or an earlier one, outside its window.
    a chunk        Attend over a copy of the ring joined with the chunk, because the first queries
                   of the chunk still need the keys that its last tokens overwrite.
    full layers    Nothing is ever overwritten: write, then attend over the filled slots in place.

Shapes depend on the numbers of tokens and slots and never on the data, so a decoding step can be
compiled. Going back (`crop`) is possible as long as no later query needs a key that was
overwritten: by one token, and by one more for every spare slot. Going back further is an error.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from errors import UserError
from model.config import ModelConfig
from model.window import Window, visible

FILLED_STEP = 64  # full layers attend over a multiple of 64 slots, so that few shapes occur


class Ring:
    """One layer's slots: k and v (B, K, slots, Dh), positions (B, slots) with -1 for empty ones.

    `forgets` says whether new tokens overwrite earlier ones. A layer that must keep every token has
    a slot for each, and `filled` is the number of slots, from the first, that may hold a token.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        sinks: int,
        forgets: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        batch_size, n_kv_heads, slots, head_dim = shape
        self.sinks, self.forgets = sinks, forgets
        self.size = slots - sinks  # slots of the ring without the sinks' own
        self.filled = slots
        self._discard = slots  # one more slot: it takes what is not kept, and no query reads it
        keys = torch.zeros(batch_size, n_kv_heads, slots + 1, head_dim, dtype=dtype, device=device)
        self._k, self._v = keys, torch.zeros_like(keys)
        self._positions = torch.full((batch_size, slots + 1), -1, device=device)
        self.k, self.v = self._k[:, :, :slots], self._v[:, :, :slots]
        self.positions = self._positions[:, :slots]

    @property
    def storage(self) -> tuple[Tensor, Tensor, Tensor]:
        """All memory of k, v and positions: one more slot than they show, which is never read."""
        return self._k, self._v, self._positions

    def update(self, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add a chunk: k, v (B, K, T, Dh) at positions (B, T), which rise in each row; -1: padding.

        Returns the keys, values (B, K, S, Dh) and positions (B, S) that its queries attend over:
        the ring's own tensors for one token, or if the layer keeps every token. No gradient flows
        through what is read from the ring.
        """
        exists = positions >= 0
        if positions.shape[1] == 1 or not self.forgets:
            self._write(k, v, positions, exists)
            filled = self.filled
            return self.k[:, :, :filled], self.v[:, :, :filled], self.positions[:, :filled]
        # Sinks are read from their own slots, those of this chunk included.
        self._write(k, v, positions, exists & (positions < self.sinks))
        joined = (
            torch.cat((self.k, k.to(self.k.dtype)), dim=2),
            torch.cat((self.v, v.to(self.v.dtype)), dim=2),
            torch.cat((self.positions, positions), dim=1),
        )
        last = positions.amax(dim=1, keepdim=True)
        self._write(k, v, positions, exists & (positions > last - self.size))
        return joined

    def _write(self, k: Tensor, v: Tensor, positions: Tensor, kept: Tensor) -> None:
        """Write the tokens for which `kept` (B, T) is true to their slots."""
        slot = torch.where(
            positions < self.sinks, positions, self.sinks + (positions - self.sinks) % self.size
        )
        slot = torch.where(kept, slot, self._discard)
        row = torch.arange(len(slot), device=slot.device)[:, None]
        # Detached: a gradient would keep the graph of every earlier call alive.
        self._k[row, :, slot] = k.detach().transpose(1, 2).to(self._k.dtype)
        self._v[row, :, slot] = v.detach().transpose(1, 2).to(self._v.dtype)
        self._positions[row, slot] = torch.where(kept, positions, -1)

    def can_continue(self, at: Tensor, window: Window) -> Tensor:
        """Return, per row, whether all earlier keys that the query at `at` (B,) sees are cached.

        Later queries see no other of the keys before `at`.
        """
        i, j = at[:, None], self.positions
        cached = (visible(i, j, window, self.sinks) & (j >= 0) & (j < i)).sum(dim=1)
        # Keys 0..hidden-1 have left the window; those of them that are sinks stay visible.
        hidden = torch.zeros_like(at) if window is None else (at - window + 1).clamp(min=0)
        return cached == at - hidden + hidden.clamp(max=self.sinks)


class RollingKVCache:
    """A cache of fixed memory: O(sum of the windows), whatever the number of tokens.

    `capacity` is the number of tokens that a layer with full attention can hold; it is required if
    the model has such a layer. A layer whose window is wider holds `capacity` tokens as well.
    `spare` slots in each ring allow `crop` to go back by `spare` + 1 tokens. A model's sink token
    takes a slot of its own and does not count. Raises `UserError` if a text exceeds the capacity of
    a layer that must keep every token.
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
        self.capacity: int | None = None  # set if some layer must keep every token
        self.first_position = int(config.sink_token)  # of the text
        self.primed = not config.sink_token  # whether the sink token, if any, is cached
        for window in config.windows:
            sinks = 0 if window is None else config.sinks
            slots = None if window is None else window + sinks + spare  # None: one for every token
            forgets = True
            if slots is None or (capacity is not None and capacity + self.first_position < slots):
                assert capacity is not None
                slots, sinks, self.capacity = capacity + self.first_position, 0, capacity
                forgets = False
            shape = (batch_size, config.n_kv_heads, slots, config.head_dim)
            try:
                self.layers.append(Ring(shape, sinks, forgets, dtype, torch.device(device)))
            except RuntimeError as error:  # torch's exception if memory does not suffice
                raise UserError(f"no memory for a cache of {slots:,} tokens a layer") from error
        self.seen = torch.zeros(batch_size, dtype=torch.int64, device=device)  # tokens per row
        self._set_longest(0)

    def _set_longest(self, longest: int) -> None:
        """Set an upper bound of `seen`, a Python integer: reading it does not wait for a GPU."""
        self._longest = longest
        for ring in self.layers:
            if not ring.forgets:
                filled = -(-(self.first_position + longest) // FILLED_STEP) * FILLED_STEP
                ring.filled = min(ring.size, max(filled, 1))

    def assign_positions(self, tokens: Tensor) -> Tensor:
        """Return the positions (B, T) of new tokens (B, T): -1 for padding, which is a token of -1.

        Counts the tokens as seen. Raises `UserError` if a layer that must keep every token is full.
        """
        self.reserve(tokens.shape[1])
        exists = tokens >= 0
        position = self.first_position + self.seen[:, None] + exists.cumsum(dim=1) - 1
        self.seen += exists.sum(dim=1)
        return torch.where(exists, position, -1)

    def reserve(self, n_tokens: int) -> None:
        """Make room for so many more tokens in each row.

        Raises `UserError` if a layer that must keep every token is full.
        """
        longest = self._longest + n_tokens
        if self.capacity is not None and longest > self.capacity:
            raise UserError(
                f"this cache holds {self.capacity:,} tokens, and a layer with full attention (or a "
                f"wider window) must keep every token: {longest:,} do not fit; make it with a "
                "larger capacity"
            )
        self._set_longest(longest)

    def crop(self, length: int | Sequence[int]) -> None:
        """Go back to the first `length` tokens of all rows, or of each row.

        Raises `UserError`, with nothing changed, if a row has seen fewer tokens, or if keys that
        the next query needs were overwritten.
        """
        kept = torch.as_tensor(length, device=self.seen.device).expand_as(self.seen)
        if bool(((kept < 0) | (kept > self.seen)).any()):
            raise UserError(f"crop to {kept.tolist()}: the rows hold {self.seen.tolist()} tokens")
        at = kept + self.first_position
        for ring, window in zip(self.layers, self.windows, strict=True):
            if self.primed and not bool(ring.can_continue(at, window).all()):
                raise UserError(
                    f"crop from {self.seen.tolist()} to {kept.tolist()} tokens: keys that the next "
                    f"token needs were overwritten in a ring of {ring.size:,}; make the cache with "
                    "spare slots, or read the text again"
                )
        for ring in self.layers:
            ring.positions[ring.positions >= at[:, None]] = -1
        self.seen.copy_(kept)
        self._set_longest(int(self.seen.max()))

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors of the cache, by name; they are not copied."""
        state = {"seen": self.seen, "primed": torch.tensor(self.primed)}
        for n, ring in enumerate(self.layers):
            state |= {f"{n}.k": ring.k, f"{n}.v": ring.v, f"{n}.positions": ring.positions}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state_dict` returned, bit for bit.

        Raises `UserError`, with nothing changed, if the state is from a cache of another shape.
        """
        current = self.state_dict()
        expected, actual = (
            {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
            for tensors in (current, state)
        )
        if expected != actual:
            names = sorted(dict(expected.items() ^ actual.items()))
            raise UserError(
                f"the state is from a cache of another shape: {', '.join(names)} differ"
            )
        for name, tensor in current.items():
            tensor.copy_(state[name])
        self.primed = bool(state["primed"])
        self._set_longest(int(self.seen.max()))

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values: 2 * B * K * Dh * bytes per value * sum of slots."""
        return sum(ring.k.nbytes + ring.v.nbytes for ring in self.layers)
