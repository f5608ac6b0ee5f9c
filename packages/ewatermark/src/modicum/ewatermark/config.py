"""The configuration of a watermark: everything generator and detector must agree on.

A frozen value; checks itself at construction. Holds the secret key, which it never prints,
serialises or hands to anybody but the scheme. Imports no torch.
"""

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modicum.core.prf import PRF_VERSION, PRFS, key_id, master_key
from modicum.core.watermark.anchors import Anchor, UniformAnchor
from modicum.core.watermark.contexts import check_context_rule
from modicum.core.watermark.record import WatermarkRecord, record_parameters
from modicum.ewatermark.evalues import SCORES, Score, make_score
from modicum.ewatermark.partition import PARTITIONS

if TYPE_CHECKING:
    from modicum.ewatermark.integrations.transformers import EWatermarkingConfig

SCHEME = "ewatermark"


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        # Not the value: with swapped arguments it could be the key.
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    return int(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    return float(value)


@dataclass(frozen=True, eq=False)
class EWatermarkConfig:
    """Parameters of an anchored e-watermark.

    Parameters
    ----------
    key
        Secret key: at least 16 bytes, a string of that length, or an int (see
        `modicum.core.prf.master_key`).
    vocab_size
        Number of token ids that are watermarked, V. Logits beyond it (padding rows of a model) get
        probability 0.
    num_groups
        Number of seed symbols m, from 2 to V. 16 suits an anchor that knows the text a little and
        one that does not; V is the token-level scheme.
    score
        ``"defensive-mixture"`` (no tuning, the default), ``"defensive"``, ``"anchored"`` (as
        published) or ``"anchored-mixture"``. Used by the detector only.
    delta
        l1 tolerance of ``score="anchored"``.
    fraction
        Share of wealth risked by ``score="defensive"``.
    gated
        Skip positions with too little anchor entropy; ``score="anchored"`` only.
    context_width
        Number of preceding response tokens that seed a position, c.
    warmup
        Leading response tokens left unmarked and unscored; ``None`` means ``context_width``.
    partition
        ``"hash"``, ``"balanced"`` (more evidence for small m, needs an anchor that is not uniform)
        or ``"none"`` (token level; implied by ``num_groups == vocab_size``).
    prf
        ``"philox"`` (fast) or ``"blake2b"`` (resists key recovery).
    bias
        Extra logit for the seed's group. 0 keeps the text's distribution; other values detect
        faster and distort.
    anchor
        The law both sides can compute from the response alone; ``None`` is uniform.
    deduplicate
        Score each context once. ``False`` voids the guarantee on repetitive text.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter and its value.

    Examples
    --------
    >>> cfg = EWatermarkConfig(key=b"0123456789abcdef", vocab_size=32000)
    >>> cfg.num_groups, cfg.score
    (16, 'defensive-mixture')
    """

    key: bytes | str | int = field(repr=False)
    vocab_size: int
    num_groups: int = 16
    score: str = "defensive-mixture"
    delta: float = 0.3
    fraction: float = 0.3
    gated: bool = False
    context_width: int = 4
    warmup: int | None = None
    partition: str = "hash"
    prf: str = "philox"
    bias: float = 0.0
    anchor: Anchor | None = None
    deduplicate: bool = True

    def __post_init__(self) -> None:
        master_key(self.key)
        vocab_size = _integer("vocab_size", self.vocab_size)
        num_groups = _integer("num_groups", self.num_groups)
        # Plain Python values, so that a record of them is JSON.
        plain: dict[str, Any] = {
            "vocab_size": vocab_size,
            "num_groups": num_groups,
            "delta": _number("delta", self.delta),
            "fraction": _number("fraction", self.fraction),
            "bias": _number("bias", self.bias),
            "gated": bool(self.gated),
            "deduplicate": bool(self.deduplicate),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        for name in ("score", "partition", "prf"):
            if not isinstance(getattr(self, name), str):
                kind = type(getattr(self, name)).__name__
                raise TypeError(f"{name} must be a string, got {kind}")
        if vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2, got {vocab_size}")
        if not 2 <= num_groups <= vocab_size:
            raise ValueError(
                f"num_groups must lie in [2, vocab_size={vocab_size}], got {num_groups}"
            )
        if self.partition not in PARTITIONS:
            raise ValueError(f"unknown partition {self.partition!r}; choose one of {PARTITIONS}")
        if self.partition == "none" and num_groups != vocab_size:
            raise ValueError(
                f"partition='none' means one group per token: num_groups must equal "
                f"vocab_size={vocab_size}, got {num_groups}"
            )
        if num_groups == vocab_size:
            object.__setattr__(self, "partition", "none")
        if self.prf not in PRFS:
            raise ValueError(f"unknown prf {self.prf!r}; choose one of {sorted(PRFS)}")
        if not np.isfinite(self.bias):
            raise ValueError(f"bias must be finite, got {self.bias}")
        warmup = check_context_rule(self.context_width, self.warmup)
        object.__setattr__(self, "warmup", warmup)
        object.__setattr__(self, "context_width", int(self.context_width))
        self.make_score()
        if self.anchor is None:
            object.__setattr__(self, "anchor", UniformAnchor(vocab_size))
        elif not hasattr(self.anchor, "log_probs"):
            raise TypeError(
                f"anchor must be an Anchor such as NGramAnchor or CausalLMAnchor, got "
                f"{type(self.anchor).__name__}"
            )
        elif self.anchor.vocab_size != vocab_size:
            raise ValueError(
                f"the anchor's vocab_size {self.anchor.vocab_size} differs from the "
                f"configuration's {vocab_size}"
            )
        if self.partition == "balanced" and isinstance(self.anchor, UniformAnchor):
            raise ValueError(
                "partition='balanced' needs an anchor with unequal probabilities; "
                "use partition='hash' with the uniform anchor"
            )

    @classmethod
    def paper(
        cls, key: bytes | str | int, vocab_size: int, anchor: Anchor | None = None, **changes: Any
    ) -> "EWatermarkConfig":
        """Return the published setting: two groups, ``delta=0.3``, 20 warm-up tokens.

        The published anchor is a small language model over a window of 20 tokens; pass one as
        ``anchor``. ``changes`` override single fields.
        """
        published: dict[str, Any] = {
            "num_groups": 2,
            "score": "anchored",
            "delta": 0.3,
            "warmup": 20,
        }
        return cls(key=key, vocab_size=vocab_size, anchor=anchor, **(published | changes))

    def replace(self, **changes: Any) -> "EWatermarkConfig":
        """Return a copy with some fields changed, checked anew."""
        return replace(self, **changes)

    def make_score(self) -> Score:
        """Build the score named by ``score``."""
        if self.score not in SCORES:
            raise ValueError(f"unknown score {self.score!r}; choose one of {SCORES}")
        return make_score(
            self.score,
            self.num_groups,
            delta=self.delta,
            fraction=self.fraction,
            gated=self.gated,
        )

    @property
    def key_id(self) -> str:
        """Public name of the key; does not reveal it."""
        return key_id(self.key)

    @property
    def parameters(self) -> dict[str, Any]:
        """Every field but key and anchor, as JSON-able values."""
        hidden = ("key", "anchor")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in hidden}

    def record(self, tokenizer_hash: str | None = None) -> WatermarkRecord:
        """Return what a detector's owner files beside the text: parameters and no key."""
        assert self.anchor is not None
        return WatermarkRecord(
            scheme=SCHEME,
            prf=self.prf,
            prf_version=PRF_VERSION,
            parameters=self.parameters,
            anchor_fingerprint=self.anchor.fingerprint,
            tokenizer_hash=tokenizer_hash,
            key_id=self.key_id,
        )

    @classmethod
    def from_record(
        cls,
        record: WatermarkRecord,
        key: bytes | str | int,
        anchor: Anchor | None = None,
        *,
        allow_mismatch: bool = False,
    ) -> "EWatermarkConfig":
        """Rebuild a configuration from its record, the key and the anchor.

        Parameters
        ----------
        record
            As written by `record`.
        key
            The secret key; its `key_id` must be the record's.
        anchor
            The anchor; its fingerprint must be the record's.
        allow_mismatch
            Accept another anchor (costs power, not validity).

        Raises
        ------
        ValueError
            If scheme, PRF version, key or anchor do not fit.
        """
        known = {f.name for f in fields(cls)} - {"key", "anchor"}
        parameters = record_parameters(record, SCHEME, known)
        config = cls(key=key, anchor=anchor, **parameters)
        expected = config.record(record.tokenizer_hash)
        allowed = ("anchor_fingerprint",) if allow_mismatch else ()
        record.check_compatible(expected, allow_mismatch=allowed)
        return config

    def for_transformers(self) -> "EWatermarkingConfig":
        """Return the object to pass to ``model.generate(watermarking_config=...)``."""
        from modicum.ewatermark.integrations.transformers import EWatermarkingConfig

        return EWatermarkingConfig(self)
