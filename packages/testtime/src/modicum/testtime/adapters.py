"""Doors to other people's libraries: each loads its library when it is called.

`its_hub` and `dspy` put our strategies and stopping rules where theirs stand; `lm_eval` and
`search_and_learn` read the samples that those programs have recorded. What more there is for each
(an lm-eval filter and model, DSPy modules, columns to write) stands in
``modicum.testtime.integrations``.
"""

from __future__ import annotations

from typing import Any

from modicum.testtime.table import SampleTable

__all__ = ["dspy", "its_hub", "lm_eval", "search_and_learn"]


def its_hub(strategy: Any, **options: Any) -> Any:
    """Return an ``AbstractScalingAlgorithm`` of its_hub: ``infer(lm, prompt, budget)``.

    Parameters
    ----------
    strategy
        A strategy, whose backend is replaced by the language model of each call, or a function that
        makes a strategy from a backend.
    options
        As for `modicum.testtime.integrations.its_hub.ITSHubAlgorithm`.

    Raises
    ------
    ImportError
        If its_hub is not installed.
    """
    from modicum.testtime.integrations.its_hub import ITSHubAlgorithm

    return ITSHubAlgorithm(strategy, **options)


def dspy(reward_fn: Any, **options: Any) -> Any:
    """Return a verifier made of a reward function of DSPy, ``reward_fn(args, prediction)``.

    Parameters
    ----------
    reward_fn
        The reward function.
    options
        As for `modicum.testtime.integrations.dspy.DSPyVerifier`.

    Raises
    ------
    ImportError
        If DSPy is not installed.
    """
    from modicum.testtime.integrations.dspy import DSPyVerifier

    return DSPyVerifier(reward_fn, **options)


def lm_eval(samples: Any, **options: Any) -> SampleTable:
    """Return the samples that lm-eval logged (``--log_samples``), from a file or from its results.

    Parameters
    ----------
    samples
        A file ``samples_*.jsonl``, what ``simple_evaluate(..., log_samples=True)`` returned, or a
        list of logged samples.
    options
        As for `modicum.testtime.integrations.lm_eval.read_logged_samples`.

    Raises
    ------
    ValueError
        If they are no texts, or a document has different samples in two places.
    """
    from modicum.testtime.integrations.lm_eval import read_logged_samples

    return read_logged_samples(samples, **options)


def search_and_learn(rows: Any, **options: Any) -> SampleTable:
    """Return the samples in the columns ``completions`` and ``scores`` of search-and-learn.

    Parameters
    ----------
    rows
        A ``datasets.Dataset`` or dictionaries.
    options
        As for `modicum.testtime.integrations.search_and_learn.read_rows`.

    Raises
    ------
    ValueError
        If a row's columns do not fit together.
    """
    from modicum.testtime.integrations.search_and_learn import read_rows

    return read_rows(rows, **options)
