"""The package as it is imported: torch and nothing else, every name there."""

import json
import subprocess
import sys

import pytest

import modicum.pvf as package

LOADED = """
import json, sys
{statement}
heavy = ("transformers", "diffusers", "accelerate", "lm_eval", "matplotlib", "scipy", "rich", "ray")
print(json.dumps([m for m in heavy if m in sys.modules]))
"""


def run(code):
    out = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(out.stdout)


def test_import_loads_no_engine():
    assert run(LOADED.format(statement="import modicum.pvf")) == []


def test_function_and_module_of_one_name_do_not_take_turns():
    statement = "import modicum.pvf as mp, modicum.pvf.progress\nassert callable(mp.generate)"
    run(LOADED.format(statement=statement))


def test_every_public_name_is_there():
    assert len(set(package.__all__)) == len(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name
