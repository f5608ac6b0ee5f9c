"""The package as it is imported: light, without engines, every name there."""

import json
import subprocess
import sys
from importlib.metadata import distribution

import pytest

import modicum.zeroth as package

LOADED = """
import json, sys
{statement}
heavy = ("torch", "transformers", "peft", "matplotlib", "scipy.stats", "scipy.optimize", "rich",
         "joblib", "ray", "distributed", "nevergrad", "optuna", "cma", "sklearn", "cocoex")
print(json.dumps([m for m in heavy if m in sys.modules]))
"""

# As if they were not installed: a None in sys.modules would confuse SciPy, which looks there.
ABSENT = """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "peft", "matplotlib", "joblib", "ray",
                                  "distributed", "dask", "nevergrad", "optuna", "cma", "sklearn",
                                  "cocoex"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def run(code):
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def test_import_loads_no_engine_and_no_optimiser_of_scipy():
    assert run(LOADED.format(statement="import modicum.zeroth")) == []
    assert run(LOADED.format(statement="import modicum.zeroth.cli")) == ["rich"]


def test_works_with_the_hard_dependencies_only():
    statement = f"""{ABSENT}
import numpy as np
import modicum.zeroth as mz
noise = np.random.default_rng(0)
def fun(x):
    return np.sum((x - 0.5) ** 2) + 0.1 * noise.normal()
result = mz.minimize(fun, np.zeros(2), 2000, rng=1)
assert np.all(abs(result.x - 0.5) < 0.1) and result.success
assert mz.plan(2, 10_000, noise=1.0, strong_convexity=1.0, hessian_lipschitz=1.0).n_g == 1000
def torch_room():
    import modicum.zeroth.torch
def integration(name):
    return lambda: __import__(f"modicum.zeroth.integrations.{{name}}", fromlist=["x"])
for call, extra in (
    (torch_room, "torch"),
    (integration("transformers"), "torch"),
    (integration("nevergrad"), "nevergrad"),
    (integration("optuna"), "optuna"),
    (lambda: mz.executors.Joblib(), "joblib"),
    (lambda: mz.executors.Ray(), "ray"),
    (lambda: mz.executors.Dask(), "dask"),
    (lambda: mz.plots.rounds(result.trace), "plot"),
    (lambda: mz.problems.breast_cancer(), "sklearn"),
    (lambda: integration("bbob")().noisy_bbob(101, 2), "bbob"),
):
    try:
        call()
    except ImportError as error:
        assert f'pip install "modicum-zeroth[{{extra}}]"' in str(error), (extra, error)
    else:
        raise AssertionError(extra)
from modicum.zeroth.cli import EXPERIMENTS, app
from typer.testing import CliRunner
command = "plan --d 2 --rho 1 --M 1 --sigma 1 --T 1e4"
result = CliRunner().invoke(app, command.split())
assert result.exit_code == 0, result.output
"""
    assert set(run(LOADED.format(statement=statement))) <= {"scipy.optimize", "scipy.stats", "rich"}


def test_every_public_name_is_there():
    assert len(set(package.__all__)) == len(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name


def test_registers_experiments_and_commands():
    entries = {entry.group: entry for entry in distribution("modicum-zeroth").entry_points}
    assert entries["modicum.commands"].load().info.help
    names = [experiment.name for experiment in entries["modicum.experiments"].load()]
    assert len(set(names)) == 10
