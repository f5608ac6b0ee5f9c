"""Try every distribution alone, as a user gets it from ``pip install`` in an empty environment.

Builds the wheels of all packages and of core, installs each with its hard dependencies only into an
environment of its own (third-party versions as locked), and there

* imports the package and looks into ``sys.modules`` for engines and for optional dependencies;
* runs every console script with ``--help``;
* runs the package's ``tests/smoke.py``, where there is one.

Then it shows that packages with different but compatible requirements on core live in one
environment, and that the resolver refuses an incompatible one. The environments are temporary;
files come from uv's cache as hard links, so that eleven copies of torch take the room of one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import portable_lock
from check_tree import projects
from import_rules import IMPORT_NAME_OF

ROOT = Path(__file__).resolve().parents[1]
JOBS = 2
# What no package may take into memory when it is imported; torch is a hard dependency of some and
# is looked for separately, in the environments that must not have it.
ENGINES = (
    "transformers",
    "vllm",
    "diffusers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "flwr",
    "ray",
    "gradio",
    "gymnasium",
    "mujoco",
    "matplotlib",
    "triton",
)
_IMPORT = """
import importlib, json, sys, time
start = time.perf_counter()
importlib.import_module(sys.argv[1])
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "modules": sorted({m.split(".")[0] for m in sys.modules})}))
"""


class Failure(Exception):
    """A distribution does not work alone; the message says which step failed and how."""


def call(*command: str | Path, cwd: Path | None = None, ok: bool = True) -> str:
    """Run a command and give its output; raises Failure when it does not end as expected."""
    environment = {k: v for k, v in os.environ.items() if k not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    environment["UV_PYTHON_DOWNLOADS"] = "never"
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd or ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if (done.returncode == 0) is not ok:
        output = (done.stdout + done.stderr).strip()[-4000:]
        raise Failure(f"$ {' '.join(map(str, command))}\nexit status {done.returncode}\n{output}")
    return done.stdout if ok else done.stdout + done.stderr


def uv() -> str:
    """Give the path of uv; raises Failure when there is none."""
    found = portable_lock.find_uv()
    if found is None:
        raise Failure("uv was not found; `make setup` gets it")
    return found


def build(names: list[str], out: Path) -> None:
    """Build the wheels of the named packages into a folder."""
    for name in names:
        call(uv(), "build", "--quiet", "--wheel", "--package", f"modicum-{name}", "--out-dir", out)


def constraints(out: Path) -> Path:
    """Write the locked versions of all third-party packages as constraints."""
    path = out / "constraints.txt"
    text = call(
        *(
            uv(),
            "export",
            "--quiet",
            "--frozen",
            "--all-packages",
            "--all-extras",
            "--no-extra",
            "vllm",
        ),
        *("--no-dev", "--no-emit-workspace", "--no-hashes", "--no-annotate", "--no-header"),
    )
    path.write_text(text)
    return path


def make_environment(folder: Path) -> Path:
    """Make an empty environment and give its interpreter."""
    call(uv(), "venv", "--quiet", "--python", sys.executable, folder)
    return folder / "bin" / "python"


def install(python: Path, wheels: Path, *requirements: str, ok: bool = True) -> str:
    """Install requirements into an environment, our own distributions from the local wheels."""
    limits = wheels / "constraints.txt"
    return call(
        *(uv(), "pip", "install", "--python", python, "--find-links", wheels),
        *(("--constraint", limits) if limits.exists() else ()),
        *requirements,
        ok=ok,
    )


def unwanted_modules(name: str) -> set[str]:
    """Give the engines and optional dependencies that importing a package must not load."""
    project = _project(name)
    optional = {
        requirement.split("[")[0].split(">")[0].split("=")[0].strip()
        for extra in project.get("optional-dependencies", {}).values()
        for requirement in extra
    }
    modules = {IMPORT_NAME_OF.get(word, word.replace("-", "_")) for word in optional}
    return {m for m in modules if not m.startswith("modicum")} | set(ENGINES) | {"torch"}


def _project(name: str) -> dict[str, Any]:
    return tomllib.loads((projects(ROOT)[name] / "pyproject.toml").read_text())["project"]


def try_alone(name: str, wheels: Path, scratch: Path) -> str:
    """Install one package alone and try it; gives a line that says what was done."""
    start = time.perf_counter()
    folder = scratch / f"alone-{name}"
    python = make_environment(folder)
    project = _project(name)
    install(python, wheels, f"modicum-{name}=={project['version']}")
    call(uv(), "pip", "check", "--python", python)

    report = json.loads(call(python, "-I", "-c", _IMPORT, f"modicum.{name}", cwd=scratch))
    if loaded := unwanted_modules(name) & set(report["modules"]):
        raise Failure(f"`import modicum.{name}` loads {', '.join(sorted(loaded))}")
    done = [f"import {report['seconds'] * 1e3:.0f} ms"]

    for script in project.get("scripts", {}):
        call(python.parent / script, "--help", cwd=scratch)
        done.append(f"{script} --help")
    smoke = projects(ROOT)[name] / "tests" / "smoke.py"
    if smoke.exists():
        call(python, "-I", smoke, cwd=scratch)
        done.append("smoke test")
    shutil.rmtree(folder)
    done.append(f"{time.perf_counter() - start:.0f} s")
    return f"modicum-{name} {project['version']}: {', '.join(done)}"


def build_changed(name: str, changes: dict[str, str], out: Path, scratch: Path) -> None:
    """Build a wheel of a package outside the workspace, with strings in its metadata replaced."""
    folder = scratch / f"changed-{name}-{len(list(scratch.iterdir()))}"
    ignored = shutil.ignore_patterns("tests", "benchmarks", "__pycache__")
    shutil.copytree(projects(ROOT)[name], folder, ignore=ignored)
    pyproject = folder / "pyproject.toml"
    text = pyproject.read_text()
    for old, new in changes.items():
        if text.count(old) != 1:
            raise Failure(
                f"{name}/pyproject.toml has {old!r} {text.count(old)} times, expected once"
            )
        text = text.replace(old, new)
    pyproject.write_text(text)
    call(uv(), "build", "--quiet", "--wheel", "--no-sources", "--out-dir", out, folder)


def try_core_versions(wheels: Path, scratch: Path) -> str:
    """Show that compatible requirements on core meet in one environment, and others do not.

    Two packages that need no torch stand for all: one asks for the next patch release of core, the
    other for the whole series, and both must get that release. A third asks for a series that does
    not exist yet.
    """
    index = scratch / "core-versions"
    index.mkdir()
    if (limits := wheels / "constraints.txt").exists():
        shutil.copy(limits, index)
    current = _project("core")["version"]
    major, minor, patch = (int(part) for part in current.split("."))
    patched = f"{major}.{minor}.{patch + 1}"
    series = f"modicum-core>={major}.{minor},<{major}.{minor + 1}"
    requirement = f'"{series}"'
    build_changed("core", {f'version = "{current}"': f'version = "{patched}"'}, index, scratch)
    for wheel in wheels.glob("modicum_core-*.whl"):
        shutil.copy(wheel, index)
    newer = f'"modicum-core>={patched}"'
    build_changed("zeroth", {requirement: newer}, index, scratch)
    build_changed("testtime", {}, index, scratch)
    build_changed(
        "daved",
        {requirement: f'"modicum-core>={major}.{minor + 1}"'},
        index,
        scratch,
    )

    python = make_environment(scratch / "together")
    install(python, index, "modicum-zeroth", "modicum-testtime")
    call(uv(), "pip", "check", "--python", python)
    version = call(
        *(python, "-I", "-c"),
        "import modicum.zeroth, modicum.testtime, modicum.core, importlib.metadata as metadata;"
        "print(metadata.version('modicum-core'))",
    ).strip()
    if version != patched:
        raise Failure(f"one environment for two packages got core {version}, expected {patched}")
    refusal = install(python, index, "modicum-daved", "modicum-testtime", ok=False)
    if "modicum-core" not in refusal:
        raise Failure(f"an incompatible requirement failed for another reason:\n{refusal}")
    return (
        f"core {patched} serves packages that ask for >={patched} and for {series[12:]} together; "
        f"the resolver refuses >={major}.{minor + 1} beside them"
    )


def attempts(names: list[str], wheels: Path, scratch: Path) -> Iterator[tuple[str, str | Failure]]:
    """Try packages and core versions, several at a time; yields a name and what came out."""
    with ThreadPoolExecutor(JOBS) as pool:
        jobs = {name: pool.submit(try_alone, name, wheels, scratch) for name in names}
        jobs["core versions"] = pool.submit(try_core_versions, wheels, scratch)
        for name, job in jobs.items():
            try:
                yield name, job.result()
            except Failure as failure:
                yield name, failure


def main() -> int:
    """Try the packages named on the command line, by default all; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "packages", nargs="*", help="short names, such as pvf; all when none is given"
    )
    names = parser.parse_args().packages or list(projects(ROOT))
    failed = False
    # Beside the cache where possible: hard links do not cross file systems.
    with tempfile.TemporaryDirectory(prefix="modicum-isolate-") as folder:
        scratch = Path(folder)
        wheels = scratch / "wheels"
        wheels.mkdir()
        try:
            build(sorted({*names, "core"}), wheels)
            constraints(wheels)
        except Failure as failure:
            print(failure)
            return 1
        for name, outcome in attempts(names, wheels, scratch):
            failed = failed or isinstance(outcome, Failure)
            print(
                f"{name}: FAILED\n{outcome}" if isinstance(outcome, Failure) else outcome,
                flush=True,
            )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
