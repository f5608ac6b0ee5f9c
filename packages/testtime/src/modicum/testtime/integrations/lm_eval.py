"""The samples that lm-eval logs: read without lm-eval itself.

lm-eval writes, with ``--log_samples``, one line per document and filter, and keeps in ``resps`` the
texts that the model gave: ``repeats`` of them. Takes such a file, or what ``simple_evaluate``
returned, and gives a `SampleTable`. What runs inside lm-eval, a filter and a model, stands in
`modicum.testtime.integrations.lm_eval_harness`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from modicum.testtime.equality import as_canonicaliser
from modicum.testtime.extract import Extractor, as_extractor
from modicum.testtime.samples import Sample
from modicum.testtime.table import SampleTable

__all__ = ["INVALID", "logged_targets", "read_logged_samples"]

INVALID = "[invalid]"
"""What lm-eval's filters put where they find no answer."""

_FILE = re.compile(r"samples_(?P<task>.+)_\d{4}-\d\d-\d\dT[\d.:-]+\.jsonl$")


def read_logged_samples(
    source: str | os.PathLike[str] | Mapping[str, Any] | Iterable[Mapping[str, Any]],
    *,
    extract: Callable[[str], Any] | None = None,
    equal: Callable[..., Any] | None = None,
    filter: str | None = None,
    null: str = INVALID,
) -> SampleTable:
    """Return logged samples as a table; prompts are called ``task/doc_id``.

    Parameters
    ----------
    source
        A file ``samples_TASK_DATE.jsonl``, the dictionary that ``simple_evaluate`` returned, or
        logged samples, whose prompts are called ``doc_id``.
    extract, equal
        How answers are read (None: the whole text) and when they are the same.
    filter
        Name of a filter of the task whose outputs are the answers, in place of ``extract``. It must
        leave one output per response, so without ``take_first`` or a vote.
    null
        What such a filter puts where it finds no answer.

    Raises
    ------
    ValueError
        If there are no samples or no such filter, if responses are no texts, or if a document is
        logged twice with different responses.
    """
    if filter is not None and extract is not None:
        raise ValueError(
            f"give filter={filter!r} or extract, not both: each says what an answer is"
        )
    read = as_extractor(extract)
    samples: list[Sample] = []
    for prompt_id, record in _documents(source, filter):
        texts = _texts(prompt_id, record)
        canonical = as_canonicaliser(equal)
        answers = [read(t) for t in texts] if filter is None else _filtered(prompt_id, record, null)
        if len(answers) != len(texts):
            raise ValueError(
                f"filter {filter!r} leaves {len(answers)} outputs of the {len(texts)} responses to "
                f"{prompt_id}: name one without a vote and without take_first"
            )
        for index, (text, answer) in enumerate(zip(texts, answers, strict=True)):
            key = None if answer is None else canonical(answer)
            samples.append(Sample(prompt_id, index, 0, text, key=key))
    return SampleTable.from_samples(samples)


def logged_targets(
    source: str | os.PathLike[str] | Mapping[str, Any] | Iterable[Mapping[str, Any]],
    *,
    extract: Callable[[str], Any] | None = None,
    equal: Callable[..., Any] | None = None,
) -> dict[str, Hashable]:
    """Return the right answer of each prompt, as `SampleTable.correct` wants them.

    Parameters
    ----------
    source
        As for `read_logged_samples`.
    extract, equal
        As there, so that targets and answers are the same kind of thing: a target in which the
        extractor finds an answer stands for this answer.

    Raises
    ------
    ValueError
        If there are no samples.
    """
    read = as_extractor(extract)
    targets: dict[str, Hashable] = {}
    for prompt_id, record in _documents(source, None):
        target = record.get("target")
        answer = read.read_reference(target) if isinstance(read, Extractor) else target
        targets[prompt_id] = as_canonicaliser(equal)(answer)
    return targets


def _documents(source: Any, filter: str | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every document once, with its prompt's id; of several filters the one that is named."""
    seen: dict[str, Mapping[str, Any]] = {}
    filters: set[Any] = set()
    for prompt_id, record in _records(source):
        filters.add(record.get("filter"))
        known = seen.get(prompt_id)
        if known is not None and known["resps"] != record["resps"]:
            raise ValueError(
                f"document {prompt_id} is logged twice with different responses: read one run only"
            )
        if filter is not None and record.get("filter") != filter:
            continue
        if known is None:
            seen[prompt_id] = record
            yield prompt_id, record
    if not seen:
        wanted = "" if filter is None else f" of the filter {filter!r}; there are {sorted(filters)}"
        raise ValueError(f"there are no logged samples{wanted}")


def _records(source: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield logged samples with the ids of their prompts."""
    if isinstance(source, str | os.PathLike):
        named = _FILE.search(Path(source).name)
        lines = Path(source).read_text(encoding="utf-8").splitlines()
        by_task = {named["task"] if named else "": [json.loads(x) for x in lines if x.strip()]}
    elif isinstance(source, Mapping):
        if not source.get("samples"):
            raise ValueError(
                "the results hold no samples: call simple_evaluate(..., log_samples=True)"
            )
        by_task = source["samples"]
    else:
        by_task = {"": list(source)}
    for task, records in by_task.items():
        for record in records:
            if "doc_id" not in record or "resps" not in record:
                raise ValueError(
                    f"no sample as lm-eval logs it, which has doc_id and resps: {record!r:.80}"
                )
            yield f"{task}/{record['doc_id']}" if task else str(record["doc_id"]), record


def _texts(prompt_id: str, record: Mapping[str, Any]) -> list[str]:
    texts = [text for responses in record["resps"] for text in responses]
    if not all(isinstance(text, str) for text in texts) or len(record["resps"]) != 1:
        raise ValueError(
            f"the responses to {prompt_id} are no texts; only tasks that generate have samples to "
            "vote on"
        )
    return texts


def _filtered(prompt_id: str, record: Mapping[str, Any], null: str) -> list[Any]:
    (outputs,) = record["filtered_resps"]
    values = outputs if isinstance(outputs, list) else [outputs]
    return [None if value == null else value for value in values]
