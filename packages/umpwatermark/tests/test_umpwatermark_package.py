"""The package as it is imported: light, without engines, every name there."""

import json
import subprocess
import sys

import pytest

import modicum.umpwatermark as package

LOADED = """
import json, sys
{statement}
heavy = ("torch", "transformers", "vllm", "triton", "matplotlib", "ray",
         "scipy", "networkx", "rich")
print(json.dumps([m for m in heavy if m in sys.modules]))
"""


# As if they were not installed: a None in sys.modules would confuse SciPy, which looks there.
ABSENT = """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "matplotlib", "triton"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def imported(statement):
    code = LOADED.format(statement=statement)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def test_import_loads_no_engine_and_no_scipy():
    assert imported("import modicum.umpwatermark") == []
    assert imported("import modicum.umpwatermark.cli") == ["rich"]


def test_import_works_without_torch():
    imported(
        f"{ABSENT}\n"
        "from modicum.umpwatermark import UMPWatermarkConfig, UMPWatermarkDetector, tokens_needed\n"
        "config = UMPWatermarkConfig(key=b'0123456789abcdef', vocab_size=50)\n"
        "assert UMPWatermarkDetector(config)(list(range(50))).p_value[0] > 1e-9\n"
        "assert tokens_needed(h=0.5, schemes=['ump', 'kgw']).rows[0].tokens > 1\n"
        "from modicum.umpwatermark.cli import EXPERIMENTS, app\n"
        "from typer.testing import CliRunner\n"
        "result = CliRunner().invoke(app, ['selftest', '--n-keys', '50'])\n"
        "assert result.exit_code == 0, result.output"
    )


def test_every_public_name_is_there():
    assert sorted(package.__all__) == sorted(set(package.__all__))
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name
