"""The lock goes into git without hosts and comes back byte for byte."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import portable_lock
import pytest
from portable_lock import Addresses, clean, smudge

ROOT = Path(__file__).resolve().parents[2]
_FILES = "https://files.example"
HERE = Addresses("https://index.example/simple", f"{_FILES}/packages/", _FILES)
_HOST = "http://mirror.example:8080"
MIRROR = Addresses(f"{_HOST}/api/simple/", f"{_HOST}/f/", _HOST)
DIGEST = f"ab/cd/{'0123456789' * 6}"
SMALL = f"""version = 1
revision = 5

[[package]]
name = "numpy"
version = "2.3.5"
source = {{ registry = "{HERE.registry}" }}
dependencies = [
    {{ name = "b", version = "1", source = {{ registry = "{HERE.registry}" }} }},
]
sdist = {{ url = "{HERE.prefix}{DIGEST}/numpy-2.3.5.tar.gz", hash = "sha256:00", size = 1 }}
wheels = [
    {{ url = "{HERE.prefix}{DIGEST}/numpy-2.3.5%2Bcpu-py3-none-any.whl", hash = "sha256:01" }},
    {{ url = "{HERE.host}/odd/place/numpy-2.3.5-py3-none-any.whl", hash = "sha256:02" }},
]

[[package]]
name = "ours"
version = "0.1.0"
source = {{ editable = "packages/ours" }}

[package.metadata]
requires-dist = [
    {{ name = "numpy", specifier = ">=2" }},
]
provides-extras = ["plot"]

[package.metadata.requires-dev]
dev = [{{ name = "pytest" }}]

[[package]]
name = "last"
version = "1"
source = {{ registry = "{HERE.registry}" }}
"""


@pytest.fixture(scope="module")
def real() -> str:
    """The lock of this repository, exact."""
    text = (ROOT / "uv.lock").read_text(encoding="utf-8")
    exact = smudge(text, portable_lock.learn_addresses)
    if exact.startswith(portable_lock.NOTICE):
        pytest.skip("no package index can be reached, so the exact lock is unknown")
    return exact


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of this repository that has no filter configured, with the tools as they are here."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a git repository")
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Test")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "test@example.org")
    for name in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    # The uv of this repository's private environment is none that the clone could find.
    if (uv := portable_lock.find_uv()) is not None:
        monkeypatch.setenv("PATH", f"{Path(uv).parent}{os.pathsep}{os.environ['PATH']}")
    folder = tmp_path / "clone"
    run("git", "clone", "--quiet", "--no-hardlinks", ROOT, folder, cwd=tmp_path)
    shutil.copy(ROOT / "tools/portable_lock.py", folder / "tools")
    run("git", "commit", "--quiet", "--all", "--allow-empty", "-m", "tools", cwd=folder)
    return folder


def run(*command: str | Path, cwd: Path) -> bytes:
    environment = os.environ | {"UV_PYTHON_DOWNLOADS": "never"}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def versions(lock: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for package in tomllib.loads(lock)["package"]:
        found.setdefault(package["name"], set()).add(package["version"])
    return found


def test_small_lock_round_trip_and_form():
    portable = clean(SMALL)
    assert "example" not in portable
    assert not re.search(r"https?:", portable)
    assert f"# {DIGEST}\n" in portable
    assert f"# {DIGEST} numpy-2.3.5%2Bcpu-py3-none-any.whl\n" in portable
    assert "# /odd/place\n" in portable
    document = tomllib.loads(portable)
    assert [p["name"] for p in document["package"]] == ["numpy", "ours", "last"]
    assert "metadata" not in document["package"][1]
    assert document["package"][0]["source"] == {"registry": "index"}
    assert document["package"][0]["wheels"][0]["filename"] == "numpy-2.3.5+cpu-py3-none-any.whl"
    assert smudge(portable, lambda: HERE) == SMALL


def test_another_index_gives_the_same_portable_text():
    elsewhere = smudge(clean(SMALL), lambda: MIRROR)
    assert elsewhere != SMALL
    assert f'url = "http://mirror.example:8080/f/{DIGEST}/numpy-2.3.5.tar.gz"' in elsewhere
    assert clean(elsewhere) == clean(SMALL)


def test_both_directions_leave_finished_text_alone():
    portable = clean(SMALL)
    assert clean(portable) == portable
    assert smudge(SMALL, lambda: pytest.fail("nothing is to be learned")) == SMALL


def test_two_indexes_are_refused():
    two = SMALL.replace(HERE.registry, MIRROR.registry, 1)
    with pytest.raises(ValueError, match="names 2 package indexes"):
        clean(two)


def test_files_of_a_second_host_are_refused():
    two = SMALL.replace(HERE.prefix, MIRROR.prefix, 1)
    with pytest.raises(ValueError, match="several hosts"):
        clean(two)


def test_without_uv_the_text_passes_with_a_warning(monkeypatch, capsys):
    monkeypatch.setattr(portable_lock, "find_uv", lambda: None)
    portable = clean(SMALL)
    assert smudge(portable, portable_lock.learn_addresses) == portable
    assert "uv was not found" in capsys.readouterr().err


def test_without_an_index_the_text_passes_with_a_warning(monkeypatch, capsys, tmp_path):
    if portable_lock.find_uv() is None:
        pytest.skip("uv is not installed")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path))
    portable = clean(SMALL)
    assert smudge(portable, portable_lock.learn_addresses) == portable
    assert "could not lock" in capsys.readouterr().err


def test_real_lock_round_trip(real):
    portable = clean(real)
    assert not re.search(r"https?://", portable)
    assert versions(portable) == versions(real)
    script = ROOT / "tools/portable_lock.py"
    back = subprocess.run(
        [sys.executable, script, "smudge"], input=portable.encode(), capture_output=True, check=True
    )
    assert back.stdout == real.encode()
    again = subprocess.run(
        [sys.executable, script, "clean"], input=real.encode(), capture_output=True, check=True
    )
    assert again.stdout == portable.encode()


def test_git_stores_the_portable_lock_and_checks_out_the_exact_one(real, clone):
    (clone / "uv.lock").write_text(clean(real), encoding="utf-8")
    run("git", "commit", "--quiet", "--all", "--allow-empty", "-m", "lock", cwd=clone)
    run(sys.executable, clone / "tools/portable_lock.py", "install", cwd=clone)
    assert (clone / "uv.lock").read_text(encoding="utf-8") == real
    assert run("git", "status", "--porcelain", cwd=clone) == b""

    with (clone / "uv.lock").open("a", encoding="utf-8") as file:
        file.write('\n[[package]]\nname = "more"\nversion = "1"\nsource = { virtual = "." }\n')
    changed = (clone / "uv.lock").read_bytes()
    run("git", "commit", "--quiet", "--all", "-m", "more", cwd=clone)
    assert not re.search(rb"https?://", run("git", "show", "HEAD:uv.lock", cwd=clone))
    (clone / "uv.lock").unlink()
    run("git", "checkout", "--quiet", "--", "uv.lock", cwd=clone)
    assert (clone / "uv.lock").read_bytes() == changed


def test_plain_sync_without_the_filter_installs_the_locked_versions(real, clone):
    uv = portable_lock.find_uv()
    assert uv is not None
    stored = (clone / "uv.lock").read_text(encoding="utf-8")
    assert stored.startswith(portable_lock.NOTICE)
    locked = versions(stored)
    run(uv, "sync", "--package", "modicum-core", "--no-dev", cwd=clone)
    assert versions((clone / "uv.lock").read_text(encoding="utf-8")) == locked
    frozen = run(uv, "pip", "freeze", "--exclude-editable", cwd=clone).decode().split()
    installed = dict(line.split("==") for line in frozen if "==" in line)
    assert {"numpy", "scipy", "typer", "rich"} <= installed.keys()
    assert {name: v for name, v in installed.items() if v not in locked[name]} == {}
