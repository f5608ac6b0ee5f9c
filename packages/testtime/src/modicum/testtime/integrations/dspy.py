"""DSPy: its reward functions as our verifiers, and our strategies around its modules.

A DSPy reward function is called with a module's inputs and a `dspy.Prediction`. `DSPyVerifier`
makes a verifier of it, for texts that any backend drew. `Sampled` is a `dspy.Module` that runs
another module several times, each under a rollout id of its own, and returns the prediction that a
strategy chooses; `BestOfN` and `MajorityVote` are its two usual forms. `BestOfN` takes the
arguments of `dspy.BestOfN` and tries the same rollouts, so that DSPy's cache serves both, and may
stop by any of our rules.
"""

from __future__ import annotations

import contextvars
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from modicum.testtime.best_of_n import BestOfN as _BestOfN
from modicum.testtime.engine import Backend
from modicum.testtime.extract import json_path
from modicum.testtime.samples import Completion, Prompt, Request, Result
from modicum.testtime.self_consistency import SelfConsistency
from modicum.testtime.stopping.base import StoppingRule
from modicum.testtime.stopping.fixed import FixedN
from modicum.testtime.strategy import Strategy

try:
    import dspy
    from dspy.utils.exceptions import AdapterParseError
except ImportError as error:
    raise ImportError("DSPy's modules and reward functions need DSPy: pip install dspy") from error

__all__ = ["BestOfN", "DSPyVerifier", "MajorityVote", "Sampled"]

RewardFunction = Callable[[dict[str, Any], Any], Any]
"""``reward_fn(args, prediction) -> number``; a number, a bool or a prediction with a score."""


class DSPyVerifier:
    """A reward function of DSPy as a verifier of texts.

    Parameters
    ----------
    reward_fn
        ``reward_fn(args, prediction) -> reward``.
    signature
        The signature that the texts answer: a text is parsed into its output fields. None takes the
        whole text as the field `field`.
    adapter
        DSPy adapter that parses; None is `dspy.ChatAdapter`.
    inputs
        From a prompt to ``args``; None gives the text of the last user's message as `input_field`.
    field, input_field
        Names of the fields where there is no signature.
    failed
        Reward of a text that cannot be parsed.
    """

    def __init__(
        self,
        reward_fn: RewardFunction,
        *,
        signature: Any = None,
        adapter: Any = None,
        inputs: Callable[[Prompt], Mapping[str, Any]] | None = None,
        field: str = "answer",
        input_field: str = "question",
        failed: float = 0.0,
    ) -> None:
        if not callable(reward_fn):
            raise TypeError(
                f"reward_fn must be a function of (args, prediction), not {reward_fn!r}"
            )
        self.reward_fn = reward_fn
        self.signature = None if signature is None else dspy.ensure_signature(signature)
        self.adapter = dspy.ChatAdapter() if adapter is None else adapter
        self.inputs = inputs
        self.field = field
        self.input_field = input_field
        self.failed = failed

    def settings(self) -> dict[str, Any]:
        """Return what rewards depend on, for the header of a log."""
        return {
            "reward_fn": self.reward_fn,
            "signature": None if self.signature is None else str(self.signature),
            "inputs": self.inputs,
            "field": self.field,
            "input_field": self.input_field,
            "failed": self.failed,
        }

    def __call__(self, prompt: Prompt, responses: Sequence[str]) -> list[float]:
        """Return one reward per response."""
        if self.inputs is not None:
            args = dict(self.inputs(prompt))
        else:
            args = {self.input_field: _last_text(prompt)}
        return [self._reward(args, response) for response in responses]

    def _reward(self, args: dict[str, Any], response: str) -> float:
        if self.signature is None:
            fields = {self.field: response}
        else:
            try:
                fields = self.adapter.parse(self.signature, response)
            except AdapterParseError:
                return self.failed
        return float(self.reward_fn(dict(args), dspy.Prediction(**fields)))


def _last_text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    for message in reversed(prompt):
        if message.get("role") == "user":
            return str(message.get("content") or "")
    return ""


class Sampled(dspy.Module):
    """A module that runs another one as often as a strategy asks, and returns its choice.

    Parameters
    ----------
    module
        The module to run.
    strategy
        Makes a strategy from a backend. The texts that it sees are the predictions as JSON
        objects: ``extract=json_path("answer")`` reads a field. Its ``on_error`` says what a run
        that fails does.
    temperature
        Temperature of the runs.
    threads
        Runs at once.
    seed
        Seed of the strategy, for ties and the like.

    Attributes
    ----------
    result
        The strategy's result of the latest call: certificate, votes, usage.

    Notes
    -----
    Run i has the rollout id i more than that of the language model; samples are independent as far
    as the model and DSPy's cache keep different rollouts apart.
    """

    def __init__(
        self,
        module: dspy.Module,
        strategy: Callable[[Backend], Strategy],
        *,
        temperature: float = 1.0,
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads!r}")
        self.module = module
        self.strategy = strategy
        self.temperature = temperature
        self.threads = threads
        self.seed = seed
        self.result: Result | None = None

    def forward(self, **inputs: Any) -> Any:
        """Return the chosen prediction; the first one if none has an answer, None if all failed."""
        rollouts = _Rollouts(self, inputs)
        (self.result,) = self.strategy(rollouts).run([_as_json(inputs)], seed=self.seed)
        if rollouts.fatal is not None:
            raise rollouts.fatal
        index = _chosen(self.result, rollouts)
        if index is None:
            return None
        prediction, trace = rollouts.outcomes[index]
        if dspy.settings.trace is not None:
            dspy.settings.trace.extend(trace)
        return prediction


class BestOfN(Sampled):
    """`dspy.BestOfN` with our stopping rules.

    Parameters
    ----------
    module, N, reward_fn, threshold, fail_count
        As for `dspy.BestOfN`; ``threshold=None`` makes all N runs.
    stop
        A stopping rule in place of a threshold, such as `RewardGain`.
    temperature, threads, seed
        As for `Sampled`.
    """

    def __init__(
        self,
        module: dspy.Module,
        N: int,
        reward_fn: RewardFunction,
        threshold: float | None = None,
        fail_count: int | None = None,
        *,
        stop: StoppingRule | None = None,
        temperature: float = 1.0,
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        def strategy(rollouts: Backend) -> Strategy:
            assert isinstance(rollouts, _Rollouts)
            rollouts.fail_count = N if fail_count is None else fail_count
            return _BestOfN(
                rollouts,
                rollouts.rewards(reward_fn),
                n=N,
                threshold=threshold,
                # A rule for all N runs: without one, best-of-n warns of equal rewards, which say
                # little where every call is a run of its own.
                stop=FixedN(N) if threshold is None and stop is None else stop,
                on_error="null",
                wave=threads if threshold is not None or stop is not None else N,
            )

        super().__init__(module, strategy, temperature=temperature, threads=threads, seed=seed)


class MajorityVote(Sampled):
    """The most frequent value of an output field, with early stopping.

    Parameters
    ----------
    module
        The module to run.
    N
        Most runs.
    field
        Output field that is voted on.
    equal
        When two values are the same; see `modicum.testtime.SelfConsistency`.
    stop, delta
        Stopping rule, or the permitted error of the default certificate; with neither, runs stop
        once the rest of the N cannot change the majority.
    fail_count
        Runs that may fail; they do not vote.
    temperature, threads, seed
        As for `Sampled`.
    """

    def __init__(
        self,
        module: dspy.Module,
        N: int,
        field: str,
        *,
        equal: Callable[..., Any] | None = None,
        stop: StoppingRule | None = None,
        delta: float | None = None,
        fail_count: int | None = None,
        temperature: float = 1.0,
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        def strategy(rollouts: Backend) -> Strategy:
            assert isinstance(rollouts, _Rollouts)
            rollouts.fail_count = N if fail_count is None else fail_count
            return SelfConsistency(
                rollouts,
                extract=json_path(field),
                equal=equal,
                stop=stop,
                delta=delta,
                max_samples=N,
                on_error="null",
                wave="boundary" if threads == 1 else threads,
            )

        super().__init__(module, strategy, temperature=temperature, threads=threads, seed=seed)


class _Rollouts:
    """Runs of a module on one input, as a `Generator` of JSON texts."""

    def __init__(self, sampled: Sampled, inputs: Mapping[str, Any]) -> None:
        self.module = sampled.module
        self.lm = sampled.module.get_lm() or dspy.settings.lm
        if self.lm is None:
            raise ValueError("there is no language model: dspy.configure(lm=...)")
        self.temperature = sampled.temperature
        self.threads = sampled.threads
        self.inputs = dict(inputs)
        self.outcomes: dict[int, tuple[Any, list[Any]]] = {}
        self.by_text: dict[str, Any] = {}
        self.fail_count: int | None = None
        self.failures = 0
        self.fatal: Exception | None = None

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yield every request with its completion, in order."""
        if self.threads == 1:
            for request in requests:
                yield request, self._taken(request, self._run(request))
            return
        with ThreadPoolExecutor(self.threads, thread_name_prefix="dspy") as pool:
            contexts = [contextvars.copy_context() for _ in requests]
            outcomes = pool.map(lambda c, r: c.run(self._run, r), contexts, requests)
            for request, outcome in zip(requests, outcomes, strict=True):
                yield request, self._taken(request, outcome)

    def _run(self, request: Request) -> tuple[Any, list[Any]] | Exception:
        if self.fatal is not None:
            return self.fatal
        start = self.lm.kwargs.get("rollout_id") or 0
        module = self.module.deepcopy()
        module.set_lm(
            self.lm.copy(rollout_id=start + request.sample_index, temperature=self.temperature)
        )
        try:
            with dspy.context(trace=[]):
                return module(**self.inputs), list(dspy.settings.trace)
        except Exception as error:
            return error

    def _taken(self, request: Request, outcome: tuple[Any, list[Any]] | Exception) -> Completion:
        if isinstance(outcome, Exception):
            self.failures += 1
            if self.fail_count is not None and self.failures > self.fail_count:
                self.fatal = self.fatal or outcome  # what is left is not run
            return Completion("", "error", error=repr(outcome))
        text = _as_json(dict(outcome[0]))
        self.outcomes[request.sample_index] = outcome
        self.by_text.setdefault(text, outcome[0])
        usage = outcome[0].get_lm_usage() or {}
        return Completion(
            text,
            n_prompt_tokens=sum(int(of.get("prompt_tokens") or 0) for of in usage.values()),
            n_tokens=sum(int(of.get("completion_tokens") or 0) for of in usage.values()),
        )

    def rewards(self, reward_fn: RewardFunction) -> Callable[[Prompt, Sequence[str]], list[float]]:
        """Return a verifier that shows a reward function the predictions themselves."""
        return lambda prompt, texts: [
            float(reward_fn(dict(self.inputs), self.by_text[text])) for text in texts
        ]


def _as_json(fields: Mapping[str, Any]) -> str:
    return json.dumps(dict(fields), default=str, ensure_ascii=False)


def _chosen(result: Result, rollouts: _Rollouts) -> int | None:
    """Return the index of the sample that stands for the answer, else of the first that ran."""
    for sample in result.samples:
        if sample.used and sample.key == result.answer is not None and sample.text == result.text:
            return sample.sample_index
    return min(rollouts.outcomes, default=None)
