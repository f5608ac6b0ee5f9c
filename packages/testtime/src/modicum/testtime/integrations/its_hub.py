"""its_hub: our strategies as its scaling algorithms, and its language models as our backend.

Takes a strategy and gives an ``AbstractScalingAlgorithm`` that works with any of its_hub's language
models, tools included, and so behind its gateway. The other way round, `ITSHubBackend` lets a
strategy draw from such a model. its_hub passes no seeds to its models: samples are as independent
as the model makes them, and a run cannot be repeated exactly.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from modicum.testtime.samples import Budget, Completion, Request, Result, Sample, Sampling
from modicum.testtime.self_consistency import SelfConsistency
from modicum.testtime.stopping.curtailed import Curtailed
from modicum.testtime.strategy import Strategy

try:
    from its_hub.api import (
        AbstractLanguageModel,
        AbstractScalingAlgorithm,
        AbstractScalingResult,
        ChatMessage,
        ChatMessages,
        GenerationUsage,
    )
except ImportError as error:
    raise ImportError(
        "its_hub's algorithms and models need its_hub: pip install its-hub"
    ) from error

__all__ = ["ITSHubAlgorithm", "ITSHubBackend", "ITSHubResult"]

PROMPT_ID = "its_hub"
"""Name of the one prompt of a call; seeds follow from it."""


class ITSHubBackend:
    """A language model of its_hub as an `AsyncGenerator`.

    Parameters
    ----------
    lm
        An ``AbstractLanguageModel``; its ``agenerate_single`` is used where it has one, else its
        ``agenerate``.
    tools, tool_choice
        As its_hub's algorithms pass them on.
    pass_params
        Whether temperature, limit of new tokens and stop strings of a request go to the model;
        otherwise its own hold. Of `Sampling` it takes no more than these and ``extra``, whose items
        become arguments.
    responses
        Where to keep the model's messages by (prompt_id, sample_index); None keeps none.
    """

    def __init__(
        self,
        lm: AbstractLanguageModel,
        *,
        tools: list[dict[str, Any]] | None = None,
        tool_choice: str | dict[str, Any] | None = None,
        pass_params: bool = True,
        responses: MutableMapping[tuple[str, int], dict[str, Any]] | None = None,
    ) -> None:
        if not (hasattr(lm, "agenerate") or hasattr(lm, "agenerate_single")):
            raise TypeError(f"lm must be a language model of its_hub, not {type(lm).__name__}")
        self.lm = lm
        self.tools = tools
        self.tool_choice = tool_choice
        self.pass_params = pass_params
        self.responses = responses

    async def agenerate(self, request: Request) -> Completion:
        """Return the completion of one request."""
        usage = GenerationUsage()
        response = await self._ask()(
            _chat_messages(request), usage_accumulator=usage, **self._arguments(request)
        )
        if self.responses is not None:
            self.responses[request.prompt_id, request.sample_index] = response
        return _completion(response, usage)

    def _ask(self) -> Callable[..., Any]:
        single = getattr(type(self.lm), "agenerate_single", None)
        if single in (None, AbstractLanguageModel.agenerate_single):
            return self.lm.agenerate
        return self.lm.agenerate_single

    def _arguments(self, request: Request) -> dict[str, Any]:
        params = request.params
        arguments: dict[str, Any] = dict(params.extra)
        if self.pass_params:
            stop = list(params.stop)
            arguments["temperature"] = params.temperature
            arguments["max_completion_tokens"] = params.max_tokens
            arguments["stop"] = stop[0] if len(stop) == 1 else (stop or None)
        if self.tools is not None:
            arguments["tools"] = self.tools
        if self.tool_choice is not None:
            arguments["tool_choice"] = self.tool_choice
        return arguments

    def __repr__(self) -> str:
        return f"ITSHubBackend({type(self.lm).__name__})"


@dataclass
class ITSHubResult(AbstractScalingResult):
    """What an algorithm returns with ``return_response_only=False``.

    Attributes
    ----------
    responses
        The model's messages in order of submission, those that came in too late included.
    selected_index
        Which of them is the answer.
    response_counts
        Votes by canonical answer.
    usage
        Tokens and calls, samples that were not used included.
    result
        The strategy's own result: certificate, confidence, samples.
    """

    responses: list[dict[str, Any]]
    selected_index: int
    response_counts: Counter[Any]
    usage: GenerationUsage
    result: Result

    @property
    def the_one(self) -> dict[str, Any]:
        """The selected response, ``{"role": "assistant", "content": …, "tool_calls": […]}``."""
        return self.responses[self.selected_index]


class ITSHubAlgorithm(AbstractScalingAlgorithm):
    """A strategy as an its_hub algorithm: ``infer(lm, prompt, budget)``.

    Parameters
    ----------
    strategy
        A strategy, whose backend is replaced by the model of each call, or a function that makes
        one from a backend.
    params
        Sampling parameters of the calls; None leaves them to the model.
    seed
        Seed of the run, for ties and the like.

    Notes
    -----
    ``budget`` is the most samples of a call; a stopping rule may need fewer. `Curtailed` gives the
    answer of a vote of ``budget`` samples. Where no sample has an answer, the first is returned, as
    its_hub's callers want a message; ``result.answer`` is None then.
    """

    def __init__(
        self,
        strategy: Strategy | Callable[[Any], Strategy],
        *,
        params: Sampling | None = None,
        seed: int = 0,
    ) -> None:
        if not (isinstance(strategy, Strategy) or callable(strategy)):
            raise TypeError(
                "strategy must be a strategy or a function that makes one from a backend, not "
                f"{strategy!r}"
            )
        self.strategy = strategy
        self.params = params
        self.seed = seed

    async def ainfer(
        self,
        lm: AbstractLanguageModel,
        prompt_or_messages: str | list[ChatMessage] | ChatMessages,
        budget: int,
        return_response_only: bool = True,
        tools: list[dict[str, Any]] | None = None,
        tool_choice: str | dict[str, Any] | None = None,
    ) -> dict[str, Any] | ITSHubResult:
        """Answer a prompt with at most ``budget`` samples.

        Parameters
        ----------
        lm
            Language model of its_hub.
        prompt_or_messages
            Prompt or conversation.
        budget
            Most samples.
        return_response_only
            Whether to return the selected message only.
        tools, tool_choice
            Passed on to the model.

        Raises
        ------
        ValueError
            If the budget is less than 1.
        """
        if budget < 1:
            raise ValueError(f"budget must be at least 1 sample, not {budget!r}")
        responses: dict[tuple[str, int], dict[str, Any]] = {}
        backend = ITSHubBackend(
            lm,
            tools=tools,
            tool_choice=tool_choice,
            pass_params=self.params is not None,
            responses=responses,
        )
        prompt = _prompt(ChatMessages.from_prompt_or_messages(prompt_or_messages))
        (result,) = await self._strategy(backend, budget).arun(
            [(PROMPT_ID, prompt)],
            self.params,
            seed=self.seed,
            budget=Budget(samples=budget),
        )
        selected = _selected(result)
        found = ITSHubResult(
            responses=[
                responses.get((PROMPT_ID, s.sample_index), {"role": "assistant", "content": ""})
                for s in result.samples  # one that failed has none
            ],
            selected_index=result.samples.index(selected),
            response_counts=Counter(result.votes),
            usage=GenerationUsage(
                result.usage.prompt_tokens, result.usage.completion_tokens, len(result.samples)
            ),
            result=result,
        )
        return found.the_one if return_response_only else found

    def _strategy(self, backend: ITSHubBackend, budget: int) -> Strategy:
        """Return the strategy on another backend, with a vote that fits the budget."""
        if not isinstance(self.strategy, Strategy):
            strategy = self.strategy(backend)
        else:
            strategy = copy.copy(self.strategy)
            named = strategy.backends
            strategy.backends = (
                dict.fromkeys(named, backend) if isinstance(named, Mapping) else backend
            )
        if isinstance(strategy, SelfConsistency) and isinstance(strategy.stop, Curtailed):
            rule = strategy.stop
            strategy = copy.copy(strategy)
            strategy.max_samples = min(rule.n, strategy.max_samples, budget)
            strategy.stop = Curtailed(strategy.max_samples, rule.weight_bound)
        return strategy

    def __repr__(self) -> str:
        return f"ITSHubAlgorithm({self.strategy!r})"


def _selected(result: Result) -> Sample:
    """Return the sample whose text stands for the answer; the first one where there is none."""
    for sample in result.samples:
        if sample.used and sample.key == result.answer is not None and sample.text == result.text:
            return sample
    came = (sample for sample in result.samples if sample.finish_reason != "error")
    return next(came, result.samples[0])


def _prompt(messages: ChatMessages) -> str | list[dict[str, Any]]:
    if messages.is_string:
        return messages.to_prompt()
    return [message.to_dict() for message in messages.to_chat_messages()]


def _chat_messages(request: Request) -> list[ChatMessage]:
    if isinstance(request.prompt, str):
        return [ChatMessage("user", request.prompt)]
    messages = []
    for message in request.prompt:
        fields = {"content": None, **message}
        messages.append(ChatMessage.from_dict(fields))
    return messages


def _completion(response: Mapping[str, Any], usage: GenerationUsage) -> Completion:
    content = response.get("content") or ""
    if not isinstance(content, str):
        content = " ".join(part.get("text", "") for part in content)
    calls = tuple(response.get("tool_calls") or ())
    raw = response.get("_raw_choice") or {}
    return Completion(
        content,
        raw.get("finish_reason") or ("tool_calls" if calls else "stop"),
        n_prompt_tokens=usage.prompt_tokens,
        n_tokens=usage.completion_tokens,
        tool_calls=calls,
    )
