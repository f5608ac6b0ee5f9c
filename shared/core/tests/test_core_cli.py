import importlib.metadata
import os
import re
import subprocess
import sys
import warnings

import pytest
from rich.console import Console

from modicum.core.experiment import load_results

with warnings.catch_warnings():
    # Releases of typer that depend on click import names from it that click has deprecated.
    warnings.filterwarnings("ignore", "'click", DeprecationWarning)
    import typer

    import modicum.core.cli as cli

FINE = """
import typer
from modicum.core.experiment import Claim, Experiment

def measure(context):
    task = context.progress(3, "counting [red]")
    for _ in range(3):
        task.advance()
    holds = Claim("one", "One is one", 1.0, 1.0, None, True)
    return context.result(claims=[holds, Claim("two", "Open", None, 2.0)])

def crash(context):
    raise RuntimeError("engine <died> [red]")

EXPERIMENTS = [
    Experiment("measure", "zz-fine", "Measure [bold]", "s", measure),
    Experiment("long", "zz-fine", "Long", "s", measure, demo=False),
]
CRASHING = [Experiment("crash", "zz-crash", "Crash", "s", crash)]

app = typer.Typer()

@app.command()
def hello(name: str = "world"):
    "Say hello."
    print(f"hello {name}")

@app.command()
def bad(kind: str):
    "Fail."
    if kind == "value":
        raise ValueError("the level must be\\n between 0 and 1, not 2")
    if kind == "import":
        raise ImportError('needs vllm: pip install "zz-fine[vllm]"')
    if kind == "file":
        open("/no/such/file")
    raise RuntimeError("a bug")
"""
REQUIREMENTS = """Requires-Dist: numpy>=1
Requires-Dist: zz-nowhere>=2 ; extra == "engine"
Requires-Dist: typer>=999 ; extra == "future"
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put distributions on the path, and hide every other plug-in from the command."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    put_here, modules = set(), []
    everything = importlib.metadata.entry_points

    def only_these(**selection):
        found = everything(**selection)
        return importlib.metadata.EntryPoints(
            entry for entry in found if entry.dist is not None and entry.dist.name in put_here
        )

    monkeypatch.setattr(importlib.metadata, "entry_points", only_these)

    def put(name, module, source, entry_points, metadata=""):
        modules.append(module)
        (site / f"{module}.py").write_text(source)
        info = site / f"{name.replace('-', '_')}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\nSummary: Sum of {name}\n{metadata}"
        )
        (info / "entry_points.txt").write_text(entry_points)
        (info / "top_level.txt").write_text(module)
        put_here.add(name)

    yield put
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def fine(install):
    entry_points = "[modicum.experiments]\nzzfine = zz_fine:EXPERIMENTS\n"
    install(
        "zz-fine",
        "zz_fine",
        FINE,
        entry_points + "[modicum.commands]\nzzfine = zz_fine:app\n",
        REQUIREMENTS,
    )


@pytest.fixture
def crashing(install, fine):
    install("zz-crash", "zz_crash", FINE, "[modicum.experiments]\nzzcrash = zz_crash:CRASHING\n")


@pytest.fixture
def broken(install, fine):
    both = "[modicum.experiments]\nzzbroken = zz_broken:E\n"
    both += "[modicum.commands]\nzzbroken = zz_broken:app\n"
    install("zz-broken", "zz_broken", "import nothing_of_this_name", both)


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODICUM_DEBUG", raising=False)
    # What typer writes in a box must not depend on the width or colours of where the test runs.
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*args):
        with pytest.raises(SystemExit) as caught:
            cli.method_main(cli.app, "modicum", list(args))
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return call


# The command and its packages ---------------------------------------------------------------------


def test_version(run):
    assert run("--version") == (
        0,
        f"modicum-core {importlib.metadata.version('modicum-core')}\n",
        "",
    )


def test_help_shows_package_commands_without_importing_them(run, broken):
    code, out, _ = run("--help")
    assert code == 0
    assert re.search(r"zzfine\s+Sum of zz-fine", out)
    assert re.search(r"zzbroken\s+Sum of zz-broken", out)
    assert all(re.search(rf"\b{name}\b", out) for name in ("list", "doctor", "demo", "report"))
    assert "zz_fine" not in sys.modules


def test_a_package_command_is_the_package_application(run, fine):
    assert run("zzfine", "hello", "--name", "you") == (0, "hello you\n", "")
    code, out, _ = run("zzfine", "--help")
    assert code == 0
    assert "Say hello." in out
    assert "modicum zzfine" in out
    code, _, err = run("zzfine", "nothing")
    assert code == 2
    assert "nothing" in err


def test_the_same_application_runs_as_a_script(fine, capsys):
    from zz_fine import app

    with pytest.raises(SystemExit) as caught:
        cli.method_main(app, "modicum-zzfine", ["hello"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == "hello world\n"
    with pytest.raises(SystemExit) as caught:
        cli.method_main(app, "modicum-zzfine", ["bad", "value"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("modicum-zzfine: the level must be between 0 and 1")


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("value", "modicum: the level must be between 0 and 1, not 2\n"),
        ("import", 'modicum: needs vllm: pip install "zz-fine[vllm]"\n'),
        ("file", "modicum: [Errno 2] No such file or directory: '/no/such/file'\n"),
    ],
)
def test_what_the_caller_can_mend_is_one_line(run, fine, kind, line, monkeypatch):
    assert run("zzfine", "bad", kind) == (2, "", line)
    monkeypatch.setenv("MODICUM_DEBUG", "1")
    with pytest.raises((ValueError, ImportError, OSError)):
        cli.method_main(cli.app, "modicum", ["zzfine", "bad", kind])


def test_a_bug_shows_its_traceback_and_is_an_error_not_an_answer(fine, capsys):
    with pytest.raises(SystemExit) as end:
        cli.method_main(cli.app, "modicum", ["zzfine", "bad", "other"])
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and "RuntimeError: a bug" in err


def test_a_broken_package_breaks_only_its_own_command(run, broken):
    code, out, err = run("zzbroken", "anything")
    assert (code, out) == (2, "")
    assert (
        err == "modicum: zz_broken:app cannot be loaded: No module named 'nothing_of_this_name'\n"
    )
    assert run("zzfine", "hello")[0] == 0


def test_what_is_no_application_is_refused():
    with pytest.raises(TypeError, match=r"expected a typer\.Typer, not 3"):
        cli.method_main(3, "modicum-three")


def test_unknown_command(run, fine):
    code, _, err = run("nothing")
    assert code == 2
    assert "nothing" in err


# list and doctor ----------------------------------------------------------------------------------


def test_list(run, broken):
    code, out, _ = run("list")
    assert code == 0
    lines = {
        line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line.strip()
    }
    assert lines["zz-fine"] == "1.5 measure, long modicum zzfine"
    assert lines["zz-broken"] == (
        "1.5 cannot be loaded: ModuleNotFoundError: No module named 'nothing_of_this_name'"
        " modicum zzbroken"
    )
    version = importlib.metadata.version("modicum-core")
    assert lines["modicum-core"] == f"{version} modicum"


@pytest.fixture
def doctor(run, monkeypatch):
    """Doctor, over the distributions of the test alone."""
    installed = importlib.metadata.distributions

    def only_these():
        return [found for found in installed() if (found.name or "").startswith("zz-")]

    monkeypatch.setattr(importlib.metadata, "distributions", only_these)
    return lambda: run("doctor")


def test_doctor_of_a_good_installation(doctor, fine):
    code, out, _ = doctor()
    assert code == 0
    assert f"Python   {sys.version.split()[0]}" in out
    assert "no problems found" in out
    assert re.search(r'zz-nowhere\s+missing\s+pip install "zz-fine\[engine\]"', out)
    version = importlib.metadata.version("typer")
    assert re.search(rf'typer\s+{version}, not typer>=999\s+pip install "zz-fine\[future\]"', out)
    assert re.search(r"^torch ", out, re.M)


def test_doctor_names_what_is_broken(doctor, broken):
    code, out, _ = doctor()
    assert code == 1
    error = "ModuleNotFoundError: No module named 'nothing_of_this_name'"
    assert f"problem: zz-broken: its experiments cannot be loaded: {error}" in out
    assert f"problem: zz-broken: its command cannot be loaded: {error}" in out
    assert "no problems found" not in out


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        ("zz-missing-thing>=1", "zz-poor needs zz-missing-thing>=1, which is not installed"),
        ("numpy>=999", "zz-poor needs numpy>=999, but"),
    ],
)
def test_doctor_names_missing_hard_dependencies(doctor, install, requirement, words):
    install("zz-poor", "zz_poor", "E = []", "[modicum.experiments]\nzzpoor = zz_poor:E\n",
            f"Requires-Dist: {requirement}\n")  # fmt: skip
    code, out, _ = doctor()
    assert code == 1
    assert f"problem: {words}" in out


def test_doctor_sees_another_build_of_the_same_module(doctor, install):
    entry_points = "[modicum.experiments]\nzzfast = zz_fast:E\n"
    install("zz-fast-cpu", "zz_fast", "E = []", entry_points)
    install("zz-user", "zz_user", "E = []", "[modicum.experiments]\nzzuser = zz_user:E\n",
            'Requires-Dist: zz-fast==1.5 ; extra == "fast"\n')  # fmt: skip
    code, out, _ = doctor()
    assert code == 0
    assert re.search(r"zz-fast\s+1\.5 \(as zz-fast-cpu\)\s+zz-user\[fast\]", out)


def test_doctor_says_when_torch_does_not_import(doctor, fine, monkeypatch, tmp_path):
    (tmp_path / "site" / "torch.py").write_text("raise OSError('libcuda.so: cannot open')")
    saved = {name: sys.modules.pop(name) for name in list(sys.modules) if name == "torch"}
    try:
        code, out, _ = doctor()
    finally:
        sys.modules.update(saved)
    assert code == 1
    assert "torch is installed but does not import: libcuda.so: cannot open" in out


# demo and report ----------------------------------------------------------------------------------


def test_demo_measures_and_writes_the_page(run, fine, tmp_path):
    code, out, err = run("demo", "--device", "cpu", "--seed", "7")
    assert (code, err) == (0, "")
    # Not a terminal: a line for each experiment and no bars.
    first, last = out.splitlines()
    words = r"ok       zz-fine/measure: 1 of 2 claims hold, 1 not decided, 0(\.\d+)? s"
    assert re.fullmatch(words, first)
    assert last == f"report   {os.path.join('report', 'index.html')}"
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Measure [bold]" in page
    result = load_results(tmp_path / "report")[0]
    assert (result.seed, result.quick, result.device) == (7, True, "cpu")


def test_demo_resumes_unless_told_not_to(run, fine):
    assert "ok " in run("demo", "--device", "cpu")[1]
    kept = run("demo", "--device", "cpu")[1]
    assert kept.startswith("kept ")
    assert "kept from an earlier run" in kept
    assert run("demo", "--device", "cpu", "--seed", "1")[1].startswith("ok ")
    assert run("demo", "--device", "cpu", "--seed", "1", "--full")[1].startswith("ok ")
    assert run("demo", "--device", "cpu", "--seed", "1", "--full", "--no-resume")[1].startswith(
        "ok "
    )


def test_demo_of_one_that_crashes_goes_on_and_exits_with_1(run, crashing, tmp_path):
    code, out, _ = run("demo", "--device", "cpu", "--out", "there")
    assert code == 1
    lines = out.splitlines()
    assert "failed   zz-crash/crash: RuntimeError: engine <died> [red]" in lines
    assert any(line.startswith("ok       zz-fine/measure") for line in lines)
    page = (tmp_path / "there" / "index.html").read_text()
    assert "RuntimeError: engine &lt;died&gt; [red]" in page
    assert "Measure [bold]" in page


def test_demo_shows_a_package_that_cannot_be_loaded(run, broken, tmp_path):
    code, out, _ = run("demo", "--device", "cpu")
    assert code == 1
    error = "ModuleNotFoundError: No module named &#x27;nothing_of_this_name&#x27;"
    assert error in (tmp_path / "report" / "index.html").read_text()
    assert "failed   zz-broken/import: ModuleNotFoundError" in out
    assert "ok       zz-fine/measure" in out


def test_demo_runs_what_is_asked_for(run, broken):
    code, out, _ = run("demo", "zzfine", "--device", "cpu")
    assert (code, len(out.splitlines())) == (0, 2)
    code, out, _ = run("demo", "zzfine/long", "zzfine", "zzfine/long", "--device", "cpu")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()[:2]] == [
        "zz-fine/long:",
        "zz-fine/measure:",
    ]
    assert len(out.splitlines()) == 3


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("nothing", "no installed method is called 'nothing'; installed: zzbroken, zzfine"),
        ("zzfine/nothing", "zzfine has no experiment 'nothing'; it has: measure, long"),
    ],
)
def test_demo_of_what_does_not_exist(run, broken, method, words):
    assert run("demo", method) == (2, "", f"modicum: {words}\n")


def test_demo_with_nothing_installed(run, install):
    code, _, err = run("demo")
    assert code == 2
    assert err.startswith("modicum: no installed package has an experiment to run")


def test_demo_interrupted_keeps_and_shows_what_it_has(run, install, tmp_path):
    source = FINE + "\ndef stop(context):\n    raise KeyboardInterrupt\n"
    source += 'EXPERIMENTS.append(Experiment("stop", "zz-fine", "Stop", "s", stop))\n'
    install("zz-fine", "zz_fine", source, "[modicum.experiments]\nzzfine = zz_fine:EXPERIMENTS\n")
    code, _, _ = run("demo", "--device", "cpu")
    assert code == 130
    assert "Measure [bold]" in (tmp_path / "report" / "index.html").read_text()
    assert [result.experiment for result in load_results(tmp_path / "report")] == ["measure"]


def test_demo_on_a_terminal_has_bars(run, fine, monkeypatch):
    monkeypatch.setattr(cli, "_console", lambda: Console(force_terminal=True, width=100))
    code, out, _ = run("demo", "--device", "cpu")
    assert code == 0
    words = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out)
    # The title and the task with what looks like markup, as they are.
    assert "Measure [bold]" in words
    assert "━" in words
    assert "ok       zz-fine/measure: 1 of 2 claims hold" in words


def test_report_writes_the_page_again(run, fine, tmp_path):
    run("demo", "--device", "cpu")
    page = tmp_path / "report" / "index.html"
    before = page.read_bytes()
    page.unlink()
    assert run("report", "report") == (0, f"{os.path.join('report', 'index.html')}\n", "")
    assert page.read_bytes() == before
    assert run("report", "report", "--out", "other.html") == (0, "other.html\n", "")
    assert (tmp_path / "other.html").read_bytes() == before


def test_report_of_nothing(run, tmp_path):
    assert run("report", "nowhere") == (2, "", "modicum: nowhere is not a folder of results\n")
    (tmp_path / "empty").mkdir()
    code, _, err = run("report", "empty")
    assert code == 2
    assert "holds no results" in err


# The installed script -----------------------------------------------------------------------------


def test_the_script_starts_without_torch_or_numpy():
    code = (
        "import sys, modicum.core.cli as cli\n"
        "try:\n    cli.method_main(cli.app, 'modicum', ['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'scipy', 'matplotlib', 'transformers'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Usage" in done.stdout


def test_main_is_the_entry_point_of_the_command():
    scripts = importlib.metadata.entry_points(group="console_scripts", name="modicum")
    assert [entry.load() for entry in scripts] == [cli.main]
    assert isinstance(cli.app, typer.Typer)
