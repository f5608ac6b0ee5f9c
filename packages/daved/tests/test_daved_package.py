"""The package as it is imported: light, without engines, every name there."""

import json
import subprocess
import sys

import pytest

import modicum.daved as package

LOADED = """
import json, sys
{statement}
heavy = ("torch", "transformers", "datasets", "matplotlib", "scipy", "sklearn", "pandas", "pyarrow",
         "cvxpy", "flwr", "rich")
print(json.dumps([m for m in heavy if m in sys.modules]))
"""

# As if they were not installed: a None in sys.modules would confuse SciPy, which looks there.
ABSENT = """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "datasets", "matplotlib", "pandas",
                                  "pyarrow", "cvxpy", "flwr"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def run(code):
    out = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(out.stdout)


def test_import_needs_numpy_only():
    assert run(LOADED.format(statement="import modicum.daved")) == []


def test_function_and_module_of_one_name_do_not_take_turns():
    statement = """
import modicum.daved as md
import modicum.daved.estimator, modicum.daved.acquisition
from modicum.daved.select import score
assert callable(md.select) and md.score is score
"""
    run(LOADED.format(statement=statement))


def test_works_with_the_hard_dependencies_only():
    statement = f"""{ABSENT}
import numpy as np
import modicum.daved as md
rng = np.random.default_rng(0)
rows, queries = rng.normal(size=(200, 5)), np.eye(5)[:1]
assert len(md.select(rows, queries, 4, solver="greedy")) == 4
assert len(md.DAVED(progress=False).fit(rows, queries).select(3)) == 3
found = md.select(rows, queries, 4)
def integration(name):
    return lambda: __import__(f"modicum.daved.integrations.{{name}}", fromlist=["x"])
for call, extra in (
    (lambda: __import__("modicum.daved.torch_pool", fromlist=["x"]), "torch"),
    (lambda: md.features.make_features("hf:some/model"), "transformers"),
    (lambda: md.select(rows, np.eye(5)[:2], 4, solver="exact"), "socp"),
    (integration("flower"), "federated"),
    (lambda: md.plots.coverage(found.coverage), "plot"),
):
    try:
        call()
    except ImportError as error:
        assert f'pip install "modicum-daved[{{extra}}]"' in str(error), (extra, error)
    else:
        raise AssertionError(extra)
"""
    assert not {"torch", "pandas", "matplotlib"} & set(run(LOADED.format(statement=statement)))


def test_every_public_name_is_there():
    assert len(set(package.__all__)) == len(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert {"DAVED", "batch_select", "score", "select"} <= set(package.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name
