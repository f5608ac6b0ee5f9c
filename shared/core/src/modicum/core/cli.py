"""The `modicum` command: what is installed, whether it works, the demo, the report.

Takes the command line; finds the experiments and commands of installed packages through their
entry points and mounts each package's own application as ``modicum <name>``. It imports a package
only when that package's command is called, so that a broken one breaks nothing else. It holds no
method.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from modicum.core.experiment import Experiment, Plugin, ProgressSink, ProgressTask, Result

__all__ = ["COMMAND_GROUP", "app", "main", "method_main"]

COMMAND_GROUP = "modicum.commands"
_OWN_DISTRIBUTION = re.compile(r"modicum-[a-z0-9]+")
_DEBUG_VARIABLE = "MODICUM_DEBUG"


# Commands of installed packages -----------------------------------------------------------------


def _command_entries() -> dict[str, importlib.metadata.EntryPoint]:
    entries = importlib.metadata.entry_points(group=COMMAND_GROUP)
    return {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.name)}


# Newer releases of typer carry click within themselves and older ones depend on it, so nothing here
# imports click or names its classes.


def _as_command(application: Any) -> Any:
    """Turn a typer application into the command that it stands for."""
    if not isinstance(application, typer.Typer):
        raise TypeError(f"expected a typer.Typer, not {application!r}")
    return typer.main.get_command(application)


class _PackageCommand(TyperCommand):
    """Stands for a package's application until it is called; only then is the package imported."""

    def __init__(self, entry: importlib.metadata.EntryPoint) -> None:
        summary = entry.dist.metadata["Summary"] if entry.dist is not None else ""
        super().__init__(entry.name, help=summary, add_help_option=False)
        self._entry = entry

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: Any = None,
        **extra: Any,
    ) -> Any:
        """Make the context of the package's own application, so that it is what gets invoked."""
        try:
            command = _as_command(self._entry.load())
        except Exception as error:
            raise ImportError(f"{self._entry.value} cannot be loaded: {error}") from error
        return command.make_context(info_name, args, parent=parent, **extra)


class _Root(TyperGroup):
    """The commands of this module, then one for each installed package."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands without importing any package."""
        own = super().list_commands(ctx)
        return own + [name for name in _command_entries() if name not in own]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by name; a package's is a stand-in that imports it when called."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        entry = _command_entries().get(cmd_name)
        return None if entry is None else _PackageCommand(entry)


def method_main(application: typer.Typer, name: str, args: Sequence[str] | None = None) -> NoReturn:
    """Run an application as a script: the body of every package's ``main``.

    An ImportError (a missing engine), a ValueError (a bad input) and an OSError (a missing file)
    become one line on standard error and exit status 2, like a wrong option; their traceback is
    shown if the environment variable ``MODICUM_DEBUG`` is set to something other than ``0``. Any
    other exception shows its traceback and also ends with 2, so that a status of 1 is always a
    command's own answer.

    Parameters
    ----------
    application
        The same that the package registers under ``modicum.commands``.
    name
        The script's name, such as ``modicum-pvf``.
    args
        Arguments; None for those of the process.

    Raises
    ------
    SystemExit
        Always.
    """
    command = _as_command(application)
    try:
        command.main(
            args=None if args is None else list(args), prog_name=name, standalone_mode=True
        )
    except (ImportError, ValueError, OSError) as error:
        if os.environ.get(_DEBUG_VARIABLE, "0") not in ("", "0"):
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"{name}: {message}", file=sys.stderr)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(2)
    sys.exit(0)


app = typer.Typer(
    name="modicum",
    cls=_Root,
    help="Research methods that do more with less: list, check, see their claims measured.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> NoReturn:
    """Run the `modicum` command."""
    method_main(app, "modicum")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"modicum-core {importlib.metadata.version('modicum-core')}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    del version


# list ---------------------------------------------------------------------------------------------


def _console() -> Console:
    console = Console()
    # Without a terminal rich assumes 80 columns and breaks lines that a program may want to read.
    return console if console.is_terminal else Console(width=160)


def _distributions() -> dict[str, importlib.metadata.Distribution]:
    """Return the installed modicum packages and all others that register something with modicum."""
    from modicum.core.experiment import ENTRY_POINT_GROUP

    found: dict[str, importlib.metadata.Distribution] = {}
    for distribution in importlib.metadata.distributions():
        groups = {entry.group for entry in distribution.entry_points}
        name = distribution.name
        if name and (
            _OWN_DISTRIBUTION.fullmatch(name) or groups & {ENTRY_POINT_GROUP, COMMAND_GROUP}
        ):
            # The first on the path is the one that imports find.
            found.setdefault(name, distribution)
    found.pop("modicum-workspace", None)
    return dict(sorted(found.items()))


def _last_line(error: str) -> str:
    return next((line for line in reversed(error.splitlines()) if line.strip()), "unknown error")


@app.command("list")
def list_() -> None:
    """Show the installed packages with their versions, experiments and commands."""
    from modicum.core.experiment import discover

    plugins: dict[str, list[Plugin]] = {}
    for plugin in discover():
        plugins.setdefault(plugin.package, []).append(plugin)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("Package", "Version", "Experiments", "Command"):
        table.add_column(heading, overflow="fold")
    commands: dict[str, list[str]] = {}
    for entry in _command_entries().values():
        if entry.dist is not None:
            commands.setdefault(entry.dist.name, []).append(f"modicum {entry.name}")
    for name, distribution in _distributions().items():
        cell = Text()
        for plugin in plugins.get(name, []):
            if plugin.error is not None:
                cell.append(f"cannot be loaded: {_last_line(plugin.error)}", style="red")
            cell.append(", ".join(experiment.name for experiment in plugin.experiments))
        shown = ["modicum"] if name == "modicum-core" else commands.get(name, [])
        table.add_row(Text(name), Text(distribution.version), cell, Text(", ".join(shown)))
    _console().print(table)


# doctor -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Need:
    """A distribution that a package asks for, always or for an extra."""

    package: str
    requirement: str
    extra: str | None

    @property
    def name(self) -> str:
        found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.requirement)
        return re.sub(r"[-_.]+", "-", found[0]).lower() if found else self.requirement


def _needs(distribution: importlib.metadata.Distribution) -> list[_Need]:
    needs = []
    for line in distribution.requires or ():
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
        needs.append(_Need(distribution.name, requirement.strip(), extra[1] if extra else None))
    return needs


def _installed(name: str) -> str | None:
    """Return how `name` is there (its version, or the distribution that stands in), or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
    module = name.replace("-", "_")
    try:
        if importlib.util.find_spec(module) is None:
            return None
    except (ImportError, ValueError):
        return None
    # Another build of the same module, as a CPU build is.
    for distribution in importlib.metadata.packages_distributions().get(module, ()):
        return f"{importlib.metadata.version(distribution)} (as {distribution})"
    return "version unknown"


def _fits(requirement: str, version: str) -> bool:
    """Tell whether an installed version is one that is asked for, where that can be known."""
    try:
        from packaging.requirements import InvalidRequirement, Requirement
        from packaging.version import InvalidVersion
    except ImportError:
        return True
    try:
        return Requirement(requirement).specifier.contains(version.split(" ")[0], prereleases=True)
    except (InvalidRequirement, InvalidVersion):
        return True


def _torch_state() -> tuple[list[str], str | None]:
    """Return lines about torch and its GPU, and a problem if it is there but does not import."""
    if importlib.util.find_spec("torch") is None:
        return [
            'torch    missing; methods about networks need it: pip install "modicum-core[torch]"'
        ], None
    try:
        import torch
    except (ImportError, OSError) as error:
        return [], f"torch is installed but does not import: {_last_line(str(error))}"
    lines = [f"torch    {torch.__version__}, {torch.get_num_threads()} threads"]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            memory = properties.total_memory / 1e9
            lines.append(f"GPU      cuda:{index} {properties.name}, {memory:.0f} GB")
    else:
        lines.append("GPU      none that torch can use; everything runs on the CPU")
    return lines, None


def _plugin_problems() -> list[str]:
    from modicum.core.experiment import discover

    problems = [
        f"{plugin.package}: its experiments cannot be loaded: {_last_line(plugin.error)}"
        for plugin in discover()
        if plugin.error is not None
    ]
    for entry in _command_entries().values():
        package = entry.dist.name if entry.dist is not None else entry.name
        try:
            _as_command(entry.load())
        except (Exception, SystemExit) as error:
            last = _last_line("".join(traceback.format_exception_only(error)))
            problems.append(f"{package}: its command cannot be loaded: {last}")
    return problems


def _optional_table(optional: dict[str, list[_Need]]) -> Table:
    """Show each optional library once: whether it is there, and who uses it or how to get it."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("Optional", "Installed", "For"):
        table.add_column(heading, overflow="fold")
    for name, needs in sorted(optional.items()):
        state = _installed(name)
        unmet = [need for need in needs if state is None or not _fits(need.requirement, state)]
        met = sorted({f"{need.package}[{need.extra}]" for need in needs if need not in unmet})
        if met:
            table.add_row(Text(name), Text(str(state), style="green"), Text(", ".join(met)))
        for need in unmet:
            shown = "missing" if state is None else f"{state}, not {need.requirement}"
            hint = f'pip install "{need.package}[{need.extra}]"'
            table.add_row(Text(name), Text(shown, style="yellow"), Text(hint))
    return table


@app.command()
def doctor() -> None:
    """Check the installation: Python, torch, GPU, engines, packages that do not import.

    Exits with 1 if something that is needed is missing or broken; a missing optional engine is not.
    """
    console = _console()

    def say(line: str, style: str = "") -> None:
        console.print(Text(line, style=style), soft_wrap=True)

    say(f"Python   {platform.python_version()} on {platform.system()} {platform.machine()}")
    lines, problem = _torch_state()
    for line in lines:
        say(line)
    problems = [] if problem is None else [problem]

    distributions = _distributions()
    optional: dict[str, list[_Need]] = {}
    for distribution in distributions.values():
        for need in _needs(distribution):
            if need.name in distributions:
                continue
            if need.extra is not None:
                optional.setdefault(need.name, []).append(need)
                continue
            state = _installed(need.name)
            if state is None:
                problems.append(f"{need.package} needs {need.requirement}, which is not installed")
            elif not _fits(need.requirement, state):
                problems.append(
                    f"{need.package} needs {need.requirement}, but {state} is installed"
                )
    if optional:
        console.print()
        console.print(_optional_table(optional))
    problems += _plugin_problems()
    console.print()
    for problem in problems:
        say(f"problem: {problem}", "red")
    if problems:
        raise typer.Exit(1)
    say("no problems found", "green")


# demo and report ----------------------------------------------------------------------------------


def _selected(methods: Sequence[str]) -> tuple[list[Experiment], list[Result]]:
    """Return the experiments that `methods` ask for, and a failed result for each broken plug-in.

    A method alone means its demo experiments; ``METHOD/EXPERIMENT`` means that one.
    """
    from modicum.core.experiment import ENTRY_POINT_GROUP, discover

    installed = sorted({e.name for e in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)})
    wanted = [method.removeprefix("modicum-").partition("/") for method in methods]
    for (method, _, _), given in zip(wanted, methods, strict=True):
        if method not in installed:
            raise ValueError(
                f"no installed method is called {given!r};"
                f" installed: {', '.join(installed) or 'none with experiments'}"
            )
    plugins = discover([method for method, _, _ in wanted] if methods else None)
    experiments: list[Experiment] = []
    for plugin in plugins:
        if not methods:
            experiments += [experiment for experiment in plugin.experiments if experiment.demo]
        for method, slash, name in wanted:
            if method != plugin.name or plugin.error is not None:
                continue
            chosen = [
                experiment
                for experiment in plugin.experiments
                if (experiment.name == name if slash else experiment.demo)
            ]
            if slash and not chosen:
                names = ", ".join(experiment.name for experiment in plugin.experiments)
                raise ValueError(f"{method} has no experiment {name!r}; it has: {names}")
            experiments += [experiment for experiment in chosen if experiment not in experiments]
    return experiments, [plugin.failure() for plugin in plugins if plugin.error is not None]


def _summary(result: Result, kept: bool) -> Text:
    """Say in one line how an experiment went."""
    from modicum.core.report import format_duration

    name = f"{result.method}/{result.experiment}"
    if result.status == "failed":
        return Text(f"failed   {name}: {_last_line(result.error or '')}", style="red")
    holds = [claim.holds for claim in result.claims]
    parts = [f"{holds.count(True)} of {len(holds)} claims hold"] if holds else []
    if None in holds:
        parts.append(f"{holds.count(None)} not decided")
    parts.append("kept from an earlier run" if kept else format_duration(result.seconds))
    return Text(f"{'kept' if kept else 'ok':8} {name}: {', '.join(parts)}")


class _Lines:
    """Progress for a log: one line per finished experiment."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def started(self, experiment: Experiment) -> None:
        del experiment

    def task(self, total: float | None, description: str) -> ProgressTask:
        del total, description
        return _Silent()

    def finished(self, result: Result, kept: bool) -> None:
        self._console.print(_summary(result, kept), soft_wrap=True)


class _Silent:
    def advance(self, n: float = 1) -> None:
        del n


class _Bars(_Lines):
    """Progress for a terminal: a bar for the whole, one for each task of what is running."""

    def __init__(self, progress: Progress, total: int) -> None:
        super().__init__(progress.console)
        self._progress = progress
        self._whole = progress.add_task("experiments", total=total)
        self._tasks: list[TaskID] = []

    def started(self, experiment: Experiment) -> None:
        self._progress.update(self._whole, description=_plain(experiment.title))

    def task(self, total: float | None, description: str) -> ProgressTask:
        task = self._progress.add_task(f"  {_plain(description)}", total=total)
        self._tasks.append(task)
        return _Bar(self._progress, task)

    def finished(self, result: Result, kept: bool) -> None:
        for task in self._tasks:
            self._progress.remove_task(task)
        self._tasks.clear()
        super().finished(result, kept)
        self._progress.advance(self._whole)


class _Bar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, n: float = 1) -> None:
        self._progress.advance(self._task, n)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


@contextmanager
def _progress_sink(console: Console, total: int) -> Iterator[ProgressSink]:
    if not console.is_terminal:
        yield _Lines(console)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bars(progress, total)


@app.command()
def demo(
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHOD",
            help="Methods to run, or single experiments as METHOD/EXPERIMENT; all without any.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick/--full", help="Minutes on two CPU cores, or the whole thing.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder of the results and the page.")] = Path("report"),
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume", help="Keep what an earlier run with the same settings measured."
        ),
    ] = True,
) -> None:
    """Measure the claims of the installed methods and write OUT/index.html.

    Exits with 1 if an experiment failed; a claim that does not hold is a result, not a failure.
    """
    from modicum.core.device import resolve_device
    from modicum.core.experiment import load_results, run_experiments
    from modicum.core.report import write_report

    console = _console()
    experiments, broken = _selected(methods or [])
    if not experiments and not broken:
        raise ValueError(
            "no installed package has an experiment to run; install a method, such as"
            " pip install modicum-ewatermark"
        )
    device = resolve_device(device)
    results: list[Result] = []
    out.mkdir(parents=True, exist_ok=True)
    try:
        with _progress_sink(console, len(experiments)) as sink:
            for result in broken:
                console.print(_summary(result, False), soft_wrap=True)
            results = run_experiments(
                experiments,
                out,
                quick=quick,
                seed=seed,
                device=device,
                progress=sink,
                resume=resume,
            )
    finally:
        # Also when interrupted: what was measured so far is worth a page.
        page = write_report([*load_results(out), *broken], out / "index.html", root=out)
        console.print(Text(f"report   {page}"), soft_wrap=True)
    if broken or any(result.status == "failed" for result in results):
        raise typer.Exit(1)


@app.command()
def report(
    results_dir: Annotated[
        Path, typer.Argument(metavar="RESULTS_DIR", help="A folder that `demo` wrote.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page; RESULTS_DIR/index.html by default.")
    ] = None,
) -> None:
    """Write the page of a folder of results again, without measuring anything."""
    from modicum.core.experiment import load_results
    from modicum.core.report import write_report

    results = load_results(results_dir)
    if not results:
        raise ValueError(f"{results_dir} holds no results; `modicum demo` writes some")
    page = write_report(
        results,
        results_dir / "index.html" if out is None else out,
        root=results_dir,
    )
    print(page)
