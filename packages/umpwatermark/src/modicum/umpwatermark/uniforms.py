"""The keyed uniforms of a position: one per token of the vocabulary, and some to spare.

Takes windows of token ids and gives numbers in the open unit interval that whoever knows the key
can compute again; NumPy or torch, the same bits. Two families: those of `modicum.core.prf` (32 bits
per uniform), and those of vLLM's own watermark (24 bits, rounded to float32), so that text written
by that engine is read with the same detector. Knows nothing of laws or samplers.

Legend: ``B`` positions, ``c`` context width, ``V`` vocabulary, ``s`` words of a state.
"""

import hashlib
from typing import Any

import numpy as np

from modicum.core.prf import MASK32, KeyedPRF, PhiloxPRF, derive_key, make_prf, uniform32
from modicum.core.watermark.warpers import is_torch
from modicum.umpwatermark._arrays import as_float64
from modicum.umpwatermark.config import UMPWatermarkConfig

Array = Any
"""A NumPy array or a torch tensor."""

DOMAIN = "ump"
EXTRA_DOMAIN = "ump-extra"

# Constants of vLLM's watermark: a context starts from the first, a token's word is cut off from the
# absorption of contexts by the second, and its HMAC messages open with the third.
VLLM_CONTEXT = 0x574D4358
VLLM_TOKEN = 0x574D544B
VLLM_HMAC_DOMAIN = b"vllm-watermark-hmac-sha256-v1\0"


def uniform24(words: Array) -> Array:
    """Map 32-bit words to float64 in the open unit interval, the way vLLM does.

    ``(w >> 8) + 1`` over ``2**24 + 1``, rounded to float32, in which vLLM compares and sums.
    """
    exact = (as_float64(words >> 8) + 1.0) / (2**24 + 1)
    return as_float64(exact.float() if is_torch(exact) else exact.astype(np.float32))


def uniforms_of(words: Array, bits: int) -> Array:
    """Map 32-bit words to float64 in (0, 1): all 32 bits, or the 24 that vLLM uses."""
    return uniform24(words) if bits == 24 else uniform32(words)


class HMACPRF:
    """HMAC-SHA-256 of context and token: vLLM's cryptographic PRF, about a million words a second.

    Its state is the context itself, because every word is a hash of its own.

    Parameters
    ----------
    key
        32 bytes.
    domain
        Bytes that open each message.
    """

    name = "hmac-sha256"

    def __init__(self, key: bytes, domain: bytes = VLLM_HMAC_DOMAIN) -> None:
        if len(key) != 32:
            raise ValueError(f"an HMAC key has exactly 32 bytes, got {len(key)}")
        block = key.ljust(64, b"\0")
        # Both hashes start from the key: hashing that part once halves the work.
        self._inner = hashlib.sha256(bytes(b ^ 0x36 for b in block) + domain)
        self._outer = hashlib.sha256(bytes(b ^ 0x5C for b in block))

    def context_state(self, ids: Array) -> Array:
        """Return the windows themselves, ``int64[..., c]``."""
        return ids

    def _digests(self, window: bytes, tokens: bytes) -> bytes:
        context = self._inner.copy()
        context.update((len(window) // 8).to_bytes(4, "little") + window)
        found = []
        for at in range(0, len(tokens), 8):
            inner = context.copy()
            inner.update(tokens[at : at + 8])
            outer = self._outer.copy()
            outer.update(inner.digest())
            found.append(outer.digest()[:4])
        return b"".join(found)

    def words(self, state: Array, index: Array) -> Array:
        """Return chosen words of each state; see `modicum.core.prf.PhiloxPRF.words`."""
        if is_torch(state):
            import torch

            words = self.words(state.cpu().numpy(), index.cpu().numpy())
            return torch.from_numpy(words).to(state.device)
        shape = np.broadcast_shapes(state.shape[:-1], np.shape(index))
        windows = np.broadcast_to(state, (*shape, state.shape[-1])).reshape(-1, state.shape[-1])
        tokens = np.broadcast_to(index, shape).reshape(-1).astype("<i8")
        digests = b"".join(
            self._digests(window.tobytes(), token.tobytes())
            for window, token in zip(windows.astype("<i8"), tokens, strict=True)
        )
        return np.frombuffer(digests, dtype="<u4").astype(np.int64).reshape(shape)

    def words_range(self, state: Array, n: int) -> Array:
        """Return the first ``n`` words of each state, ``int64[..., n]``."""
        if is_torch(state):
            import torch

            return torch.from_numpy(self.words_range(state.cpu().numpy(), n)).to(state.device)
        tokens = np.arange(n, dtype="<i8").tobytes()
        windows = np.ascontiguousarray(state.reshape(-1, state.shape[-1]).astype("<i8"))
        digests = b"".join(self._digests(window.tobytes(), tokens) for window in windows)
        words = np.frombuffer(digests, dtype="<u4").astype(np.int64)
        return words.reshape(*state.shape[:-1], n)


class KeyedUniforms:
    """Uniforms of token positions under one key, in the open unit interval.

    Parameters
    ----------
    words
        PRF of the tokens' uniforms: word ``v`` of a context belongs to token ``v``.
    extra
        PRF of further uniforms, reading the same states.
    engine
        Map words as vLLM does (24 bits); otherwise all 32 bits are used.

    Attributes
    ----------
    prf, extra_prf
        The two PRFs.
    bits
        Resolution: uniforms are this many bits wide.

    See Also
    --------
    make_uniforms : the usual constructor.
    """

    def __init__(self, words: KeyedPRF, extra: KeyedPRF, *, engine: bool = False) -> None:
        self.prf = words
        self.extra_prf = extra
        self.bits = 24 if engine else 32

    @property
    def full_width(self) -> "KeyedUniforms":
        """The same words read as 32-bit uniforms; the object itself if they are so already.

        Among V uniforms of 24 bits the largest are often equal: which token wins a race is then
        off from its law by about V parts in 2**25. A detector decides by all bits, which differs
        from what an engine took at about as many positions and keeps the null law.
        """
        return self if self.bits == 32 else KeyedUniforms(self.prf, self.extra_prf)

    @property
    def philox(self) -> PhiloxPRF | None:
        """The PRF whose expansion a Philox kernel computes, or ``None`` if it is no Philox."""
        return self.prf if isinstance(self.prf, PhiloxPRF) else None

    def context_state(self, contexts_Bc: Array) -> Array:
        """Absorb contexts.

        Parameters
        ----------
        contexts_Bc
            int64 ids, left-padded with -1, NumPy or torch.

        Returns
        -------
        int64[B, s]
            States for the other methods; four words each, or the context itself with HMAC.
        """
        return self.prf.context_state(contexts_Bc)

    def uniforms(self, state_Bs: Array, vocab_size: int) -> Array:
        """Return the uniform of every token, float64 ``[B, V]`` in (0, 1)."""
        return uniforms_of(self.prf.words_range(state_Bs, vocab_size), self.bits)

    def uniforms_at(self, state_Bs: Array, tokens_B: Array) -> Array:
        """Return the uniforms of chosen tokens.

        Parameters
        ----------
        state_Bs
            From `context_state`.
        tokens_B
            int64 ids ``[B]``, or ``[B, K]`` for several tokens of each position.

        Returns
        -------
        float64, shape of ``tokens_B``
            Bit for bit those of `uniforms`.
        """
        state = state_Bs if tokens_B.ndim == 1 else state_Bs[:, None, :]
        return uniforms_of(self.prf.words(state, tokens_B), self.bits)

    def extra(self, state_Bs: Array, n: int) -> Array:
        """Return ``n`` further uniforms of each position, independent of the tokens'.

        Returns
        -------
        float64[B, n]
            In (0, 1), with 32 bits.
        """
        return uniforms_of(self.extra_prf.words_range(state_Bs, n), 32)


def _expander(prf: PhiloxPRF, key: bytes | str | int) -> PhiloxPRF:
    # The same states under another expansion constant: a separate Philox key for each state.
    word = int.from_bytes(derive_key(key, EXTRA_DOMAIN)[:4], "little")
    other = PhiloxPRF(prf.round_key, prf.initial, word)
    return other if word != prf.expand else PhiloxPRF(prf.round_key, prf.initial, word ^ MASK32)


def make_uniforms(config: UMPWatermarkConfig) -> KeyedUniforms:
    """Build the uniforms of a configuration.

    Parameters
    ----------
    config
        Decides key, PRF and context width.

    Returns
    -------
    KeyedUniforms
    """
    # Engines write by Gumbel-max only: the other samplers need not share the coarse uniforms.
    engine = config.sampler == "gumbel"
    if config.prf == "vllm-philox":
        key = int(config.key)
        initial = (VLLM_CONTEXT, config.context_width, 0, 0)
        philox = PhiloxPRF((key & MASK32, key >> 32), initial, VLLM_TOKEN)
        return KeyedUniforms(philox, _expander(philox, key), engine=engine)
    if config.prf == "vllm-hmac":
        raw = int(config.key).to_bytes(32, "little")
        extra = HMACPRF(derive_key(config.key, EXTRA_DOMAIN))
        return KeyedUniforms(HMACPRF(raw), extra, engine=engine)
    prf = make_prf(config.prf, config.key, DOMAIN)
    return KeyedUniforms(prf, _expander(prf, config.key))
