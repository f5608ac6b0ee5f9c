"""Keep uv.lock in git without the host of any package index.

A git filter with two directions, both from standard input to standard output:

* ``clean`` (on the way into git) replaces the address of the index by the word ``index`` and the
  address of every file by the file's name. What an address loses besides its host stays on the same
  line as a TOML comment. ``[package.metadata]`` blocks become comments too: uv then takes the lock
  for outdated, resolves again and prefers the locked versions, so that ``uv sync`` works on a clone
  that has no filter.
* ``smudge`` (on the way out of git) undoes that byte for byte. It learns the addresses from the
  installed uv by locking one tiny project. Without uv or without a network the text passes as it
  is, with a warning.

``install`` configures the filter in this clone and restores the lock in the working tree. Text that
is already in the wanted form passes unchanged. The file uses the standard library only and knows
nothing about the packages in the lock.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]
FILTER = "portable-lock"
NOTICE = "# The hosts of the package index are taken off this file; `make setup` puts them back.\n"
HIDDEN = "#: "
PROBE_PACKAGE = "iniconfig"
PROBE_TIMEOUT_S = 60

# An index that keeps the usual layout stores a file under a directory named by its digest.
# Everything before that directory differs from mirror to mirror and is learned; a file stored
# elsewhere keeps its whole path.
_ADDRESS = re.compile(
    r"(?P<prefix>https?://\S*?/)(?P<path>[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{60})/(?P<file>[^/\s]+)"
)
_PLAIN_ADDRESS = re.compile(r"(?P<host>https?://[^/\s]+)(?P<path>/\S*?)/(?P<file>[^/\s]+)")
_REGISTRY = re.compile(r'\bregistry = "(?P<registry>https?://[^"]+)"')
_URL = re.compile(r'\burl = "(?P<url>https?://[^"]+)"')
_FILENAME_LINE = re.compile(
    r'^(?P<head>.*\{ )filename = "(?P<name>[^"]+)"(?P<tail>.*?)'
    r" # (?P<path>\S+?)(?: (?P<quoted>\S+))?$"
)


class Addresses(NamedTuple):
    """Where an index lives: its address, the prefix of digest paths, and the host of its files."""

    registry: str
    prefix: str
    host: str


def addresses_in(lock: str) -> Addresses | None:
    """Read the addresses of the index that a lock names, or None when it names none.

    Raises
    ------
    ValueError
        The lock names more than one index: a single neutral word could not be undone.
    """
    registries = set(_REGISTRY.findall(lock))
    if not registries:
        return None
    if len(registries) > 1:
        raise ValueError(f"the lock names {len(registries)} package indexes, expected exactly one")
    prefix = host = ""
    for url in _URL.findall(lock):
        if not prefix and (match := _ADDRESS.fullmatch(url)):
            prefix = match["prefix"]
        if not host and (plain := _PLAIN_ADDRESS.fullmatch(url)):
            host = plain["host"]
    return Addresses(registries.pop(), prefix, host)


def clean(lock: str) -> str:
    """Take the hosts off a lock.

    Parameters
    ----------
    lock
        The text of a uv.lock, with or without hosts.

    Returns
    -------
    str
        The text as git stores it; the argument itself when there is nothing to take off.

    Raises
    ------
    ValueError
        The result could not be restored byte for byte, or the lock names several indexes.
    """
    addresses = addresses_in(lock)
    if addresses is None:
        return lock
    lines = [NOTICE]
    hidden = False
    for line in lock.splitlines(keepends=True):
        if line.startswith("["):
            hidden = line.startswith("[package.metadata")
        lines.append(HIDDEN + line if hidden and line.strip() else _clean_line(line))
    cleaned = "".join(lines)
    if smudge(cleaned, lambda: addresses) != lock:
        raise ValueError(
            "the lock cannot be restored byte for byte from its portable form: its files come from "
            "several hosts, or this version of uv writes a new form"
        )
    return cleaned


def _clean_line(line: str) -> str:
    line = _REGISTRY.sub('registry = "index"', line)
    match = _URL.search(line)
    if match is None:
        return line
    address = _ADDRESS.fullmatch(match["url"]) or _PLAIN_ADDRESS.fullmatch(match["url"])
    if address is None:
        return line
    name = unquote(address["file"])
    kept = address["path"] if name == address["file"] else f"{address['path']} {address['file']}"
    body = line[: match.start()] + f'filename = "{name}"' + line[match.end() :].rstrip("\n")
    return f"{body} # {kept}\n"


def smudge(lock: str, learn: Callable[[], Addresses | None]) -> str:
    """Put the hosts back into a lock.

    Parameters
    ----------
    lock
        The text of a uv.lock, with or without hosts.
    learn
        Gives the addresses of the index in use; called only when the lock lacks them.

    Returns
    -------
    str
        The exact lock; the argument itself when it is exact already or when nothing could be
        learned.
    """
    if not lock.startswith(NOTICE):
        return lock
    addresses = learn()
    if addresses is None:
        return lock
    body = lock[len(NOTICE) :].splitlines(keepends=True)
    return "".join(_smudge_line(line, addresses) for line in body)


def _smudge_line(line: str, addresses: Addresses) -> str:
    if line.startswith(HIDDEN):
        return line[len(HIDDEN) :]
    line = line.replace('registry = "index"', f'registry = "{addresses.registry}"')
    match = _FILENAME_LINE.match(line)
    if match is None:
        return line
    base = addresses.host if match["path"].startswith("/") else addresses.prefix
    url = f"{base}{match['path']}/{match['quoted'] or match['name']}"
    return f'{match["head"]}url = "{url}"{match["tail"]}\n'


def find_uv() -> str | None:
    """Find uv on PATH or in the private environment that the Makefile makes when PATH has none."""
    private = ROOT / ".uv-venv" / "bin" / "uv"
    return shutil.which("uv") or (str(private) if private.exists() else None)


def learn_addresses() -> Addresses | None:
    """Ask the installed uv which index it uses, by locking a project with one small dependency."""
    uv = find_uv()
    if uv is None:
        _warn("uv was not found")
        return None
    environment = {k: v for k, v in os.environ.items() if k not in {"UV_PROJECT", "UV_WORKING_DIR"}}
    with tempfile.TemporaryDirectory(prefix="portable-lock-") as folder:
        project = Path(folder)
        (project / "pyproject.toml").write_text(
            '[project]\nname = "probe"\nversion = "0"\nrequires-python = ">=3.11"\n'
            f'dependencies = ["{PROBE_PACKAGE}"]\n'
        )
        try:
            subprocess.run(
                [uv, "lock", "--quiet"],
                cwd=project,
                env=environment,
                check=True,
                capture_output=True,
                text=True,
                timeout=PROBE_TIMEOUT_S,
            )
        except subprocess.CalledProcessError as error:
            _warn(f"uv could not lock a project ({error.stderr.strip().splitlines()[-1:]})")
            return None
        except subprocess.TimeoutExpired:
            _warn(f"uv did not answer within {PROBE_TIMEOUT_S} s")
            return None
        addresses = addresses_in((project / "uv.lock").read_text(encoding="utf-8"))
    if addresses is None or not addresses.prefix:
        _warn("the index in use does not name its files by digest")
        return None
    return addresses


def _warn(reason: str) -> None:
    print(f"portable_lock: {reason}; uv.lock stays in its portable form", file=sys.stderr)


def install() -> None:
    """Restore the lock in the working tree, and configure the filter when this is a clone."""
    path = ROOT / "uv.lock"
    stored = path.read_bytes()
    exact = smudge(stored.decode(), learn_addresses).encode()
    is_clone = (ROOT / ".git").exists()
    unchanged = is_clone and _git("diff", "--quiet", "--", "uv.lock") == 0
    if exact != stored:
        path.write_bytes(exact)
    if not is_clone:
        return
    script = "tools/portable_lock.py"
    for key, value in {
        "clean": f'"{sys.executable}" {script} clean',
        "smudge": f'"{sys.executable}" {script} smudge',
        "required": "true",
    }.items():
        subprocess.run(["git", "config", f"filter.{FILTER}.{key}", value], cwd=ROOT, check=True)
    if exact != stored and unchanged:
        # The size differs and the content in git's eyes does not: adding it again tells git so.
        _git("add", "uv.lock")


def _git(*arguments: str) -> int:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True).returncode


def main(arguments: list[str] | None = None) -> int:
    """Run the filter named on the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["clean", "smudge", "install"])
    command = parser.parse_args(arguments).command
    if command == "install":
        install()
        return 0
    text = sys.stdin.buffer.read().decode()
    try:
        result = clean(text) if command == "clean" else smudge(text, learn_addresses)
    except ValueError as error:
        print(f"portable_lock: {error}", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(result.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
