"""Anchors: next-token laws a detector can compute from response tokens alone.

An anchor reads the last tokens of a response, never the prompt, and gives a normalised law over the
vocabulary. Here: the protocol, two anchors without a neural model (`UniformAnchor`,
`NGramAnchor`), and what feeds an anchor with the windows of a whole text. Anchors made of language
models are in `causal_lm`. Knows nothing of keys or scores.

NumPy in gives NumPy out; torch in gives torch out, on the device of the input.

Legend: ``B`` rows, ``L`` context length, ``V`` vocabulary, ``T`` positions of a text, ``N`` some
of them, ``E`` stored n-grams, ``C`` their distinct contexts.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modicum.core.watermark.contexts import PAD, token_ids
from modicum.core.watermark.warpers import Array, is_torch

NGRAM_FORMAT = "modicum.ngram"
NGRAM_VERSION = 1
MAX_ORDER = 3
# Three ids must fit one signed 64-bit key.
MAX_NGRAM_VOCAB = 1 << 21


class Anchor(Protocol):
    """A next-token law that needs nothing but the last response tokens.

    Attributes
    ----------
    vocab_size
        Number of tokens the law covers.
    window
        How many of the last response tokens are read: 0 none, ``None`` the whole prefix.
    fingerprint
        Names the law; a generator and a detector must agree on it.
    """

    vocab_size: int
    window: int | None

    @property
    def fingerprint(self) -> str:
        """Name of the law, equal exactly when the laws are meant to be equal."""
        ...

    def log_probs(self, context_ids_BL: Array, lengths_B: Array) -> Array:
        """Return ``[B, V]`` log-probabilities of the next token.

        Parameters
        ----------
        context_ids_BL
            Integer ids, the latest token rightmost, padded on the left with ``-1``.
        lengths_B
            How many ids of each row are real.
        """
        ...


def _vocab(vocab_size: int, least: int = 1) -> int:
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int | np.integer):
        raise TypeError(f"vocab_size must be an int, got {vocab_size!r}")
    if vocab_size < least:
        raise ValueError(f"vocab_size must be at least {least}, got {vocab_size}")
    return int(vocab_size)


def check_context(context_ids_BL: Array, lengths_B: Array, vocab_size: int) -> None:
    """Validate what is handed to `Anchor.log_probs`.

    Raises
    ------
    TypeError
        If ids or lengths are not integers, or one is NumPy and the other torch.
    ValueError
        If shapes disagree, the padding is not exactly the ``-1`` on the left that the lengths
        announce, or an id is outside the vocabulary.
    """
    if is_torch(context_ids_BL) != is_torch(lengths_B):
        raise TypeError("context ids and lengths must be both NumPy arrays or both tensors")
    for name, x in (("context ids", context_ids_BL), ("lengths", lengths_B)):
        if not is_torch(x) and not isinstance(x, np.ndarray):
            raise TypeError(f"{name} must be a NumPy array or a tensor, got {type(x).__name__}")
        kind = str(x.dtype).removeprefix("torch.")
        if not kind.startswith(("int", "uint")):
            raise TypeError(f"{name} must be integers, got {kind}")
    if context_ids_BL.ndim != 2:
        raise ValueError(f"context ids must have shape [B, L], got {tuple(context_ids_BL.shape)}")
    B, L = context_ids_BL.shape
    if tuple(lengths_B.shape) != (B,):
        raise ValueError(f"lengths must have shape [{B}], got {tuple(lengths_B.shape)}")
    place_L: Array = np.arange(L)
    if is_torch(context_ids_BL):
        import torch

        place_L = torch.arange(L, device=context_ids_BL.device)
    real_BL = place_L >= L - lengths_B[:, None]
    known_BL = (context_ids_BL >= 0) & (context_ids_BL < vocab_size)
    good = (real_BL == (context_ids_BL != PAD)).all() & (known_BL == real_BL).all()
    if not bool(good & (lengths_B >= 0).all() & (lengths_B <= L).all()):
        raise ValueError(
            f"each context must be ids in [0, {vocab_size}), right-aligned behind exactly "
            f"{L} - length values of -1"
        )


def validate_anchor_log_probs(
    log_probs_BV: Array, vocab_size: int, *, tolerance: float = 1e-4
) -> Array:
    """Check the output of a foreign anchor at the door and return it.

    Parameters
    ----------
    log_probs_BV
        Log-probabilities, NumPy or torch; ``-inf`` marks tokens outside the support.
    vocab_size
        The vocabulary the scheme works on.
    tolerance
        Largest accepted distance of a row's total from one.

    Returns
    -------
    float32 or float64 array or tensor, shape [B, V]
        The argument itself.

    Raises
    ------
    TypeError
        If it is no array, or not in float32 or float64 (half precision blurs small tokens).
    ValueError
        If the shape is wrong, a value is NaN or a row does not sum to one.
    """
    tensor = is_torch(log_probs_BV)
    if not tensor and not isinstance(log_probs_BV, np.ndarray):
        raise TypeError(f"anchor log-probabilities are a {type(log_probs_BV).__name__}")
    kind = str(log_probs_BV.dtype).removeprefix("torch.")
    if kind not in ("float32", "float64"):
        raise TypeError(f"anchor log-probabilities must be float32 or float64, got {kind}")
    if log_probs_BV.ndim != 2 or log_probs_BV.shape[1] != vocab_size:
        raise ValueError(
            f"anchor log-probabilities must have shape [B, {vocab_size}], got "
            f"{tuple(log_probs_BV.shape)}; an anchor of another vocabulary cannot be used"
        )
    total_B = log_probs_BV.exp().sum(-1) if tensor else np.exp(log_probs_BV).sum(-1)
    # A NaN compares false, so it is caught here too.
    good_B = abs(total_B - 1) <= tolerance
    if not bool(good_B.all()):
        row = int((~good_B).nonzero()[0][0])
        raise ValueError(
            f"row {row} of the anchor's probabilities sums to {float(total_B[row])}, not to 1; "
            "return log_softmax of the logits"
        )
    return log_probs_BV


class UniformAnchor:
    """The law that knows nothing: every token equally likely.

    Parameters
    ----------
    vocab_size
        Number of tokens.
    """

    window: int | None = 0

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = _vocab(vocab_size)

    @property
    def fingerprint(self) -> str:
        """``uniform:<vocab_size>``."""
        return f"uniform:{self.vocab_size}"

    def log_probs(self, context_ids_BL: Array, lengths_B: Array) -> Array:
        """Return ``-log V`` everywhere, float32 ``[B, V]``; see `Anchor.log_probs`."""
        check_context(context_ids_BL, lengths_B, self.vocab_size)
        shape = (context_ids_BL.shape[0], self.vocab_size)
        value = -float(np.log(self.vocab_size))
        if is_torch(context_ids_BL):
            import torch

            return torch.full(shape, value, dtype=torch.float32, device=context_ids_BL.device)
        return np.full(shape, value, dtype=np.float32)


def _merge(
    keys_E: NDArray[np.int64], counts_E: NDArray[np.int64], more_E: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    new_E, new_counts_E = np.unique(more_E, return_counts=True)
    all_E, inverse_E = np.unique(np.concatenate([keys_E, new_E]), return_inverse=True)
    total_E = np.zeros(len(all_E), dtype=np.int64)
    np.add.at(total_E, inverse_E, np.concatenate([counts_E, new_counts_E]))
    return all_E, total_E


class _Table:
    """The n-grams of one order: for each context the next tokens seen after it."""

    def __init__(
        self, keys_E: NDArray[np.int64], counts_E: NDArray[np.int64], vocab_size: int
    ) -> None:
        # Keys are sorted, so the n-grams of one context lie side by side.
        self.next_E = keys_E % vocab_size
        self.counts_E = counts_E.astype(np.float64)
        self.contexts_C, self.start_C, self.size_C = np.unique(
            keys_E // vocab_size, return_index=True, return_counts=True
        )
        sums = np.add.reduceat(self.counts_E, self.start_C) if len(keys_E) else self.counts_E
        self.total_C = sums

    def to_torch(self, device: Any) -> dict[str, Any]:
        import torch

        real = torch.float32 if torch.device(device).type == "mps" else torch.float64
        out = {
            k: torch.from_numpy(np.ascontiguousarray(v)).to(device) for k, v in vars(self).items()
        }
        return {k: v.to(real) if v.is_floating_point() else v for k, v in out.items()}


class NGramAnchor:
    """Counts of one, two or three consecutive tokens, smoothed: milliseconds on a CPU.

    With c the counts, h the last tokens and h' the same without the oldest one,

    - ``p(v) = (c(v) + add_k) / (N + add_k V)`` for a single token,
    - ``p(v | h) = (c(h, v) + strength * p(v | h')) / (c(h) + strength)`` above that,

    so an unseen context falls back to the shorter one and every token keeps positive mass. A
    context shorter than the order uses what it has.

    Parameters
    ----------
    vocab_size
        Number of tokens, at most 2**21.
    order
        1, 2 or 3: length of the longest n-gram.
    add_k
        Positive pseudo-count of every single token.
    strength
        Positive pseudo-count that a context gives to the shorter context's law.
    min_count
        N-grams of two or more tokens seen less often are forgotten.

    Notes
    -----
    The second rule is interpolation with a Dirichlet prior (MacKay and Peto, "A hierarchical
    Dirichlet language model", Natural Language Engineering 1995).

    Examples
    --------
    >>> anchor = NGramAnchor(vocab_size=4, order=2).fit([[0, 1, 2, 0, 1, 3]])
    >>> import numpy as np
    >>> log_probs = anchor.log_probs(np.array([[0]]), np.array([1]))
    >>> int(log_probs.argmax())
    1
    """

    def __init__(
        self,
        vocab_size: int,
        order: int = 2,
        *,
        add_k: float = 0.1,
        strength: float = 5.0,
        min_count: int = 1,
    ) -> None:
        self.vocab_size = _vocab(vocab_size)
        if self.vocab_size > MAX_NGRAM_VOCAB:
            raise ValueError(f"vocab_size must be at most {MAX_NGRAM_VOCAB}, got {vocab_size}")
        if order not in range(1, MAX_ORDER + 1):
            raise ValueError(f"order must be 1, 2 or 3, got {order!r}")
        for name, value in (("add_k", add_k), ("strength", strength)):
            if not (0 < value < np.inf):
                raise ValueError(f"{name} must be positive and finite, got {value!r}")
        if isinstance(min_count, bool) or min_count != int(min_count) or min_count < 1:
            raise ValueError(f"min_count must be an integer of at least 1, got {min_count!r}")
        self.order = int(order)
        self.add_k = float(add_k)
        self.strength = float(strength)
        self.min_count = int(min_count)
        self.window: int | None = self.order - 1
        self._counts: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def fit(self, sequences: Iterable[ArrayLike], *, chunk_tokens: int = 1 << 20) -> "NGramAnchor":
        """Count the n-grams of token sequences, forgetting earlier fits.

        Parameters
        ----------
        sequences
            Iterable of one-dimensional id sequences; no n-gram crosses a border.
        chunk_tokens
            How many tokens are gathered before they are merged into the counts.

        Returns
        -------
        NGramAnchor
            The anchor itself.

        Raises
        ------
        TypeError, ValueError
            If an id is not an integer in the vocabulary, or there is no token at all.
        """
        V = self.vocab_size
        empty = np.zeros(0, dtype=np.int64)
        counts = {n: (empty, empty) for n in range(1, self.order + 1)}
        pending: dict[int, list[NDArray[np.int64]]] = {n: [] for n in counts}
        gathered = 0

        def flush() -> None:
            for n, parts in pending.items():
                if parts:
                    counts[n] = _merge(*counts[n], np.concatenate(parts))
                    parts.clear()

        for sequence in sequences:
            ids_T = token_ids(sequence, V)
            for n in counts:
                key_N = np.zeros(max(len(ids_T) - n + 1, 0), dtype=np.int64)
                for i in range(n):
                    key_N = key_N * V + ids_T[i : i + len(key_N)]
                pending[n].append(key_N)
            gathered += len(ids_T)
            if gathered >= chunk_tokens:
                flush()
                gathered = 0
        flush()
        if not len(counts[1][0]):
            raise ValueError("cannot fit an n-gram anchor on no tokens")
        for n in range(2, self.order + 1):
            keys_E, counts_E = counts[n]
            keep_E = counts_E >= self.min_count
            counts[n] = keys_E[keep_E], counts_E[keep_E]
        self._set(counts)
        return self

    def _set(self, counts: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]]) -> None:
        self._counts = counts
        unigram_V = np.full(self.vocab_size, self.add_k)
        unigram_V[counts[1][0]] += counts[1][1]
        self._unigram_V = unigram_V / unigram_V.sum()
        self._tables = {n: _Table(*counts[n], self.vocab_size) for n in range(2, self.order + 1)}
        self._device_cache: dict[str, tuple[Any, dict[int, dict[str, Any]]]] = {}
        self._fingerprint = self._hash()

    def _require_fit(self) -> None:
        if not self._counts:
            raise ValueError("this NGramAnchor has no counts yet; call fit or NGramAnchor.load")

    def _metadata(self) -> dict[str, str]:
        return {
            "format": NGRAM_FORMAT,
            "version": str(NGRAM_VERSION),
            "vocab_size": str(self.vocab_size),
            "order": str(self.order),
            "add_k": repr(self.add_k),
            "strength": repr(self.strength),
            "min_count": str(self.min_count),
        }

    def _hash(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps(self._metadata(), sort_keys=True).encode())
        for n in sorted(self._counts):
            for array in self._counts[n]:
                digest.update(len(array).to_bytes(8, "little"))
                digest.update(array.astype("<i8").tobytes())
        return f"ngram:{digest.hexdigest()}"

    @property
    def fingerprint(self) -> str:
        """``ngram:`` and a hash of settings and counts."""
        self._require_fit()
        return self._fingerprint

    def log_probs(self, context_ids_BL: Array, lengths_B: Array) -> Array:
        """Return float32 ``[B, V]`` log-probabilities; see `Anchor.log_probs`.

        Raises
        ------
        TypeError, ValueError
            If the contexts are malformed or nothing was fitted.
        """
        self._require_fit()
        check_context(context_ids_BL, lengths_B, self.vocab_size)
        if is_torch(context_ids_BL):
            return self._log_probs_torch(context_ids_BL, lengths_B)
        probs_BV = np.repeat(self._unigram_V[None], len(context_ids_BL), axis=0)
        for n, table in self._tables.items():
            if context_ids_BL.shape[1] < n - 1 or not len(table.contexts_C):
                continue
            key_B = np.zeros(len(context_ids_BL), dtype=np.int64)
            for i in range(n - 1, 0, -1):
                key_B = key_B * self.vocab_size + context_ids_BL[:, -i]
            place_B = np.searchsorted(table.contexts_C, key_B).clip(max=len(table.contexts_C) - 1)
            # A context that reaches into the padding has a negative key, which no table holds.
            row_N = np.nonzero(table.contexts_C[place_B] == key_B)[0]
            place_N = place_B[row_N]
            scale_N = 1.0 / (table.total_C[place_N] + self.strength)
            probs_BV[row_N] *= (self.strength * scale_N)[:, None]
            size_N = table.size_C[place_N]
            shift_N = table.start_C[place_N] - (np.cumsum(size_N) - size_N)
            entry_E = np.arange(size_N.sum()) + np.repeat(shift_N, size_N)
            # Within one row every next token occurs once, so no index repeats.
            probs_BV[np.repeat(row_N, size_N), table.next_E[entry_E]] += table.counts_E[
                entry_E
            ] * np.repeat(scale_N, size_N)
        return np.log(probs_BV).astype(np.float32)

    def _log_probs_torch(self, context_ids_BL: Any, lengths_B: Any) -> Any:
        import torch

        device = context_ids_BL.device
        if str(device) not in self._device_cache:
            real = torch.float32 if device.type == "mps" else torch.float64
            unigram_V = torch.from_numpy(self._unigram_V).to(device, real)
            tables = {n: t.to_torch(device) for n, t in self._tables.items()}
            self._device_cache[str(device)] = unigram_V, tables
        unigram_V, tables = self._device_cache[str(device)]
        probs_BV = unigram_V.expand(len(context_ids_BL), -1).clone()
        for n, table in tables.items():
            if context_ids_BL.shape[1] < n - 1 or not len(table["contexts_C"]):
                continue
            key_B = torch.zeros_like(lengths_B, dtype=torch.int64)
            for i in range(n - 1, 0, -1):
                key_B = key_B * self.vocab_size + context_ids_BL[:, -i]
            contexts_C = table["contexts_C"]
            place_B = torch.searchsorted(contexts_C, key_B).clamp(max=len(contexts_C) - 1)
            row_N = (contexts_C[place_B] == key_B).nonzero()[:, 0]
            place_N = place_B[row_N]
            scale_N = 1.0 / (table["total_C"][place_N] + self.strength)
            probs_BV[row_N] *= (self.strength * scale_N)[:, None]
            size_N = table["size_C"][place_N]
            shift_N = table["start_C"][place_N] - (size_N.cumsum(0) - size_N)
            shift_E = shift_N.repeat_interleave(size_N)
            entry_E = torch.arange(len(shift_E), device=device) + shift_E
            probs_BV[row_N.repeat_interleave(size_N), table["next_E"][entry_E]] += table[
                "counts_E"
            ][entry_E] * scale_N.repeat_interleave(size_N)
        return probs_BV.log().float()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the copies on devices behind."""
        state = self.__dict__.copy()
        if self._counts:
            state["_device_cache"] = {}
        return state

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write counts and settings to a safetensors file, atomically.

        Raises
        ------
        ImportError
            If safetensors is not installed.
        ValueError
            If nothing was fitted.
        """
        self._require_fit()
        save = _safetensors().numpy.save
        arrays = {}
        for n, (keys_E, counts_E) in self._counts.items():
            arrays[f"keys_{n}"], arrays[f"counts_{n}"] = keys_E, counts_E
        path = Path(path)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            part.write_bytes(save(arrays, metadata=self._metadata()))
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "NGramAnchor":
        """Read an anchor written by `save`.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ImportError
            If safetensors is not installed.
        ValueError
            If the file holds something else or a newer version.
        """
        with _safetensors().safe_open(os.fspath(path), framework="numpy") as file:
            meta = file.metadata() or {}
            if meta.get("format") != NGRAM_FORMAT:
                raise ValueError(f"{os.fspath(path)} is not an n-gram anchor (no format tag)")
            if meta.get("version") != str(NGRAM_VERSION):
                raise ValueError(
                    f"{os.fspath(path)} has n-gram format version {meta.get('version')}, "
                    f"this release reads version {NGRAM_VERSION}"
                )
            anchor = cls(
                int(meta["vocab_size"]),
                int(meta["order"]),
                add_k=float(meta["add_k"]),
                strength=float(meta["strength"]),
                min_count=int(meta["min_count"]),
            )
            anchor._set(
                {
                    n: (file.get_tensor(f"keys_{n}"), file.get_tensor(f"counts_{n}"))
                    for n in range(1, anchor.order + 1)
                }
            )
        return anchor


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            'n-gram anchors are stored as safetensors: pip install "modicum-core[torch]"'
        ) from error
    return safetensors


def next_log_probs(anchor: Anchor, windows: Sequence[Sequence[int]], like: Array) -> Array:
    """Ask an anchor for the next-token law after each of several token sequences.

    Parameters
    ----------
    anchor
        The anchor.
    windows
        Tokens before the next one; only the last ``anchor.window`` are read.
    like
        Array that decides library and device of the result.

    Returns
    -------
    array[B, V]
        Log-probabilities.
    """
    if anchor.window is not None:
        windows = [w[max(0, len(w) - anchor.window) :] for w in windows]
    width = max((len(w) for w in windows), default=0)
    ids_BL = np.full((len(windows), width), PAD, dtype=np.int64)
    for row, window in enumerate(windows):
        if len(window):
            ids_BL[row, width - len(window) :] = window
    lengths_B = np.array([len(w) for w in windows], dtype=np.int64)
    if not is_torch(like):
        return anchor.log_probs(ids_BL, lengths_B)
    import torch

    ids, lengths = (torch.from_numpy(x).to(like.device) for x in (ids_BL, lengths_B))
    return anchor.log_probs(ids, lengths).to(like.device)


def anchor_windows(
    ids_T: ArrayLike, window: int | None, positions_N: ArrayLike | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what an anchor reads at each position of a text.

    Parameters
    ----------
    ids_T
        Token ids of one response.
    window
        As `Anchor.window`.
    positions_N
        Positions in ``[0, T]``; all ``T`` of them by default. Position T is the next token after
        the text.

    Returns
    -------
    context_ids_NL : ndarray of int64, shape [N, L]
        Right-aligned windows behind ``-1``; ``L`` is the window, or the largest position if the
        window is ``None``.
    lengths_N : ndarray of int64, shape [N]
        ``min(position, window)``.

    Raises
    ------
    ValueError
        If a position is outside ``[0, T]`` or the window is negative.
    """
    ids_T = token_ids(ids_T)
    T = len(ids_T)
    if positions_N is None:
        positions_N = np.arange(T)
    positions_N = np.asarray(positions_N, dtype=np.int64).reshape(-1)
    if len(positions_N) and not (positions_N.min() >= 0 and positions_N.max() <= T):
        raise ValueError(f"positions must lie in [0, {T}]")
    if window is not None and window < 0:
        raise ValueError(f"window must be None or not negative, got {window}")
    L = int(positions_N.max(initial=0)) if window is None else int(window)
    padded = np.concatenate([np.full(L, PAD, dtype=np.int64), ids_T])
    context_ids_NL = padded[positions_N[:, None] + np.arange(L)]
    return context_ids_NL, np.minimum(positions_N, L)


def iter_sequence_log_probs(
    anchor: Anchor,
    ids_T: ArrayLike,
    positions_N: ArrayLike | None = None,
    *,
    batch_size: int = 64,
) -> Iterator[tuple[NDArray[np.int64], Array]]:
    """Run an anchor over the positions of one text in blocks, so that memory stays bounded.

    An anchor with a method of its own, ``iter_log_probs_sequence(ids_T, positions_N)``, is asked
    through it (a language model reads the prefix once); others get windows.

    Parameters
    ----------
    anchor
        Any `Anchor`.
    ids_T
        Token ids of one response.
    positions_N
        Increasing positions to evaluate; all by default.
    batch_size
        Positions per block.

    Yields
    ------
    positions : ndarray of int64, shape [b]
        The block's positions.
    log_probs_bV : array or tensor
        Law of the token *at* each position given those before it.

    Raises
    ------
    ValueError
        If an id is outside the anchor's vocabulary or positions do not increase within the text.
    """
    ids_T = token_ids(ids_T, anchor.vocab_size)
    positions_N = np.arange(len(ids_T)) if positions_N is None else np.asarray(positions_N)
    if len(positions_N) and (
        (np.diff(positions_N) <= 0).any() or positions_N[0] < 0 or positions_N[-1] > len(ids_T)
    ):
        raise ValueError(f"positions must increase within [0, {len(ids_T)}]")
    own = getattr(anchor, "iter_log_probs_sequence", None)
    if own is not None:
        yield from own(ids_T, positions_N)
        return
    for start in range(0, len(positions_N), batch_size):
        block = positions_N[start : start + batch_size]
        yield block, anchor.log_probs(*anchor_windows(ids_T, anchor.window, block))
