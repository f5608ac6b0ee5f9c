"""Results of a run in the order of its prompts, and the plain forms in which others take them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Hashable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from modicum.testtime.log import encode_key, sample_to_record
from modicum.testtime.samples import Result, Usage

if TYPE_CHECKING:
    from modicum.testtime.table import SampleTable

__all__ = ["Results", "result_to_dict"]


def result_to_dict(result: Result, *, samples: bool = True) -> dict[str, Any]:
    """Return a result as plain lists and dictionaries that JSON can hold.

    Votes become a list of [key, weight] pairs, keys as in a log, a NaN confidence None.
    """
    plain: dict[str, Any] = {
        "prompt_id": result.prompt_id,
        "answer": encode_key(result.answer),
        "text": result.text,
        "certified": result.certified,
        "confidence": None if math.isnan(result.confidence) else result.confidence,
        "guarantee": result.guarantee,
        "reason": result.reason,
        "votes": [[encode_key(key), weight] for key, weight in result.votes.items()],
        "usage": asdict(result.usage),
        "truncated": result.truncated,
    }
    if samples:
        plain["samples"] = [sample_to_record(sample) for sample in result.samples]
    return plain


class Results(list[Result]):
    """Results in the order of the prompts.

    Attributes
    ----------
    usage
        What the whole run cost.
    truncated
        Whether the budget ended the run; prompts that it did not reach have a result without
        samples.
    """

    def __init__(
        self,
        results: Iterable[Result] = (),
        *,
        usage: Usage | None = None,
        truncated: bool = False,
    ) -> None:
        super().__init__(results)
        self.usage = usage if usage is not None else Usage()
        self.truncated = truncated

    @property
    def answers(self) -> list[Hashable | None]:
        """The answer of each prompt."""
        return [result.answer for result in self]

    def to_dicts(self, *, samples: bool = True) -> list[dict[str, Any]]:
        """Return the results as plain lists and dictionaries that JSON can hold."""
        return [result_to_dict(result, samples=samples) for result in self]

    def to_jsonl(self, path: str | os.PathLike[str], *, samples: bool = True) -> None:
        """Write a JSON line per result; at every moment the file is whole, old or new."""
        from modicum.core.experiment import write_atomic

        lines = [json.dumps(plain, allow_nan=False) for plain in self.to_dicts(samples=samples)]
        write_atomic(path, "".join(f"{line}\n" for line in lines))

    def table(self) -> SampleTable:
        """Return all samples as columns of NumPy arrays."""
        from modicum.testtime.table import SampleTable

        return SampleTable.from_samples(sample for result in self for sample in result.samples)

    def to_dataset(self) -> Any:
        """Return a ``datasets.Dataset`` with a row per prompt.

        Raises
        ------
        ImportError
            If datasets is not installed.
        """
        from modicum.testtime.integrations.datasets import results_to_dataset

        return results_to_dataset(self.to_dicts())
