"""Check what every tracked or new file of the repository must keep to.

Looks at the files as git would store them: no file names the host of a package registry, none is
larger than 5 MB, the namespace ``modicum`` has no ``__init__.py``, every test file has a name of
its own, every changelog has a section for its version, every package carries the licence, and the
READMEs and sources mention only targets, extras and files that exist. Prints one line per problem.
Changes nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import portable_lock

ROOT = Path(__file__).resolve().parents[1]
MAX_BYTES = 5_000_000
# Names and endings stand apart so that this file keeps to its own rule.
REGISTRIES = ("pypi", "pythonhosted", "npmjs", "debian")
ENDINGS = ("org", "net", "com")
_HOST = re.compile(
    rf"\b(?:[a-z0-9-]+\.)*(?:{'|'.join(REGISTRIES)})\.(?:{'|'.join(ENDINGS)})\b".encode(),
    re.IGNORECASE,
)
_FENCE = re.compile(r"^```(?:bash|sh|console|shell)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
_REQUIREMENT = re.compile(r"\bmodicum-([a-z]+)(?:\[([a-z, -]+)\])?")


def files(root: Path) -> list[Path]:
    """List the files that git tracks or would offer to add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
    ).stdout.decode()
    return [root / name for name in listed.split("\0") if name and (root / name).is_file()]


def stored(path: Path) -> bytes:
    """Read a file the way git stores it: the lock passes its filter."""
    content = path.read_bytes()
    if path.name == "uv.lock":
        return portable_lock.clean(content.decode()).encode()
    return content


def registry_hosts(root: Path) -> Iterator[str]:
    """Find the lines that name the host of a package registry."""
    for path in files(root):
        for number, line in enumerate(stored(path).split(b"\n"), start=1):
            if _HOST.search(line):
                yield f"{path.relative_to(root)}:{number}: names the host of a package registry"


def large_files(root: Path) -> Iterator[str]:
    """Find the files that are too large for the repository."""
    for path in files(root):
        if (size := path.stat().st_size) > MAX_BYTES:
            yield f"{path.relative_to(root)}: {size / 1e6:.1f} MB, at most {MAX_BYTES / 1e6:.0f} MB"


def namespace_files(root: Path) -> Iterator[str]:
    """Find an ``__init__.py`` that would hide the other distributions of the namespace."""
    for path in files(root):
        if path.match("src/modicum/__init__.py"):
            yield f"{path.relative_to(root)}: the namespace must not have an __init__.py"


def test_names(root: Path) -> Iterator[str]:
    """Find test files that share a name, which makes reports ambiguous."""
    named = defaultdict(list)
    for path in files(root):
        if path.match("tests/**/test_*.py") or path.match("tests/test_*.py"):
            named[path.name].append(str(path.relative_to(root)))
    for name, paths in named.items():
        if len(paths) > 1:
            yield f"{name}: is the name of {len(paths)} test files: {', '.join(paths)}"


def projects(root: Path) -> dict[str, Path]:
    """Map the short name of each distribution to its folder."""
    found = {
        path.parent.name: path.parent for path in sorted(root.glob("packages/*/pyproject.toml"))
    }
    if (root / "shared/core/pyproject.toml").exists():
        found["core"] = root / "shared/core"
    return found


def changelogs(root: Path) -> Iterator[str]:
    """Find changelogs that have no section for the version of their package."""
    for name, folder in projects(root).items():
        version = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["version"]
        path = folder / "CHANGELOG.md"
        if not path.exists():
            yield f"{name}: has no CHANGELOG.md"
        elif not re.search(rf"^## {re.escape(version)}\b", path.read_text(), re.MULTILINE):
            yield f"{path.relative_to(root)}: has no section for version {version}"


def licenses(root: Path) -> Iterator[str]:
    """Find packages whose archives would lack the licence or carry another one."""
    for folder in projects(root).values():
        path = folder / "LICENSE"
        if not path.exists() or path.read_bytes() != (root / "LICENSE").read_bytes():
            yield f"{path.relative_to(root)}: is not the LICENSE of the repository"


def readmes(root: Path) -> Iterator[str]:
    """Find commands, links and extras in READMEs and messages that do not exist."""
    makefile = (root / "Makefile").read_text() if (root / "Makefile").exists() else ""
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    folders = projects(root)
    extras = {
        name: set(
            tomllib.loads((folder / "pyproject.toml").read_text())["project"].get(
                "optional-dependencies", {}
            )
        )
        for name, folder in folders.items()
    }
    for path in files(root):
        where = path.relative_to(root)
        is_readme = path.name == "README.md"
        if not is_readme and not (path.suffix == ".py" and "src" in where.parts):
            continue
        text = path.read_text(encoding="utf-8")
        for name, listed in _REQUIREMENT.findall(text):
            if name == "workspace":
                continue
            if name not in folders:
                yield f"{where}: names modicum-{name}, which is no package"
                continue
            for extra in filter(None, re.split(r"[,\s]+", listed)):
                if extra not in extras[name]:
                    yield f"{where}: names the extra modicum-{name}[{extra}], which does not exist"
        if not is_readme:
            continue
        for link in _LINK.findall(text):
            if not (path.parent / link).exists():
                yield f"{where}: links to {link}, which does not exist"
        for block in _FENCE.findall(text):
            for target in re.findall(r"^\s*(?:\$ )?make ([a-z][a-z-]*)", block, re.MULTILINE):
                if target not in targets:
                    yield f"{where}: runs `make {target}`, which the Makefile does not have"


CHECKS = (
    registry_hosts,
    large_files,
    namespace_files,
    test_names,
    changelogs,
    licenses,
    readmes,
)


def main() -> int:
    """Run every check on the repository named on the command line; returns the exit status."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    problems = [problem for check in CHECKS for problem in check(root)]
    print("\n".join(problems) if problems else "tree: in order")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
