"""Selections of rows in a tensor: the same as of an array, and without bringing it back."""

import numpy as np
import pytest
import torch

from modicum.daved import reading
from modicum.daved.estimator import DAVED
from modicum.daved.pool import ArrayPool
from modicum.daved.reading import Place, pool_of
from modicum.daved.select import score, select
from modicum.daved.torch_pool import TorchPool

SOLVERS = ["fw", "one_step", "greedy", "multiplicative"]
SEEDS = range(5)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
pytestmark = pytest.mark.filterwarnings(
    "ignore:the budget buys about", "ignore:[0-9]+ rows have norms above"
)


def market(seed=0, n=600, d=24, m=2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)), rng.integers(1, 6, n).astype(float)


def on(device, rows, dtype=torch.float64):
    return torch.tensor(rows, dtype=dtype, device=device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("priced", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_tensor_gives_the_purchase_of_an_array(device, dtype, priced, solver):
    rtol = 1e-9 if dtype == "float64" else 1e-4
    for seed in SEEDS:
        X, Q, costs = market(seed)
        # Rows that float32 holds exactly, so that only arithmetic differs.
        X = X.astype(np.float32).astype(float)
        costs = costs if priced else None
        settings = {"costs": costs, "solver": solver, "max_iter": 30, "tol": 0.0}
        expected = select(X, Q, 10.0, device="cpu", **settings)
        found = select(on(device, X), Q, 10.0, device=device, dtype=dtype, **settings)
        np.testing.assert_array_equal(found.picks, expected.picks)
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_allclose(found.weights, expected.weights, rtol=rtol, atol=rtol / 100)
        assert found.objective == pytest.approx(expected.objective, rel=rtol)
        assert len(found.history) == len(expected.history)
        assert found.settings["device"].split(":")[0] == device
        assert found.settings["dtype"] == dtype
        assert (expected.settings["device"], expected.settings["dtype"]) == ("cpu", "float64")


@pytest.mark.parametrize("device", DEVICES)
def test_estimator_and_scores_take_tensors_as_the_function_does(device):
    X, Q, costs = market()
    fitted = DAVED(device=device).fit(on(device, X), on(device, Q), costs, budget=10)
    np.testing.assert_array_equal(fitted.select(10), select(X, Q, 10.0, costs=costs).indices)
    for solver in ("fw", "one_step", "multiplicative"):
        found = score(on(device, X), on(device, Q), costs=on(device, costs), solver=solver)
        np.testing.assert_allclose(found, score(X, Q, costs=costs, solver=solver), rtol=1e-3)
    bought, answers = DAVED(device=device).fit_resample(
        on(device, X), on(device, costs), X_buyer=Q, budget=10, costs=costs
    )
    assert bought.device.type == device
    np.testing.assert_array_equal(bought.cpu().numpy(), X[fitted.select(10)])
    np.testing.assert_array_equal(answers.cpu().numpy(), costs[fitted.select(10)])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_choose_among_the_rows_that_they_hold(device, dtype):
    X, Q, _ = market()
    rounded = torch.tensor(X, dtype=getattr(torch, dtype))
    expected = select(rounded.double().numpy(), Q, 10)
    found = select(on(device, X), Q, 10, device=device, dtype=dtype)
    np.testing.assert_array_equal(found.indices, expected.indices)
    assert found.objective == pytest.approx(expected.objective, rel=1e-4)
    same = select(rounded.to(device), Q, 10, device=device, dtype=rounded.dtype)
    np.testing.assert_array_equal(found.weights, same.weights)


@pytest.mark.parametrize("device", DEVICES)
def test_options_work_on_tensors(device):
    X, Q, costs = market(1)
    rng = np.random.default_rng(0)
    for changes in (
        {"X_owned": X[:3]},
        {"reg_lambda": 0.3},
        {"reg_lambda": 0.3, "ridge": "fixed"},
        {"row_weight": rng.uniform(0, 1, 600)},
        {"rounding": "greedy", "solver": "one_step"},
        {"rounding": "greedy"},
        {"groups": np.arange(600) // 6, "costs": np.repeat(costs[:100], 6)},
        {"unique": True},
    ):
        settings = {"costs": costs, "max_iter": 20} | changes
        expected = select(X, Q, 12.0, **settings)
        found = select(on(device, X), Q, 12.0, device=device, dtype="float64", **settings)
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_in_a_tensor_are_never_brought_back_as_a_whole(device, solver, monkeypatch):
    X, Q, costs = market(n=500, d=40)
    rows = on(device, X, torch.float32)
    sizes = []
    real = torch.Tensor.numpy

    def watched(self, *args, **kwargs):
        sizes.append(self.numel())
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "numpy", watched)
    monkeypatch.setattr(torch.Tensor, "__array__", lambda *_: pytest.fail("made an array of rows"))
    given = []
    init = TorchPool.__init__

    def noted(self, shards, *args, **kwargs):
        init(self, shards, *args, **kwargs)
        given.append(self.rows_nd.data_ptr())

    monkeypatch.setattr(TorchPool, "__init__", noted)
    rounding = "greedy" if solver == "one_step" else "topk"
    select(rows, Q, 10.0, costs=costs, solver=solver, rounding=rounding, device=device)
    assert given == [rows.data_ptr()]
    assert 0 < max(sizes) < rows.numel() / 2


@pytest.mark.parametrize("device", DEVICES)
def test_shards_and_other_types_of_tensors(device):
    X, Q, _ = market(2)
    X = np.round(4 * X)
    expected = select(X, Q, 8).indices
    shards = [on(device, X[:100]), on(device, X[100:], torch.float32)]
    np.testing.assert_array_equal(select(shards, Q, 8, device=device).indices, expected)
    whole = on(device, X, torch.int16)
    np.testing.assert_array_equal(select(whole, Q, 8, device=device).indices, expected)
    learning = on(device, X).requires_grad_()
    np.testing.assert_array_equal(select(learning, Q, 8, device=device).indices, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_bad_tensors_are_refused_by_name(device):
    X, Q, _ = market()
    rows = on(device, X)
    rows[3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"X has 1 values .* \(3, 1\)"):
        select(rows, Q, 5, device=device)
    with pytest.raises(ValueError, match=r"X has shape .* two dimensions"):
        select(on(device, X)[0], Q, 5, device=device)
    with pytest.raises(ValueError, match="Complex data not supported"):
        select(on(device, X).to(torch.complex64), Q, 5, device=device)
    with pytest.raises(ValueError, match="Q has 3 features, but X has 24"):
        select(on(device, X), Q[:, :3], 5, device=device)
    with pytest.raises(ValueError, match=r"X\[1\] has 3 features, X\[0\] has 24"):
        select([on(device, X), on(device, X[:, :3])], Q, 5, device=device)
    with pytest.raises(ValueError, match="X has values beyond the range of dtype='float16'"):
        select(on(device, 1e6 * X), Q, 5, device=device, dtype="float16")


def test_arrays_stay_arrays_on_the_cpu_and_tensors_stay_tensors():
    X, Q, _ = market()
    assert isinstance(pool_of(X, Place()), ArrayPool)
    assert isinstance(pool_of(X, Place("cpu")), ArrayPool)
    assert isinstance(pool_of(on("cpu", X), Place("cpu", "float64")), TorchPool)
    found = select(on("cpu", X), Q, 5)
    assert (found.settings["device"], found.settings["dtype"]) == ("cpu", "float64")
    found = select(on("cpu", X), Q, 5, device=torch.device("cpu"), dtype=torch.float32)
    assert (found.settings["device"], found.settings["dtype"]) == ("cpu", "float32")


def test_features_of_a_tensor_on_the_cpu_are_made_as_of_an_array():
    X, Q, _ = market()
    for features in ("standardize", lambda rows: np.asarray(rows) * 2):
        found = select(on("cpu", X), Q, 5, features=features, device="cpu")
        np.testing.assert_array_equal(found.indices, select(X, Q, 5, features=features).indices)


def test_a_pool_is_where_it_is():
    X, Q, _ = market()
    pool = TorchPool(X)
    assert select(pool, Q, 5).settings["dtype"] == "float32"
    with pytest.raises(ValueError, match="X is a pool, whose rows are where they are"):
        select(pool, Q, 5, device="cpu")
    fitted = DAVED().fit(pool, Q)
    np.testing.assert_array_equal(fitted.select(5), DAVED().fit(X, Q).select(5))
    assert fitted.n_features_in_ == 24


def test_without_torch_other_devices_say_what_to_install(monkeypatch):
    monkeypatch.setattr(reading, "find_spec", lambda name: None)
    X, Q, _ = market()
    with pytest.raises(ImportError, match=r'pip install "modicum-daved\[torch\]"'):
        select(X, Q, 5, device="cuda")
    with pytest.raises(ImportError, match=r'pip install "modicum-daved\[torch\]"'):
        DAVED(device="cuda").fit(X, Q)
    assert len(select(X, Q, 5, device="cpu")) == 5


def test_devices_that_are_not_here_are_refused():
    count = torch.cuda.device_count()
    device = f"cuda:{count}" if count else "cuda"
    X, Q, _ = market()
    with pytest.raises(ValueError, match=f"device '{device}'"):
        select(X, Q, 5, device=device)


@pytest.mark.gpu
def test_features_of_a_tensor_on_a_gpu_are_refused():
    X, Q, _ = market()
    for changes in ({"features": "standardize"}, {"normalize": "l2"}, {"fit_intercept": True}):
        with pytest.raises(ValueError, match=r"X is a tensor on cuda:0, and features are made"):
            select(on("cuda", X), Q, 5, **changes)
        with pytest.raises(ValueError, match="X_seller is a tensor on cuda:0"):
            DAVED(**changes).fit(on("cuda", X), Q)


@pytest.mark.gpu
def test_auto_leaves_tensors_where_they_are_and_takes_a_gpu_for_many_rows(monkeypatch):
    X, Q, _ = market()
    assert select(on("cuda", X), Q, 5).settings["device"] == "cuda:0"
    assert select(on("cuda", X), Q, 5, device="cpu").settings["device"] == "cpu"
    assert select(X, Q, 5).settings["device"] == "cpu"
    monkeypatch.setattr(reading, "FEWEST_VALUES", X.size)
    found = select(X, Q, 5)
    assert found.settings["device"] == "cuda"
    np.testing.assert_array_equal(found.indices, select(X, Q, 5, device="cpu").indices)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (X.size * 8 - 1, 0))
    assert select(X, Q, 5).settings["device"] == "cpu"
