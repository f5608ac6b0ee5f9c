"""The package as it is imported: light, without engines, every name there."""

import json
import subprocess
import sys

import pytest

import modicum.testtime as package

LOADED = """
import json, sys
{statement}
heavy = ("torch", "transformers", "vllm", "openai", "httpx", "sympy", "math_verify", "matplotlib",
         "scipy", "rich", "tqdm", "datasets", "its_hub", "dspy", "lm_eval")
print(json.dumps([m for m in heavy if m in sys.modules]))
"""

# As if they were not installed: a None in sys.modules would confuse SciPy, which looks there.
ABSENT = """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "matplotlib", "httpx", "math_verify",
                                  "vllm", "datasets", "its_hub", "dspy", "lm_eval"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def run(code):
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def test_import_loads_no_engine_and_no_scipy():
    assert run(LOADED.format(statement="import modicum.testtime")) == []
    assert run(LOADED.format(statement="import modicum.testtime.cli")) == ["rich"]


def test_works_with_the_hard_dependencies_only():
    statement = f"""{ABSENT}
import random
import modicum.testtime as tt
assert tt.plan("self_consistency", p=[0.5, 0.3, 0.2], delta=0.05).feasible
gen = tt.backends.callable(lambda prompt, seed: random.Random(seed).choice("AAAB"))
results = tt.SelfConsistency(gen, delta=0.05, max_samples=100).run(["?"])
assert results[0].answer == "A" and results[0].certified
best = tt.BestOfN(gen, lambda prompt, texts: [float(t == "B") for t in texts], n=30).run(["?"])
assert best[0].answer == "B"
for call, extra in (
    (lambda: tt.backends.vllm(None), "vllm"),
    (lambda: tt.backends.transformers(None, None), "transformers"),
    (lambda: tt.backends.openai("http://localhost:1/v1", "m"), "openai"),
    (lambda: tt.plots.stopping_boundary({{"a": [1, 2]}}), "plot"),
    (lambda: results.to_dataset(), "datasets"),
    (lambda: tt.construct.glue, "torch"),
):
    try:
        call()
    except ImportError as error:
        assert f'pip install "modicum-testtime[{{extra}}]"' in str(error), (extra, error)
    else:
        raise AssertionError(extra)
from modicum.testtime.cli import EXPERIMENTS, app
from typer.testing import CliRunner
result = CliRunner().invoke(app, ["plan", "--p", "0.5,0.3,0.2"])
assert result.exit_code == 0, result.output
"""
    # rich draws tables, SciPy computes; no engine came along.
    assert set(run(LOADED.format(statement=statement))) == {"scipy", "rich"}


def test_every_public_name_is_there():
    pytest.importorskip("torch")
    assert len(set(package.__all__)) == len(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name
