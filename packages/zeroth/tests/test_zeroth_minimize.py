import doctest
import inspect
import io
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.optimize
from rich.console import Console

from modicum.zeroth.errors import ZerothWarning
from modicum.zeroth.minimize import METHODS, method_class, minimize, scipy_method
from modicum.zeroth.optimizer import Optimizer, Round
from modicum.zeroth.progress import ProgressBar, describe_round, summary
from modicum.zeroth.result import Trace

FIELDS = {
    "x",
    "fun",
    "fun_std",
    "nfev",
    "nit",
    "success",
    "status",
    "message",
    "jac",
    "jac_cov_trace",
    "hess",
    "noise_std",
    "hessian_lipschitz",
    "strong_convexity",
    "predicted_regret",
    "predicted_regret_terms",
    "radius",
    "trace",
    "plan",
}


def bowl(x):
    return float(((x - 1) ** 2).sum())


def bowls(points):
    return ((points - 1) ** 2).sum(-1)


@pytest.fixture
def call(FixedRadius):
    def start(fun=bowl, x0=(0.0, 0.0), budget=300, **settings):
        x0 = np.array(x0) if isinstance(x0, tuple) else x0
        return minimize(fun, x0, budget, **({"method": FixedRadius, "rng": 3} | settings))

    return start


# Results ------------------------------------------------------------------------------------------


def test_the_result_has_all_fields_and_can_be_printed_and_pickled(call):
    result = call()
    assert isinstance(result, scipy.optimize.OptimizeResult)
    assert set(result) >= FIELDS
    assert (result.success, result.status, result.nfev, result.nit) == (True, 0, 300, 6)
    assert result.message == "the budget of 300 evaluations is spent"
    assert np.linalg.norm(result.x - 1) < 0.1
    assert set(result.predicted_regret_terms) == {"bias", "variance", "newton"}
    assert "success: True" in repr(result)
    again = pickle.loads(pickle.dumps(result))
    assert again.x.tobytes() == result.x.tobytes()
    assert again.trace == result.trace


def test_the_trace_gives_rounds_and_columns(call):
    trace = call().trace
    assert len(trace) == 6
    assert trace[0].nfev == 50
    assert trace[-1].radius == 0.5
    assert trace.nfev.tolist() == [50, 100, 150, 200, 250, 300]
    assert trace.x.shape == (6, 2)
    assert not trace.nonconvex.any()
    assert np.isnan(trace.snr).all()
    assert trace[1:3].nfev.tolist() == [100, 150]
    assert trace.to_dicts()[2]["nfev"] == 150
    assert trace != trace[1:]
    with pytest.raises(AttributeError, match="no field 'y'"):
        trace.y  # noqa: B018
    assert call(return_trace=False).trace is None
    assert repr(Trace([])) == "Trace(0 rounds)"


def test_the_same_seed_gives_the_same_run_and_a_fresh_one_another(call):
    assert call().x.tobytes() == call().x.tobytes()
    assert call(rng=None).x.tobytes() != call(rng=None).x.tobytes()
    result = call(rng=np.random.default_rng(8))
    assert call(rng=result.seed).x.tobytes() == result.x.tobytes()


def test_maximising_reports_the_functions_own_values(call):
    low, high = call(), call(lambda x: -bowl(x), maximize=True)
    assert high.x.tobytes() == low.x.tobytes()
    assert high.fun == -low.fun
    np.testing.assert_array_equal(high.jac, -low.jac)
    np.testing.assert_array_equal(high.hess, -low.hess)
    np.testing.assert_array_equal(high.trace.fun, -low.trace.fun)
    assert high.fun_std == low.fun_std


def test_tensors_in_tensors_out(call):
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.float64):
        start = torch.zeros(2, dtype=dtype, requires_grad=True)
        seen = set()

        def fun(points, dtype=dtype, seen=seen):
            seen.add(points.dtype)
            weights = torch.eye(2, dtype=dtype)
            return bowls(points @ weights)

        result = call(fun, start, vectorized=True)
        assert seen == {dtype}
        for value in (result.x, result.jac, result.hess):
            assert torch.is_tensor(value)
            assert value.dtype == dtype
            assert not value.requires_grad
        np.testing.assert_allclose(result.x.numpy(), call().x, atol=1e-5)
    result = call(lambda x: bowl(x), torch.zeros(2, dtype=torch.int64))
    assert result.x.dtype == torch.float64


@pytest.mark.gpu
def test_everything_stays_on_the_gpu(call):
    import torch

    def fun(points):
        assert points.device.type == "cuda"
        return bowls(points)

    result = call(fun, torch.zeros(2, device="cuda"), vectorized=True)
    assert result.x.device.type == "cuda"
    np.testing.assert_allclose(result.x.cpu().numpy(), call().x, atol=1e-5)


def test_a_number_as_start_and_arguments_as_in_scipy(call):
    result = call(lambda x, a: float(((x - a) ** 2).sum()), 0.0, args=2.0)
    assert result.x.shape == (1,)
    assert abs(result.x[0] - 2) < 0.2


# Failures -----------------------------------------------------------------------------------------


def test_a_bug_in_the_function_is_shown(call):
    def fun(x):
        return undefined_name(x)  # noqa: F821

    with pytest.raises(NameError, match="undefined_name"):
        call(fun)


def test_too_many_failures_return_the_best_state(call):
    count = 0

    def fun(x):
        nonlocal count
        count += 1
        return bowl(x) if count <= 100 else np.nan

    result = call(fun)
    assert (result.success, result.status, result.nit) == (False, 3, 2)
    assert "26 of 26 pairs or single points of a round were lost, more than 20%" in result.message
    assert "evaluations failed (" in result.message
    assert result.x.tobytes() == call(budget=100).x.tobytes()
    assert result.nfev == count <= 300


def test_a_wrong_length_is_named_in_the_message(call):
    result = call(lambda points: np.zeros(3), vectorized=True)
    assert result.status == 3
    assert "of shape (3,) for 50 points" in result.message


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "a NoneType"),
        ("1.0", "a str"),
        (1j, "complex"),
        ((1.0, 2.0), "a tuple"),
        (np.zeros(2), "of shape (2,)"),
        (np.nan, "nan"),
        (np.inf, "infinite"),
    ],
    ids=["None", "str", "complex", "tuple", "array", "nan", "inf"],
)
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"two-stage"}))
def test_a_function_without_numbers_ends_a_run_with_the_reason(method, value, why):
    result = minimize(lambda x: value, np.zeros(2), 300, method=method, rng=0)
    assert (result.success, result.status) == (False, 3)
    assert why in result.message
    np.testing.assert_array_equal(result.x, np.zeros(2))


def test_failures_are_named_in_the_message(call):
    calls = iter(range(10_000))

    def fun(x):
        if next(calls) == 7:
            raise TimeoutError("slow")
        return bowl(x)

    result = call(fun)
    assert (result.status, result.nfev, result.retried, result.lost) == (0, 299, 1, 0)
    assert "1 evaluations failed (1 raised TimeoutError); last exception: Time" in result.message


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"callback": lambda: None}, r"callback must take one argument.*\(\)"),
        ({"callback": lambda xk, state: None}, r"callback must take one argument.*\(xk, state\)"),
        ({"options": ["retries"]}, "options must be a dictionary"),
    ],
)
def test_a_wrong_form_is_refused_before_anything_is_evaluated(call, settings, match):
    def fun(x):
        raise AssertionError("evaluated")

    with pytest.raises(TypeError, match=match):
        call(fun, **settings)


# Callbacks ----------------------------------------------------------------------------------------


def test_both_conventions_of_callbacks(call):
    points, results = [], []

    def old(xk):
        points.append(xk)

    def new(intermediate_result):
        results.append(intermediate_result)

    call(callback=old)
    end = call(callback=new)
    assert len(points) == len(results) == 6
    for point, result in zip(points, results, strict=True):
        assert point.tobytes() == result.x.tobytes()
    assert [result.nfev for result in results] == [50, 100, 150, 200, 250, 300]
    assert [len(result.trace) for result in results] == [1, 2, 3, 4, 5, 6]
    assert set(results[0]) >= FIELDS
    assert results[-1].x.tobytes() == end.x.tobytes()
    assert results[0].status == 2
    other = []
    call(callback=other.append)
    assert len(other) == 6


def test_a_callback_stops_the_run(call, tmp_path):
    def stop(intermediate_result):
        if intermediate_result.nit == 2:
            raise StopIteration

    path = tmp_path / "state"
    result = call(callback=stop, checkpoint=path)
    assert (result.success, result.status, result.nit, result.nfev) == (False, 1, 2, 100)
    assert result.message == "the callback stopped the run"
    # The file goes on where the run was stopped.
    assert call(checkpoint=path).x.tobytes() == call().x.tobytes()


def test_other_exceptions_of_a_callback_are_the_users(call):
    def fail(xk):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call(callback=fail)
    with pytest.raises(TypeError, match="callback must be a function, not 3"):
        call(callback=3)


# Checkpoints --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 7, 49, 50, 51, 120, 249, 299])
def test_an_interrupted_run_goes_on_where_it_was(call, tmp_path, cut):
    calls = 0

    def fun(x):
        nonlocal calls
        if calls == cut:
            raise KeyboardInterrupt
        calls += 1
        return bowl(x)

    path = tmp_path / "deep" / "state"
    with pytest.raises(KeyboardInterrupt):
        call(fun, checkpoint=path, options={"chunk_size": 1})
    seen = []
    result = call(lambda x: seen.append(x) or bowl(x), checkpoint=path)
    assert len(seen) == 300 - cut
    plain = call()
    assert result.x.tobytes() == plain.x.tobytes()
    assert (result.nfev, result.nit, result.trace) == (plain.nfev, plain.nit, plain.trace)
    # A run that is finished is not run again.
    again = call(lambda x: 1 / 0, checkpoint=path)
    assert again.x.tobytes() == plain.x.tobytes()
    assert again.status == 0


def test_a_checkpoint_of_another_run_is_refused(call, tmp_path):
    path = tmp_path / "state"
    call(checkpoint=path)
    with pytest.raises(ValueError, match=r"saved with radius=0\.5, this run has radius=0\.25"):
        call(checkpoint=path, options={"radius": 0.25})
    with pytest.raises(ValueError, match="saved with budget=300, this run has budget=400"):
        call(checkpoint=path, budget=400)


def test_a_run_that_lost_too_much_goes_on_once_the_function_works(call, tmp_path):
    path = tmp_path / "state"
    count = 0

    def fun(x):
        nonlocal count
        count += 1
        if count > 120:
            raise OSError("the licence has expired")
        return bowl(x)

    assert call(fun, checkpoint=path).status == 3
    result = call(checkpoint=path)
    assert result.status == 0
    assert result.x.tobytes() == call().x.tobytes()


def test_checkpoints_of_short_rounds_are_not_written_all_the_time(call, tmp_path, monkeypatch):
    written, evaluations = [], []
    monkeypatch.setattr(Optimizer, "save", lambda self, path: written.append(self.nfev))
    monkeypatch.setattr(time, "monotonic", lambda: len(evaluations) / 100)

    def fun(x):
        evaluations.append(x)
        return bowl(x)

    # Rounds of six evaluations, which take 0.06 s: a file after every 17th, and one at the end.
    call(fun, checkpoint=tmp_path / "state", budget=1020, options={"pairs": 2})
    assert written == [6, *range(6 + 102, 1020, 102), 1020]


# Arguments ----------------------------------------------------------------------------------------


def test_the_signature_is_the_published_one():
    parameters = inspect.signature(minimize).parameters
    expected = (
        "fun x0 budget scale noise strong_convexity hessian_lipschitz method bounds args vectorized"
        " workers paired directions hessian order rng callback progress disp options return_trace"
    )
    assert " ".join(parameters).startswith(expected)
    assert parameters["budget"].default == 20_000
    assert parameters["method"].default == "adaptive"
    assert all(
        parameter.kind is inspect.Parameter.KEYWORD_ONLY
        for name, parameter in parameters.items()
        if name not in ("fun", "x0", "budget")
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"fun": "f"}, TypeError, "fun must be a function, not 'f'"),
        ({"method": "adaptve"}, ValueError, "not 'adaptve' .did you mean 'adaptive'"),
        ({"method": "cma"}, ValueError, "method must be one of 'adaptive', 'two-stage', 'zosgd'"),
        ({"method": 3}, ValueError, "method must be one of"),
        ({"method": int}, ValueError, "method must be one of"),
        ({"directions": "orthogonl"}, ValueError, "did you mean 'orthogonal'"),
        ({"options": {"radios": 1}}, ValueError, "no option 'radios' .did you mean 'radius'"),
        ({"options": {"scale": 1}}, ValueError, "'scale' is an argument of minimize, not one"),
        ({"options": {"retries": -1}}, ValueError, "retries must be at least 0, not -1"),
        ({"options": {"close_fraction": 2}}, ValueError, "close_fraction must be at most 1"),
        ({"hessian": "diag"}, ValueError, "method 'fixed-radius' has no option 'hessian'"),
        ({"order": 5}, ValueError, "method 'fixed-radius' has no option 'order'"),
        ({"options": {"order": 5}}, ValueError, "method 'fixed-radius' has no option 'order'"),
        ({"budget": 3}, ValueError, "budget must be at least 4"),
        ({"budget": 2.5}, ValueError, "budget must be an integer, not 2.5"),
        ({"scale": -1.0}, ValueError, "scale"),
        ({"noise": 0}, ValueError, "noise must be positive and finite, not 0"),
        ({"x0": [np.nan, 1.0]}, ValueError, r"x0\[0\] is nan"),
        ({"workers": "many"}, TypeError, "not 'many'"),
        ({"bounds": [(0, 1)]}, ValueError, "bounds"),
    ],
)
def test_bad_arguments_are_named_with_their_value(call, change, error, message):
    with pytest.raises(error, match=message):
        call(**change)


def test_a_method_without_an_argument_says_so_unless_it_is_the_default(FixedRadius):
    class Narrow(FixedRadius):
        name = "narrow"

        def __init__(self, x0, budget, *, scale=1.0, rng=None):
            super().__init__(x0, budget, scale=scale, rng=rng)

    assert minimize(bowl, [0.0], 100, method=Narrow, rng=1).status == 0
    given = {"noise": None, "paired": False, "directions": None}
    assert minimize(bowl, [0.0], 100, method=Narrow, rng=1, **given).status == 0
    with pytest.raises(ValueError, match="method 'narrow' has no option 'paired'"):
        minimize(bowl, [0.0], 100, method=Narrow, paired=True)


def test_options_reach_the_method_and_the_oracle(FixedRadius):
    class Options(FixedRadius):
        name = "options"

        def __init__(self, x0, budget, *, hessian="none", order=3, **settings):
            self.hessian, self.order = hessian, order
            made.append(self)
            super().__init__(x0, budget, **settings)

    made = []
    minimize(bowl, [0.0], 100, method=Options, hessian="diag", order=5, options={"pairs": 10})
    minimize(bowl, [0.0], 100, method=Options, options={"hessian": "x", "close_fraction": 0.5})
    assert [(one.hessian, one.order, one.pairs) for one in made] == [("diag", 5, 10), ("x", 3, 24)]
    assert made[1].close_fraction == 0.5
    with pytest.raises(ValueError, match="'order' is given both as an argument and in options"):
        minimize(bowl, [0.0], 100, method=Options, order=5, options={"order": 5})


def test_every_method_has_a_name_and_the_arguments_of_the_base():
    for name in METHODS:
        cls = method_class(name)
        assert issubclass(cls, Optimizer)
        assert cls.name == name
    assert method_class(cls) is cls


def test_directions_are_the_methods_own_unless_given(call, FixedRadius):
    class Own(FixedRadius):
        name = "own"

        def __init__(self, x0, budget, *, directions="rademacher", **settings):
            kinds.append(directions)
            super().__init__(x0, budget, directions=directions, **settings)

    kinds = []
    call(method=Own)
    call(method=Own, directions="sphere")
    assert kinds == ["rademacher", "sphere"]


def test_bounds_hold_for_every_evaluation_and_the_result(call):
    seen = []

    def fun(x):
        seen.append(x)
        return bowl(x)

    result = call(fun, bounds=[(-0.2, 0.5), (None, 0.3)])
    assert np.max(seen, axis=0)[0] <= 0.5
    assert np.min(seen, axis=0)[0] >= -0.2
    assert np.max(seen, axis=0)[1] <= 0.3
    assert result.nfev == len(seen)


# SciPy --------------------------------------------------------------------------------------------


def test_scipy_runs_a_method(FixedRadius):
    method = scipy_method(FixedRadius, budget=300, rng=3)
    assert method.__name__ == "fixed-radius"
    result = scipy.optimize.minimize(bowl, [0.0, 0.0], method=method)
    assert (
        result.x.tobytes() == minimize(bowl, [0.0, 0.0], 300, method=FixedRadius, rng=3).x.tobytes()
    )
    assert set(result) >= FIELDS


def test_scipy_passes_its_arguments_on(FixedRadius, capsys):
    seen, states = [], []

    def fun(x, shift, factor):
        seen.append((x, shift, factor))
        return factor * bowl(x - shift)

    def callback(intermediate_result):
        states.append(intermediate_result.nfev)

    points = []
    for given in (callback, points.append):
        result = scipy.optimize.minimize(
            fun,
            np.zeros(2),
            args=(0.5, 2.0),
            method=scipy_method(FixedRadius, budget=300, rng=3, options={"step": 0.1}),
            bounds=scipy.optimize.Bounds([-9, -9], [0.7, 9]),
            callback=given,
            options={"budget": 200, "radius": 0.25, "disp": True},
        )
    assert result.nfev == 200
    assert result.radius is not None
    assert {row[1:] for row in seen} == {(0.5, 2.0)}
    assert max(row[0][0] for row in seen) <= 0.7
    assert result.trace[0].radius == 0.25
    assert states == [50, 100, 150, 200]
    assert len(points) == 4
    assert "Function evaluations: 200" in capsys.readouterr().out


def test_a_scipy_callback_stops_the_run(FixedRadius):
    def stop(xk):
        raise StopIteration

    result = scipy.optimize.minimize(
        bowl, np.zeros(2), method=scipy_method(FixedRadius, budget=300, rng=3), callback=stop
    )
    assert (result.status, result.success, result.nit) == (1, False, 1)


def test_what_a_scipy_method_does_not_use_is_named(FixedRadius):
    method = scipy_method(FixedRadius, budget=300, rng=3)
    with pytest.warns(ZerothWarning, match="tol is not used") as caught:
        scipy.optimize.minimize(bowl, np.zeros(2), method=method, tol=1e-3)
    with pytest.warns(ZerothWarning, match="jac is not used"):
        scipy.optimize.minimize(bowl, np.zeros(2), method=method, jac=lambda x: 2 * x)
    assert len(caught) == 1
    with pytest.raises(ValueError, match="'fixed-radius' takes bounds and no other constraints"):
        scipy.optimize.minimize(
            bowl, np.zeros(2), method=method, constraints={"type": "eq", "fun": lambda x: x[0]}
        )
    with pytest.raises(ValueError, match="no option 'maxiter'"):
        scipy.optimize.minimize(bowl, np.zeros(2), method=method, options={"maxiter": 3})
    with pytest.raises(ValueError, match="did you mean 'spsa'"):
        scipy_method("spa")


# The default method -------------------------------------------------------------------------------


def noisy_bowl(seed):
    noise = np.random.default_rng(seed)
    seen = []

    def fun(x):
        seen.append(((x - 0.5) ** 2).sum() + 0.3 * noise.standard_normal())
        return seen[-1]

    return fun, seen


def test_the_default_method_and_what_the_smallest_value_is_worth():
    fun, seen = noisy_bowl(0)
    result = minimize(fun, np.zeros(3), 4000, rng=1)
    assert (result.method, result.status) == ("adaptive", 0)
    assert len(seen) == result.nfev <= 4000
    # Regret of a tenth of the start's 0.75 would be a very bad day: it is about 1e-4.
    assert ((result.x - 0.5) ** 2).sum() < 0.075
    assert result.predicted_regret < 0.01
    # The minimum is 0. The smallest of thousands of values with noise 0.3 is far below it, and the
    # model's value is not.
    assert min(seen) < -0.5
    assert abs(result.fun) < 8 * result.fun_std < 0.3
    assert result.noise_std == pytest.approx(0.3, rel=0.2)
    np.testing.assert_allclose(result.hess, 2 * np.eye(3), atol=0.5)
    assert set(result) >= FIELDS
    assert "success: True" in repr(result)


def test_scipy_runs_the_default_method_as_we_do():
    found = scipy.optimize.minimize(
        noisy_bowl(0)[0], np.zeros(3), method=scipy_method(budget=2000, rng=1)
    )
    assert found.x.tobytes() == minimize(noisy_bowl(0)[0], np.zeros(3), 2000, rng=1).x.tobytes()


def test_a_warning_in_scipy_points_to_the_users_line():
    with pytest.warns(ZerothWarning) as caught:
        scipy.optimize.minimize(lambda x: 1.0, np.zeros(2), method=scipy_method(budget=300, rng=1))
    assert {warning.filename for warning in caught} == {__file__}


def test_the_default_method_takes_its_options_and_names_its_smallest_budget():
    fun, _ = noisy_bowl(0)
    assert minimize(fun, np.zeros(3), 1000, rng=1, hessian="diag", order=5).status == 0
    with pytest.raises(ValueError, match=r"at least \d+ for method 'adaptive' in 3 dim.*, not 20"):
        minimize(fun, np.zeros(3), 20)
    with pytest.raises(ValueError, match="'foo'"):
        minimize(fun, np.zeros(3), 1000, hessian="foo")


def test_the_examples_of_the_docstrings():
    results = doctest.testmod(sys.modules["modicum.zeroth.minimize"])
    assert results.attempted >= 10
    assert results.failed == 0


# What a person sees -------------------------------------------------------------------------------


def test_a_round_in_a_line():
    found = Round(
        100, np.zeros(2), fun=1.23456789, radius=0.5, snr=3.21, lambda_min=0.1, lambda_max=20.0
    )
    assert describe_round(found, 0.01234) == "f 1.2346 ± 0.012  SNR 3.21  r 0.5  λ 0.1 … 20"
    assert describe_round(Round(100, np.zeros(2), fun=2.0, dropped=3), sign=-1.0) == "f -2  3 lost"
    assert describe_round(Round(100, np.zeros(2))) == ""


def test_the_bar_shows_evaluations_and_the_last_round(FixedRadius):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    optimizer = FixedRadius(np.zeros(2), 300, rng=0)
    with ProgressBar(optimizer.budget, console=console) as bar:
        bar.show(optimizer)
        optimizer.tell(asked := optimizer.ask(), np.full(len(asked), 2.0))
        optimizer.tell(optimizer.ask()[:20], np.full(20, 2.0))
        bar.show(optimizer)
    text = out.getvalue()
    assert "70/300" in text
    assert "f 2 ± 0.5  r 0.5" in text


def test_the_bar_is_quiet_where_nobody_watches(call, capfd):
    result = call(progress=True)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert result.status == 0


def test_the_bar_on_a_terminal(call, monkeypatch, capfd):
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    call(progress=True, maximize=True)
    assert "300/300" in capfd.readouterr().err


def test_the_summary(call, capsys):
    result = call(disp=True)
    text = capsys.readouterr().out
    assert text == summary(result) + "\n"
    assert text.startswith("Finished: the budget of 300 evaluations is spent\n")
    assert "Function evaluations: 300" in text
    assert "± 0.5" in text
    assert summary(call(lambda p: np.full(len(p), np.nan), vectorized=True)).startswith("Stopped")


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from modicum.zeroth.minimize import minimize, scipy_method\n"
        "import modicum.zeroth.executors, modicum.zeroth.result, modicum.zeroth.progress\n"
        "heavy = ['scipy.optimize', 'scipy.stats', 'torch', 'ray', 'joblib', 'distributed',\n"
        "         'rich', 'matplotlib']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
