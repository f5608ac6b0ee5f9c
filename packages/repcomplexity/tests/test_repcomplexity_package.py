"""The package as it is imported: no engine, every name there, environments known to Gymnasium."""

import json
import subprocess
import sys

import pytest

import modicum.repcomplexity as package

LOADED = """
import json, sys
{statement}
heavy = ("torch", "scipy", "gymnasium", "mujoco", "stable_baselines3", "pysat", "dd", "matplotlib",
         "pandas", "minari", "rich")
print(json.dumps([m for m in heavy if m in sys.modules]))
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_import_loads_no_engine():
    assert run(LOADED.format(statement="import modicum.repcomplexity")) == []


def test_exact_routines_need_no_torch():
    statement = "import modicum.repcomplexity as rc\nrc.solve(rc.MajorityMDP(n=4)); rc.bounds"
    assert run(LOADED.format(statement=statement)) == ["scipy"]


def test_function_and_module_of_one_name_do_not_take_turns():
    statement = (
        "import modicum.repcomplexity.measure, modicum.repcomplexity.measure as again\n"
        "import modicum.repcomplexity as rc\n"
        "from modicum.repcomplexity.measure import measure\n"
        "assert rc.measure is measure"
    )
    run(LOADED.format(statement=statement))


def test_every_public_name_is_there():
    assert len(set(package.__all__)) == len(package.__all__)
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name


MAKE = """
env = gymnasium.make("{prefix}modicum/MajorityMDP-v0", n=4)
assert env.reset(seed=0)[0].shape == (6,)
assert gymnasium.__spec__.loader is gymnasium.__loader__
assert type(gymnasium.__loader__).__module__.startswith("_frozen_importlib"), gymnasium.__loader__
assert not any(type(f).__module__.startswith("modicum") for f in sys.meta_path)
print("[]")
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import gymnasium, modicum.repcomplexity",
        "import modicum.repcomplexity, gymnasium",
        "import modicum.repcomplexity, importlib.util\n"
        "assert importlib.util.find_spec('gymnasium'), 'looking is not loading'\n"
        "assert 'gymnasium' not in sys.modules\nimport gymnasium",
    ],
)
def test_gymnasium_knows_the_environments_in_either_order(imports):
    pytest.importorskip("gymnasium")
    run("import sys\n" + imports + MAKE.format(prefix=""))


def test_gymnasium_imports_the_package_that_a_name_begins_with():
    pytest.importorskip("gymnasium")
    run("import sys, gymnasium\n" + MAKE.format(prefix="modicum.repcomplexity:"))


def test_without_gymnasium_nothing_is_missed_until_it_is_asked_for():
    code = (
        "import sys\nsys.modules['gymnasium'] = None\nimport modicum.repcomplexity as rc\n"
        "rc.solve(rc.ParityMDP(4))\n"
        "try:\n    rc.BitMDPEnv\nexcept ImportError as error:\n    told = str(error)\n"
        "import json\nprint(json.dumps(told))"
    )
    assert 'pip install "modicum-repcomplexity[envs]"' in run(code)


ABSENT = """
import json, sys
import numpy as np

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(f"no module {name}", name=name)

sys.meta_path.insert(0, Blocked())
import modicum.repcomplexity as rc
mdp = rc.MajorityMDP(4)
rc.solve(mdp), rc.complexity_report(mdp, time_limit=1), rc.TruthTable.from_hex("e8", 3).fourier()
if rc.solve(mdp).V.sum() != 124:
    raise SystemExit("the solution is wrong")
told = []
data = rc.RolloutData.from_arrays(
    np.arange(40.0)[:, None], np.zeros((40, 1)), np.arange(40.0), np.arange(1.0, 41)[:, None],
    terminated=np.arange(40) % 10 == 9, truncated=np.zeros(40, bool),
)
for call in (
    lambda: rc.TorchVecMDP(mdp, 2),
    lambda: rc.measure(data, targets=["reward"], widths=[4], seeds=1, steps=1, device="cpu"),
    lambda: rc.builders.model_circuit(4).to_torch(),
):
    try:
        call()
    except ImportError as error:
        told.append(str(error))
print(json.dumps(told))
"""


def test_without_torch_everything_exact_works_and_the_rest_says_what_brings_it():
    told = run(ABSENT)
    assert len(told) == 3
    assert all('pip install "modicum-repcomplexity[torch]"' in one for one in told)


@pytest.mark.parametrize(
    "first",
    [
        "import modicum.repcomplexity as rc; rc.BitMDPEnv",
        "import modicum.repcomplexity.envs.environment",
        "import modicum.repcomplexity.envs.registration",
        "import modicum.repcomplexity.envs.vector",
        "import modicum.repcomplexity.integrations.gymnasium",
    ],
)
def test_modules_of_the_package_may_be_what_loads_gymnasium(first):
    pytest.importorskip("gymnasium")
    run(f"import sys\n{first}\nimport gymnasium{MAKE.format(prefix='')}")
