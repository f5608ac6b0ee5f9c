"""Each rule of the floor plan is broken once in a copy of the workspace, and the check says so."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
METHOD = "packages/pvf/src/modicum/pvf"
CORE = "shared/core/src/modicum/core"

PLANTED = {
    "package imports package": (f"{METHOD}/planted.py", "import modicum.zeroth", "each other"),
    "from the namespace": (f"{METHOD}/planted.py", "from modicum import zeroth", "each other"),
    "core imports package": (f"{CORE}/planted.py", "from modicum import pvf", "no method package"),
    "method imports engine": (f"{METHOD}/planted.py", "import transformers", "transformers is no"),
    "engine in a function": (
        f"{METHOD}/planted.py",
        "def f():\n    from vllm import LLM\n    return LLM",
        "vllm is no",
    ),
    "experiments import engine": (
        f"{METHOD}/experiments.py",
        "import diffusers",
        "diffusers is no",
    ),
    "cli imports engine": (f"{METHOD}/cli.py", "import gradio", "gradio is no"),
    "core imports engine": (f"{CORE}/planted.py", "import ray", "ray is no"),
    "method draws": (f"{METHOD}/planted.py", "import matplotlib.pyplot", "matplotlib is no"),
    "unknown third party": (f"{METHOD}/planted.py", "import polars", "polars is no"),
    "method imports cli": (
        f"{METHOD}/planted.py",
        "from modicum.pvf import cli",
        "may not import cli",
    ),
    "method imports experiments": (
        f"{METHOD}/planted.py",
        "from modicum.pvf.experiments import x",
        "may not import experiments",
    ),
    "method imports integrations": (
        f"{METHOD}/planted.py",
        "import modicum.pvf.integrations",
        "may not import integrations",
    ),
    "integrations import experiments": (
        f"{METHOD}/integrations/planted.py",
        "import modicum.pvf.experiments",
        "may not import experiments",
    ),
    "integrations import cli": (
        f"{METHOD}/integrations/planted.py",
        "import modicum.pvf.cli",
        "may not import cli",
    ),
    "experiments import cli": (
        f"{METHOD}/experiments.py",
        "import modicum.pvf.cli",
        "may not import cli",
    ),
    "experiments import integrations": (
        f"{METHOD}/experiments.py",
        "import modicum.pvf.integrations",
        "may not import integrations",
    ),
    "method imports core's cli": (
        f"{METHOD}/planted.py",
        "import modicum.core.cli",
        "may not import cli",
    ),
    "core imports adapters": (
        f"{CORE}/planted.py",
        "import modicum.core.sub.adapters",
        "may not import integrations",
    ),
}
KEPT = {
    "integrations import engine": (
        f"{METHOD}/integrations/planted.py",
        "import vllm, transformers",
    ),
    "types only": (
        f"{METHOD}/planted.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import transformers",
    ),
    "arrays and core": (f"{METHOD}/planted.py", "import math, numpy, scipy, torch, modicum.core"),
    "plots draw": (f"{METHOD}/plots.py", "import matplotlib"),
    "cli uses all rooms": (
        f"{METHOD}/cli.py",
        "import typer, rich, modicum.pvf.experiments, modicum.pvf.integrations, modicum.core.cli",
    ),
}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A copy of the workspace's sources in which every room of pvf exists."""
    for project in [*ROOT.glob("packages/*"), ROOT / "shared/core"]:
        copy = tmp_path / project.relative_to(ROOT)
        ignored = shutil.ignore_patterns("__pycache__", "data", "*.json", "*.safetensors")
        shutil.copytree(project / "src", copy / "src", ignore=ignored)
        shutil.copy(project / "pyproject.toml", copy)
    for room in (
        f"{METHOD}/cli.py",
        f"{METHOD}/experiments.py",
        f"{METHOD}/integrations/__init__.py",
        f"{CORE}/cli.py",
        f"{CORE}/sub/__init__.py",
        f"{CORE}/sub/adapters/__init__.py",
    ):
        plant(tmp_path, room, "")
    return tmp_path


def plant(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    if not (file.exists() and not text):
        file.write_text(f"{text}\n")


def check(root: Path) -> tuple[int, set[str]]:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/import_rules.py", root], capture_output=True, text=True
    )
    assert not done.stderr, done.stderr
    return done.returncode, set(done.stdout.splitlines())


@pytest.mark.parametrize("case", PLANTED)
def test_planted_violation_is_found(workspace, case):
    path, text, reason = PLANTED[case]
    _, before = check(workspace)
    plant(workspace, path, text)
    status, after = check(workspace)
    assert status == 1
    module = path.split("src/")[1].removesuffix(".py").replace("/", ".")
    new = [line for line in after - before if line.startswith(f"{module}:")]
    assert len(new) == 1
    assert reason in new[0]


@pytest.mark.parametrize("case", KEPT)
def test_allowed_import_passes(workspace, case):
    path, text = KEPT[case]
    _, before = check(workspace)
    plant(workspace, path, text)
    _, after = check(workspace)
    module = path.split("src/")[1].removesuffix(".py").replace("/", ".")
    assert not [line for line in after - before if line.startswith(f"{module}:")]
