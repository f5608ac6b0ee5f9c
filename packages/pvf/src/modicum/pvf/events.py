"""What happened in a decoding, call by call.

A `Commit` says which tokens of one sequence were committed, why, and which drafts were rejected on
the way; a list of them is the trace of a decoding.
"""

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Commit", "Rejected"]


@dataclass(frozen=True)
class Rejected:
    """A draft that was tested and not committed.

    Attributes
    ----------
    position
        Column of the canvas.
    token
        Its id.
    confidence
        Probability that it had before the test.
    """

    position: int
    token: int
    confidence: float


@dataclass(frozen=True)
class Commit:
    """Tokens of one sequence that were committed together.

    Attributes
    ----------
    sequence
        Number of the sequence in what was decoded.
    call
        Forward calls that this sequence had taken part in, this one included.
    route
        ``"plan"``, ``"fill"``, or ``"cold"`` where tokens were committed without a test.
    rows
        Rows of the test; 1 without one.
    positions, tokens
        Columns of the canvas, in rising order, and the ids committed there.
    confidences
        Their probabilities when they were chosen.
    reasons
        ``"H"``, ``"P"``, ``"F"`` or ``"X"`` for each; see `modicum.pvf.stats`. ``"E"`` for end
        tokens written behind the end.
    rejected
        Drafts of the test that were not committed.
    """

    sequence: int
    call: int
    route: str
    rows: int
    positions: tuple[int, ...]
    tokens: tuple[int, ...]
    confidences: tuple[float, ...]
    reasons: tuple[str, ...]
    rejected: tuple[Rejected, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give all fields as plain values."""
        return asdict(self)
