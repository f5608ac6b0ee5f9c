import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from modicum.zeroth import executors
from modicum.zeroth.executors import ExecutorGone, Workers, resolve
from modicum.zeroth.minimize import minimize
from modicum.zeroth.oracle import Oracle

# Processes find these by name, which they cannot do with functions of a test.
norm = np.linalg.norm
norms = partial(np.linalg.norm, axis=1)


def run(FixedRadius, fun=norm, workers=1, budget=120, **oracle):
    optimizer = FixedRadius(np.ones(3), budget, rng=5)
    with Oracle(fun, workers=workers, **oracle) as answering:
        while not optimizer.done:
            answering.answer(optimizer)
    return optimizer


def outcome(optimizer):
    return optimizer.state.z.tobytes(), optimizer.nfev, optimizer.lost, optimizer.status


@pytest.fixture(scope="module")
def plain(FixedRadius):
    return outcome(run(FixedRadius))


@pytest.fixture(scope="module")
def plain_rows(FixedRadius):
    return outcome(run(FixedRadius, norms, vectorized=True))


# What comes with Python ---------------------------------------------------------------------------


def test_processes_of_our_own_give_the_same_result_and_end(FixedRadius, plain):
    before = set(multiprocessing.active_children())
    optimizer = FixedRadius(np.ones(3), 120, rng=5)
    with Oracle(norm, workers=2) as oracle:
        oracle.answer(optimizer)
        assert len(set(multiprocessing.active_children()) - before) == 2
        while not optimizer.done:
            oracle.answer(optimizer)
    assert outcome(optimizer) == plain
    assert not set(multiprocessing.active_children()) - before


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_processes_have_ended_when_close_returns(monkeypatch):
    # Forked processes are waited for by two threads at once.
    monkeypatch.setattr(executors, "_context", lambda: multiprocessing.get_context("fork"))
    before = set(multiprocessing.active_children())
    for _ in range(30):
        pool = resolve(2, abs)
        assert dict(pool.map_unordered(abs, [-1, 2])) == {0: 1, 1: 2}
        pool.close()
        assert not set(multiprocessing.active_children()) - before


def test_minus_one_means_all_cpus():
    found = resolve(-1, norm)
    cpus = len(os.sched_getaffinity(0))
    assert (found is None) if cpus == 1 else (found.parallel == cpus)
    assert resolve(1, lambda: 0) is None
    assert resolve(np.int64(3), norm).parallel == 3


def test_executors_of_the_user_stay_open(FixedRadius, plain):
    with ThreadPoolExecutor(2) as threads:
        assert outcome(run(FixedRadius, workers=threads)) == plain
        assert outcome(run(FixedRadius, workers=threads)) == plain
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(2, mp_context=context) as processes:
        assert outcome(run(FixedRadius, workers=processes)) == plain
        assert processes.submit(abs, -3).result() == 3
    with multiprocessing.get_context("forkserver").Pool(2) as pool:
        assert outcome(run(FixedRadius, workers=pool.map)) == plain
        assert outcome(run(FixedRadius, workers=pool.imap, chunk_size=9)) == plain


def test_work_is_cut_for_the_workers(FixedRadius, plain):
    class Counting(Workers):
        parallel = 3

        def __init__(self):
            self.sizes = []

        def map_unordered(self, function, items):
            self.sizes.append([len(points) for points, _ in items])
            for index in reversed(range(len(items))):
                yield index, function(items[index])

    workers = Counting()
    assert outcome(run(FixedRadius, workers=workers)) == plain
    assert workers.sizes[0] == [1] * 50
    workers.sizes.clear()
    run(FixedRadius, workers=workers, chunk_size=30)
    assert workers.sizes[0] == [30, 20]
    workers.sizes.clear()
    run(FixedRadius, fun=norms, vectorized=True, workers=workers)
    assert workers.sizes[0] == [17, 17, 16]


PROGRAM = """
    import os
    import sys
    import numpy as np
    from modicum.zeroth.minimize import minimize
    from modicum.zeroth.optimizer import Optimizer
    sys.path.insert(0, {folder!r})
    from conftest import FixedRadiusMethod

    def fun(x):
        # The first process to come here dies, once.
        try:
            os.close(os.open({flag!r}, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return float(np.linalg.norm(x))
        os._exit(1)

    if __name__ == "__main__":
        result = minimize(
            fun, np.ones(3), 120, method=FixedRadiusMethod, rng=5, workers=2,
            options={{"retries": {retries}}},
        )
        print(result.status, result.nfev, result.lost, result.retried > 0, result.message)
"""


def test_a_worker_that_dies_costs_repetitions_and_no_more(tmp_path):
    # Run as a script, whose function the processes find in its file.
    script = tmp_path / "script.py"
    flag = str(tmp_path / "flag")
    folder = os.path.dirname(__file__)
    script.write_text(textwrap.dedent(PROGRAM.format(folder=folder, flag=flag, retries=2)))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    status, nfev, lost, retried, message = done.stdout.split(maxsplit=4)
    assert (status, lost, retried) == ("0", "0", "True")
    assert int(nfev) <= 120
    assert "lost with its worker (BrokenProcessPool)" in message


def test_an_executor_that_breaks_ends_the_run_with_what_is_there(FixedRadius, tmp_path):
    class Breaking(ThreadPoolExecutor):
        submitted = 0

        def submit(self, *args):
            self.submitted += 1
            if self.submitted > 70:
                raise RuntimeError("cannot schedule new futures after shutdown")
            return super().submit(*args)

    path = tmp_path / "state"

    def start(workers):
        return minimize(
            norm,
            np.ones(3),
            120,
            method=FixedRadius,
            rng=5,
            workers=workers,
            checkpoint=path,
            options={"chunk_size": 1},
        )

    with Breaking(1) as executor:
        result = start(executor)
    assert (result.status, result.success, result.nit) == (2, False, 1)
    assert "takes no more work" in result.message
    complete = start(1)
    assert (complete.status, complete.nfev) == (0, 120)
    plain = minimize(norm, np.ones(3), 120, method=FixedRadius, rng=5)
    assert complete.x.tobytes() == plain.x.tobytes()


def test_an_executor_that_never_worked_is_an_error(FixedRadius):
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(ExecutorGone, match="takes no more work: cannot schedule"):
        minimize(norm, np.ones(3), 120, method=FixedRadius, rng=5, workers=executor)


def test_cancelled_work_is_a_broken_executor():
    class Cancelling(ThreadPoolExecutor):
        def submit(self, *args):
            future = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future

    with Cancelling(1) as executor:
        found = resolve(executor, norm).map_unordered(norm, [np.ones(2)])
        with pytest.raises(ExecutorGone, match="broken: CancelledError"):
            list(found)


def test_an_interruption_in_a_worker_is_an_interruption(FixedRadius):
    def fun(x):
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as threads, pytest.raises(KeyboardInterrupt):
        run(FixedRadius, fun, workers=threads)


def test_stragglers_are_not_waited_for(FixedRadius):
    # Evaluations of three points hang until the run is over.
    hanging = {row.tobytes() for row in FixedRadius(np.ones(3), 120, rng=5).ask().points[3:6]}
    over = threading.Event()

    def fun(x):
        if x.tobytes() in hanging:
            over.wait(60)
        return norm(x)

    optimizer = FixedRadius(np.ones(3), 120, rng=5, close_fraction=0.85)
    with ThreadPoolExecutor(5) as threads, Oracle(fun, workers=threads) as oracle:
        oracle.answer(optimizer)
        # 26 units, of which 23 are complete at some moment and three never.
        assert optimizer.nit == 1
        assert optimizer.lost == 3
        assert np.isnan(optimizer.updates[0][0]).sum() == 6
        over.set()


def test_all_are_waited_for_by_default(FixedRadius, plain):
    def fun(x):
        time.sleep(0.0005 * (hash(x.tobytes()) % 7))
        return norm(x)

    with ThreadPoolExecutor(5) as threads:
        assert outcome(run(FixedRadius, fun, workers=threads)) == plain


# Doors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_joblib(FixedRadius, plain, plain_rows, backend):
    pytest.importorskip("joblib")
    workers = executors.Joblib(2, backend=backend)
    assert workers.parallel == 2
    assert outcome(run(FixedRadius, workers=workers)) == plain
    assert outcome(run(FixedRadius, norms, workers=workers, vectorized=True)) == plain_rows
    assert outcome(run(FixedRadius, lambda x: float(norm(x)), workers=workers)) == plain


def test_joblib_takes_the_configured_backend(FixedRadius, plain):
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config(backend="threading", n_jobs=2):
        workers = executors.Joblib(2)
    assert outcome(run(FixedRadius, workers=workers)) == plain


def test_a_joblib_worker_that_dies_is_replaced(FixedRadius, plain, tmp_path):
    pytest.importorskip("joblib")
    flag = str(tmp_path / "flag")

    def fun(x):
        try:
            os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return float(np.linalg.norm(x))
        os._exit(1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # joblib warns of the worker
        optimizer = run(FixedRadius, fun, workers=executors.Joblib(2, backend="loky"))
    assert optimizer.status == 0
    assert optimizer.retried > 0


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_dask(FixedRadius, plain, plain_rows, client):
    for workers in (executors.Dask(client), executors.Dask()):
        assert workers.parallel == 2
        assert outcome(run(FixedRadius, workers=workers)) == plain
    assert outcome(run(FixedRadius, lambda x: float(norm(x)), workers=workers)) == plain
    assert outcome(run(FixedRadius, norms, workers=workers, vectorized=True)) == plain_rows


def test_a_dask_task_that_is_lost_comes_back_as_its_error(client):
    def fail(item):
        raise RuntimeError(f"item {item}")

    found = dict(executors.Dask(client).map_unordered(fail, [10, 11]))
    assert sorted(found) == [0, 1]
    assert [str(found[index]) for index in (0, 1)] == ["item 10", "item 11"]


def test_a_closed_dask_client_is_gone(client):
    distributed = pytest.importorskip("distributed")
    other = distributed.Client(client.cluster, set_as_default=False)
    workers = executors.Dask(other)
    other.close()
    with pytest.raises(ExecutorGone, match="Dask takes no more work"):
        list(workers.map_unordered(norm, [np.ones(2)]))


def test_dask_without_a_client_says_what_to_do():
    distributed = pytest.importorskip("distributed")
    with pytest.MonkeyPatch.context() as patch:

        def no_client():
            raise ValueError("No global client found and no address provided")

        patch.setattr(distributed, "get_client", no_client)
        with pytest.raises(ValueError, match=r"make one, Client\(…\), or pass it: Dask\(client\)"):
            executors.Dask()


RAY_PROGRAM = """
    import os
    import sys
    import time
    import numpy as np
    import ray
    from modicum.zeroth import executors
    from modicum.zeroth.minimize import minimize
    sys.path.insert(0, {folder!r})
    from conftest import FixedRadiusMethod

    norm = np.linalg.norm

    def start(fun, workers, **options):
        return minimize(
            fun, np.ones(3), 120, method=FixedRadiusMethod, rng=5, workers=workers, **options
        )

    def dies_once(x):
        try:
            os.close(os.open({flag!r}, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return float(norm(x))
        os._exit(1)

    def hangs_once(x):
        try:
            os.close(os.open({flag!r} + "2", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return float(norm(x))
        time.sleep(1000)

    def rows(points):
        return norm(points, axis=1)

    plain = start(norm, 1)
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    workers = executors.Ray()
    print("parallel", workers.parallel, executors.Ray(num_cpus=0.5).parallel)
    for fun in (norm, lambda x: float(norm(x))):
        print("same", start(fun, workers).x.tobytes() == plain.x.tobytes())
    found = start(rows, workers, vectorized=True)
    print("rows", found.x.tobytes() == start(rows, 1, vectorized=True).x.tobytes())
    found = start(dies_once, workers)
    print("died", found.status, found.lost, found.retried > 0, "with its worker" in found.message)
    workers.close()
    print("still up", ray.is_initialized())
    found = start(hangs_once, workers, options={{"close_fraction": 0.9, "chunk_size": 1}})
    print("straggler", found.status, found.nit, found.lost >= 1)
    ray.shutdown()
    own = executors.Ray(num_cpus=1)
    print("own", start(norm, own).x.tobytes() == plain.x.tobytes())
    own.close()
    print("closed", not ray.is_initialized())
"""


@pytest.mark.slow
def test_ray(tmp_path):
    """In a process of its own: Ray starts servers and raises warnings of other projects."""
    pytest.importorskip("ray")
    script = tmp_path / "script.py"
    names = {"folder": os.path.dirname(__file__), "flag": str(tmp_path / "flag")}
    script.write_text(textwrap.dedent(RAY_PROGRAM.format(**names)))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if "(raylet)" not in line]
    assert lines == [
        "parallel 2 4",
        "same True",
        "same True",
        "rows True",
        "died 0 0 True True",
        "still up True",
        "straggler 0 3 True",
        "own True",
        "closed True",
    ]


@pytest.mark.parametrize(
    ("module", "library", "door", "extra"),
    [
        ("joblib", "joblib", "Joblib", "joblib"),
        ("ray", "ray", "Ray", "ray"),
        ("dask", "distributed", "Dask", "dask"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(monkeypatch, module, library, door, extra):
    monkeypatch.delitem(sys.modules, f"modicum.zeroth.integrations.{module}", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf'pip install "modicum-zeroth\[{extra}\]"'):
        getattr(executors, door)()
    monkeypatch.delitem(sys.modules, f"modicum.zeroth.integrations.{module}", raising=False)
