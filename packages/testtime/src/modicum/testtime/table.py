"""Samples as columns: the form in which other code takes them.

A `SampleTable` holds the samples of any number of prompts as NumPy arrays, one entry per sample,
with texts and answers beside them. It is read from logs, written as JSONL, and gives per prompt
what estimators want: counts of answers, rewards, which are correct. It draws no conclusions.

Legend: ``S`` samples, ``P`` prompts, ``K`` distinct answers of all prompts together.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modicum.testtime.log import FORMAT, read_samples, sample_to_record
from modicum.testtime.samples import Sample

__all__ = ["SampleTable"]


@dataclass(frozen=True, eq=False)
class SampleTable:
    """Samples in columns, grouped by prompt and in order of submission.

    Attributes
    ----------
    prompt_ids
        Ids of the P prompts, in order of first appearance.
    keys
        The K distinct answers, in order of first appearance.
    prompt_S
        int64; index into ``prompt_ids``, ascending.
    sample_index_S
        int64; index of the sample within its prompt, ascending within a prompt.
    seed_S
        int64.
    key_S
        int64; index into ``keys``, -1 for a sample without an answer.
    reward_S
        float64; NaN where there is none.
    logprob_sum_S
        float64, nats; NaN where there is none.
    n_prompt_tokens_S, n_tokens_S
        int64.
    latency_s_S
        float64, seconds.
    used_S
        bool; whether the decision rests on it.
    round_S
        int64; 0 outside self-correction.
    texts, finish_reasons, experts
        Lists of S strings.
    header
        Header of the log it was read from, else empty.
    """

    prompt_ids: list[str]
    keys: list[Hashable]
    prompt_S: NDArray[np.int64]
    sample_index_S: NDArray[np.int64]
    seed_S: NDArray[np.int64]
    key_S: NDArray[np.int64]
    reward_S: NDArray[np.float64]
    logprob_sum_S: NDArray[np.float64]
    n_prompt_tokens_S: NDArray[np.int64]
    n_tokens_S: NDArray[np.int64]
    latency_s_S: NDArray[np.float64]
    used_S: NDArray[np.bool_]
    round_S: NDArray[np.int64]
    texts: list[str]
    finish_reasons: list[str]
    experts: list[str]
    tool_calls: list[tuple[Mapping[str, Any], ...]]
    header: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_samples(
        cls, samples: Iterable[Sample], header: Mapping[str, Any] | None = None
    ) -> SampleTable:
        """Take samples in any order.

        Raises
        ------
        ValueError
            If a prompt has two samples of one index.
        """
        samples = list(samples)
        prompts = {name: i for i, name in enumerate(dict.fromkeys(s.prompt_id for s in samples))}
        samples.sort(key=lambda sample: (prompts[sample.prompt_id], sample.sample_index))
        _refuse_repeats(samples)
        keys: dict[Hashable, int] = {}
        key_S = [-1 if s.key is None else keys.setdefault(s.key, len(keys)) for s in samples]
        return cls(
            prompt_ids=list(prompts),
            keys=list(keys),
            prompt_S=_whole(prompts[s.prompt_id] for s in samples),
            sample_index_S=_whole(s.sample_index for s in samples),
            seed_S=_whole(s.seed for s in samples),
            key_S=_whole(key_S),
            reward_S=_real(s.reward for s in samples),
            logprob_sum_S=_real(s.logprob_sum for s in samples),
            n_prompt_tokens_S=_whole(s.n_prompt_tokens for s in samples),
            n_tokens_S=_whole(s.n_tokens for s in samples),
            latency_s_S=_real(s.latency_s for s in samples),
            used_S=np.array([s.used for s in samples], dtype=np.bool_),
            round_S=_whole(s.round for s in samples),
            texts=[s.text for s in samples],
            finish_reasons=[s.finish_reason for s in samples],
            experts=[s.expert for s in samples],
            tool_calls=[tuple(s.tool_calls) for s in samples],
            header=dict(header or {}),
        )

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike[str]) -> SampleTable:
        """Read the log of a run, or any file of samples as JSON lines.

        Raises
        ------
        ValueError
            Naming the line that is not readable or has a sample again.
        """
        header, samples = read_samples(path)
        return cls.from_samples(samples, header)

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write the samples as JSON lines, with the header first; `from_jsonl` reads them.

        At every moment the file is whole, old or new.
        """
        from modicum.core.experiment import write_atomic

        lines = [{"format": FORMAT, **self.header}, *map(sample_to_record, self.samples())]
        text = "".join(f"{json.dumps(line, allow_nan=False)}\n" for line in lines)
        write_atomic(path, text)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.texts)

    def samples(self) -> Iterator[Sample]:
        """Yield the samples, grouped by prompt and in order of submission."""
        for i in range(len(self)):
            yield Sample(
                prompt_id=self.prompt_ids[self.prompt_S[i]],
                sample_index=int(self.sample_index_S[i]),
                seed=int(self.seed_S[i]),
                text=self.texts[i],
                key=None if self.key_S[i] < 0 else self.keys[self.key_S[i]],
                reward=_number(self.reward_S[i]),
                finish_reason=self.finish_reasons[i],
                n_prompt_tokens=int(self.n_prompt_tokens_S[i]),
                n_tokens=int(self.n_tokens_S[i]),
                latency_s=float(self.latency_s_S[i]),
                logprob_sum=_number(self.logprob_sum_S[i]),
                used=bool(self.used_S[i]),
                expert=self.experts[i],
                round=int(self.round_S[i]),
                tool_calls=self.tool_calls[i],
            )

    def rows(self, prompt_id: str) -> slice:
        """Return where a prompt's samples stand.

        Raises
        ------
        KeyError
            If there is no such prompt.
        """
        try:
            prompt = self.prompt_ids.index(prompt_id)
        except ValueError:
            raise KeyError(f"no prompt has the id {prompt_id!r}") from None
        first, end = np.searchsorted(self.prompt_S, (prompt, prompt + 1))
        return slice(int(first), int(end))

    def groups(self) -> Iterator[tuple[str, slice]]:
        """Yield each prompt's id and where its samples stand."""
        ends = np.searchsorted(self.prompt_S, np.arange(len(self.prompt_ids) + 1))
        for prompt_id, first, end in zip(self.prompt_ids, ends[:-1], ends[1:], strict=True):
            yield prompt_id, slice(int(first), int(end))

    def counts(self, prompt_id: str, *, used_only: bool = False) -> dict[Hashable, int]:
        """Return how often each answer of a prompt occurs, earliest first.

        Parameters
        ----------
        prompt_id
            Which prompt.
        used_only
            Whether to leave out samples that came in after the decision. Estimates from them are
            biased: whether a sample was used depends on the answers.
        """
        rows = self.rows(prompt_id)
        key = self.key_S[rows]
        if used_only:
            key = key[self.used_S[rows]]
        found, first, count = np.unique(key, return_index=True, return_counts=True)
        order = np.argsort(first)
        return {self.keys[found[i]]: int(count[i]) for i in order if found[i] >= 0}

    def correct(self, answers: Mapping[str, Hashable]) -> NDArray[np.bool_]:
        """Return which samples have the right answer, bool ``[S]``.

        Parameters
        ----------
        answers
            The right answer of each prompt, as a key.

        Raises
        ------
        KeyError
            If a prompt's answer is missing.
        """
        missing = [name for name in self.prompt_ids if name not in answers]
        if missing:
            raise KeyError(f"no answer is given for prompt {missing[0]!r}")
        index = {key: i for i, key in enumerate(self.keys)}
        right_P = _whole(index.get(answers[name], -2) for name in self.prompt_ids)
        return np.asarray(right_P[self.prompt_S] == self.key_S)


def _refuse_repeats(samples: list[Sample]) -> None:
    for one, other in pairwise(samples):
        if (one.prompt_id, one.sample_index) == (other.prompt_id, other.sample_index):
            raise ValueError(
                f"prompt {one.prompt_id!r} has two samples of index {one.sample_index}"
            )


def _whole(values: Iterable[int]) -> NDArray[np.int64]:
    return np.array(list(values), dtype=np.int64)


def _real(values: Iterable[float | None]) -> NDArray[np.float64]:
    return np.array([math.nan if v is None else v for v in values], dtype=np.float64)


def _number(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)
