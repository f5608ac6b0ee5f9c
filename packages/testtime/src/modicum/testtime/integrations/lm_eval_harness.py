"""lm-eval: a filter that votes as our rules do, and a model that answers by a strategy.

Importing this module registers the filter ``modicum_maj``, which stands where ``take_first_k`` and
``majority_vote`` stood in a task's ``filter_list``::

    filter_list:
      - name: maj@8
        filter:
          - {function: regex, regex_pattern: "(-?[0-9]+)"}
          - {function: modicum_maj, k: 8}
          - {function: take_first}

`StrategyLM` lets any task that generates be answered by a strategy: what lm-eval scores is the text
chosen from many samples. Logged samples are read by `modicum.testtime.integrations.lm_eval`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from modicum.testtime.integrations.lm_eval import INVALID
from modicum.testtime.samples import Prompt, Result, Sampling, Usage
from modicum.testtime.stopping.base import VoteCounter
from modicum.testtime.stopping.parse import parse_rule
from modicum.testtime.strategy import Strategy

try:
    from lm_eval.api.filter import Filter
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_filter
except ImportError as error:
    raise ImportError("lm-eval's filters and models need lm-eval: pip install lm-eval") from error

__all__ = ["MajorityFilter", "StrategyLM"]

logger = logging.getLogger(__name__)


@register_filter("modicum_maj")
class MajorityFilter(Filter):
    """Majority vote over a document's responses, of which invalid ones do not vote.

    Parameters
    ----------
    k
        Take the first k responses; None takes all.
    null
        What earlier filters put where they found no answer. It is the output where nothing votes.
    stop
        A stopping rule in words (``"certificate:delta=0.05"``, ``"beta:0.95"``): the vote is that
        of the responses up to where the rule would have stopped. How many that were is logged.

    Raises
    ------
    ValueError
        If k is less than 1, there is no such rule, or a document has fewer than k responses.

    Notes
    -----
    Ties go to the answer that comes first, as in lm-eval's own filter.
    """

    def __init__(self, k: int | None = None, null: str = INVALID, stop: str | None = None) -> None:
        if k is not None and k < 1:
            raise ValueError(f"k must be at least 1, not {k!r}")
        self.k = k
        self.null = null
        self.rule = None if stop is None else parse_rule(stop)

    def apply(self, resps: Iterable[Sequence[str]], docs: Sequence[dict]) -> list[list[str]]:
        """Return one response per document."""
        used = total = 0
        chosen = []
        for responses in resps:
            responses = list(responses)
            if self.k is not None:
                if len(responses) < self.k:
                    raise ValueError(
                        f"k={self.k} responses are asked for and a document has {len(responses)}: "
                        f"set the task's repeats to {self.k}"
                    )
                responses = responses[: self.k]
            winner, drawn = self._vote(responses)
            chosen.append([winner])
            used += drawn
            total += len(responses)
        if self.rule is not None:
            logger.info("%r used %d of %d responses", self.rule, used, total)
        return chosen

    def _vote(self, responses: Sequence[str]) -> tuple[str, int]:
        """Return the winner and how many responses it took."""
        votes = VoteCounter()
        rule = None if self.rule is None else self.rule.fresh()
        for response in responses:
            key = None if response == self.null else response
            votes.add(key)
            if rule is not None and rule.update(key).stop:
                break
        leader = votes.top_two()[0]
        return self.null if leader is None else str(leader), votes.total


class StrategyLM(LM):
    """A strategy as a model of lm-eval: ``simple_evaluate(model=StrategyLM(sc), tasks=[...])``.

    Parameters
    ----------
    strategy
        The strategy that answers.
    params
        Sampling parameters. Stop strings and the limit of new tokens come from the task; its
        temperature does not, as most tasks ask for greedy decoding, of which many samples are one.
    seed
        Seed of the run.

    Attributes
    ----------
    results : dict of str to Result
        Result of every request by its name, ``task/doc_id/repeat``.
    usage : Usage
        What all of it cost.
    """

    def __init__(
        self, strategy: Strategy, params: Sampling | None = None, *, seed: int = 0
    ) -> None:
        super().__init__()
        self.strategy = strategy
        self.params = params or Sampling()
        self.seed = seed
        self.results: dict[str, Result] = {}
        self.usage = Usage()
        self._chats: dict[str, Prompt] = {}

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the text that the strategy chooses for each request."""
        names = _names(requests)
        groups: dict[str, tuple[Sampling, list[tuple[str, Prompt]]]] = {}
        for name, request in zip(names, requests, strict=True):
            context, options = request.args
            params = _params(self.params, options)
            prompt = self._chats.get(context, context)
            groups.setdefault(repr(params), (params, []))[1].append((name, prompt))
        for params, prompts in groups.values():
            results = self.strategy.run(prompts, params, seed=self.seed, progress=not disable_tqdm)
            self.results |= {result.prompt_id: result for result in results}
            self.usage.add(results.usage)
        return [self.results[name].text for name in names]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a text that stands for a chat; the backend gets the messages themselves."""
        text = "\n".join(f"{message['role']}: {message['content']}" for message in chat_history)
        self._chats[text] = [dict(message) for message in chat_history]
        return text

    @property
    def tokenizer_name(self) -> str:
        """Name of the chat format, by which lm-eval tells its caches apart."""
        return "modicum-testtime"

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
        """Refuse: samples have no log-likelihood to compare.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            "a strategy answers tasks that generate (output_type generate_until), not those that "
            "compare log-likelihoods"
        )

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> Any:
        """Refuse, as `loglikelihood` does.

        Raises
        ------
        NotImplementedError
            Always.
        """
        return self.loglikelihood(requests, disable_tqdm)


def _names(requests: Sequence[Any]) -> list[str]:
    """Name requests so that repeats of a document are drawn independently of each other."""
    seen: dict[tuple[Any, Any], int] = {}
    names = []
    for request in requests:
        document = (request.task_name, request.doc_id)
        repeat = seen.get(document, 0)
        seen[document] = repeat + 1
        names.append(f"{request.task_name}/{request.doc_id}/{repeat}")
    return names


def _params(params: Sampling, options: dict[str, Any]) -> Sampling:
    until = options.get("until") or ()
    stop = (until,) if isinstance(until, str) else tuple(until)
    longest = options.get("max_gen_toks", options.get("max_new_tokens", params.max_tokens))
    return replace(params, stop=(*params.stop, *stop), max_tokens=int(longest))
