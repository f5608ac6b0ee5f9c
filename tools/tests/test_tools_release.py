"""Releases in a small workspace of its own: what is made, and what is refused."""

import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import portable_lock
import pytest
import release
from release import Refusal

ROOT = """[project]
name = "modicum-workspace"
version = "0"
requires-python = ">=3.11"
[tool.uv]
package = false
[tool.uv.workspace]
members = ["packages/*"]
"""
PACKAGE = """[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"
[project]
name = "modicum-pvf"
version = "{version}"
requires-python = ">=3.11"
[tool.hatch.build.targets.wheel]
packages = ["src/modicum"]
"""
CHANGELOG = "packages/pvf/CHANGELOG.md"
SOURCE = 'def generate(steps: int = 1) -> int:\n    """Generate."""\n    return steps\n'


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with one package that was released as 0.1.0 and has a changelog entry since."""
    uv = portable_lock.find_uv()
    if uv is None:
        pytest.skip("uv is not installed")
    root = tmp_path_factory.mktemp("released")
    with pytest.MonkeyPatch.context() as patch:
        for who in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{who}_NAME", "Test")
            patch.setenv(f"GIT_{who}_EMAIL", "test@example.org")
        patch.delenv("VIRTUAL_ENV", raising=False)
        patch.setenv("UV_PYTHON_DOWNLOADS", "never")
        git(root, "init", "--quiet")
        write(root, "pyproject.toml", ROOT)
        write(root, ".gitignore", "dist/\n.venv/\n")
        write(root, "packages/pvf/pyproject.toml", PACKAGE.format(version="0.1.0"))
        write(root, CHANGELOG, "# Changelog\n\n## 0.1.0\n\n- First.\n")
        write(root, "packages/pvf/src/modicum/pvf/__init__.py", SOURCE)
        subprocess.run([uv, "lock", "--quiet"], cwd=root, check=True)
        commit(root)
        assert release.release("pvf", "none", root=root, dry_run=False) == "modicum-pvf-v0.1.0"
        unreleased = "# Changelog\n\n## Unreleased\n\n- Better.\n\n## 0.1.0\n\n- First.\n"
        write(root, CHANGELOG, unreleased)
        commit(root)
        yield root


@pytest.fixture
def repository(released: Path, tmp_path: Path) -> Path:
    """A copy of that workspace for one test."""
    return shutil.copytree(released, tmp_path / "repository")


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=root, env=os.environ, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "change")


def change_source(root: Path, text: str) -> None:
    write(root, "packages/pvf/src/modicum/pvf/__init__.py", text)
    commit(root)


def version(root: Path) -> str:
    text = (root / "packages/pvf/pyproject.toml").read_text()
    return tomllib.loads(text)["project"]["version"]


def test_release_of_an_addition(repository):
    change_source(repository, SOURCE + "\n\ndef more() -> None:\n    pass\n")
    tag = release.release("pvf", "patch", root=repository, dry_run=False)
    assert tag == "modicum-pvf-v0.1.1"
    assert version(repository) == "0.1.1"
    changelog = (repository / CHANGELOG).read_text()
    assert "## 0.1.1 (2" in changelog
    assert "Unreleased" not in changelog
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "rev-parse", f"{tag}^{{commit}}") == git(repository, "rev-parse", "HEAD")
    assert 'version = "0.1.1"' in (repository / "uv.lock").read_text()
    assert {path.name for path in (repository / "dist").glob("*0.1.1*")} == {
        "modicum_pvf-0.1.1-py3-none-any.whl",
        "modicum_pvf-0.1.1.tar.gz",
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "generate"),
        (SOURCE.replace("steps: int = 1", "steps: int"), "steps"),
        (SOURCE.replace("steps", "rounds"), "steps"),
    ],
)
def test_breaking_change_needs_a_version_that_says_so(repository, source, message):
    change_source(repository, source)
    head = git(repository, "rev-parse", "HEAD")
    with pytest.raises(Refusal, match=message):
        release.release("pvf", "patch", root=repository, dry_run=False)
    assert git(repository, "rev-parse", "HEAD") == head
    assert version(repository) == "0.1.0"
    assert release.release("pvf", "minor", root=repository, dry_run=True) == "modicum-pvf-v0.2.0"


@pytest.mark.parametrize(
    ("current", "bump", "announced"),
    [
        ("0.3.1", "patch", False),
        ("0.3.1", "minor", True),
        ("0.3.1", "major", True),
        ("1.3.1", "minor", False),
        ("1.3.1", "major", True),
        ("1.3.1", "none", False),
    ],
)
def test_which_versions_announce_a_breaking_change(current, bump, announced):
    assert release.announces_breakage(current, bump) is announced


def test_dry_run_changes_nothing(repository):
    head = git(repository, "rev-parse", "HEAD")
    tag = release.release("pvf", "minor", root=repository, dry_run=True)
    assert tag == "modicum-pvf-v0.2.0"
    assert git(repository, "rev-parse", "HEAD") == head
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "tag", "--list", tag) == ""


def test_same_version_twice_is_refused(repository):
    with pytest.raises(Refusal, match=r"tag modicum-pvf-v0\.1\.0 exists"):
        release.release("pvf", "none", root=repository, dry_run=False)


def test_unclean_tree_is_refused(repository):
    write(repository, "stray.txt", "")
    with pytest.raises(Refusal, match=r"not clean:\n\?\? stray.txt"):
        release.release("pvf", "patch", root=repository, dry_run=False)


@pytest.mark.parametrize("section", ["", "## Unreleased\n\n"])
def test_empty_changelog_is_refused(repository, section):
    write(
        repository, "packages/pvf/CHANGELOG.md", f"# Changelog\n\n{section}## 0.1.0\n\n- First.\n"
    )
    commit(repository)
    with pytest.raises(Refusal, match="Unreleased"):
        release.release("pvf", "patch", root=repository, dry_run=False)


def test_failed_build_puts_the_files_back(repository):
    text = PACKAGE.format(version="0.1.0").replace("hatchling.build", "hatchling.nothing")
    write(repository, "packages/pvf/pyproject.toml", text)
    commit(repository)
    with pytest.raises(Refusal, match="uv build"):
        release.release("pvf", "patch", root=repository, dry_run=False)
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "tag", "--list", "modicum-pvf-v0.1.1") == ""
