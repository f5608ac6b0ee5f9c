"""Results as a ``datasets.Dataset``, the form that Hugging Face's tools take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["results_to_dataset"]


def results_to_dataset(results: Sequence[dict[str, Any]]) -> Any:
    """Return a dataset with a row per prompt.

    Parameters
    ----------
    results
        What `modicum.testtime.strategy.Results.to_dicts` gives. Answers, keys and votes, whose
        types differ from row to row, become JSON text.

    Raises
    ------
    ImportError
        If datasets is not installed.
    """
    import json

    try:
        from datasets import Dataset
    except ImportError as error:
        raise ImportError(
            'datasets is not installed: pip install "modicum-testtime[datasets]"'
        ) from error
    return Dataset.from_list([_row(result, json.dumps) for result in results])


def _row(result: dict[str, Any], text_of: Any) -> dict[str, Any]:
    samples = result["samples"]
    columns = {
        "sample_texts": [sample["text"] for sample in samples],
        "sample_keys": [text_of(sample["key"]) for sample in samples],
        "sample_rewards": [sample["reward"] for sample in samples],
        "sample_used": [sample["used"] for sample in samples],
    }
    plain = {k: v for k, v in result.items() if k not in ("samples", "usage", "votes", "answer")}
    return {
        **plain,
        "answer": text_of(result["answer"]),
        "votes": text_of(result["votes"]),
        **{f"usage_{name}": value for name, value in result["usage"].items()},
        **columns,
    }
