"""Adapters to pyDVL, OpenDataVal and scikit-activeml, each with the real library.

The libraries do not go together with each other or with this workspace (numpy below 2, torch 2.1),
so that each is tried in an environment of its own, which uv makes of the script's first lines. That
takes a minute where wheels have to be fetched: these tests are slow ones.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modicum.daved.integrations.values import values_of
from modicum.daved.select import select

ROOT = Path(__file__).resolve().parents[3]
UV = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
in_its_environment = pytest.mark.skipif(UV is None, reason="no uv on this machine (pip install uv)")

HEAD = """\
# /// script
# requires-python = ">=3.11,<3.13"
# dependencies = ["modicum-daved", {dependencies}]
#
# [tool.uv]
# override-dependencies = [{overrides}]
#
# [tool.uv.sources]
# modicum-core = {{ path = "{root}/shared/core", editable = true }}
# modicum-daved = {{ path = "{root}/packages/daved", editable = true }}
# ///
import json
import warnings

import numpy as np

rng = np.random.default_rng(0)
X = rng.normal(size=(120, 5))
Q = rng.normal(size=(3, 5))
theta = rng.normal(size=5)
y = X @ theta + 0.1 * rng.normal(size=120)
"""


def run(folder, body, dependencies, overrides=()):
    """Run a script in an environment with a library; give what it prints last, as JSON."""
    script = folder / "script.py"
    names = [", ".join(f'"{name}"' for name in part) for part in (dependencies, overrides)]
    head = HEAD.format(dependencies=names[0], overrides=names[1], root=ROOT)
    script.write_text(head + body, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment |= {"UV_PYTHON_DOWNLOADS": "never", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [UV, "run", "--script", "--python", sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=900,
        env=environment,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


# Without the libraries ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "library", "command"),
    [
        ("pydvl", "pydvl", '"pydvl>=0.10"'),
        ("opendataval", "opendataval", '"opendataval>=1.3"'),
        ("skactiveml", "skactiveml", '"scikit-activeml>=1.0"'),
    ],
)
def test_a_missing_library_is_named_with_the_command(monkeypatch, module, library, command):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"modicum.daved.integrations.{module}", raising=False)
    with pytest.raises(ImportError, match=f'pip install "modicum-daved" {command}'):
        importlib.import_module(f"modicum.daved.integrations.{module}")


def test_values_rank_by_weight_and_what_was_never_picked_by_score():
    weights = np.array([0.1, 0.5, 0.1, 0.2, 0.1])
    scores = np.array([1.0, 0.0, 4.0, 9.0, 2.0])
    values = values_of(weights, scores)
    assert np.argsort(-values).tolist() == [1, 3, 2, 4, 0]
    np.testing.assert_allclose(values, [0.025, 0.5, 0.1, 0.2, 0.05])
    # The least weight may be 0, and all weights may be equal.
    np.testing.assert_allclose(values_of(np.array([0.0, 1, 0]), scores[:3]), [0.125, 1, 0.5])
    np.testing.assert_allclose(values_of(np.ones(3), scores[:3]), [0.125, 0, 0.5])
    np.testing.assert_allclose(values_of(np.array([0.0, 1]), np.zeros(2)), [0, 1])


@pytest.mark.filterwarnings("ignore::modicum.daved.errors.DAVEDWarning")
@pytest.mark.parametrize("solver", ["fw", "multiplicative", "exact"])
def test_values_rank_as_a_purchase_does(solver):
    rng = np.random.default_rng(0)
    found = select(rng.normal(size=(200, 6)), rng.normal(size=(1, 6)), 30, solver=solver)
    values = values_of(found.weights, found.scores)
    first = np.argsort(-values, kind="stable")[: len(found)]
    assert first.tolist() == found.indices.tolist()


# With the libraries -------------------------------------------------------------------------------


@pytest.mark.slow
@in_its_environment
def test_pydvl_takes_a_selection(tmp_path):
    told = run(
        tmp_path,
        """
warnings.simplefilter("ignore")
import pydvl
from pydvl.utils.status import Status
from pydvl.valuation.result import ValuationResult

from dataclasses import replace
from modicum.daved.integrations.pydvl import to_valuation_result
from modicum.daved.select import select

found = select(X, Q, 10, solver="multiplicative", max_iter=2000)
result = to_valuation_result(found)
assert isinstance(result, ValuationResult) and len(result) == 120
best = result.sort(reverse=True)
first = [int(item.idx) for item in list(best)[: len(found)]]
assert first == found.indices.tolist(), (first, found.indices)
assert result.status == Status.Converged and found.converged
np.testing.assert_array_equal(to_valuation_result(found, values="scores").values, found.scores)
fair = to_valuation_result(found, values="fair_price")
np.testing.assert_array_equal(fair.values, found.fair_price)

named = to_valuation_result(replace(found, labels=np.array([f"r{i}" for i in range(120)])))
assert named.get(7).name == "r7" and named.get(7).value == result.get(7).value
frame = named.to_dataframe()
assert len(frame) == 120
# Results of this kind add up as those of pyDVL do: the mean of two.
both = result + to_valuation_result(found)
np.testing.assert_allclose(both.values, result.values)
early = select(X, Q, 10, solver="fw", max_iter=3)
assert to_valuation_result(early).status == Status.Pending
try:
    to_valuation_result(found, values="beauty")
except ValueError as error:
    assert "beauty" in str(error)
else:
    raise AssertionError
print(json.dumps([pydvl.__version__, np.__version__, result.algorithm]))
""",
        ["pydvl>=0.10,<0.11"],
    )
    assert told[0].startswith("0.10") and told[2] == "DAVED (multiplicative, weights)"


@pytest.mark.slow
@in_its_environment
def test_scikit_activeml_asks_for_the_right_labels(tmp_path):
    told = run(
        tmp_path,
        """
import skactiveml
from sklearn.base import clone
from sklearn.linear_model import Ridge
from skactiveml.pool import RandomSampling
from skactiveml.utils import MISSING_LABEL

from modicum.daved.integrations.skactiveml import DAVEDQueryStrategy
from modicum.daved.select import select
from modicum.daved.solvers.greedy import default_prior

none = np.full(120, MISSING_LABEL)
strategy = clone(DAVEDQueryStrategy())
assert strategy.get_params()["solver"] == "greedy"
chosen, utilities = strategy.query(X, none, Q, batch_size=6, return_utilities=True)
assert chosen.tolist() == select(X, Q, 6, solver="greedy").indices.tolist()
assert utilities.shape == (6, 120)
assert np.nanargmax(utilities, axis=1).tolist() == chosen.tolist()
np.testing.assert_allclose(
    np.nanmax(utilities, axis=1), select(X, Q, 6, solver="greedy").marginal_benefit
)
assert np.isnan(utilities[3]).sum() == 3

# One by one, with the labels that came in counting as owned, it asks for the same samples.
known = none.copy()
for sample in chosen:
    (asked,) = strategy.query(X, known, Q)
    assert asked == sample, (asked, sample)
    known[asked] = y[asked]

# What is labelled is not asked for again, also when candidates are named.
asked = strategy.query(X, known, Q, batch_size=5)
assert not set(asked) & set(chosen)
few = np.array([5, 50, 100])
asked, utilities = strategy.query(X, none, Q, few, 2, True)
assert set(asked) <= set(few) and np.isnan(utilities[0]).sum() == 117
# Samples from elsewhere: positions are theirs.
asked, utilities = strategy.query(X[:20], none[:20], Q, X[50:], 2, True)
assert utilities.shape == (2, 70) and (asked < 70).all()
for solver in ("fw", "multiplicative"):
    strategy = DAVEDQueryStrategy(solver)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asked, utilities = strategy.query(X, known, Q, batch_size=8, return_utilities=True)
    assert not set(asked) & set(chosen)
    assert np.nanargmax(utilities, axis=1).tolist() == asked.tolist()

# In a loop of active learning on many markets it is below random sampling.
errors = {"daved": [], "random": []}
for seed in range(30):
    rng = np.random.default_rng(seed)
    pool, queries, theta = rng.normal(size=(80, 8)), rng.normal(size=(2, 8)), rng.normal(size=8)
    labels = pool @ theta + 0.1 * rng.normal(size=80)
    for name, strategy in (
        ("daved", DAVEDQueryStrategy()),
        ("random", RandomSampling(random_state=seed)),
    ):
        known = np.full(80, MISSING_LABEL)
        for _ in range(6):
            extra = (queries,) if name == "daved" else ()
            asked = strategy.query(pool, known, *extra)
            known[asked] = labels[asked]
        is_known = ~np.isnan(known)
        model = Ridge(0.1, fit_intercept=False).fit(pool[is_known], known[is_known])
        errors[name].append(np.square(model.predict(queries) - queries @ theta).mean())
means = {name: float(np.mean(values)) for name, values in errors.items()}
print(json.dumps([skactiveml.__version__, np.__version__, means["daved"], means["random"]]))
""",
        ["scikit-activeml>=1.0,<1.1"],
    )
    assert told[0].startswith("1.0")
    # Seeds are fixed, so that this fails by a change of the libraries and not by chance.
    assert told[2] < 0.5 * told[3]


@pytest.mark.slow
@in_its_environment
def test_opendataval_evaluates_with_it(tmp_path):
    told = run(
        tmp_path,
        """
import sys
from types import ModuleType

# OpenDataVal imports DistilBERT by names that transformers of today does not have.
stub = ModuleType("transformers")
for name in ("DistilBertModel", "DistilBertTokenizerFast"):
    setattr(stub, name, type(name, (), {}))
sys.modules["transformers"] = stub
warnings.simplefilter("ignore")

import opendataval
import torch
from opendataval.dataloader import DataFetcher
from opendataval.dataval import DataEvaluator, KNNShapley
from opendataval.experiment.exper_methods import remove_high_low
from opendataval.model import RegressionSkLearnWrapper
from sklearn.linear_model import LinearRegression

from modicum.daved.estimator import DAVED
from modicum.daved.integrations.opendataval import DAVEDEvaluator

assert DataEvaluator.Evaluators["davedevaluator"] is DAVEDEvaluator
truth = Q @ theta
fetcher = DataFetcher.from_data_splits(
    X, y[:, None], Q, truth[:, None], Q, truth[:, None], one_hot=False
)
evaluator = DAVEDEvaluator(budget=10, random_state=1).train(fetcher)
values = evaluator.data_values
assert values.shape == (120,) and values.dtype == np.float64
same = DAVED("fw", progress=False).fit(X.astype("f4"), Q.astype("f4"), budget=10)
best = np.argsort(-values, kind="stable")[:10]
assert best.tolist() == same.select(10).tolist() == evaluator.market_.select(10).tolist()
scores = DAVEDEvaluator("one_step", "scores").train(fetcher).data_values
np.testing.assert_allclose(
    scores, DAVED("one_step", progress=False).fit(X.astype("f4"), Q.astype("f4")).scores_
)

# No label is looked at: other labels, the same values.
others = DataFetcher.from_data_splits(
    X, -y[:, None], Q, 0 * truth[:, None], Q, truth[:, None], one_hot=False
)
np.testing.assert_array_equal(
    DAVEDEvaluator(budget=10, random_state=1).train(others).data_values, values
)

# Images are rows; an embedding model makes the features.
images = torch.from_numpy(X).float().reshape(120, 1, 5)
asked = torch.from_numpy(Q).float().reshape(3, 1, 5)
labels = torch.from_numpy(y).float()[:, None]
seen = DAVEDEvaluator(budget=10).input_data(images, labels, asked, labels[:3])
np.testing.assert_array_equal(seen.train_data_values().evaluate_data_values(), values)

class Doubled:
    def predict(self, x):
        return 2 * x

embedded = DAVEDEvaluator(budget=10, embedding_model=Doubled()).train(fetcher)
order = np.argsort(-embedded.data_values, kind="stable")[:10]
assert order.tolist() == best.tolist()

# Its own experiment runs with it, beside one of its own evaluators.
model = RegressionSkLearnWrapper(LinearRegression, fit_intercept=False)
curves = {}
for each in (evaluator, KNNShapley(5).train(fetcher)):
    found = remove_high_low(each, fetcher, model, percentile=0.2)
    curves[repr(each)] = {name: len(curve) for name, curve in found.items()}
print(json.dumps([opendataval.__version__, np.__version__, torch.__version__, curves]))
""",
        ["opendataval==1.3.0"],
        [
            "numpy==1.26.4",
            "scipy<1.16",
            "scikit-learn<1.7",
            "pandas<3",
            "pandera<0.24",
            "torch==2.11.0",
            "torchvision==0.26.0",
            "geomloss==0.2.6",
            "matplotlib",
            "pykeops",
            "requests",
            "torcheval",
            "tqdm",
            "typer",
            "transformers; python_version < '3'",
        ],
    )
    assert told[0] == "1.3.0" and len(told[3]) == 2
