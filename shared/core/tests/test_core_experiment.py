import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.core.experiment import (
    RESULT_FILE,
    Claim,
    Experiment,
    Figure,
    Result,
    RunContext,
    Table,
    discover,
    dumps,
    load_results,
    loads,
    run_experiments,
    write_atomic,
)

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><text>é &amp; ü</text></svg>'

floats = st.floats(allow_nan=True, allow_infinity=True)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text().filter(lambda k: k != "$float"), inner)
    ),
    max_leaves=12,
)


def same(a, b):
    """Equality that takes nan for equal to itself and tells 0.0 from -0.0, and 1 from 1.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or a.hex() == b.hex()
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


# JSON on disk -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(plain)
def test_json_round_trip_is_exact(value):
    text = dumps(value)
    assert same(loads(text), value)

    # Strict: a reader that knows nothing of us and refuses NaN and Infinity can read it.
    def refuse(name):
        raise AssertionError(name)

    json.loads(text, parse_constant=refuse)


def test_json_takes_numpy_and_tuples():
    value = {"a": np.float32(0.1), "b": np.arange(3), "c": (np.bool_(True), np.int64(7))}
    assert loads(dumps(value)) == {"a": float(np.float32(0.1)), "b": [0, 1, 2], "c": [True, 7]}
    assert loads(dumps(np.array([np.inf, 1.0]))) == [math.inf, 1.0]


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ({1: "a"}, TypeError, "keys must be strings"),
        ({"a": [0, {1, 2}]}, TypeError, r"value\.a\[1\] is a set"),
        ({"$float": "inf"}, ValueError, "reserved"),
    ],
)
def test_json_refuses_what_would_not_come_back(value, error, words):
    with pytest.raises(error, match=words):
        dumps(value)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"$float": "big"}', "{", ""])
def test_json_refuses_what_is_not_strict(text):
    with pytest.raises(ValueError):
        loads(text)


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = write_atomic(tmp_path / "new" / "a.json", "old")
    assert path.read_text() == "old"

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["a.json"]


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX's")
def test_write_atomic_makes_files_as_readable_as_others(tmp_path):
    (tmp_path / "plain").write_text("")
    written = write_atomic(tmp_path / "atomic", b"")
    assert written.stat().st_mode == (tmp_path / "plain").stat().st_mode


# Results ------------------------------------------------------------------------------------------


def full_result(**changes):
    result = Result(
        "power",
        "modicum-fake",
        "Power",
        claims=[
            Claim("a", "It is <fast>", 0.1, 0.1 + 0.2, (0.1, math.inf), True, "s", "note"),
            Claim("b", "It is right", "always", math.nan),
            Claim("c", "Nothing published", None, 1.0, None, False),
        ],
        tables=[Table("T", ["x", "y"], [[1, 0.1], [None, "z"], [True, math.inf]], "note")],
        figures=[Figure("F", "caption", svg=SVG, alt="a line"), Figure("G", png=PNG)],
        files=["a.txt", "sub/b.bin"],
        text="Two\n\nparagraphs",
        seed=3,
        quick=False,
        device="cuda:1",
        seconds=1 / 3,
        versions={"modicum-fake": "1.0"},
        environment={"CPU": "x"},
        started="2026-01-01T00:00:00+00:00",
    )
    return replace(result, **changes)


def test_result_round_trip(tmp_path):
    result = full_result()
    path = result.save(tmp_path / "r.json")
    again = Result.load(path)
    # nan differs from itself, so compare what is written.
    assert again.to_json() == result.to_json()
    assert math.isnan(again.claims[1].measured)
    assert again.claims[0].interval == (0.1, math.inf)
    assert again.claims[0].measured == 0.30000000000000004
    assert [f.png for f in again.figures] == [None, PNG]
    assert again.tables == result.tables
    assert again.command == "modicum demo fake/power --full --seed 3 --device cuda:1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("format"), "field 'format'"),
        (lambda d: d.update(format=99), "format 1"),
        (lambda d: d.pop("seed"), "missing seed"),
        (lambda d: d.update(extra=1), "unknown extra"),
        (lambda d: d.update(seed=True), "seed must be int"),
        (lambda d: d.update(seed="3"), "seed must be int"),
        (lambda d: d.update(quick=1), "quick must be bool"),
        (lambda d: d.update(status="good"), "'ok' or 'failed'"),
        (lambda d: d.update(package="../up"), "package must be letters"),
        (lambda d: d.update(files=["../../etc/passwd"]), "relative path inside"),
        (lambda d: d.update(files=["/etc/passwd"]), "relative path inside"),
        (lambda d: d.update(files=[3]), "files must hold strings"),
        (lambda d: d.update(versions={"a": 1}), "must be a string"),
        (lambda d: d["claims"][0].update(measured="x"), "measured must be int or float"),
        (lambda d: d["claims"][0].update(holds="yes"), "holds must be bool or null"),
        (lambda d: d["claims"][0].update(interval=[1]), "low, high"),
        (lambda d: d["claims"][0].update(interval=[2, 1]), "above its high end"),
        (lambda d: d["claims"][0].pop("note"), "claim: missing note"),
        (lambda d: d["claims"].append(d["claims"][0]), "two claims"),
        (lambda d: d["tables"][0]["rows"].append([1]), "1 cells for 2 columns"),
        (lambda d: d["tables"][0]["rows"].append(3), "every row must be a list"),
        (lambda d: d["figures"][1].update(png="@@@"), "not base64"),
        (lambda d: d["figures"][1].update(png="QUJD"), "PNG signature"),
        (lambda d: d.update(claims=[3]), "expected a JSON object"),
    ],
)
def test_result_that_is_wrong_on_disk_is_refused_with_its_file_and_field(tmp_path, change, words):
    data = json.loads(full_result().to_json())
    change(data)
    path = tmp_path / "r.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=words) as caught:
        Result.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"format": 1', b"\xff\xfe"])
def test_result_that_is_no_result_is_refused(tmp_path, content):
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a readable result"):
        Result.load(path)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Claim("", "s", None, 1.0), ValueError),
        (lambda: Claim("a", "s", None, "1"), TypeError),
        (lambda: Claim("a", "s", None, True), TypeError),
        (lambda: Claim("a", "s", None, 1.0, (1.0, 2.0, 3.0)), ValueError),
        (lambda: Claim("a", "s", None, 1.0, (3.0, 2.0)), ValueError),
        (lambda: Claim("a", "s", None, 1.0, None, 1), TypeError),
        (lambda: Table("t", ["a"], [[1, 2]]), ValueError),
        (lambda: Table("t", ["a"], [[[1]]]), TypeError),
        (lambda: Figure("f"), ValueError),
        (lambda: Figure("f", svg="text"), ValueError),
        (lambda: Figure("f", png=b"GIF89a"), ValueError),
        (lambda: Experiment("a b", "p", "t", "s", print), ValueError),
        (lambda: Experiment("..", "p", "t", "s", print), ValueError),
        (lambda: Experiment("a", "p", "t", "s", "run"), TypeError),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_made(make, error):
    with pytest.raises(error):
        make()


def test_claim_takes_numpy_scalars():
    claim = Claim("a", "s", np.float32(2), np.int64(3), (np.float64(1), np.float64(4)), np.True_)
    assert claim == Claim("a", "s", 2.0, 3.0, (1.0, 4.0), True)
    assert type(claim.holds) is bool


# Running ------------------------------------------------------------------------------------------


def fake(name, run, package="modicum-fake"):
    return Experiment(name, package, f"Title of {name}", "summary", run)


def good(context):
    return context.result(claims=[Claim("one", "One is one", 1.0, 1.0, None, True)])


class Sink:
    def __init__(self):
        self.events = []

    def started(self, experiment):
        self.events.append(("started", experiment.name))

    def task(self, total, description):
        self.events.append(("task", total, description))
        return self

    def advance(self, n=1):
        self.events.append(("advance", n))

    def finished(self, result, kept):
        self.events.append(("finished", result.experiment, result.status, kept))


def test_a_crash_loses_nothing_of_the_others(tmp_path):
    def bad(context):
        # The one before is on disk already while this one runs.
        assert (tmp_path / "modicum-fake" / "first" / RESULT_FILE).is_file()
        raise RuntimeError("engine <died>")

    def leaves(context):
        sys.exit(3)

    sink = Sink()
    experiments = [fake("first", good), fake("bad", bad), fake("exit", leaves), fake("last", good)]
    results = run_experiments(experiments, tmp_path, progress=sink, seed=5)
    assert [result.status for result in results] == ["ok", "failed", "failed", "ok"]
    assert "RuntimeError: engine <died>" in results[1].error
    assert "in bad" in results[1].error
    assert "SystemExit: 3" in results[2].error
    assert results[0].error is None
    assert [result.seed for result in results] == [5] * 4
    assert ("finished", "last", "ok", False) in sink.events
    on_disk = {result.experiment: result.status for result in load_results(tmp_path)}
    assert on_disk == {"first": "ok", "bad": "failed", "exit": "failed", "last": "ok"}


def test_progress_reaches_the_sink(tmp_path):
    def run(context):
        task = context.progress(4, "sampling")
        task.advance()
        task.advance(3)
        return good(context)

    sink = Sink()
    run_experiments([fake("a", run)], tmp_path, progress=sink)
    assert sink.events == [
        ("started", "a"),
        ("task", 4, "sampling"),
        ("advance", 1),
        ("advance", 3),
        ("finished", "a", "ok", False),
    ]
    # Without a sink the same experiment runs silently.
    assert run_experiments([fake("a", run)], tmp_path, resume=False)[0].status == "ok"


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda context: None, "returned a NoneType"),
        (
            lambda context: replace(good(context), experiment="other"),
            "the result of modicum-fake/other",
        ),
        (lambda context: context.result(text=object()), "JSON cannot hold"),
        (lambda context: context.result(files=["missing.txt"]), "does not exist"),
        (lambda context: context.result(files=["../secret.txt"]), "outside"),
    ],
)
def test_an_experiment_that_returns_nonsense_fails_alone(tmp_path, run, words):
    out = tmp_path / "out"
    (out / "modicum-fake").mkdir(parents=True)
    (out / "modicum-fake" / "secret.txt").write_text("x")
    results = run_experiments([fake("odd", run), fake("fine", good)], out)
    assert [result.status for result in results] == ["failed", "ok"]
    assert words in results[0].error


def test_an_interruption_keeps_what_was_saved_and_a_later_run_goes_on(tmp_path):
    ran = []

    def counted(context):
        ran.append(context.experiment.name)
        return good(context)

    def interrupted(context):
        context.save_partial("half", {"done": 5})
        raise KeyboardInterrupt

    names = [fake("a", counted), fake("b", interrupted), fake("c", counted)]
    with pytest.raises(KeyboardInterrupt):
        run_experiments(names, tmp_path)
    assert [result.experiment for result in load_results(tmp_path)] == ["a"]

    def goes_on(context):
        ran.append(context.load_partial("half"))
        return good(context)

    results = run_experiments([names[0], fake("b", goes_on), names[2]], tmp_path)
    assert ran == ["a", {"done": 5}, "c"]
    assert [result.status for result in results] == ["ok"] * 3


def test_resume_keeps_only_an_ok_result_of_the_same_settings_and_version(tmp_path, monkeypatch):
    runs = []

    def run(context):
        runs.append((context.quick, context.seed, context.device))
        if len(runs) == 1:
            raise RuntimeError("first time unlucky")
        return good(context)

    def go(**settings):
        before = len(runs)
        run_experiments([fake("a", run)], tmp_path, **settings)
        return len(runs) - before

    assert go() == 1  # fails
    assert go() == 1  # a failed result is not kept
    assert go() == 0
    assert go(seed=1) == 1
    assert go(seed=1) == 0
    assert go(seed=1, quick=False) == 1
    assert go(seed=1, quick=False, device="cuda") == 1
    assert go(seed=1, quick=False, device="cuda", resume=False) == 1
    assert go(seed=1, quick=False, device="cuda") == 0
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99")
    assert go(seed=1, quick=False, device="cuda") == 1
    assert go(seed=1, quick=False, device="cuda") == 0
    (tmp_path / "modicum-fake" / "a" / RESULT_FILE).write_text("{")
    assert go(seed=1, quick=False, device="cuda") == 1


def test_partials_belong_to_one_setting_and_go_with_success(tmp_path):
    experiment = fake("a", good)
    folder = tmp_path / "modicum-fake" / "a"
    context = RunContext(experiment, folder, seed=1)
    assert context.load_partial("state") is None
    context.save_partial("state", {"x": [1.5, math.inf]})
    assert RunContext(experiment, folder, seed=1).load_partial("state") == {"x": [1.5, math.inf]}
    for other in ({"seed": 2}, {"seed": 1, "quick": False}, {"seed": 1, "device": "cuda"}):
        assert RunContext(experiment, folder, **other).load_partial("state") is None
    (folder / "partial" / "torn.json").write_text('{"settings": ')
    assert context.load_partial("torn") is None
    with pytest.raises(ValueError, match="partial must be"):
        context.save_partial("../up", 1)
    assert RunContext(experiment, folder, seed=1, resume=False).load_partial("state") is None

    context.save_partial("state", 1)
    run_experiments([fake("a", lambda context: 1 / 0)], tmp_path, seed=1)
    assert context.load_partial("state") == 1
    run_experiments([experiment], tmp_path, seed=1)
    assert context.load_partial("state") is None


def test_kept_files_are_named_relative_to_the_folder(tmp_path):
    def run(context):
        (context.out / "sub").mkdir()
        (context.out / "sub" / "a.txt").write_text("x")
        return context.result(files=[context.out / "sub" / "a.txt", "sub/a.txt"])

    assert run_experiments([fake("a", run)], tmp_path)[0].files == ["sub/a.txt", "sub/a.txt"]


def test_results_say_where_they_were_measured(tmp_path):
    result = run_experiments([fake("a", good, package="modicum-core")], tmp_path)[0]
    assert result.versions["Python"] == ".".join(map(str, sys.version_info[:3]))
    assert result.versions["numpy"] == np.__version__
    assert result.versions["modicum-core"] != "not installed"
    assert "cores" in result.environment["CPU"]
    assert result.seconds > 0
    assert result.started.endswith("+00:00")


def test_a_driver_that_cannot_be_asked_does_not_cost_a_result(tmp_path, monkeypatch):
    def refuses():
        raise RuntimeError("Found no NVIDIA driver")

    monkeypatch.setattr("modicum.core.experiment._hardware", refuses)
    results = run_experiments(
        [fake("a", good), fake("b", lambda _: 1 / 0)], tmp_path, device="cuda"
    )
    assert [result.status for result in results] == ["ok", "failed"]
    assert results[0].environment == {"Hardware": "unknown (RuntimeError: Found no NVIDIA driver)"}


def test_describing_the_hardware_does_not_count_as_time_of_the_experiment(tmp_path, monkeypatch):
    def slow():
        time.sleep(0.5)
        return {"cpu": "abacus", "cores": 2, "memory_gib": None, "gpus": []}

    monkeypatch.setattr("modicum.core.experiment._hardware", slow)
    start = time.perf_counter()
    result = run_experiments([fake("a", good)], tmp_path)[0]
    assert result.seconds + 0.5 <= time.perf_counter() - start


def test_a_gpu_is_named_where_the_run_was_asked_to_use_it(tmp_path, monkeypatch):
    hardware = {"cpu": "abacus", "cores": 2, "memory_gib": 7.8, "gpus": [{"name": "H200"}]}
    monkeypatch.setattr("modicum.core.experiment._hardware", lambda: hardware)
    on_gpu, on_cpu = (
        run_experiments([fake("a", good)], tmp_path, device=device)[0].environment
        for device in ("cuda:0", "cpu")
    )
    assert on_gpu["GPU"] == "H200"
    assert "GPU" not in on_cpu
    assert (on_cpu["CPU"], on_cpu["Memory"]) == ("abacus, 2 cores", "8 GiB")


def test_load_results_shows_what_it_cannot_read(tmp_path):
    run_experiments([fake("z", good), fake("a", good)], tmp_path)
    folder = tmp_path / "modicum-other" / "torn"
    folder.mkdir(parents=True)
    (folder / RESULT_FILE).write_text('{"format": 1')
    results = load_results(tmp_path)
    assert {result.experiment for result in results} == {"z", "a", "torn"}
    assert [result.package for result in results] == ["modicum-fake"] * 2 + ["modicum-other"]
    assert results[2].status == "failed"
    assert "not a readable result" in results[2].error
    with pytest.raises(ValueError, match="not a folder"):
        load_results(tmp_path / "nowhere")


def test_load_results_keeps_the_order_of_the_run(tmp_path):
    for name, started in (("z", "2026-01-01T00:00:00+00:00"), ("a", "2026-01-01T00:00:09+00:00")):
        result = Result(name, "modicum-fake", name, started=started)
        result.save(tmp_path / "modicum-fake" / name / RESULT_FILE)
    assert [result.experiment for result in load_results(tmp_path)] == ["z", "a"]


# Finding ------------------------------------------------------------------------------------------


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a distribution with one module and its entry points on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    modules = []

    def put(name, module, source, entry_points):
        modules.append(module)
        (site / f"{module}.py").write_text(source)
        info = site / f"{name.replace('-', '_')}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(entry_points)

    yield put
    for module in modules:
        sys.modules.pop(module, None)


PLUGIN = """
from modicum.core.experiment import Experiment
EXPERIMENTS = [Experiment("one", "{package}", "One", "s", lambda context: context.result())]
"""


def test_discover_finds_installed_experiments_and_reports_broken_plugins(install, tmp_path):
    group = "[modicum.experiments]\n"
    install(
        "zz-fine",
        "zz_fine",
        PLUGIN.format(package="zz-fine"),
        group + "zzfine = zz_fine:EXPERIMENTS",
    )
    install(
        "zz-raises", "zz_raises", "import nothing_of_this_name", group + "zzraises = zz_raises:E"
    )
    install("zz-exits", "zz_exits", "import sys; sys.exit(1)", group + "zzexits = zz_exits:E")
    install("zz-odd", "zz_odd", "E = [1]", group + "zzodd = zz_odd:E")
    install(
        "zz-liar",
        "zz_liar",
        PLUGIN.format(package="zz-fine"),
        group + "zzliar = zz_liar:EXPERIMENTS",
    )
    twice = PLUGIN.format(package="zz-twice") + "EXPERIMENTS *= 2"
    install("zz-twice", "zz_twice", twice, group + "zztwice = zz_twice:EXPERIMENTS")

    found = {plugin.name: plugin for plugin in discover()}
    assert found["zzfine"].error is None
    assert found["zzfine"].version == "1.5"
    assert [experiment.name for experiment in found["zzfine"].experiments] == ["one"]
    for name, words in {
        "zzraises": "No module named 'nothing_of_this_name'",
        "zzexits": "SystemExit: 1",
        "zzodd": "must be a sequence of Experiment, but holds 1",
        "zzliar": "says it belongs to 'zz-fine', but 'zz-liar' registers it",
        "zztwice": "two experiments of one name",
    }.items():
        assert found[name].experiments == ()
        assert words in found[name].error
        failure = found[name].failure()
        assert failure.status == "failed"
        assert words in Result.from_json(failure.to_json()).error
    with pytest.raises(ValueError, match="without an error"):
        found["zzfine"].failure()


def test_discover_imports_only_what_is_asked_for(install):
    for name in ("zza", "zzb"):
        source = PLUGIN.format(package=f"{name}-dist")
        install(
            f"{name}-dist",
            f"{name}_mod",
            source,
            f"[modicum.experiments]\n{name} = {name}_mod:EXPERIMENTS",
        )
    assert [plugin.name for plugin in discover(["zzb"])] == ["zzb"]
    assert "zzb_mod" in sys.modules
    assert "zza_mod" not in sys.modules


# Figures ------------------------------------------------------------------------------------------


def test_matplotlib_figures_are_text_and_the_same_every_time():
    figure = pytest.importorskip("matplotlib.figure")

    def draw():
        fig = figure.Figure(figsize=(4, 3), layout="constrained")
        axes = fig.subplots()
        axes.plot([1, 2, 3], label="a line")
        axes.fill_between([0, 1], [0, 1], alpha=0.5, hatch="/")
        axes.set_title("words & <signs>")
        axes.legend()
        return Figure.from_matplotlib(fig, "title", "caption", "alt")

    first, second = draw(), draw()
    assert first.svg == second.svg
    assert first.svg.startswith("<svg")
    assert "words &amp; &lt;signs&gt;</text>" in first.svg
    assert "<!DOCTYPE" not in first.svg
    assert (first.title, first.caption, first.alt) == ("title", "caption", "alt")


# Importing ----------------------------------------------------------------------------------------


def test_importing_takes_nothing_heavy_into_memory():
    code = (
        "import sys, modicum.core, modicum.core.experiment\n"
        "heavy = {'torch', 'scipy', 'matplotlib', 'transformers', 'vllm', 'typer', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)), modicum.core.__version__)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    from importlib.metadata import version

    assert run.stdout.split() == ["[]", version("modicum-core")]


def test_core_says_what_it_does_not_have():
    import modicum.core

    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        modicum.core.nothing  # noqa: B018


def test_files_of_a_run_into_a_relative_folder_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(ctx):
        return ctx.result(files=[write_atomic(ctx.out / "note.txt", "kept")])

    (result,) = run_experiments([Experiment("e", "modicum-x", "t", "s", run)], "report")
    assert result.error is None and result.files == ["note.txt"]
