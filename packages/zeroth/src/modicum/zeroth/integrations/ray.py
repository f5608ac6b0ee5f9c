"""Evaluation on a Ray cluster.

Connects to the cluster the program is connected to or starts a local one, sends the function once
and one task per item. Stops only a cluster that it started.
"""

from collections.abc import Sequence
from typing import Any

from modicum.zeroth.executors import ExecutorGone, Function, Results, Workers

try:
    import ray
except ImportError as error:  # pragma: no cover
    raise ImportError('Ray is missing: pip install "modicum-zeroth[ray]"') from error

__all__ = ["RayWorkers"]


def _call(function: Function, item: Any) -> Any:
    return function(item)


class RayWorkers(Workers):
    """Workers of Ray.

    Parameters
    ----------
    options
        As for ``ray.remote``. A task that dies is not started again by Ray unless ``max_retries``
        says so: evaluations that are repeated count, and Ray would not tell.
    """

    def __init__(self, **options: Any) -> None:
        self._owns = not ray.is_initialized()
        if self._owns:
            ray.init(include_dashboard=False, log_to_driver=False)
        options = {"max_retries": 0, **options}
        self._task = ray.remote(**options)(_call)
        cpus = float(ray.cluster_resources().get("CPU", 1))
        self.parallel = max(1, int(cpus / max(float(options.get("num_cpus") or 1), 1e-3)))

    def map_unordered(self, function: Function, items: Sequence[Any]) -> Results:
        """Yield results in any order; work that was lost comes back as Ray's error."""
        try:
            shared = ray.put(function)
            places = {self._task.remote(shared, item): i for i, item in enumerate(items)}
        except Exception as error:
            raise ExecutorGone(f"Ray takes no more work: {error}") from error
        try:
            while places:
                (done,), _ = ray.wait(list(places), num_returns=1)
                index = places.pop(done)
                yield index, _result(done)
        finally:
            for waiting in places:
                ray.cancel(waiting)

    def close(self) -> None:
        """Stop Ray if it was started here."""
        if self._owns and ray.is_initialized():
            ray.shutdown()
            self._owns = False


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except Exception as error:
        return error
