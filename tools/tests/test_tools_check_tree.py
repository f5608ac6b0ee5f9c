"""Every check of the tree passes on a small repository and finds the fault planted in it."""

import subprocess
from pathlib import Path

import check_tree
import pytest

PYPROJECT = """[project]
name = "modicum-{name}"
version = "0.1.0"
[project.optional-dependencies]
plot = ["matplotlib"]
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository that keeps all the rules."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for folder in ("packages/pvf", "shared/core"):
        write(tmp_path, f"{folder}/pyproject.toml", PYPROJECT.format(name=Path(folder).name))
        write(tmp_path, f"{folder}/CHANGELOG.md", "# Changelog\n\n## 0.1.0\n\n- First.\n")
        write(tmp_path, f"{folder}/LICENSE", "licence\n")
    write(tmp_path, "LICENSE", "licence\n")
    write(tmp_path, "Makefile", "test: ## run\n\techo\n")
    commands = 'make test\npip install "modicum-pvf[plot]"\n'
    write(tmp_path, "README.md", f"# M\n\n[pvf](packages/pvf/)\n\n```bash\n{commands}```\n")
    write(tmp_path, "packages/pvf/tests/test_pvf_a.py", "")
    write(tmp_path, "packages/pvf/src/modicum/pvf/__init__.py", "")
    return tmp_path


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def problems(root: Path) -> list[str]:
    return [problem for check in check_tree.CHECKS for problem in check(root)]


def test_orderly_repository_has_no_problems(repository):
    assert problems(repository) == []


@pytest.mark.parametrize("name", check_tree.REGISTRIES)
@pytest.mark.parametrize("template", ["https://{}/simple", "files.{}", "see {}.", '"UPLOAD.{}"'])
def test_planted_registry_host_is_found(repository, name, template):
    write(
        repository, "docs/page.md", "first\n" + template.format(f"{name}.{check_tree.ENDINGS[0]}")
    )
    assert problems(repository) == ["docs/page.md:2: names the host of a package registry"]


def test_ignored_file_is_not_looked_at(repository):
    write(repository, ".gitignore", "/report/\n")
    write(repository, "report/index.html", "https://" + ".".join(("pypi", "org")))
    assert problems(repository) == []


def test_lock_is_looked_at_as_git_stores_it(repository):
    host = ".".join(("pypi", "org"))
    digest = f"ab/cd/{'0' * 60}"
    write(
        repository,
        "uv.lock",
        f'version = 1\n\n[[package]]\nname = "a"\nversion = "1"\n'
        f'source = {{ registry = "https://{host}/simple" }}\n'
        f'sdist = {{ url = "https://files.{host}/{digest}/a-1.tar.gz", size = 1 }}\n',
    )
    assert problems(repository) == []
    write(repository, "other.lock", (repository / "uv.lock").read_text())
    assert len(problems(repository)) == 2


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        # Named: a test's name travels in the environment, which cannot hold five megabytes.
        pytest.param("data.bin", "x" * 5_000_001, "5.0 MB, at most 5 MB", id="large-file"),
        ("packages/pvf/src/modicum/__init__.py", "", "must not have an __init__.py"),
        ("shared/core/tests/test_pvf_a.py", "", "is the name of 2 test files"),
        ("packages/pvf/CHANGELOG.md", "## 0.1.1\n", "no section for version 0.1.0"),
        ("packages/pvf/LICENSE", "another", "is not the LICENSE of the repository"),
        ("packages/pvf/README.md", "```bash\nmake tests\n```\n", "runs `make tests`"),
        ("packages/pvf/README.md", "[x](missing.md)", "links to missing.md"),
        ("packages/pvf/README.md", "modicum-pvg", "names modicum-pvg"),
        ("packages/pvf/README.md", "modicum-core[torch]", "extra modicum-core[torch]"),
        ("packages/pvf/src/modicum/pvf/a.py", "# modicum-pvf[gpu]", "extra modicum-pvf[gpu]"),
    ],
)
def test_planted_fault_is_found(repository, path, text, message):
    write(repository, path, text)
    found = problems(repository)
    assert len(found) == 1
    assert message in found[0]
