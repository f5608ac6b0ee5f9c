"""Skeletons that put a watermark into a generation engine, one module per engine.

An adapter follows the responses of a batch, hands the final next-token law of every step to a
`StepScheme` and returns what the engine should sample from. It knows its engine and nothing of keys
or statistics; a scheme knows nothing of engines. Nothing is imported here: each module imports its
own engine.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from modicum.core.watermark.contexts import ContextTracker

__all__ = ["StepScheme"]


class StepScheme(Protocol):
    """What an adapter needs of a watermark: one step of generation for a batch of responses.

    Attributes
    ----------
    vocab_size
        Number of token ids the watermark covers, including every added or special token.
    context_width
        Number of preceding response tokens that seed a step.
    warmup
        Number of leading response positions that are never marked.
    """

    vocab_size: int
    context_width: int
    warmup: int

    def new_tracker(self) -> "ContextTracker":
        """Return the tracker of a response that has no tokens yet."""
        ...

    def transform(self, logprobs_BV: "Tensor", trackers: "Sequence[ContextTracker]") -> "Tensor":
        """Return the log-probabilities to sample from instead of the target's.

        Parameters
        ----------
        logprobs_BV
            Normalised float32 log-probabilities ``[B, vocab_size]`` of the next token, after every
            temperature, truncation, penalty and grammar mask; ``-inf`` where a token was removed.
        trackers
            One tracker per row, already fed with all tokens of that row's response.

        Returns
        -------
        Tensor
            Float32 log-probabilities ``[B, vocab_size]``. Rows whose tracker has no context for the
            next position come back unchanged.
        """
        ...
