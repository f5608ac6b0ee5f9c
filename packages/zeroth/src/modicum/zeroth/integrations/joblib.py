"""Evaluation through joblib.

Hands items to `joblib.Parallel` and yields results as they come. Starts nothing of its own beyond
what joblib starts, and leaves joblib's configuration alone.
"""

from collections.abc import Sequence
from typing import Any

from modicum.zeroth.executors import Function, Results, Workers

try:
    import joblib
except ImportError as error:  # pragma: no cover
    raise ImportError('joblib is missing: pip install "modicum-zeroth[joblib]"') from error

__all__ = ["JoblibWorkers"]


def _numbered(function: Function, index: int, item: Any) -> tuple[int, Any]:
    return index, function(item)


class JoblibWorkers(Workers):
    """Workers of joblib.

    Parameters
    ----------
    n_jobs, options
        As for `joblib.Parallel`.
    """

    def __init__(self, n_jobs: int = -1, **options: Any) -> None:
        self._options = {"n_jobs": n_jobs, **options, "return_as": "generator_unordered"}
        self.parallel = max(1, joblib.effective_n_jobs(n_jobs))

    def map_unordered(self, function: Function, items: Sequence[Any]) -> Results:
        """Yield results in any order; what a dying worker takes along comes back as an error."""
        missing = set(range(len(items)))
        task = joblib.delayed(_numbered)
        # A new one each time: after a failure an old one would go on to deliver old results.
        parallel = joblib.Parallel(**self._options)
        found = parallel(task(function, index, item) for index, item in enumerate(items))
        try:
            for index, result in found:
                missing.discard(index)
                yield index, result
        except Exception as error:
            for index in sorted(missing):
                yield index, error
        finally:
            found.close()
