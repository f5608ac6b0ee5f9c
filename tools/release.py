"""Release one package: version, changelog, API check, build, commit and tag. Nothing is pushed.

Takes the short name of a package and the part of its version to raise. Works on a clean working
tree, compares the public interface with the last tag of the package by griffe, and refuses a
breaking change that the version number does not announce. The section ``## Unreleased`` of the
changelog becomes the section of the version. When a step fails, the files are put back.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import griffe
import portable_lock
from check_tree import projects

ROOT = Path(__file__).resolve().parents[1]
BUMPS = ("patch", "minor", "major", "none")
UNRELEASED = "## Unreleased"


class Refusal(Exception):
    """The release must not happen; the message says why and what would make it possible."""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and give its output; raises Refusal with its error output when it fails."""
    environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise Refusal(f"`{' '.join(words)}` failed:\n{(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def last_tag(name: str, root: Path) -> str | None:
    """Give the tag of the newest release of a package, or None before its first."""
    pattern = f"modicum-{name}-v*"
    tags = run("git", "tag", "--list", pattern, "--sort=-version:refname", cwd=root).splitlines()
    return tags[0] if tags else None


def breaking_changes(name: str, tag: str, root: Path) -> list[str]:
    """List what a user of the tagged version would find gone or changed.

    Parameters
    ----------
    name
        The short name of the package.
    tag
        The release to compare with.
    root
        The repository.

    Returns
    -------
    list of str
        One line per breaking change of the public interface.
    """
    source = projects(root)[name].relative_to(root) / "src"
    module = f"modicum.{name}"
    old = griffe.load_git(module, ref=tag, repo=root, search_paths=[source], resolve_aliases=True)
    new = griffe.load(module, search_paths=[root / source], resolve_aliases=True)
    return [
        breakage.explain(griffe.ExplanationStyle.ONE_LINE)
        for breakage in griffe.find_breaking_changes(old, new)
    ]


def announces_breakage(version: str, bump: str) -> bool:
    """Say whether raising this part of a version tells users that something may break."""
    return bump == "major" or (bump == "minor" and version.startswith("0."))


def rolled_changelog(text: str, version: str, day: str) -> str:
    """Turn the unreleased section of a changelog into the section of a version.

    Raises
    ------
    Refusal
        There is neither an unreleased section with an entry nor a section for the version already.
    """
    if re.search(rf"^## {re.escape(version)}\b", text, re.MULTILINE):
        return text
    section = re.search(rf"^{UNRELEASED}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if section is None or not re.search(r"^- ", section[1], re.MULTILINE):
        raise Refusal(f'CHANGELOG.md has no section "{UNRELEASED}" with at least one "- " entry')
    return text.replace(UNRELEASED, f"## {version} ({day})", 1)


def release(name: str, bump: str, *, root: Path, dry_run: bool) -> str:
    """Release a package and give its tag.

    Parameters
    ----------
    name
        The short name of the package.
    bump
        The part of the version to raise; ``none`` releases the version that stands in
        pyproject.toml.
    root
        The repository.
    dry_run
        Check everything and change nothing.

    Returns
    -------
    str
        The name of the tag, made or (in a dry run) to be made.

    Raises
    ------
    Refusal
        The tree is not clean, the tag exists, the changelog is empty, the interface breaks without
        the version saying so, or a command failed.
    """
    uv = portable_lock.find_uv()
    if uv is None:
        raise Refusal("uv was not found; `make setup` gets it")
    if changed := run("git", "status", "--porcelain", cwd=root):
        raise Refusal(f"the working tree is not clean:\n{changed}")
    distribution = f"modicum-{name}"
    folder = projects(root)[name]
    pyproject, changelog = folder / "pyproject.toml", folder / "CHANGELOG.md"
    old = tomllib.loads(pyproject.read_text())["project"]["version"]
    bumping = (uv, "version", "--package", distribution, "--bump", bump, "--short")
    new = old if bump == "none" else run(*bumping, "--dry-run", cwd=root)
    tag = f"{distribution}-v{new}"
    if run("git", "tag", "--list", tag, cwd=root):
        raise Refusal(f"the tag {tag} exists; raise the version: BUMP=patch|minor|major")
    text = rolled_changelog(changelog.read_text(), new, datetime.date.today().isoformat())
    if previous := last_tag(name, root):
        broken = breaking_changes(name, previous, root)
        if broken and not announces_breakage(old, bump):
            raise Refusal(
                f"the interface breaks since {previous}, which BUMP={bump} does not announce:\n"
                + "\n".join(broken)
            )
    if dry_run:
        return tag
    try:
        changelog.write_text(text)
        if bump != "none":
            run(*bumping, "--no-sync", cwd=root)
        run(uv, "build", "--package", distribution, "--out-dir", root / "dist", cwd=root)
        files = [pyproject, changelog, root / "uv.lock"]
        run("git", "add", *files, cwd=root)
        if run("git", "status", "--porcelain", cwd=root):
            run("git", "commit", "--quiet", "--message", f"Release {distribution} {new}", cwd=root)
        run("git", "tag", "--annotate", tag, "--message", f"{distribution} {new}", cwd=root)
    except Refusal:
        run("git", "reset", "--quiet", cwd=root)
        run("git", "checkout", "--quiet", "--", pyproject, changelog, "uv.lock", cwd=root)
        raise
    return tag


def main() -> int:
    """Release the package named on the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package", choices=sorted(projects(ROOT)))
    parser.add_argument("bump", choices=BUMPS)
    parser.add_argument("--dry-run", action="store_true", help="check everything, change nothing")
    arguments = parser.parse_args()
    try:
        tag = release(arguments.package, arguments.bump, root=ROOT, dry_run=arguments.dry_run)
    except Refusal as refusal:
        print(f"release: {refusal}", file=sys.stderr)
        return 1
    if arguments.dry_run:
        print(f"would make {tag}")
    else:
        print(f"made {tag}; publish it by `git push origin HEAD {tag}`")
    return 0


if __name__ == "__main__":
    sys.exit(main())
