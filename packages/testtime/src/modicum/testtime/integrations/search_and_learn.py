r"""The columns of search-and-learn: read its recorded completions, write its predictions.

search-and-learn (Hugging Face) keeps per problem ``completions`` (n texts), ``scores`` (for each
the scores of its steps), ``pred`` (the completion of the highest score) and, for n = 1, 2, 4, …,
``pred_naive@n``, ``pred_weighted@n`` and ``pred_maj@n``, each an answer as ``\boxed{…}``. Takes
dictionaries or a ``datasets.Dataset`` and needs neither that program nor datasets.

One difference: there a completion without an answer votes for the empty answer; here it does not
vote.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from modicum.testtime._candidates import Candidate, Candidates, best_candidate, reward_of
from modicum.testtime.equality import as_canonicaliser
from modicum.testtime.extract import as_extractor, boxed
from modicum.testtime.samples import Result, Sample
from modicum.testtime.table import SampleTable

__all__ = ["add_predictions", "aggregate", "read_rows", "rows_from_results"]

Aggregation = Literal["last", "min", "prod"]


def aggregate(scores: float | Sequence[float], agg: Aggregation = "last") -> float:
    """Return one score of a completion from those of its steps.

    Parameters
    ----------
    scores
        Scores of the steps, at least one; a number is a score of the whole.
    agg
        "last", "min" or "prod", the strategies of search-and-learn.

    Raises
    ------
    ValueError
        If there are no scores or ``agg`` is another word.
    """
    if agg not in ("last", "min", "prod"):
        raise ValueError(f'agg must be "last", "min" or "prod", not {agg!r}')
    if not isinstance(scores, Sequence):
        return float(scores)
    if not scores:
        raise ValueError("a completion needs the score of at least one step")
    if agg == "last":
        return float(scores[-1])
    return float(min(scores) if agg == "min" else math.prod(scores))


def read_rows(
    rows: Iterable[Mapping[str, Any]],
    *,
    agg: Aggregation = "last",
    extract: Callable[[str], Any] | None = None,
    equal: Callable[..., Any] | None = None,
    id_column: str = "unique_id",
) -> SampleTable:
    r"""Return the completions of all rows as samples; rewards are the aggregated scores.

    Parameters
    ----------
    rows
        A ``datasets.Dataset`` or dictionaries with the column ``completions`` and, for rewards,
        ``scores``.
    agg
        How scores of steps become one.
    extract, equal
        How answers are read (None: the last ``\boxed{…}``) and when they are the same.
    id_column
        Column with the names of the prompts; where a row has none, its position is its name.

    Raises
    ------
    ValueError
        If a row has no completions, or not one score per completion.
    """
    samples: list[Sample] = []
    for position, row in enumerate(rows):
        name = row.get(id_column)
        samples += _samples_of(row, str(position if name is None else name), agg, extract, equal)
    return SampleTable.from_samples(samples)


def _samples_of(
    row: Mapping[str, Any],
    prompt_id: str,
    agg: Aggregation,
    extract: Callable[[str], Any] | None,
    equal: Callable[..., Any] | None,
) -> list[Sample]:
    completions = row.get("completions")
    if not completions:
        raise ValueError(f"row {prompt_id!r} has no completions")
    scores = row.get("scores")
    if scores is not None and len(scores) != len(completions):
        raise ValueError(
            f"row {prompt_id!r} has {len(scores)} scores for {len(completions)} completions"
        )
    tokens = row.get("completion_tokens") or [0] * len(completions)
    if isinstance(tokens, int):  # beam search counts them per problem
        tokens = [0] * len(completions)
    read, canonical = as_extractor(extract or boxed()), as_canonicaliser(equal)
    samples = []
    for index, text in enumerate(completions):
        answer = read(text)
        samples.append(
            Sample(
                prompt_id,
                index,
                0,
                text,
                key=None if answer is None else canonical(answer),
                reward=None if scores is None else aggregate(scores[index], agg),
                n_tokens=int(tokens[index]),
            )
        )
    return samples


def add_predictions(
    rows: Any,
    *,
    ns: Sequence[int] | None = None,
    agg: Aggregation = "last",
    extract: Callable[[str], Any] | None = None,
    equal: Callable[..., Any] | None = None,
) -> Any:
    r"""Return the rows with the columns ``pred`` and ``pred_{naive,weighted,maj}@n``.

    Parameters
    ----------
    rows
        A ``datasets.Dataset`` or dictionaries; it is left alone.
    ns
        Numbers of completions, always the first ones of a row; None is 1, 2, 4, … as far as every
        row has so many.
    agg
        How scores of steps become one. Without ``scores`` only ``pred_maj@n`` is written.
    extract, equal
        How answers are read (None: the last ``\boxed{…}``) and when they are the same.

    Returns
    -------
    datasets.Dataset or list of dict
        As the rows came. ``pred_naive@n`` has the answer of the highest score, ``pred_weighted@n``
        that of the largest sum of scores, ``pred_maj@n`` the most frequent one; ties go to the
        answer that comes first, and an answer is written as it stands in its first completion.

    Raises
    ------
    ValueError
        If a row has fewer completions than ``ns`` asks for.
    """
    plain = [dict(row) for row in rows]
    fewest = min((len(row.get("completions") or ()) for row in plain), default=0)
    if ns is None:
        ns = [2**power for power in range(fewest.bit_length())]
    for n in ns:
        if not 1 <= n <= fewest:
            raise ValueError(f"ns must be between 1 and {fewest}, the completions of a row: {n!r}")
    read = as_extractor(extract or boxed())
    for position, row in enumerate(plain):
        samples = _samples_of(row, str(position), agg, read, equal)
        row.update(_predictions(samples, ns, read))
    if not hasattr(rows, "add_column"):
        return plain
    for name in plain[0] if plain else ():
        if name == "pred" or name.startswith("pred_"):
            if name in rows.column_names:
                rows = rows.remove_columns(name)
            rows = rows.add_column(name, [row[name] for row in plain])
    return rows


def _predictions(
    samples: list[Sample], ns: Sequence[int], read: Callable[[str], Any]
) -> dict[str, str]:
    scored = samples[0].reward is not None
    found: dict[str, str] = {}
    if scored:
        found["pred"] = max(samples, key=lambda sample: sample.reward or 0.0).text
    for n in ns:
        counted, weighted = Candidates(), Candidates()
        for sample in samples[:n]:
            counted.add(sample)
            weighted.add(sample, sample.reward or 0.0)
        if scored:
            best = best_candidate(counted.values(), reward_of)
            found[f"pred_naive@{n}"] = _boxed(best, samples, read)
            found[f"pred_weighted@{n}"] = _boxed(_first(weighted), samples, read)
        found[f"pred_maj@{n}"] = _boxed(_first(counted), samples, read)
    return found


def _first(candidates: Candidates) -> Candidate | None:
    return next(iter(candidates.top()), None)


def _boxed(candidate: Candidate | None, samples: list[Sample], read: Callable[[str], Any]) -> str:
    answer = "" if candidate is None else read(samples[candidate.first].text)
    return f"\\boxed{{{answer}}}"


def rows_from_results(
    results: Iterable[Result], problems: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Return results of a strategy as rows of search-and-learn.

    Parameters
    ----------
    results
        What a strategy's ``run`` returned.
    problems
        Texts of the problems by prompt id, for the column ``problem``.

    Returns
    -------
    list of dict
        ``unique_id``, ``problem`` where known, ``completions`` and ``completion_tokens`` (samples
        that the decision rests on), ``scores`` (a reward as the score of a single step; left out
        where a sample has none) and ``pred``. The numbers of completions differ from row to row
        where sampling stopped early.
    """
    rows = []
    for result in results:
        used = [sample for sample in result.samples if sample.used]
        row: dict[str, Any] = {
            "unique_id": result.prompt_id,
            "completions": [sample.text for sample in used],
            "completion_tokens": [sample.n_tokens for sample in used],
            "pred": result.text,
        }
        if problems is not None and result.prompt_id in problems:
            row["problem"] = problems[result.prompt_id]
        if used and all(sample.reward is not None for sample in used):
            row["scores"] = [[sample.reward] for sample in used]
        rows.append(row)
    return rows
