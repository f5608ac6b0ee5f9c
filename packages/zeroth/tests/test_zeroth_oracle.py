import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.zeroth.optimizer import BUDGET_SPENT, TOO_MANY_LOST
from modicum.zeroth.oracle import Evaluator, Oracle

deterministic = settings(derandomize=True, deadline=None, max_examples=40)


def bowl(x):
    return float(((x - 1) ** 2).sum())


def bowls(points):
    return ((points - 1) ** 2).sum(-1)


def spend(oracle, optimizer):
    with oracle:
        while not optimizer.done:
            oracle.answer(optimizer)
    return optimizer


def outcome(optimizer):
    return (
        optimizer.state.z.tobytes(),
        optimizer.state.seen,
        optimizer.nfev,
        optimizer.lost,
        optimizer.retried,
        optimizer.status,
    )


class Calls:
    """A function that fails in calls of given numbers, each time in the same way."""

    def __init__(self, fun=bowl, bad=math.nan, failing=()):
        self.fun, self.bad, self.failing = fun, bad, set(failing)
        self.count = 0

    def __call__(self, x, *args, **kwargs):
        self.count += 1
        if self.count - 1 not in self.failing:
            return self.fun(x)
        if isinstance(self.bad, BaseException):
            raise self.bad
        return self.bad


# Same result whoever evaluates ------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [None, 1, 7, 10_000])
def test_serial_vectorised_and_mapped_evaluations_agree(FixedRadius, chunk_size):
    def make():
        return FixedRadius(np.zeros(3), 333, rng=4)

    plain = make()
    plain.run(bowls)
    with ThreadPoolExecutor(3) as threads:
        for oracle in (
            Oracle(bowl, chunk_size=chunk_size),
            Oracle(bowls, vectorized=True, chunk_size=chunk_size),
            Oracle(bowl, workers=map, chunk_size=chunk_size),
            Oracle(bowls, workers=map, vectorized=True, chunk_size=chunk_size),
            Oracle(bowl, workers=threads, chunk_size=chunk_size),
            Oracle(bowls, workers=threads.map, vectorized=True, chunk_size=chunk_size),
        ):
            assert outcome(spend(oracle, make())) == outcome(plain)
            assert oracle.failures == {}
            assert oracle.describe_failures() == ""


def test_arguments_are_passed_on(FixedRadius):
    seen = []

    def fun(x, shift, factor):
        seen.append((shift, factor))
        return bowl(x)

    spend(Oracle(fun, (1, "b")), FixedRadius(np.zeros(2), 10, rng=0, pairs=4))
    assert set(seen) == {(1, "b")}
    array = np.ones(2)
    spend(Oracle(lambda x, shift: bowl(x - shift), array), FixedRadius(np.zeros(2), 10, rng=0))


def test_a_function_may_destroy_what_it_gets(FixedRadius):
    def greedy(x):
        x -= 1
        x **= 2
        return float(x.sum())

    def greedy_rows(points):
        points -= 1
        points **= 2
        return points.sum(1)

    plain = FixedRadius(np.zeros(3), 200, rng=4)
    plain.run(bowls)
    for oracle in (
        Oracle(greedy),
        Oracle(greedy_rows, vectorized=True),
        Oracle(greedy, workers=map),
    ):
        assert outcome(spend(oracle, FixedRadius(np.zeros(3), 200, rng=4))) == outcome(plain)


@pytest.mark.parametrize("vectorized", [False, True])
def test_both_sides_of_a_pair_get_the_same_seed(FixedRadius, vectorized):
    seen = {}

    def fun(x, *, seed):
        if vectorized:
            assert seed.shape == (len(x),)
            for row, number in zip(x, seed.tolist(), strict=True):
                seen[row.tobytes()] = number
            return bowls(x)
        assert type(seed) is int
        seen[x.tobytes()] = seed
        return bowl(x)

    optimizer = FixedRadius(np.zeros(2), 50, rng=0, paired=True)
    asked = FixedRadius(np.zeros(2), 50, rng=0, paired=True).ask()
    spend(Oracle(fun, paired=True, vectorized=vectorized), optimizer)
    for candidate in asked[2:]:
        assert seen[candidate.x.tobytes()] == candidate.seed
    assert len(set(seen.values())) == 25


# Values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (2, 2.0),
        (True, 1.0),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.int8(-3), -3.0),
        (np.array(1.5), 1.5),
        (np.array([1.5]), 1.5),
        (np.array([[2]]), 2.0),
    ],
    ids=repr,
)
def test_numbers_of_all_kinds_are_values(value, number):
    found = Evaluator(lambda x: value)((np.zeros((3, 2)), None))
    assert found.values.tolist() == [number] * 3
    assert not found.failed


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (math.nan, "nan"),
        (math.inf, "infinite"),
        (-np.float32(np.inf), "infinite"),
        (1 + 0j, "complex"),
        (np.complex64(2), "complex"),
        (np.array(1j), "complex"),
        (np.zeros(2), "of shape (2,)"),
        (np.zeros((1, 0)), "of shape (1, 0)"),
        ([1.0], "a list"),
        ("1", "a str"),
        (None, "a NoneType"),
        ({}, "a dict"),
    ],
    ids=repr,
)
def test_what_is_not_one_real_number_is_a_failure_with_a_reason(value, why):
    found = Evaluator(lambda x: value)((np.zeros((2, 2)), None))
    assert found.failed == {0: why, 1: why}
    assert not found.raised
    assert not np.isfinite(found.values).any()


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.zeros(3), "of shape (3,) for 4 points"),
        (np.zeros((2, 2)), "of shape (2, 2) for 4 points"),
        (1.0, "of shape () for 4 points"),
        (np.zeros(4) + 0j, "complex"),
        (["a"] * 4, "of dtype <U1"),
        ([[1.0], [1.0, 2.0]], "ragged"),
        (None, "of dtype object"),
    ],
    ids=repr,
)
def test_a_vectorised_function_must_give_one_real_number_per_point(values, why):
    found = Evaluator(lambda points: values, vectorized=True)((np.zeros((4, 2)), None))
    assert found.failed == dict.fromkeys(range(4), why)
    assert np.isnan(found.values).all()


def test_a_vectorised_function_may_fail_for_some_points():
    given = [1, np.nan, 2.5, -np.inf]
    for values in (given, np.array(given, dtype=np.float32), np.array(given)[:, None]):
        found = Evaluator(lambda points, v=values: v, vectorized=True)((np.zeros((4, 2)), None))
        assert found.failed == {1: "nan", 3: "infinite"}
        assert found.values.tolist()[::2] == [1.0, 2.5]
        assert found.values.dtype == np.float64


def test_tensors_stay_tensors():
    torch = pytest.importorskip("torch")
    points = torch.zeros((4, 2), dtype=torch.float64)
    given = torch.tensor([1, torch.nan, 2.5, torch.inf], dtype=torch.float32, requires_grad=True)
    for values in (given, given[:, None], given.bfloat16()):
        found = Evaluator(lambda points, v=values: v, vectorized=True)((points, None))
        assert found.values.dtype == torch.float64
        assert not found.values.requires_grad
        assert found.failed == {1: "nan", 3: "infinite"}
    for value, failed in ((torch.tensor([2.0]), {}), (torch.tensor(1j), {0: "complex"})):
        found = Evaluator(lambda x, v=value: v)((points[:1], None))
        assert found.failed == failed
    found = Evaluator(lambda points: torch.zeros(3), vectorized=True)((points, None))
    assert found.failed[0] == "of shape (3,) for 4 points"
    found = Evaluator(lambda points: torch.zeros(4) + 0j, vectorized=True)((points, None))
    assert found.failed[3] == "complex"


@pytest.mark.parametrize("chunk_size", [None, 9])
def test_a_tensor_run_is_the_numpy_run(FixedRadius, chunk_size):
    torch = pytest.importorskip("torch")
    plain = FixedRadius(np.zeros(3), 300, rng=2)
    plain.run(bowls)
    kinds = []

    def fun(points):
        kinds.append((type(points), points.dtype))
        return bowls(points)

    for dtype in (torch.float64, torch.float32):
        kinds.clear()
        start = torch.zeros(3, dtype=dtype)
        oracle = Oracle(fun, vectorized=True, chunk_size=chunk_size, dtype=dtype)
        optimizer = spend(oracle, FixedRadius(start, 300, rng=2))
        assert set(kinds) == {(torch.Tensor, dtype)}
        tolerance = 1e-11 if dtype == torch.float64 else 1e-3
        np.testing.assert_allclose(optimizer.state.z, plain.state.z, rtol=tolerance)
    # One chunk on the host, one as a tensor.
    mixed = Oracle(
        lambda p: bowls(p) if len(p) == 9 else bowls(p).numpy(), vectorized=True, chunk_size=9
    )
    optimizer = spend(mixed, FixedRadius(torch.zeros(3), 300, rng=2))
    np.testing.assert_allclose(optimizer.state.z, plain.state.z, rtol=1e-11)


def test_maximising_is_minimising_the_negative(FixedRadius):
    plain = FixedRadius(np.zeros(3), 300, rng=2)
    plain.run(bowls)
    other = spend(Oracle(lambda x: -bowl(x), maximize=True), FixedRadius(np.zeros(3), 300, rng=2))
    assert outcome(plain) == outcome(other)


# Failures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [math.nan, 1j, None, np.zeros(2), ValueError("no"), StopIteration(), TimeoutError()],
    ids=repr,
)
@pytest.mark.parametrize("workers", [1, map])
def test_a_failed_evaluation_is_repeated_and_then_forgotten(FixedRadius, bad, workers):
    plain = FixedRadius(np.zeros(3), 300, rng=2)
    plain.run(bowls)
    fun = Calls(bad=bad, failing=[4, 11])
    optimizer = FixedRadius(np.zeros(3), 300, rng=2)
    oracle = Oracle(fun, workers=workers)
    oracle.answer(optimizer)
    assert fun.count == 52
    assert (optimizer.nit, optimizer.nfev, optimizer.retried, optimizer.lost) == (1, 52, 2, 0)
    np.testing.assert_array_equal(optimizer.updates[0][0], plain.updates[0][0])
    spend(oracle, optimizer)
    assert fun.count == optimizer.nfev == 300
    assert oracle.failures.total() == 2
    assert "2 evaluations failed" in oracle.describe_failures()
    assert ("last exception" in oracle.describe_failures()) == isinstance(bad, Exception)
    # The repetitions cost one pair of the last round, which is not a loss.
    assert (optimizer.status, optimizer.lost) == (BUDGET_SPENT, 0)
    assert np.isnan(optimizer.updates[-1][0]).sum() == 2


@pytest.mark.parametrize(("retries", "calls"), [(0, 50), (1, 51), (2, 52), (5, 55)])
def test_a_pair_is_dropped_after_so_many_repetitions(FixedRadius, retries, calls):
    optimizer = FixedRadius(np.zeros(3), 300, rng=2)
    place = FixedRadius(np.zeros(3), 300, rng=2).ask().points[9].tobytes()
    count = 0

    def fun(x):
        nonlocal count
        count += 1
        if x.tobytes() == place:
            raise OSError("the machine is down")
        return bowl(x)

    oracle = Oracle(fun, retries=retries)
    oracle.answer(optimizer)
    assert (count, optimizer.nfev, optimizer.lost) == (calls, calls, 1)
    assert np.isnan(optimizer.updates[0][0]).sum() == 2
    assert oracle.failures == {"raised OSError": retries + 1}
    assert str(oracle.last_error) == "the machine is down"


@deterministic
@given(
    seed=st.integers(0, 2**32 - 1),
    failing=st.floats(0.0, 0.4),
    retries=st.integers(0, 4),
    vectorized=st.booleans(),
    budget=st.integers(30, 300),
)
def test_calls_never_exceed_the_budget(FixedRadius, seed, failing, retries, vectorized, budget):
    chance = np.random.default_rng(seed)
    calls = 0

    def fun(x):
        nonlocal calls
        calls += len(x) if vectorized else 1
        bad = chance.random(len(x) if vectorized else 1) < failing
        if vectorized:
            return np.where(bad, np.nan, bowls(x))
        if bad and chance.random() < 0.5:
            raise ValueError
        return np.nan if bad else bowl(x)

    optimizer = FixedRadius(np.zeros(2), budget, rng=1)
    oracle = Oracle(fun, vectorized=vectorized, retries=retries)
    spend(oracle, optimizer)
    assert calls == optimizer.nfev <= budget
    assert optimizer.status in (BUDGET_SPENT, TOO_MANY_LOST)
    assert oracle.failures.total() >= optimizer.retried


def test_a_function_that_always_raises_is_not_hidden(FixedRadius):
    error = KeyError("a typo")
    for vectorized, workers, calls in ((False, 1, 50), (True, 1, 1), (False, map, 50)):
        fun = Calls(bad=error, failing=range(10_000))
        optimizer = FixedRadius(np.zeros(2), 300, rng=1)
        with pytest.raises(KeyError) as caught:
            Oracle(fun, vectorized=vectorized, workers=workers).answer(optimizer)
        assert caught.value is error
        assert fun.count == calls
        assert optimizer.nit == 0


def test_of_a_small_first_round_the_repetitions_must_raise_too(FixedRadius):
    def make():
        return FixedRadius(np.zeros(2), 3000, rng=1, pairs=1)

    fun = Calls(bad=OSError("busy"), failing=range(4))
    optimizer = spend(Oracle(fun), make())
    assert (optimizer.status, optimizer.lost) == (BUDGET_SPENT, 0)
    fun = Calls(bad=OSError("broken"), failing=range(10_000))
    with pytest.raises(OSError, match="broken"):
        spend(Oracle(fun), make())
    assert fun.count == 12


def test_later_rounds_that_always_raise_end_the_run(FixedRadius):
    fun = Calls(bad=OSError("the licence has expired"), failing=range(50, 10_000))
    oracle = Oracle(fun)
    optimizer = spend(oracle, FixedRadius(np.zeros(2), 1000, rng=1))
    assert optimizer.status == TOO_MANY_LOST
    assert optimizer.nit == 1
    assert fun.count == 50 + 3 * 50
    assert "150 raised OSError" in oracle.describe_failures()
    assert "the licence has expired" in oracle.describe_failures()


def test_some_raise_and_the_rest_is_nan(FixedRadius):
    fun = Calls(bad=OSError("x"), failing=range(0, 10_000, 2), fun=lambda x: math.nan)
    optimizer = spend(Oracle(fun, retries=0), FixedRadius(np.zeros(2), 1000, rng=1))
    assert optimizer.status == TOO_MANY_LOST


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interruption_keeps_the_values_that_are_in(FixedRadius, error):
    plain = FixedRadius(np.zeros(3), 300, rng=2)
    plain.run(bowls)
    optimizer = FixedRadius(np.zeros(3), 300, rng=2)
    fun = Calls(bad=error, failing=[80])
    oracle = Oracle(fun, chunk_size=1)
    oracle.answer(optimizer)
    with pytest.raises(type(error)):
        oracle.answer(optimizer)
    assert (optimizer.nit, optimizer.nfev, optimizer.pending) == (1, 100, 20)
    other = FixedRadius(np.zeros(3), 300, rng=2)
    other.load_state_dict(optimizer.state_dict())
    fun = Calls()
    spend(Oracle(fun), other)
    assert fun.count == 300 - 80
    assert outcome(other) == outcome(plain)


def test_a_first_round_that_was_begun_by_another_process_is_not_the_first(FixedRadius):
    optimizer = FixedRadius(np.zeros(3), 300, rng=2)
    begun = optimizer.ask()
    optimizer.tell(begun[:45], bowls(begun.points[:45]))
    other = FixedRadius(np.zeros(3), 300, rng=2)
    other.load_state_dict(optimizer.state_dict())
    oracle = Oracle(Calls(bad=OSError("busy"), failing=range(5 * 3)))
    oracle.answer(other)
    assert (other.nit, other.lost) == (1, 3 + 2)


# Rest ---------------------------------------------------------------------------------------------


def test_bad_arguments_are_named():
    for arguments, error, message in (
        ({"fun": 3}, TypeError, "fun must be a function, not 3"),
        ({"retries": -1}, ValueError, "retries must be at least 0, not -1"),
        ({"retries": 1.5}, ValueError, "retries must be an integer, not 1.5"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1, not 0"),
        ({"workers": 0}, ValueError, "positive integer or -1, not 0"),
        ({"workers": -2}, ValueError, "workers must be at least -1, not -2"),
        ({"workers": 1.5}, ValueError, "workers must be an integer, not 1.5"),
        ({"workers": "all"}, TypeError, "map-like callable such as pool.map.*not 'all'"),
        ({"workers": None}, TypeError, "not None"),
        ({"workers": 2, "fun": lambda x: 0.0}, ValueError, "workers=2 needs a function that can"),
    ):
        with pytest.raises(error, match=message):
            Oracle(**({"fun": bowl} | arguments))


def test_an_optimizer_that_is_done_is_asked_nothing(FixedRadius):
    fun = Calls()
    optimizer = spend(Oracle(fun), FixedRadius(np.zeros(2), 10, rng=1))
    Oracle(fun).answer(optimizer)
    assert fun.count == 10


def test_an_exception_that_cannot_travel_arrives_as_its_text():
    class Local(Exception):
        pass

    def fail(x):
        raise Local("deep")

    found = Evaluator(fail, portable=True)((np.zeros((2, 1)), None))
    copy = pickle.loads(pickle.dumps(found.error))
    assert str(copy) == "Local: deep"
    assert 'raise Local("deep")' in copy.__notes__[0]
    assert found.raised == [0, 1]


def test_the_clock_of_a_long_round_ticks(FixedRadius, monkeypatch):
    now = 0.0

    def clock():
        nonlocal now
        now += 0.4
        return now

    monkeypatch.setattr("modicum.zeroth.oracle.time.monotonic", clock)
    optimizer = FixedRadius(np.zeros(2), 100, rng=1)
    seen = []
    Oracle(bowl, chunk_size=5).answer(optimizer, lambda: seen.append(optimizer.pending))
    # Ten chunks, a report after every third: 15, 30 and 45 values are in.
    assert seen == [35, 20, 5]
    assert optimizer.nit == 1
