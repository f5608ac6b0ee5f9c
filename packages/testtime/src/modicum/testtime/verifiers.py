"""Verifiers: what gives a response its reward.

A verifier is called with a prompt and the texts of responses to it and returns one reward each; one
that has ``score_many([(prompt, response), …])`` can take many prompts at once. A function of that
form is a verifier; the classes here make one from a function of one response, from reference
answers, from step scores, from a language model that judges, or from another verifier. Rewards are
floats; 1 accepts and 0 rejects where a verifier does only that. Verifiers that also return a text
say so with ``returns_text = True``, as their text may hold the reference answer. Nothing here draws
responses or picks among them.
"""

from __future__ import annotations

import abc
import asyncio
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from modicum.testtime._loops import close_backends, event_loop
from modicum.testtime.equality import as_canonicaliser
from modicum.testtime.extract import as_extractor, strip_think
from modicum.testtime.samples import (
    AsyncGenerator,
    Completion,
    Generator,
    Prompt,
    Request,
    Sampling,
    sample_seed,
)

if TYPE_CHECKING:
    from modicum.testtime.integrations.reward_model import RewardModel

__all__ = [
    "JUDGE_TEMPLATE",
    "PRM",
    "CallableVerifier",
    "ExactAnswer",
    "LLMJudge",
    "Noisy",
    "PairVerifier",
    "Rescaled",
    "Thresholded",
    "Verifier",
    "check_rewards",
    "parse_verdict",
    "reward_model",
    "score_pairs",
]

Pair = tuple[Prompt, str]
"""A prompt and the text of a response to it."""


@runtime_checkable
class Verifier(Protocol):
    """Whatever gives rewards to responses.

    An optional ``score_many(pairs)`` takes pairs of many prompts in one call. Optional attributes:
    ``returns_text`` says that (reward, text) pairs are returned in place of rewards, ``binary``
    that rewards are 0 and 1 only (True) or any number (False).
    """

    def __call__(self, prompt: Prompt, responses: list[str]) -> Sequence[float]:
        """Return one reward per response."""
        ...


def score_pairs(verifier: Verifier, pairs: Sequence[Pair]) -> list[Any]:
    """Return what a verifier says of (prompt, response) pairs, in as few calls as it can take.

    Parameters
    ----------
    verifier
        With or without ``score_many``; without, pairs of one prompt that follow each other go
        together.
    pairs
        Prompts with responses.

    Raises
    ------
    ValueError
        If it returns another number of rewards.
    """
    pairs = list(pairs)
    if not pairs:
        return []
    if hasattr(verifier, "score_many"):
        return _as_many(verifier.score_many(pairs), len(pairs), verifier)
    rewards: list[Any] = []
    while len(rewards) < len(pairs):
        rest = pairs[len(rewards) :]
        prompt = rest[0][0]
        size = next((i for i, pair in enumerate(rest) if pair[0] != prompt), len(rest))
        responses = [response for _, response in rest[:size]]
        rewards += _as_many(verifier(prompt, responses), size, verifier)
    return rewards


def _as_many(rewards: Iterable[Any], expected: int, source: object) -> list[Any]:
    try:
        rewards = list(rewards)
    except TypeError:
        raise TypeError(
            f"{source!r} must return a list with a reward for each response, not {rewards!r:.80}"
        ) from None
    if len(rewards) != expected:
        raise ValueError(f"{source!r} gave {len(rewards)} rewards for {expected} responses")
    return rewards


def check_rewards(
    rewards: Sequence[float],
    ids: Sequence[object] | None = None,
    *,
    nan: Literal["error", "reject"] = "error",
) -> list[float | None]:
    """Return rewards as floats, and nothing that is not finite.

    Parameters
    ----------
    rewards
        What a verifier returned.
    ids
        Names of the samples, for the message; their positions by default.
    nan
        What NaN and infinity do: "error" raises, "reject" gives None, a sample that cannot be
        picked.

    Raises
    ------
    ValueError
        If a reward is not finite, there are not as many ids, or ``nan`` is another word.
    TypeError
        If a reward is no number.
    """
    if nan not in ("error", "reject"):
        raise ValueError(f'nan must be "error" or "reject", not {nan!r}')
    names = range(len(rewards)) if ids is None else ids
    if len(names) != len(rewards):
        raise ValueError(f"there are {len(names)} ids for {len(rewards)} rewards")
    checked: list[float | None] = []
    for name, reward in zip(names, rewards, strict=True):
        try:
            value = float(reward)
        except (TypeError, ValueError):
            raise TypeError(
                f"the reward of sample {name} must be a number, not {reward!r}"
            ) from None
        if not math.isfinite(value) and nan == "error":
            raise ValueError(
                f"the reward of sample {name} is {value!r}; rewards must be finite "
                '(nan="reject" drops such samples)'
            )
        checked.append(value if math.isfinite(value) else None)
    return checked


def _finite(rewards: Sequence[float]) -> list[float]:
    return [value for value in check_rewards(rewards) if value is not None]


def _identity(prompt: Prompt, response: str) -> bytes:
    """Return bytes that are the same for the same prompt and response in every run."""
    written = prompt if isinstance(prompt, str) else [dict(message) for message in prompt]
    return json.dumps([written, response], sort_keys=True).encode()


def _short(prompt: Prompt) -> str:
    text = prompt if isinstance(prompt, str) else json.dumps([dict(m) for m in prompt])
    return repr(text if len(text) <= 80 else text[:77] + "…")


class PairVerifier(abc.ABC):
    """A verifier that scores (prompt, response) pairs."""

    returns_text = False
    binary: bool | None = None
    """Whether rewards are 0 and 1 only; None where that is not known."""

    @abc.abstractmethod
    def score_many(self, pairs: Sequence[Pair]) -> list[Any]:
        """Return one reward per pair; (reward, text) where ``returns_text``."""

    def __call__(self, prompt: Prompt, responses: Sequence[str]) -> list[Any]:
        """Return one reward per response to one prompt."""
        return self.score_many([(prompt, response) for response in responses])

    def settings(self) -> dict[str, Any]:
        """Return what rewards depend on, for the header of a log.

        A run goes on with the rewards of a log only where these are the same. By default the public
        attributes that are plain values; a verifier with others names them itself.
        """
        return {
            name: value
            for name, value in sorted(vars(self).items())
            if not name.startswith("_") and isinstance(value, str | int | float | bool)
        }


class CallableVerifier(PairVerifier):
    """A function of one prompt and one response as a verifier.

    Parameters
    ----------
    function
        ``function(prompt, response)`` gives a reward (True is 1), or with ``returns_text`` a reward
        and a text.
    returns_text
        Whether it does that. Such feedback may hold the reference answer, so strategies use it only
        when they are told to.

    Raises
    ------
    TypeError
        If the function cannot be called; when it is called, if it returns something else.
    """

    def __init__(self, function: Callable[[Prompt, str], Any], *, returns_text: bool = False):
        if not callable(function):
            raise TypeError(f"function must be a function of prompt and response, not {function!r}")
        self.function = function
        self.returns_text = returns_text

    def settings(self) -> dict[str, Any]:
        """Return what rewards depend on."""
        return {"function": self.function, "returns_text": self.returns_text}

    def score_many(self, pairs: Sequence[Pair]) -> list[Any]:
        """Call the function for each pair."""
        return [self._one(prompt, response) for prompt, response in pairs]

    def _one(self, prompt: Prompt, response: str) -> Any:
        value = self.function(prompt, response)
        if not self.returns_text:
            if isinstance(value, tuple):
                raise TypeError(
                    "the function returned a reward and more; say returns_text=True if that is its "
                    "feedback"
                )
            return float(value)
        try:
            reward, text = value
        except (TypeError, ValueError):
            raise TypeError(
                f"with returns_text=True the function must return (reward, text), not {value!r}"
            ) from None
        return float(reward), str(text)


class ExactAnswer(PairVerifier):
    """Compares with reference answers: reward 1 if a response has the right one and 0 if not.

    Parameters
    ----------
    extract
        Extractor or function that reads the answer of a response; None takes all of the text.
        References go through the extractor where it finds an answer in them ("… #### 18"), and
        stand as they are otherwise.
    answers
        Reference answers by prompt: a mapping from texts, pairs ``(prompt, answer)`` (for prompts
        that are chats), or a function of the prompt.
    equal
        When two answers are the same, as for self-consistency; the reference comes first. None is
        the equality that the extractor brings (`extract.math` does), or that of `exact`.

    Raises
    ------
    ValueError
        If there are no references, a reference is no answer, or there is none for a prompt.
    """

    binary = True

    def __init__(
        self,
        extract: Callable[[str], Any] | None,
        answers: Mapping[str, Any] | Iterable[tuple[Prompt, Any]] | Callable[[Prompt], Any],
        *,
        equal: Callable[..., Any] | None = None,
    ) -> None:
        self.extract = as_extractor(extract)
        self.equal = self.extract.own_equality if equal is None else equal
        self._function: Callable[[Prompt], Any] | None = None
        self._answers: dict[bytes, Any] = {}
        if callable(answers):
            self._function = answers
            return
        pairs = list(answers.items() if isinstance(answers, Mapping) else answers)
        if not pairs:
            raise ValueError("answers must hold at least one reference answer")
        for prompt, answer in pairs:
            self._checked(prompt, answer)
            self._answers[_identity(prompt, "")] = answer

    def settings(self) -> dict[str, Any]:
        """Return what rewards depend on; reference answers by a digest of them."""
        answers: Any = self._function
        if answers is None:
            digest = hashlib.blake2b(digest_size=8)
            for prompt, answer in sorted(self._answers.items()):
                digest.update(prompt + f"\x00{answer!r}\x00".encode("utf-8", "surrogatepass"))
            answers = digest.hexdigest()
        return {"extract": self.extract, "equal": self.equal, "answers": answers}

    def _checked(self, prompt: Prompt, answer: Any) -> Any:
        """Return a reference as the extractor would give it."""
        reference = self.extract.read_reference(answer)
        if as_canonicaliser(self.equal)(reference) is None:
            raise ValueError(f"the reference {answer!r} for prompt {_short(prompt)} is no answer")
        return reference

    def _reference(self, prompt: Prompt) -> Any:
        if self._function is not None:
            return self._checked(prompt, self._function(prompt))
        try:
            answer = self._answers[_identity(prompt, "")]
        except KeyError:
            raise ValueError(
                f"there is no reference answer for prompt {_short(prompt)} among "
                f"{len(self._answers)}"
            ) from None
        return self._checked(prompt, answer)

    def score_many(self, pairs: Sequence[Pair]) -> list[float]:
        """Return 1.0 for each right answer and 0.0 for others and for none."""
        return [self._one(self._reference(prompt), response) for prompt, response in pairs]

    def _one(self, reference: Any, response: str) -> float:
        answer = self.extract(response)
        if answer is None:
            return 0.0
        key_of = as_canonicaliser(self.equal)
        right = key_of(reference)
        return float(key_of(answer) == right)


class Thresholded(PairVerifier):
    """Accepts (1) where another verifier's reward reaches a threshold, and rejects (0) elsewhere.

    Parameters
    ----------
    base
        A verifier; text that it returns is dropped.
    threshold
        Least reward that is accepted.
    """

    binary = True

    def __init__(self, base: Verifier, threshold: float) -> None:
        if not math.isfinite(threshold):
            raise ValueError(f"threshold must be finite, not {threshold!r}")
        self.base = base
        self.threshold = threshold

    def settings(self) -> dict[str, Any]:
        """Return what rewards depend on."""
        return {"base": self.base, "threshold": self.threshold}

    def score_many(self, pairs: Sequence[Pair]) -> list[float]:
        """Return 1.0 or 0.0 for each pair."""
        return [float(reward >= self.threshold) for reward in _base_rewards(self.base, pairs)]


def _base_rewards(base: Verifier, pairs: Sequence[Pair]) -> list[float]:
    """Return the rewards of another verifier, finite and without its texts."""
    values = score_pairs(base, pairs)
    if getattr(base, "returns_text", False):
        values = [reward for reward, _ in values]
    return _finite(values)


class Rescaled(PairVerifier):
    """Maps another verifier's rewards from a known range to [0, 1].

    Parameters
    ----------
    base
        A verifier; text that it returns is dropped.
    reward_range
        Least and greatest reward, ``low < high``.

    Raises
    ------
    ValueError
        If the range is empty; when it is called, if a reward is outside of it.
    """

    binary = False

    def __init__(self, base: Verifier, reward_range: tuple[float, float]) -> None:
        low, high = reward_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(
                f"reward_range must be two finite numbers, low < high, not {reward_range!r}"
            )
        self.base = base
        self.low = low
        self.high = high

    def settings(self) -> dict[str, Any]:
        """Return what rewards depend on."""
        return {"base": self.base, "low": self.low, "high": self.high}

    def score_many(self, pairs: Sequence[Pair]) -> list[float]:
        """Return rewards in [0, 1]."""
        rewards = _base_rewards(self.base, pairs)
        for index, reward in enumerate(rewards):
            if not self.low <= reward <= self.high:
                raise ValueError(
                    f"the reward of sample {index} is {reward!r}, outside of reward_range="
                    f"({self.low!r}, {self.high!r})"
                )
        return [(reward - self.low) / (self.high - self.low) for reward in rewards]


class Noisy(PairVerifier):
    """A verifier that errs at given rates, for studies.

    Accepts (1) what ``base`` accepts with probability ``s`` and what it rejects with probability
    ``f``, and rejects (0) otherwise.

    Parameters
    ----------
    base
        The truth: rewards of at least 1/2 are correct.
    s
        Sensitivity, the probability to accept a correct response.
    f
        False-accept rate, the probability to accept a wrong one.
    seed
        Of its errors.
    independent
        False: the verdict is a function of seed, prompt and response, whatever the order of calls,
        as with a real verifier: asked again it errs again, so equal texts do not average errors
        out. True: each time that one response to a prompt comes up it is judged anew, as theory has
        it; that the verdicts of equal texts come in the order of calls is then all that the order
        decides.

    Raises
    ------
    ValueError
        If a rate is not in [0, 1].
    """

    binary = True

    def __init__(
        self, base: Verifier, s: float, f: float, seed: int = 0, *, independent: bool = False
    ) -> None:
        for name, rate in (("s", s), ("f", f)):
            if not 0 <= rate <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {rate!r}")
        self.base = base
        self.s = s
        self.f = f
        self.seed = seed
        self.independent = independent
        self._times: Counter[bytes] = Counter()

    def settings(self) -> dict[str, Any]:
        """Return what rewards depend on."""
        return {"base": self.base} | super().settings()

    def score_many(self, pairs: Sequence[Pair]) -> list[float]:
        """Return 1.0 or 0.0 for each pair."""
        truths = _base_rewards(self.base, pairs)
        rates = (self.s if truth >= 0.5 else self.f for truth in truths)
        uniforms = (self._uniform(prompt, response) for prompt, response in pairs)
        return [float(u < rate) for u, rate in zip(uniforms, rates, strict=True)]

    def _uniform(self, prompt: Prompt, response: str) -> float:
        name = _identity(prompt, response)
        time = 0
        if self.independent:
            digest = hashlib.blake2b(name, digest_size=16).digest()
            time = self._times[digest]
            self._times[digest] += 1
        content = f"{self.seed}\x00{time}\x00".encode() + name
        word = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
        # 53 bits: every value is a double, and 1 is never reached.
        return (word >> 11) / 2**53


Aggregate = Literal["last", "min", "prod", "mean"]
_AGGREGATES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "last": lambda scores: scores[-1],
    "min": min,
    "prod": math.prod,
    "mean": fmean,
}


class PRM(PairVerifier):
    """A process reward: scores of a response's steps, made one.

    Parameters
    ----------
    step_fn
        ``step_fn(prompt, steps) -> scores``, one per step, each given the steps before it.
    agg
        "last" (the default, as in search-and-learn), "min", "prod" or "mean"; "prod" is meant for
        scores that are probabilities.
    split
        Text between steps, or a function from a response to its steps. Blank steps do not count; a
        response that is blank all through is one step.

    Raises
    ------
    ValueError
        For another aggregate or an empty separator; when it is called, if ``step_fn`` returns
        another number of scores or one that is not finite.
    """

    binary = False

    def __init__(
        self,
        step_fn: Callable[[Prompt, list[str]], Sequence[float]],
        agg: Aggregate = "last",
        split: str | Callable[[str], Sequence[str]] = "\n\n",
    ) -> None:
        if agg not in _AGGREGATES:
            raise ValueError(f"agg must be one of {', '.join(_AGGREGATES)}, not {agg!r}")
        if not split:
            raise ValueError(f"split must be a text between steps, not {split!r}")
        self.step_fn = step_fn
        self.agg = agg
        self.split = split

    def settings(self) -> dict[str, Any]:
        """Return what rewards depend on."""
        return {"step_fn": self.step_fn, "agg": self.agg, "split": self.split}

    def steps(self, response: str) -> list[str]:
        """Return the steps of a response, without white space around them."""
        parts = response.split(self.split) if isinstance(self.split, str) else self.split(response)
        return [part.strip() for part in parts if part.strip()] or [response.strip()]

    def step_scores(self, prompt: Prompt, response: str) -> list[float]:
        """Return the score of each step of a response."""
        steps = self.steps(response)
        return _finite(_as_many(self.step_fn(prompt, steps), len(steps), self.step_fn))

    def score_many(self, pairs: Sequence[Pair]) -> list[float]:
        """Return the aggregate of each response's step scores."""
        aggregate = _AGGREGATES[self.agg]
        return [float(aggregate(self.step_scores(*pair))) for pair in pairs]


JUDGE_TEMPLATE = """\
Judge whether an answer to a question is correct.

Question:
{prompt}

Answer:
{response}

Check the answer step by step. Then write on a line of its own "Verdict: correct" or "Verdict: \
incorrect"."""
"""What `LLMJudge` asks by default."""

_PLACEHOLDER = re.compile(r"\{(prompt|response)\}")
_YES = ("correct", "right", "yes", "true", "accept")
_NO = ("incorrect", "wrong", "no", "false", "reject")
_WORD = rf"(?:(?P<not>not)\s+)?(?P<word>{'|'.join(_YES + _NO)})\b"
_VERDICT = re.compile(rf"\bverdict\b\W{{0,8}}(?:is\b\W{{0,8}})?{_WORD}", re.IGNORECASE)
_ALONE = re.compile(rf"\W*{_WORD}\W*", re.IGNORECASE)


def parse_verdict(text: str) -> bool | None:
    """Return whether a judge's text accepts, None if it does not say.

    The last "Verdict: …" counts, or else a last line that is nothing but the word: correct, right,
    yes, true, accept, and their opposites. What is thought in ``<think>`` does not count.
    """
    said = strip_think()(text)
    if said is None:
        return None
    assert isinstance(said, str)
    found = list(_VERDICT.finditer(said))
    match = found[-1] if found else _ALONE.fullmatch(said.splitlines()[-1])
    if match is None:
        return None
    return (match["word"].lower() in _YES) != (match["not"] is not None)


class LLMJudge(PairVerifier):
    """A language model that says whether a response is correct; several votes make a majority.

    Parameters
    ----------
    gen
        A backend, with ``generate`` or ``agenerate``.
    template
        Question to the judge, with ``{response}`` and, usually, ``{prompt}``; other braces stand
        for themselves.
    votes
        Verdicts per response. The reward is 1 if more than half of the readable ones accept, and 0
        otherwise, also if none can be read.
    params
        How to sample them.
    parse
        From the judge's text to True, False or None where it cannot be read.
    chat
        Whether the question is a user's message (with a chat template) or plain text.
    seed
        Of the judge's samples; a vote depends on it, the prompt and the response only.
    inflight
        Requests under way at once, for a backend with ``agenerate``.

    Attributes
    ----------
    n_votes, n_unreadable
        Verdicts asked for, and those of them that could not be read (cut off at the token limit
        included).

    Raises
    ------
    ValueError
        If the template has no ``{response}``, there are no votes, or several at temperature 0.
    TypeError
        If ``gen`` is no backend.
    RuntimeError
        When it is called, if a request fails.
    """

    binary = True

    def __init__(
        self,
        gen: Generator | AsyncGenerator,
        template: str = JUDGE_TEMPLATE,
        *,
        votes: int = 1,
        params: Sampling | None = None,
        parse: Callable[[str], bool | None] = parse_verdict,
        chat: bool = True,
        seed: int = 0,
        inflight: int = 16,
    ) -> None:
        if "{response}" not in template:
            raise ValueError("the judge's template must hold {response}")
        for name, number in (("votes", votes), ("inflight", inflight)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, not {number!r}")
        if not (hasattr(gen, "generate") or hasattr(gen, "agenerate")):
            raise TypeError(f"gen must be a backend, with generate or agenerate, not {gen!r}")
        self.params = params or Sampling(temperature=0.0 if votes == 1 else 0.7, max_tokens=1024)
        if votes > 1 and self.params.temperature == 0:
            raise ValueError(f"at temperature 0 all {votes} votes are one; give another or votes=1")
        self.gen: Any = gen
        self.template = template
        self.votes = votes
        self.parse = parse
        self.chat = chat
        self.seed = seed
        self.inflight = inflight
        self.n_votes = self.n_unreadable = 0
        if hasattr(gen, "agenerate"):
            # An engine awaits this in its own loop, where such a backend is at home.
            self.ascore = self._ascore

    def settings(self) -> dict[str, Any]:
        """Return what rewards depend on, the judge's backend aside."""
        return {
            "template": self.template,
            "votes": self.votes,
            "params": self.params,
            "parse": self.parse,
            "chat": self.chat,
            "seed": self.seed,
        }

    def score_many(self, pairs: Sequence[Pair]) -> list[float]:
        """Return 1.0 or 0.0 for each pair; equal pairs are judged once."""
        requests = self._requests(pairs)
        if hasattr(self.gen, "generate"):
            return self._rewards(pairs, self.gen.generate(requests))
        with event_loop() as call:
            try:
                replies = call(self._gather(requests))
            finally:
                call(close_backends([self.gen]))
        return self._rewards(pairs, replies)

    async def _ascore(self, prompt: Prompt, responses: Sequence[str]) -> list[float]:
        pairs = [(prompt, response) for response in responses]
        return self._rewards(pairs, await self._gather(self._requests(pairs)))

    async def _gather(self, requests: Sequence[Request]) -> list[tuple[Request, Completion]]:
        room = asyncio.Semaphore(self.inflight)

        async def one(request: Request) -> tuple[Request, Completion]:
            async with room:
                return request, await self.gen.agenerate(request)

        return await asyncio.gather(*map(one, requests))

    def _requests(self, pairs: Sequence[Pair]) -> list[Request]:
        questions = {_judged(pair): self._question(*pair) for pair in pairs}
        return [
            Request(name, vote, question, self.params, sample_seed(self.seed, name, vote))
            for name, question in questions.items()
            for vote in range(self.votes)
        ]

    def _question(self, prompt: Prompt, response: str) -> Prompt:
        asked = prompt if isinstance(prompt, str) else _transcript(prompt)
        parts = {"prompt": asked, "response": response}
        # In one pass: braces in a prompt or a response are text.
        question = _PLACEHOLDER.sub(lambda match: parts[match[1]], self.template)
        return [{"role": "user", "content": question}] if self.chat else question

    def _rewards(
        self, pairs: Sequence[Pair], replies: Iterable[tuple[Request, Completion]]
    ) -> list[float]:
        ballots: dict[str, dict[int, bool | None]] = {_judged(pair): {} for pair in pairs}
        for request, completion in replies:
            ballots[request.prompt_id][request.sample_index] = self._verdict(completion)
        for verdicts in ballots.values():
            if len(verdicts) != self.votes:
                raise RuntimeError(
                    f"the judge's backend gave {len(verdicts)} completions for {self.votes} votes"
                )
        self.n_votes += self.votes * len(ballots)
        self.n_unreadable += sum(list(v.values()).count(None) for v in ballots.values())
        return [_majority(ballots[_judged(pair)].values()) for pair in pairs]

    def _verdict(self, completion: Completion) -> bool | None:
        if completion.finish_reason == "error":
            raise RuntimeError(f"a request of the judge failed: {completion.error}")
        return None if completion.finish_reason == "length" else self.parse(completion.text)


def _judged(pair: Pair) -> str:
    return f"judge-{hashlib.blake2b(_identity(*pair), digest_size=16).hexdigest()}"


def _majority(verdicts: Iterable[bool | None]) -> float:
    count = Counter(verdicts)
    return float(count[True] > count[False])


def _transcript(messages: Sequence[Mapping[str, Any]]) -> str:
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def reward_model(model: Any, tokenizer: Any = None, **options: Any) -> RewardModel:
    """Return a sequence-classification model of transformers as a verifier.

    Parameters
    ----------
    model, tokenizer, options
        As for `modicum.testtime.integrations.reward_model.RewardModel`.

    Raises
    ------
    ImportError
        If transformers or torch is not installed.
    """
    from modicum.testtime.integrations.reward_model import RewardModel

    return RewardModel(model, tokenizer, **options)
