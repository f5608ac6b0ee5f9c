"""Keyed pseudo-random functions over windows of token ids.

Takes token ids and a key, gives 32-bit words; the same words, bit for bit, from NumPy arrays and
torch tensors on any device, because everything is integer arithmetic on ``int64`` written once with
operators both libraries share. Nothing here uses a framework's random number generator, whose
output depends on the device and the release. Knows nothing of watermarks.

The block function is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011). A window of ids is absorbed four at a time into a 128-bit state; the state is expanded to
as many words as needed in counter mode. `Blake2PRF` replaces the absorption by a keyed BLAKE2b
digest, for users who must assume that somebody tries to recover the key from the output.

Legend: ``c`` window width, ``n`` number of words, ``...`` any batch shape.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

PRF_VERSION = 1
"""Changes whenever any word of any PRF below would change."""

MIN_KEY_BYTES = 16
MASK32 = 0xFFFFFFFF
ROUNDS = 10
# Multipliers and Weyl increments of Philox4x32 (Salmon et al. 2011, table 2).
PHILOX_M0, PHILOX_M1 = 0xD2511F53, 0xCD9E8D57
PHILOX_W0, PHILOX_W1 = 0x9E3779B9, 0xBB67AE85
# Separates the expansion of a state from the absorption of a window.
EXPAND = 0x4D4F4449

Array = Any
"""A NumPy array or a torch tensor of dtype int64."""

_LOW32 = np.uint64(MASK32)

_CACHED_BLOCKS = 4096
"""Blocks expanded at once on a CPU: their words stay in its second-level cache."""


def _mul32(a: Array, m: int) -> tuple[Array, Array]:
    # High and low half of a 32x32-bit product.
    if isinstance(a, np.ndarray):
        product = a.view(np.uint64) * np.uint64(m)
        return (product >> np.uint64(32)).view(np.int64), (product & _LOW32).view(np.int64)
    # In signed 64-bit arithmetic the full product may not fit, so the high half goes through
    # 16-bit halves of the multiplier.
    low_part = a * (m & 0xFFFF)
    high_part = a * (m >> 16) + (low_part >> 16)
    return high_part >> 16, ((high_part & 0xFFFF) << 16) | (low_part & 0xFFFF)


def philox4x32(
    counter: tuple[Array, Array, Array, Array], key: tuple[Array, Array]
) -> tuple[Array, Array, Array, Array]:
    """Apply the Philox4x32-10 block function element-wise.

    Parameters
    ----------
    counter
        Four ``int64`` arrays holding 32-bit words, broadcastable against each other.
    key
        Two ``int64`` arrays or ints holding 32-bit words.

    Returns
    -------
    tuple of four int64 arrays
        Words in ``[0, 2**32)``.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        hi0, lo0 = _mul32(c0, PHILOX_M0)
        hi1, lo1 = _mul32(c2, PHILOX_M1)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0 = (k0 + PHILOX_W0) & MASK32
        k1 = (k1 + PHILOX_W1) & MASK32
    return c0, c1, c2, c3


def master_key(key: bytes | str | int) -> bytes:
    """Turn a user's key into 32 bytes.

    Parameters
    ----------
    key
        At least 16 bytes, a string of at least 16 UTF-8 bytes, or a non-negative integer below
        2**256 (kept for experiments: an integer below 2**64 can be searched).

    Returns
    -------
    bytes
        32 bytes; equal keys of different types give different bytes.

    Raises
    ------
    TypeError
        If the key is of another type.
    ValueError
        If the key is too short, negative or too large.
    """
    if isinstance(key, bool) or not isinstance(key, bytes | bytearray | str | int | np.integer):
        raise TypeError(f"key must be bytes, str or int, got {type(key).__name__}")
    if isinstance(key, int | np.integer):
        key = int(key)
        if not 0 <= key < 1 << 256:
            raise ValueError("an integer key must lie in [0, 2**256)")
        kind, raw = b"int", key.to_bytes(32, "little")
    else:
        kind, raw = (b"str", key.encode()) if isinstance(key, str) else (b"bytes", bytes(key))
        if len(raw) < MIN_KEY_BYTES:
            raise ValueError(
                f"key has {len(raw)} bytes; at least {MIN_KEY_BYTES} are needed "
                "(for instance secrets.token_bytes(32))"
            )
    return hashlib.blake2b(raw, digest_size=32, person=b"modicum:" + kind).digest()


def key_id(key: bytes | str | int) -> str:
    """Return a public name of a key: 16 hexadecimal digits that do not reveal it."""
    return hashlib.blake2b(master_key(key), digest_size=8, person=b"modicum:keyid").hexdigest()


def derive_key(key: bytes | str | int, domain: str) -> bytes:
    """Derive an independent 32-byte sub-key for one use.

    Parameters
    ----------
    key
        As in `master_key`.
    domain
        Name of the use, up to 16 ASCII characters, for instance ``"seed"``.

    Returns
    -------
    bytes
        32 bytes.

    Raises
    ------
    ValueError
        If the name is longer than 16 bytes.
    """
    person = domain.encode("ascii")
    if len(person) > hashlib.blake2b.PERSON_SIZE:
        raise ValueError(f"domain {domain!r} is longer than 16 bytes")
    return hashlib.blake2b(key=master_key(key), digest_size=32, person=person).digest()


class KeyedPRF(Protocol):
    """What a scheme needs from a PRF: absorb a window of ids, then read words."""

    name: str

    def context_state(self, ids: Array) -> Array:
        """Absorb windows ``int64[..., c]`` into states ``int64[..., 4]``."""
        ...

    def words(self, state: Array, index: Array) -> Array:
        """Return word number ``index`` of each state (shapes broadcast)."""
        ...

    def words_range(self, state: Array, n: int) -> Array:
        """Return words ``0 … n-1`` of each state, ``int64[..., n]``."""
        ...


def _stack(parts: list[Array] | tuple[Array, ...], like: Array) -> Array:
    if isinstance(like, np.ndarray):
        return np.stack(np.broadcast_arrays(*parts), axis=-1)
    import torch

    return torch.stack(torch.broadcast_tensors(*parts), dim=-1)


def _select4(parts: tuple[Array, Array, Array, Array], which: Array) -> Array:
    # Arithmetic select, the same on both libraries.
    result = 0
    for i, part in enumerate(parts):
        result = result + part * (which == i)
    return result


class PhiloxPRF:
    """Philox in counter mode over windows of token ids: fast, on any device.

    Suited to statistical use; not a cryptographic PRF. Somebody who can query the exact words
    might recover the 64-bit round key; where that matters use `Blake2PRF`.

    Parameters
    ----------
    round_key
        Two 32-bit words.
    initial
        Four 32-bit words the absorption starts from.
    expand
        32-bit constant that separates expansion from absorption.

    See Also
    --------
    PhiloxPRF.from_key : the usual constructor.
    """

    name = "philox"

    def __init__(
        self,
        round_key: tuple[int, int],
        initial: tuple[int, int, int, int],
        expand: int = EXPAND,
    ) -> None:
        for word in (*round_key, *initial, expand):
            if not 0 <= word <= MASK32:
                raise ValueError(f"{word!r} is not a 32-bit word")
        self.round_key = round_key
        self.initial = initial
        self.expand = expand

    @classmethod
    def from_key(cls, key: bytes | str | int, domain: str) -> "PhiloxPRF":
        """Build the PRF of one use (``domain``) from a user's key; see `derive_key`."""
        words = np.frombuffer(derive_key(key, domain)[:24], dtype="<u4").tolist()
        return cls((words[0], words[1]), (words[2], words[3], words[4], words[5]))

    def context_state(self, ids: Array) -> Array:
        """Absorb windows of ids.

        Parameters
        ----------
        ids
            ``int64[..., c]``, NumPy or torch; ids in ``[-1, 2**32 - 1)``, where -1 is padding.

        Returns
        -------
        int64[..., 4]
            128-bit states as four 32-bit words.
        """
        width = ids.shape[-1]
        k0, k1 = self.round_key
        zero = ids[..., 0] * 0
        state = tuple(zero + word for word in self.initial)
        for offset in range(0, width, 4):
            # A missing slot of the last block holds a value that no id takes at that slot.
            block = [
                ids[..., offset + i] & MASK32 if offset + i < width else zero + (MASK32 - i)
                for i in range(4)
            ]
            mixed = tuple(s ^ b for s, b in zip(state, block, strict=True))
            state = philox4x32(mixed, (zero + (k0 ^ offset), zero + k1))
        return _stack(state, ids)

    def _expand(self, state: Array, counter: Array) -> tuple[Array, Array, Array, Array]:
        return self._expand_columns([state[..., i] for i in range(4)], counter)

    def _expand_columns(
        self, columns: list[Array], counter: Array
    ) -> tuple[Array, Array, Array, Array]:
        s0, s1, s2, s3 = columns
        k0, k1 = self.round_key
        zero = (s0 + counter) * 0
        key = (zero + (s3 ^ k0), zero + (k1 ^ self.expand))
        return philox4x32((zero + counter, zero + s0, zero + s1, zero + s2), key)

    def words(self, state: Array, index: Array) -> Array:
        """Return chosen words of each state.

        Parameters
        ----------
        state
            ``int64[..., 4]`` from `context_state`.
        index
            ``int64``, broadcastable against ``state[..., 0]``, non-negative.

        Returns
        -------
        int64
            Words in ``[0, 2**32)``, of the broadcast shape.
        """
        return _select4(self._expand(state, index >> 2), index & 3)

    def words_range(self, state: Array, n: int) -> Array:
        """Return the first ``n`` words of each state, ``int64[..., n]``.

        Equal to ``words(state[..., None, :], arange(n))`` at a quarter of the work.
        """
        if not isinstance(state, np.ndarray):
            import torch

            if state.device.type == "cpu":
                return torch.from_numpy(self.words_range(state.numpy(), n))
            every = torch.arange((n + 3) // 4, device=state.device)
            blocks = _stack(self._expand(state[..., None, :], every), state)
            return blocks.reshape(*state.shape[:-1], 4 * len(every))[..., :n]
        rows_B4 = state.reshape(-1, 4)
        words_Bn = np.empty((len(rows_B4), 4 * ((n + 3) // 4)), dtype=np.int64)
        size = max(1, _CACHED_BLOCKS // max(1, len(rows_B4)))
        for at in range(0, (n + 3) // 4, size):
            counter = np.arange(at, min(at + size, (n + 3) // 4), dtype=np.int64)
            columns_B4 = [rows_B4[:, i, None] for i in range(4)]
            blocks = self._expand_columns(columns_B4, counter)
            for i, block in enumerate(blocks):
                words_Bn[:, 4 * at + i : 4 * (at + len(counter)) : 4] = block
        return words_Bn[:, :n].reshape(*state.shape[:-1], n)


class Blake2PRF(PhiloxPRF):
    """Keyed BLAKE2b over each window, expanded by Philox: slower, resists key recovery.

    Each window's state is a keyed 16-byte BLAKE2b digest computed on the CPU; Philox expands it,
    keyed by its last word. So the words of one context say nothing about those of another.
    """

    name = "blake2b"

    def __init__(self, key: bytes, expand: int = EXPAND) -> None:
        super().__init__((0, 0), (0, 0, 0, 0), expand)
        self._key = key

    @classmethod
    def from_key(cls, key: bytes | str | int, domain: str) -> "Blake2PRF":
        """Build the PRF of one use (``domain``) from a user's key; see `derive_key`."""
        return cls(derive_key(key, domain))

    def context_state(self, ids: Array) -> Array:
        """Digest windows of ids; same shapes as `PhiloxPRF.context_state`."""
        host = ids if isinstance(ids, np.ndarray) else ids.cpu().numpy()
        rows = np.ascontiguousarray(host.reshape(-1, host.shape[-1]).astype("<i8"))
        digests = b"".join(
            hashlib.blake2b(row.tobytes(), key=self._key, digest_size=16).digest() for row in rows
        )
        state = np.frombuffer(digests, dtype="<u4").astype(np.int64).reshape(*host.shape[:-1], 4)
        if isinstance(ids, np.ndarray):
            return state
        import torch

        return torch.from_numpy(state).to(ids.device)


PRFS: dict[str, Callable[[bytes | str | int, str], PhiloxPRF]] = {
    "philox": PhiloxPRF.from_key,
    "blake2b": Blake2PRF.from_key,
}
"""Constructors by name: ``PRFS[name](key, domain)``."""


def make_prf(name: str, key: bytes | str | int, domain: str) -> PhiloxPRF:
    """Build a PRF by name.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if name not in PRFS:
        raise ValueError(f"unknown prf {name!r}; choose one of {sorted(PRFS)}")
    return PRFS[name](key, domain)


def _float64(words: Array) -> Array:
    # An int64 tensor plus a Python float would be float32, in which a uniform may round to 1.
    return words.double() if hasattr(words, "double") else np.asarray(words, dtype=np.float64)


def uniform32(words: Array) -> Array:
    """Map 32-bit words to float64 in the open unit interval, ``(w + 0.5) / 2**32``."""
    return (_float64(words) + 0.5) * 2.0**-32


def uniform53(high: Array, low: Array) -> Array:
    """Map two 32-bit words to float64 in the open unit interval with 53 bits.

    ``(r + 0.5) / 2**53`` would round to 1 for the largest r; 52 bits and a half-step stay exact,
    so the value is ``(r + 0.5) / 2**52`` with r the top 52 of the 64 bits.
    """
    r = (high << 20) | (low >> 12)
    return (_float64(r) + 0.5) * 2.0**-52
