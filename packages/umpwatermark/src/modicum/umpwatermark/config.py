"""The configuration of a watermark: everything generator and detector must agree on.

A frozen value; checks itself at construction. Holds the secret key, which it never prints,
serialises or hands to anybody but the scheme. Imports no torch.
"""

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modicum.core.prf import PRF_VERSION, PRFS, key_id, master_key
from modicum.core.watermark.anchors import Anchor
from modicum.core.watermark.contexts import check_context_rule
from modicum.core.watermark.record import WatermarkRecord, record_parameters

if TYPE_CHECKING:
    from modicum.umpwatermark.integrations.transformers import UMPWatermarkingConfig

SCHEME = "umpwatermark"

SAMPLERS = ("gumbel", "hazard", "greenlist", "ump-aware")
COUPLINGS = ("greedy", "exact")
DEFAULT_GAMMA = {"greenlist": 0.5, "ump-aware": 0.2}
"""Region level of the samplers that have one; 0.2 is the published choice of DAWA."""

MOST_EXACT_TOKENS = 4096
"""Largest vocabulary of ``coupling="exact"``, whose work grows faster than the vocabulary."""

ENGINE_KEY_BITS = {"vllm-philox": 64, "vllm-hmac": 256}
"""PRFs of engines that watermark by themselves, and how many bits their integer keys have."""

ENGINE_PRF_VERSION = 1
KNOWN_PRFS: dict[str, int] = dict.fromkeys(PRFS, PRF_VERSION) | dict.fromkeys(
    ENGINE_KEY_BITS, ENGINE_PRF_VERSION
)
"""Version of each PRF, for ``WatermarkRecord.load(path, known_prfs=KNOWN_PRFS)``."""


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        # Not the value: with swapped arguments it could be the key.
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    return int(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    return float(value)


def engine_key(prf: str, key: Any) -> int:
    """Check the key of an engine's PRF and return it as the integer the engine uses.

    Parameters
    ----------
    prf
        ``"vllm-philox"`` or ``"vllm-hmac"``.
    key
        A non-negative int below 2**64 or 2**256; for ``"vllm-hmac"`` also exactly 32 bytes, read
        as a little-endian integer.

    Returns
    -------
    int

    Raises
    ------
    TypeError
        If the key is of another type.
    ValueError
        If it is out of range or of another length. No message holds the key.
    """
    bits = ENGINE_KEY_BITS[prf]
    if isinstance(key, bytes | bytearray) and prf == "vllm-hmac":
        if len(key) != 32:
            raise ValueError(f"a bytes key of prf={prf!r} has exactly 32 bytes, got {len(key)}")
        return int.from_bytes(key, "little")
    if isinstance(key, bool) or not isinstance(key, int | np.integer):
        kinds = "an int or 32 bytes" if prf == "vllm-hmac" else "an int"
        raise TypeError(f"the key of prf={prf!r} must be {kinds}, got {type(key).__name__}")
    if not 0 <= int(key) < 1 << bits:
        raise ValueError(f"an integer key of prf={prf!r} must lie in [0, 2**{bits})")
    return int(key)


@dataclass(frozen=True, eq=False)
class UMPWatermarkConfig:
    """Parameters of a token-level watermark whose detector may use a model.

    Parameters
    ----------
    key
        Secret key: at least 16 bytes, a string of that length, or an int (see
        `modicum.core.prf.master_key`). Engine PRFs take the engine's key, see `engine_key`.
    vocab_size
        Number of token ids that are watermarked, V. Logits beyond it (padding rows of a model) get
        probability 0.
    sampler
        ``"gumbel"`` (the default, and the text that engines write), ``"hazard"`` (text of low
        entropy throughout), ``"greenlist"`` (binary hits, exact binomial counts) or ``"ump-aware"``
        (the optimal coupling per token, known to both sides through ``surrogate``).
    context_width
        Number of preceding response tokens that seed a position, c.
    warmup
        Leading response tokens left unmarked and unscored; ``None`` means ``context_width``, and 0
        with the PRF of an engine, which marks from the first token on.
    prf
        ``"philox"`` (fast), ``"blake2b"`` (resists key recovery), or an engine's own:
        ``"vllm-philox"`` or ``"vllm-hmac"``.
    epsilon
        Total variation that may be spent at each step, in [0, 1). 0 keeps the text's distribution.
    gamma
        Region level in (0, 1) of ``"greenlist"`` (default 0.5) and ``"ump-aware"`` (default 0.2).
    coupling
        Of ``"greenlist"``: ``"greedy"`` (any vocabulary and device) or ``"exact"`` (the most hits
        any coupling can have; on the CPU, at most 4096 tokens).
    surrogate
        Of ``"ump-aware"``: the law that generator and detector both compute from the response.
    deduplicate
        Score each context once. ``False`` voids the guarantee on repetitive text.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter and its value.

    Notes
    -----
    Source: "Towards Optimal Statistical Watermarking" (arXiv 2312.07930) for the couplings; the
    nested regions ``{v: U_v > 1 - level}`` of one keyed uniform per token are our realisation.

    Examples
    --------
    >>> cfg = UMPWatermarkConfig(key=b"0123456789abcdef", vocab_size=32000)
    >>> cfg.sampler, cfg.warmup
    ('gumbel', 4)
    """

    key: bytes | str | int = field(repr=False)
    vocab_size: int
    sampler: str = "gumbel"
    context_width: int = 4
    warmup: int | None = None
    prf: str = "philox"
    epsilon: float = 0.0
    gamma: float | None = None
    coupling: str = "greedy"
    surrogate: Anchor | None = None
    deduplicate: bool = True

    def __post_init__(self) -> None:
        for name in ("sampler", "prf", "coupling"):
            if not isinstance(getattr(self, name), str):
                kind = type(getattr(self, name)).__name__
                raise TypeError(f"{name} must be a string, got {kind}")
        if self.prf not in KNOWN_PRFS:
            raise ValueError(f"unknown prf {self.prf!r}; choose one of {sorted(KNOWN_PRFS)}")
        if self.prf in ENGINE_KEY_BITS:
            object.__setattr__(self, "key", engine_key(self.prf, self.key))
        else:
            master_key(self.key)
        # Plain Python values, so that a record of them is JSON.
        plain: dict[str, Any] = {
            "vocab_size": _integer("vocab_size", self.vocab_size),
            "epsilon": _number("epsilon", self.epsilon),
            "deduplicate": bool(self.deduplicate),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, got {self.vocab_size}")
        if not 0 <= self.epsilon < 1:
            raise ValueError(f"epsilon must lie in [0, 1), got {self.epsilon}")
        warmup = 0 if self.warmup is None and self.prf in ENGINE_KEY_BITS else self.warmup
        object.__setattr__(self, "warmup", check_context_rule(self.context_width, warmup))
        object.__setattr__(self, "context_width", int(self.context_width))
        self._check_sampler()
        self._check_surrogate()

    def _check_sampler(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {self.sampler!r}; choose one of {SAMPLERS}")
        if self.sampler in DEFAULT_GAMMA:
            given = DEFAULT_GAMMA[self.sampler] if self.gamma is None else self.gamma
            gamma = _number("gamma", given)
            if not 0 < gamma < 1:
                raise ValueError(f"gamma must lie in (0, 1), got {gamma}")
            object.__setattr__(self, "gamma", gamma)
        elif self.gamma is not None:
            raise ValueError(
                f"sampler={self.sampler!r} has no region level; leave out gamma={self.gamma!r} or "
                "choose sampler='greenlist'"
            )
        if self.coupling not in COUPLINGS:
            raise ValueError(f"unknown coupling {self.coupling!r}; choose one of {COUPLINGS}")
        if self.coupling == "exact":
            if self.sampler != "greenlist":
                raise ValueError(
                    f"coupling='exact' belongs to sampler='greenlist', got {self.sampler!r}"
                )
            if self.vocab_size > MOST_EXACT_TOKENS:
                raise ValueError(
                    f"coupling='exact' takes vocab_size up to {MOST_EXACT_TOKENS}, got "
                    f"{self.vocab_size}; coupling='greedy' takes any and reaches the same hit rate "
                    "on the laws of language models"
                )

    def _check_surrogate(self) -> None:
        if self.sampler != "ump-aware":
            if self.surrogate is not None:
                raise ValueError(
                    f"sampler={self.sampler!r} uses no surrogate when it generates; give the "
                    "surrogate to the detector instead"
                )
            return
        if self.surrogate is None:
            raise ValueError(
                "sampler='ump-aware' needs a surrogate: a law such as NGramAnchor or "
                "CausalLMAnchor that the detector computes too"
            )
        if not hasattr(self.surrogate, "log_probs"):
            raise TypeError(
                f"surrogate must be an Anchor such as NGramAnchor or CausalLMAnchor, got "
                f"{type(self.surrogate).__name__}"
            )
        if self.surrogate.vocab_size != self.vocab_size:
            raise ValueError(
                f"the surrogate's vocab_size {self.surrogate.vocab_size} differs from the "
                f"configuration's {self.vocab_size}"
            )

    def replace(self, **changes: Any) -> "UMPWatermarkConfig":
        """Return a copy with some fields changed, checked anew.

        A field whose default depends on another keeps its present value unless it is named:
        ``cfg.replace(sampler="gumbel", gamma=None)``.
        """
        return replace(self, **changes)

    @property
    def key_id(self) -> str:
        """Public name of the key; does not reveal it."""
        return key_id(self.key)

    @property
    def parameters(self) -> dict[str, Any]:
        """Every field but key and surrogate, as JSON-able values."""
        hidden = ("key", "surrogate")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in hidden}

    def record(self, tokenizer_hash: str | None = None) -> WatermarkRecord:
        """Return what a detector's owner files beside the text: parameters and no key."""
        return WatermarkRecord(
            scheme=SCHEME,
            prf=self.prf,
            prf_version=KNOWN_PRFS[self.prf],
            parameters=self.parameters,
            anchor_fingerprint=None if self.surrogate is None else self.surrogate.fingerprint,
            tokenizer_hash=tokenizer_hash,
            key_id=self.key_id,
        )

    @classmethod
    def from_record(
        cls,
        record: WatermarkRecord,
        key: bytes | str | int,
        surrogate: Anchor | None = None,
        *,
        allow_mismatch: bool = False,
    ) -> "UMPWatermarkConfig":
        """Rebuild a configuration from its record, the key and the surrogate.

        Parameters
        ----------
        record
            As written by `record`; read a file with
            ``WatermarkRecord.load(path, known_prfs=KNOWN_PRFS)``.
        key
            The secret key; its `key_id` must be the record's.
        surrogate
            Of ``sampler="ump-aware"``; its fingerprint must be the record's.
        allow_mismatch
            Accept another surrogate (costs power, not validity).

        Raises
        ------
        TypeError
            If ``record`` is no record.
        ValueError
            If scheme, PRF version, key or surrogate do not fit.
        """
        known = {f.name for f in fields(cls)} - {"key", "surrogate"}
        parameters = record_parameters(record, SCHEME, known)
        config = cls(key=key, surrogate=surrogate, **parameters)
        expected = config.record(record.tokenizer_hash)
        allowed = ("anchor_fingerprint",) if allow_mismatch else ()
        record.check_compatible(expected, allow_mismatch=allowed)
        return config

    def for_transformers(self) -> "UMPWatermarkingConfig":
        """Return the object to pass to ``model.generate(watermarking_config=...)``."""
        from modicum.umpwatermark.integrations.transformers import UMPWatermarkingConfig

        return UMPWatermarkingConfig(self)
