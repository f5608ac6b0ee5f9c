"""Evaluation on a Dask cluster.

Uses a client that the user has, sends the function once and one task per item. Starts and stops
nothing.
"""

from collections.abc import Sequence
from typing import Any

from modicum.zeroth.executors import ExecutorGone, Function, Results, Workers

try:
    import distributed
except ImportError as error:  # pragma: no cover
    raise ImportError('distributed is missing: pip install "modicum-zeroth[dask]"') from error

__all__ = ["DaskWorkers"]


def _call(function: Function, item: Any) -> Any:
    return function(item)


class DaskWorkers(Workers):
    """Workers of Dask.

    Parameters
    ----------
    client
        A ``distributed.Client``; None for the current one.
    options
        As for ``Client.submit``. A task is not started again by Dask unless ``retries`` says so:
        evaluations that are repeated count, and Dask would not tell.
    """

    def __init__(self, client: Any = None, **options: Any) -> None:
        if client is None:
            try:
                client = distributed.get_client()
            except ValueError as error:
                raise ValueError(
                    "there is no current Dask client; make one, Client(…), or pass it: Dask(client)"
                ) from error
        self._client = client
        self._options = {"pure": False, "retries": 0, **options}
        self.parallel = max(1, sum(client.nthreads().values()))

    def map_unordered(self, function: Function, items: Sequence[Any]) -> Results:
        """Yield results in any order; work that was lost comes back as Dask's error."""
        places: dict[Any, int] = {}
        try:
            shared = self._client.scatter(function, hash=False)
            for index, item in enumerate(items):
                places[self._client.submit(_call, shared, item, **self._options)] = index
        except Exception as error:
            raise ExecutorGone(f"Dask takes no more work: {error}") from error
        try:
            for future in distributed.as_completed(list(places)):
                yield places.pop(future), _result(future)
        finally:
            if places:
                self._client.cancel(list(places))


def _result(future: Any) -> Any:
    try:
        return future.result()
    except Exception as error:
        return error
