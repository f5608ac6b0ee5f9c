"""Check which module imports which against the floor plan of the packages.

Takes the root of a workspace, reads the import graph of the namespace ``modicum`` over all its
source folders with grimp (imports inside functions count, imports for type checkers only do not)
and prints every import that the floor plan does not have. Nothing is imported from the packages
themselves.

The rules:

* a method package imports ``modicum.core`` and never another method package; core imports no method
  package;
* inside a package ``cli`` may use ``experiments`` and ``integrations``, both of those may use the
  method's modules, and there is no other import between these rooms;
* a third-party package that is not a hard dependency of its distribution is imported in
  ``integrations`` (in core: ``adapters``) only. ``OPTIONAL`` lists the exceptions.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
NAMESPACE = "modicum"
CORE = "core"

# Room -> the rooms it may import; "method" is every module that is in none of the others.
ROOMS = {
    "cli": {"cli", "experiments", "integrations", "method"},
    "experiments": {"experiments", "method"},
    "integrations": {"integrations", "method"},
    "method": {"method"},
}
# Core calls the room of engines "adapters" where a sub-package has one of its own.
ROOM_OF_NAME = {
    "cli": "cli",
    "experiments": "experiments",
    "integrations": "integrations",
    "adapters": "integrations",
}
# Optional third-party packages and the modules that may import them outside `integrations`, as
# patterns. Arrays may live on a device everywhere; drawing belongs to plots and pages; an anchor is
# a language model; the command that looks at an installation reads requirements.
OPTIONAL = {
    "torch": r".*",
    "safetensors": r".*",
    "triton": r"modicum\.(\w+|zeroth\.torch)\.kernels(\..*)?",
    "matplotlib": r"modicum\.\w+\.plots(\..*)?|modicum\.core\.(report|experiment)(\..*)?",
    "transformers": r"modicum\.core\.watermark\.causal_lm",
    "packaging": r"modicum\.core\.cli",
    # Environments are the engine's own form of a process, in a room of their own.
    "gymnasium": r"modicum\.repcomplexity\.envs(\..*)?",
    # A problem whose data come with the library, and an experiment about its trees.
    "sklearn": r"modicum\.zeroth\.problems\.logistic|modicum\.repcomplexity\.experiments\.trees",
}
# A method's configuration may hand out its form for an engine, which it imports when asked.
DOORS = {
    ("modicum.ewatermark.config", "modicum.ewatermark.integrations.transformers"),
    ("modicum.umpwatermark.config", "modicum.umpwatermark.integrations.transformers"),
    # One place names all backends and one all adapters; each loads its engine when it is asked for.
    ("modicum.testtime", "modicum.testtime.adapters"),
    ("modicum.testtime.backends", "modicum.testtime.integrations.openai"),
    ("modicum.testtime.backends", "modicum.testtime.integrations.transformers"),
    ("modicum.testtime.backends", "modicum.testtime.integrations.vllm"),
    ("modicum.testtime.equality", "modicum.testtime.integrations.math_verify"),
    ("modicum.testtime.extract", "modicum.testtime.integrations.math_verify"),
    ("modicum.testtime.results", "modicum.testtime.integrations.datasets"),
    ("modicum.testtime.verifiers", "modicum.testtime.integrations.reward_model"),
    ("modicum.daved.features", "modicum.daved.integrations.transformers"),
    ("modicum.daved.selection", "modicum.daved.integrations.tables"),
    ("modicum.daved.solvers.exact", "modicum.daved.integrations.socp"),
    (
        "modicum.huper.experiments.architecture",
        "modicum.huper.integrations.finetuning",
    ),
    (
        "modicum.huper.experiments.architecture",
        "modicum.huper.integrations.transformers",
    ),
    ("modicum.huper.features", "modicum.huper.integrations.panphon"),
    ("modicum.huper.perceiver", "modicum.huper.integrations.flashlight"),
    ("modicum.huper.recognizer", "modicum.huper.integrations.transformers"),
    ("modicum.pvf.loading", "modicum.pvf.integrations.checkpoints"),
    ("modicum.repcomplexity.circuits.synthesis", "modicum.repcomplexity.integrations.sat"),
    ("modicum.repcomplexity.collection", "modicum.repcomplexity.integrations.gymnasium"),
    ("modicum.repcomplexity.data", "modicum.repcomplexity.integrations.minari"),
    (
        "modicum.repcomplexity.experiments._training",
        "modicum.repcomplexity.integrations.training",
    ),
    ("modicum.repcomplexity.experts", "modicum.repcomplexity.integrations.mujoco"),
    ("modicum.repcomplexity.experts", "modicum.repcomplexity.integrations.sb3"),
    ("modicum.repcomplexity.report", "modicum.repcomplexity.integrations.pandas"),
    ("modicum.zeroth.executors", "modicum.zeroth.integrations.dask"),
    ("modicum.zeroth.executors", "modicum.zeroth.integrations.joblib"),
    ("modicum.zeroth.executors", "modicum.zeroth.integrations.ray"),
}
IMPORT_NAME_OF = {"pillow": "PIL", "scikit-learn": "sklearn"}


def source_folders(root: Path) -> dict[str, Path]:
    """Map the name of each package (``pvf``, ``core``) to its source folder."""
    folders = {path.parent.name: path for path in sorted(root.glob("packages/*/src"))}
    if (core := root / "shared" / "core" / "src").is_dir():
        folders[CORE] = core
    return folders


def hard_dependencies(pyproject: Path) -> set[str]:
    """Give the import names of what a package always brings, our own distributions left out."""
    requirements = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    names = {
        re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower() for requirement in requirements
    }
    return {
        IMPORT_NAME_OF.get(name, name.replace("-", "_"))
        for name in names
        if not name.startswith(f"{NAMESPACE}-")
    }


def room_of(module: str) -> str:
    """Give the room of the floor plan in which a module stands."""
    for part in module.split(".")[2:]:
        if part in ROOM_OF_NAME:
            return ROOM_OF_NAME[part]
    return "method"


def package_of(module: str) -> str:
    """Give the package of a module: ``modicum.pvf.decoding`` belongs to ``pvf``."""
    return module.split(".")[1] if "." in module else ""


def violations(root: Path) -> list[str]:
    """List every import in a workspace that the floor plan does not have.

    Parameters
    ----------
    root
        The root of a workspace, with ``packages/*/src`` and ``shared/core/src``.

    Returns
    -------
    list of str
        One line per import: importer, line number, what is imported and the rule against it.
    """
    folders = source_folders(root)
    elsewhere = [entry for entry in sys.path if not (Path(entry) / NAMESPACE).is_dir()]
    saved = sys.path
    sys.path = [str(folder) for folder in folders.values()] + elsewhere
    try:
        graph = grimp.build_graph(
            NAMESPACE,
            include_external_packages=True,
            exclude_type_checking_imports=True,
            cache_dir=None,
        )
    finally:
        sys.path = saved
    pyprojects = {name: folder.parent / "pyproject.toml" for name, folder in folders.items()}
    core = hard_dependencies(pyprojects[CORE])
    allowed = {name: core | hard_dependencies(path) for name, path in pyprojects.items()}

    found = []
    for importer in sorted(m for m in graph.modules if m.startswith(f"{NAMESPACE}.")):
        for imported in sorted(graph.find_modules_directly_imported_by(importer)):
            reason = _judge(importer, imported, allowed[package_of(importer)])
            if reason:
                details = graph.get_import_details(importer=importer, imported=imported)
                line = min((detail["line_number"] for detail in details), default=0)
                found.append(f"{importer}:{line} imports {imported}: {reason}")
    return found


def _judge(importer: str, imported: str, allowed: set[str]) -> str | None:
    here, there = package_of(importer), package_of(imported)
    if imported == NAMESPACE:
        # grimp spells an import of a module that does not exist so; the type checker reports it.
        return None
    if imported.startswith(f"{NAMESPACE}."):
        if there not in {here, CORE}:
            return (
                "core knows no method package"
                if here == CORE
                else "method packages do not import each other"
            )
        outside = room_of(imported) not in ROOMS[room_of(importer)]
        if outside and (importer, imported) not in DOORS:
            return f"{room_of(importer)} may not import {room_of(imported)}"
        return None
    top = imported.split(".")[0]
    if top in sys.stdlib_module_names or top in allowed or room_of(importer) == "integrations":
        return None
    if top in OPTIONAL and re.fullmatch(OPTIONAL[top], importer):
        return None
    return f"{top} is no hard dependency of {NAMESPACE}-{here}; only integrations may import it"


def main() -> int:
    """Check the workspace named on the command line, else this one; returns the exit status."""
    found = violations(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
    print("\n".join(found) if found else "import rules: kept")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
