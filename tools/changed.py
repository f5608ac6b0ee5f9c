"""Say which packages a change touches, as a JSON list for a matrix of jobs.

Takes a git revision and compares the working tree with the point where both histories part. A
change outside ``packages/`` (core, tools, the root) touches every package.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from check_tree import projects

ROOT = Path(__file__).resolve().parents[1]


def touched(paths: Iterable[str], names: Iterable[str]) -> list[str]:
    """Give the packages that changed files belong to.

    Parameters
    ----------
    paths
        Changed files, relative to the root of the repository.
    names
        The short names of all packages.

    Returns
    -------
    list of str
        Sorted short names; ``tools`` is among them when every package is.
    """
    known = set(names)
    found = set()
    for path in paths:
        parts = path.split("/")
        if parts[0] != "packages" or len(parts) < 3 or parts[1] not in known:
            return sorted(known | {"tools"})
        found.add(parts[1])
    return sorted(found)


def main() -> int:
    """Print the packages touched since the named revision; returns the exit status."""
    base = sys.argv[1]
    paths = subprocess.run(
        ["git", "diff", "--name-only", "--merge-base", base],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    print(json.dumps(touched(paths, projects(ROOT))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
