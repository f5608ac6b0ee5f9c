"""What a decoding cost: calls, rows, token evaluations and seconds, each by its own name."""

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["REASONS", "ROUTES", "DecodeStats"]

ROUTES = ("cold", "plan", "fill")
"""Why a forward was made: predictions were missing, planning tokens or leftmost drafts were tested.
"""

REASONS = ("H", "P", "F", "X")
"""Why a token was committed: confident (H), planned (P), filled (F), forced (X)."""


@dataclass
class DecodeStats:
    """The cost of one sequence.

    Attributes
    ----------
    nfe
        Forward calls that this sequence took part in. A call with several rows counts once: what
        rows cost is in the next two numbers.
    rows
        Rows of these calls; twice as many under classifier-free guidance.
    token_evals
        Rows times the columns that the model processed in each.
    tokens
        Tokens that were committed by the decoder.
    nfe_cold, nfe_plan, nfe_fill
        Calls by route; together `nfe`.
    nfe_plan_failed
        Of `nfe_plan`, those in which no draft passed.
    drafts_plan, drafts_fill
        Drafts that were tested, and of them
    passed_plan, accepted_fill
        how many passed (plan) and were committed (fill).
    rejected_unexpected
        Plan drafts that were rejected although their probability guarantees that they pass for a
        model whose conditionals belong to one joint distribution; see `modicum.pvf.theory`.
    committed
        Tokens by reason: ``"H"`` confident, ``"P"`` planned, ``"F"`` filled, ``"X"`` forced.
    nfe_to_eos
        Calls until an end token stood with nothing open before it; None if that never happened.
    nfe_full, nfe_window
        With a key-value cache, calls over the whole canvas and over the window only.
    seconds, seconds_model
        Wall-clock time of the whole decoding and of the model's calls; of a batch, that of the
        batch while this sequence was in it.
    """

    nfe: int = 0
    rows: int = 0
    token_evals: int = 0
    tokens: int = 0
    nfe_cold: int = 0
    nfe_plan: int = 0
    nfe_plan_failed: int = 0
    nfe_fill: int = 0
    drafts_plan: int = 0
    passed_plan: int = 0
    rejected_unexpected: int = 0
    drafts_fill: int = 0
    accepted_fill: int = 0
    committed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    nfe_to_eos: int | None = None
    nfe_full: int = 0
    nfe_window: int = 0
    seconds: float = 0.0
    seconds_model: float = 0.0

    @property
    def tokens_per_forward(self) -> float:
        """Tokens per call; nan without calls."""
        return self.tokens / self.nfe if self.nfe else float("nan")

    @property
    def plan_pass_rate(self) -> float:
        """Share of plan drafts that passed; nan without drafts."""
        return self.passed_plan / self.drafts_plan if self.drafts_plan else float("nan")

    @property
    def mean_fill_accept(self) -> float:
        """Drafts that a fill call commits on average; nan without such calls."""
        return self.accepted_fill / self.nfe_fill if self.nfe_fill else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Give all fields as plain numbers."""
        return asdict(self)
