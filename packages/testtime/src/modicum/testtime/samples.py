"""What the package passes around: requests, completions, samples, budgets and results.

Plain dataclasses with nothing behind them: no I/O, no engine, no statistics. A *request* asks a
backend for one completion of one prompt; a *sample* is that completion with the answer read from
it, its reward and its place in the run; a *result* is what a strategy made of one prompt's samples.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

__all__ = [
    "AsyncGenerator",
    "Budget",
    "Completion",
    "DegenerateSampling",
    "Event",
    "Generator",
    "OrderBiasWarning",
    "Prompt",
    "Request",
    "Result",
    "Sample",
    "Sampling",
    "Usage",
    "sample_seed",
]

Prompt = str | Sequence[Mapping[str, Any]]
"""A text, or chat messages ``[{"role": …, "content": …}, …]``."""

Order = Literal["submission", "completion"]
Guarantee = Literal["exact", "anytime", "lossless", "heuristic"]


class OrderBiasWarning(UserWarning):
    """Samples are shown to a stopping rule in the order in which they finish."""


class DegenerateSampling(UserWarning):
    """Samples with different seeds are identical: they do not vote independently."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of a request; the names are those of vLLM and of the OpenAI API.

    Parameters
    ----------
    temperature
        0 is greedy decoding.
    top_p, top_k, min_p
        Truncation of the next-token law; 1, 0 and 0 are off.
    max_tokens
        Most new tokens; a completion cut off there has ``finish_reason="length"`` and does not
        vote.
    stop
        Strings that end a completion.
    logprobs
        Whether to ask for the log-probability of the completion.
    extra
        Further parameters for one backend, passed on as they are.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no backend could sample with."""
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature must be finite and >= 0, not {self.temperature!r}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], not {self.top_p!r}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be >= 0 (0 is off), not {self.top_k!r}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be in [0, 1], not {self.min_p!r}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens!r}")
        object.__setattr__(
            self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as JSON-ready values."""
        return asdict(self) | {"stop": list(self.stop), "extra": dict(self.extra)}


@dataclass(frozen=True, slots=True)
class Request:
    """One completion that is asked for.

    ``sample_index`` counts the requests of a prompt from 0 in the order of submission; ``expert``
    names the backend of a self-correction round ("" elsewhere) and ``round`` counts from 1
    (0 outside self-correction).
    """

    prompt_id: str
    sample_index: int
    prompt: Prompt
    params: Sampling
    seed: int
    expert: str = ""
    round: int = 0


@dataclass(slots=True)
class Completion:
    """What a backend gives for one request.

    Attributes
    ----------
    text
        The new text, without the prompt.
    finish_reason
        "stop", "length" (cut off at ``max_tokens``: does not vote), "tool_calls" or "error"
        (``text`` is empty, ``error`` says why).
    token_ids
        New token ids, None where the backend has none.
    logprob_sum
        Natural log-probability of the new tokens, None where not asked for.
    n_prompt_tokens, n_tokens
        Tokens of the prompt and new ones; 0 where the backend does not count.
    latency_s
        Seconds from submission to completion.
    tool_calls
        Tool calls as the OpenAI API gives them.
    """

    text: str
    finish_reason: str = "stop"
    token_ids: tuple[int, ...] | None = None
    logprob_sum: float | None = None
    n_prompt_tokens: int = 0
    n_tokens: int = 0
    latency_s: float = 0.0
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    error: str = ""


@runtime_checkable
class Generator(Protocol):
    """A backend that works through a list of requests (an offline engine).

    It may yield in any order; each request exactly once.
    """

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yield every request with its completion."""
        ...


@runtime_checkable
class AsyncGenerator(Protocol):
    """A backend that serves many requests at once (a server).

    Cancelling the call must stop the work on the other side as far as that is possible.
    """

    async def agenerate(self, request: Request) -> Completion:
        """Return the completion of one request."""
        ...


@dataclass(slots=True)
class Sample:
    """A completion with the answer read from it, its reward and its place in the run.

    ``key`` is the canonical answer (None: no parseable answer, does not vote). ``used`` is False
    for what came in after the decision: it is paid for and logged, and never votes.
    """

    prompt_id: str
    sample_index: int
    seed: int
    text: str
    key: Hashable | None = None
    reward: float | None = None
    finish_reason: str = "stop"
    n_prompt_tokens: int = 0
    n_tokens: int = 0
    latency_s: float = 0.0
    logprob_sum: float | None = None
    used: bool = True
    expert: str = ""
    round: int = 0
    tool_calls: tuple[Mapping[str, Any], ...] = ()


@dataclass(slots=True)
class Usage:
    """What a prompt or a run cost.

    ``submitted`` counts requests sent, ``used`` those that the decision rests on, ``cancelled``
    those stopped in flight; ``cap`` is what a fixed number of samples would have been.
    """

    submitted: int = 0
    used: int = 0
    cancelled: int = 0
    cap: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    @property
    def saved(self) -> int:
        """Samples that a fixed number would have drawn in addition."""
        return max(0, self.cap - self.submitted)

    def add(self, other: Usage) -> None:
        """Add another usage to this one."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of a whole run: submitted samples, tokens (prompt and new), seconds. None: no limit.

    A run that meets a limit submits nothing more, waits for what is in flight and returns partial
    results with ``truncated=True``.
    """

    samples: int | None = None
    tokens: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse limits that are not positive."""
        for name in ("samples", "tokens", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"budget {name} must be positive or None, not {value!r}")


@dataclass(slots=True)
class Result:
    """What a strategy returns for one prompt.

    Attributes
    ----------
    prompt_id
        Which prompt.
    answer
        Canonical answer, None if no sample had a parseable one (or ``tie="abstain"``).
    text
        Completion that stands for the answer.
    certified
        True if the stopping rule itself ended the sampling with a guarantee for this answer: it is
        shown to be the mode (or the answer of the full vote), or a verifier accepted it. A fixed
        number of samples and heuristic rules certify nothing.
        It is a statement about the model's most frequent answer, never about correctness.
    confidence
        What the rule says of the answer, NaN if it says nothing.
    guarantee
        Kind of the rule's guarantee.
    reason
        Why sampling ended, one word: "rule's own word", "max_samples", "budget",
        "no_parseable_answer", "accepted", "rounds".
    votes
        Weight of each key.
    samples
        Every sample of the prompt in order of submission, those not used included.
    usage
        What it cost.
    truncated
        True if the run's budget ended it.
    """

    prompt_id: str
    answer: Hashable | None
    text: str
    certified: bool
    confidence: float
    guarantee: Guarantee
    reason: str
    votes: dict[Hashable, float]
    samples: list[Sample]
    usage: Usage
    truncated: bool = False


class Event(NamedTuple):
    """What happened in a run: ``kind`` is "sample", "decision" or "done".

    ``sample`` is set for "sample", ``result`` for "done", ``decision`` for "decision".
    """

    kind: str
    prompt_id: str
    sample: Sample | None = None
    decision: Any = None
    result: Result | None = None


def sample_seed(run_seed: int, prompt_id: str, sample_index: int) -> int:
    """Return the seed of one sample: the first 63 bits of a BLAKE2b digest of its name.

    The stream of samples of a prompt so depends on nothing but these three: not on waves,
    concurrency, batches or whether a run was resumed.
    """
    name = f"{run_seed}\x00{prompt_id}\x00{sample_index}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1
