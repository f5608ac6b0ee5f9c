"""Runs of external commands: specs, real processes, logs, resume."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from modicum.zeroth.integrations import command
from modicum.zeroth.integrations._processes import Processes, Stopped, parse_json, parse_number
from modicum.zeroth.integrations._run_log import Evaluation, RunLog, digest, strict
from modicum.zeroth.integrations.command import load_spec, read_log, run_spec

PYTHON = [sys.executable, "-I", "-S", "-c"]

# (x - 1)² + 2 (y + 0.5)² with noise of standard deviation about 0.3 that depends on the seed only.
# The seed of srand is used after a few draws, which mawk's generator needs to forget it.
QUADRATIC = """BEGIN {{
    srand({seed}); for (i = 0; i < 20; i++) w = rand(); w = 0
    for (i = 0; i < 12; i++) w += rand()
    printf "value %.17g\\n", ({x0} - 1)^2 + 2 * ({x1} + 0.5)^2 + 0.3 * (w - 6)
}}"""


def quadratic(x, seed):
    """A stand-in for a process: exact arithmetic, noise from the seed."""
    noise = np.random.default_rng(seed).standard_normal()
    return (x[0] - 1) ** 2 + 2 * (x[1] + 0.5) ** 2 + 0.3 * noise


def write_spec(folder, text=None, **changes):
    settings = {
        "cmd": ["awk", QUADRATIC],
        "start": [0.0, 0.0],
        "budget": 200,
        "method": "two-stage",
        "noise": 0.3,
        "strong_convexity": 2.0,
        "hessian_lipschitz": 0.5,
        "seed": 5,
    } | changes
    path = folder / "spec.toml"
    if text is None:
        lines = []
        for key, value in settings.items():
            if value is not None:
                lines.append(f"{key} = {toml(value)}")
        text = "\n".join(lines)
    path.write_text(text)
    return path


def toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


@pytest.fixture
def in_process(monkeypatch):
    """Evaluate without processes; counts the evaluations."""
    calls = []

    def evaluate(self, number, x, seed):
        calls.append(number)
        return Evaluation(number, tuple(x), quadratic(x, seed), seed, 0.001)

    monkeypatch.setattr(Processes, "evaluate", evaluate)
    return calls


# Specs ------------------------------------------------------------------------------------------


def test_spec_defaults(tmp_path):
    spec = load_spec(write_spec(tmp_path, 'cmd = ["sim", "{x}"]\nstart = [1, 2.5]\nbudget = 300'))
    assert (spec.method, spec.scale, spec.bounds, spec.names) == ("adaptive", 1.0, None, ())
    assert (spec.workers, spec.retries, spec.timeout, spec.paired) == (1, 2, None, False)
    assert spec.start == (1.0, 2.5)
    assert spec.folder == tmp_path
    assert spec.arguments((1.0, 2.5), 7, 0) == ["sim", "1.0", "2.5"]


def test_placeholders_round_trip_every_bit(tmp_path):
    spec = load_spec(
        write_spec(
            tmp_path,
            cmd=["sim", "--a={lr}", "{x}", "all={x}", "{x1:.2f}", "{{}}", "{seed}", "{id}"],
            start={"lr": 0.1, "momentum": 0.9},
            env={"POINT": "{lr}/{seed}"},
            stdin="json",
        )
    )
    x = (0.1 + 0.2, 1e-300)
    found = spec.arguments(x, 11, 3)
    assert found == [
        "sim",
        "--a=0.30000000000000004",
        "0.30000000000000004",
        "1e-300",
        "all=0.30000000000000004,1e-300",
        "0.00",
        "{}",
        "11",
        "3",
    ]
    assert spec.environment(x, 11, 3)["POINT"] == "0.30000000000000004/11"
    message = json.loads(spec.message(x, 11, 3))
    assert message == {"lr": x[0], "momentum": x[1], "x": list(x), "seed": 11, "id": 3}
    assert spec.point(np.array(x)) == {"lr": x[0], "momentum": x[1]}


def test_named_scale_and_bounds_follow_the_order_of_start(tmp_path):
    spec = load_spec(
        write_spec(
            tmp_path,
            cmd=["sim", "{b}"],
            start={"b": 0.5, "a": 2.0},
            scale={"a": 3.0, "b": 0.25},
            bounds={"b": [0, 1]},
        )
    )
    assert spec.scale == (0.25, 3.0)
    assert spec.bounds == ((0.0, 1.0), (-math.inf, math.inf))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cmd": None}, "cmd is missing"),
        ({"budget": None}, "budget is missing"),
        ({"cmd": []}, "program and its arguments"),
        ({"cmd": "sim {x}"}, "program and its arguments"),
        ({"cmd": ["sim", "{y}"]}, r"there is no \{y\}"),
        ({"cmd": ["sim", "{x2}"]}, r"there is no \{x2\}"),
        ({"cmd": ["sim", "{x0"]}, "written twice"),
        ({"cmd": ["sim", "{x:.3f}", "{x}"]}, "cannot be filled in"),
        ({"cmd": ["sim", "{seed}"]}, "never sees the point"),
        ({"cmd": ["sim", "{x}"], "paired": True}, "paired = true needs"),
        ({"start": []}, "at least one number"),
        ({"start": [0.0, math.inf]}, "finite"),
        ({"start": {"seed": 1.0}}, "cannot be called 'seed'"),
        ({"start": {"a-b": 1.0}}, "cannot be called 'a-b'"),
        ({"start": [True, False]}, "list of numbers"),
        ({"budget": 0}, "whole number from 1"),
        ({"budget": 2.5}, "whole number"),
        ({"scale": [1.0]}, "2 of them"),
        ({"scale": -1.0}, "positive"),
        ({"scale": {"a": 1.0}}, "same names as start"),
        ({"bounds": [[0, 1]]}, "2 pairs"),
        ({"bounds": [[0, 1], [1, 2]]}, "does not hold the start"),
        ({"bounds": {"a": [0, 1]}}, "no parameter a"),
        ({"noise": 0.0}, "positive"),
        ({"noise": math.nan}, "positive"),
        ({"stdin": "csv"}, '"json"'),
        ({"workers": 0}, "whole number from 1"),
        ({"retries": -1}, "whole number from 0"),
        ({"env": {"A": 1}}, "texts"),
        ({"env": {"A": "{nothing}"}}, r"no \{nothing\}"),
        ({"sigma": 1.0}, "no such key: sigma"),
    ],
)
def test_spec_errors_name_file_and_value(tmp_path, changes, message):
    path = write_spec(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_spec(path)
    assert str(path) in str(caught.value)


def test_no_toml_and_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"spec\.toml"):
        load_spec(write_spec(tmp_path, "cmd = ["))
    with pytest.raises(FileNotFoundError):
        load_spec(tmp_path / "none.toml")


def test_method_errors_come_before_any_process(tmp_path):
    with pytest.raises(ValueError, match="method must be one of"):
        run_spec(write_spec(tmp_path, method="newton"))
    with pytest.raises(ValueError, match="has no option 'colour'"):
        run_spec(write_spec(tmp_path, options={"colour": 1}))
    assert not (tmp_path / "spec.jsonl").exists()


# What a command prints ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.5\n", 1.5),
        ("loss=-.5e-3", -0.5e-3),
        ("epoch 1 loss 2\nepoch 2 loss 1.", 1.0),
        ("version 1.2.3 gives 4 in 0.3s", 4.0),
        ("x1 = 7 (see layer4)", 7.0),
        ("+1E+2,", 100.0),
        ("[0.25]", 0.25),
    ],
)
def test_last_number(text, value):
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["", "none", "3 nan", "1\n-inf", "v1.2.3", "Infinity"])
def test_no_number(text):
    with pytest.raises(Exception, match=r"no number|its value is"):
        parse_number(text)


def test_json_key():
    text = 'log line\n{"a": {"b": "0.5"}, "c": true, "d": NaN}\n'
    assert parse_json(text, "a.b") == 0.5
    for key, message in [("a", "not a number"), ("a.c", "has no"), ("c", "not a"), ("d", "nan")]:
        with pytest.raises(Exception, match=message):
            parse_json(text, key)
    with pytest.raises(Exception, match="not JSON"):
        parse_json("", "a")


# Processes --------------------------------------------------------------------------------------


def evaluate(folder, cmd, x=(1.0, 2.0), seed=3, number=9, **changes):
    spec = load_spec(write_spec(folder, cmd=cmd, **changes))
    with Processes(spec) as processes:
        return processes.evaluate(number, x, seed)


def test_arguments_environment_stdin_and_folder_reach_the_process(tmp_path):
    script = (
        "import json,os,sys;m=json.loads(sys.stdin.read());"
        "print(json.dumps({{'v': m['x'][0]+100*m['seed']+1e4*m['id']+float(sys.argv[1])"
        "+float(os.environ['EXTRA'])+os.path.exists('spec.toml')}}))"
    )
    found = evaluate(
        tmp_path,
        [*PYTHON, script, "{x1}"],
        env={"EXTRA": "{x0}e6"},
        stdin="json",
        json_key="v",
    )
    assert found.value == 1.0 + 300 + 90000 + 2.0 + 1e6 + 1
    assert (found.attempts, found.error, found.seed, found.id) == (1, "", 3, 9)
    assert found.seconds > 0


def test_no_shell_comes_between(tmp_path):
    found = evaluate(
        tmp_path, ["awk", "BEGIN {{ print length(ARGV[1]), 4 }}", "$(echo {x0}); *"], retries=0
    )
    assert found.value == 4


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import sys; sys.exit('broken {x0}')", "exit status 1: broken 1.0"),
        ("print('{x0} nan')", "nan"),
        ("print('nothing')  # {x0}", "no number"),
        ("import os; os.kill(os.getpid(), 9); {x0}", "exit status -9"),
    ],
)
def test_failures_are_tried_again_and_told(tmp_path, script, message):
    found = evaluate(tmp_path, [*PYTHON, script], retries=1)
    assert math.isnan(found.value)
    assert found.attempts == 2
    assert message in found.error


def test_a_failure_that_goes_away(tmp_path):
    script = (
        "import os\nf='count'\nn=os.path.exists(f)\nopen(f,'a').close()\nprint({x0}) if n else 1/0"
    )
    found = evaluate(tmp_path, [*PYTHON, script])
    assert (found.value, found.attempts, found.error) == (1.0, 2, "")


@pytest.mark.parametrize("last", ["sleep 60", "exit 0"])
def test_timeout_ends_the_process_and_its_children(tmp_path, last):
    """Also of a process that has ended itself and left a child with its pipe."""
    script = f"sleep 60 & echo $! > child; echo {{x0}}; {last}"
    found = evaluate(tmp_path, ["sh", "-c", script], timeout=1.0, retries=0)
    assert "no end after 1 s" in found.error
    assert gone(int((tmp_path / "child").read_text()))


def gone(pid):
    """Say whether a process has ended (a zombie has) within a few seconds."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.01)
    return False


def test_stop_ends_what_is_under_way(tmp_path):
    spec = load_spec(
        write_spec(tmp_path, cmd=[*PYTHON, "import time;open('up','w');time.sleep(60)", "{x}"])
    )
    caught = []

    def work():
        try:
            processes.evaluate(0, (0.0, 0.0), 1)
        except Stopped as stopped:
            caught.append(stopped)

    with Processes(spec) as processes:
        thread = threading.Thread(target=work)
        thread.start()
        while not (tmp_path / "up").exists():
            time.sleep(0.01)
        processes.stop()
        thread.join(30)
        assert caught
        with pytest.raises(Stopped):
            processes.evaluate(1, (0.0, 0.0), 1)


def test_missing_program_is_an_error_not_a_lost_value(tmp_path):
    path = write_spec(tmp_path, cmd=["./no-such-program", "{x}"])
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        run_spec(path)
    assert len(read_log(tmp_path / "spec.jsonl").ids) == 0


# Whole runs -------------------------------------------------------------------------------------


def test_run_with_real_processes(tmp_path):
    seen = []
    path = write_spec(tmp_path, workers=3, budget=100)
    found = run_spec(path, progress=seen.append)
    assert found.success and found.nfev <= 100
    logged = read_log(tmp_path / "spec.jsonl")
    assert sorted(logged.ids) == logged.ids.tolist() and len(set(logged.ids)) == found.nfev
    # What stands in the log is what the command prints, to the last bit.
    spec = load_spec(path)
    for place in (0, len(logged.ids) // 2, len(logged.ids) - 1):
        number, x = int(logged.ids[place]), logged.points_Nd[place].tolist()
        seed = json.loads(find_line(tmp_path / "spec.jsonl", number))["seed"]
        printed = subprocess.run(
            spec.arguments(x, seed, number), capture_output=True, text=True, check=True
        ).stdout
        assert float(printed.split()[-1]) == logged.values_N[place]
    assert [item.evaluations for item in seen] == list(range(1, found.nfev + 1))
    assert seen[-1].reused == seen[-1].lost == 0
    assert seen[-1].budget == 100
    result = json.loads((tmp_path / "spec.result.json").read_text())
    assert result["x"] == found.x.tolist()
    assert result["nfev"] == found.nfev and result["success"] is True
    assert result["digest"] == digest(spec.settings()) == logged.header["digest"]


def find_line(path, number):
    return next(
        line for line in path.read_text().splitlines() if json.loads(line).get("id") == number
    )


def test_workers_do_not_change_the_course(tmp_path, in_process):
    points = []
    for workers in (1, 4):
        path = write_spec(tmp_path, workers=workers)
        points.append(run_spec(path, log=tmp_path / f"{workers}.jsonl").x)
    assert points[0].tobytes() == points[1].tobytes()


def test_cut_anywhere_and_resumed_gives_the_same_point(tmp_path, in_process, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # it would be all the time it takes
    path = write_spec(tmp_path, budget=100)
    log = tmp_path / "spec.jsonl"
    whole = run_spec(path)
    content = log.read_bytes()
    lines = content.splitlines(keepends=True)
    assert len(lines) > 60
    for kept in range(len(lines) + 1):
        head = b"".join(lines[:kept])
        # Between lines, in the middle of one, and just before its newline.
        following = lines[kept] if kept < len(lines) else b""
        for torn in {b"", following[: len(following) // 2], following[:-1]}:
            if torn and kept % 7:
                continue
            log.write_bytes(head + torn)
            in_process.clear()
            resumed = run_spec(path)
            assert resumed.x.tobytes() == whole.x.tobytes()
            assert resumed.fun == whole.fun
            have = [json.loads(line) for line in (head + b"\n").splitlines() if line.strip()]
            if torn and torn == following[:-1]:
                have.append(json.loads(torn))
            done = {entry["id"] for entry in have if "id" in entry}
            assert len(in_process) == whole.nfev - len(done)
            assert not done & set(in_process)
            again = log.read_bytes().splitlines()
            assert sorted(map(essence, again)) == sorted(map(essence, lines))


def essence(line):
    record = json.loads(line)
    record.pop("seconds", None)
    return json.dumps(record, sort_keys=True)


# From the twelfth evaluation on, wait for the file "go", and say so in the file "waiting".
HELD = """if [ $1 -ge 12 ]; then
    while [ ! -e go ]; do echo $$ > waiting.$1 && mv waiting.$1 waiting; sleep 0.02; done
fi
exec awk "$2"
"""


def test_interrupted_process_leaves_a_log_that_goes_on(tmp_path):
    held = [part.replace("{", "{{").replace("}", "}}") for part in ("sh", "-c", HELD, "sh")]
    path = write_spec(tmp_path, cmd=[*held, "{id}", QUADRATIC], workers=2, budget=80)
    log, waiting = tmp_path / "spec.jsonl", tmp_path / "waiting"
    code = (
        "import signal, sys\nfrom modicum.zeroth.integrations.command import run_spec\n"
        # A process that a shell starts in the background inherits an ignored SIGINT.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n    run_spec(sys.argv[1])\nexcept KeyboardInterrupt:\n    sys.exit(130)\n"
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)])
        while not waiting.exists() or log.read_bytes().count(b'"id"') < 12:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(60) == 130
        assert gone(int(waiting.read_text()))
        waiting.unlink()
        assert read_log(log).ids.tolist() == list(range(12))
        assert not read_log(log).errors  # what was ended on purpose did not fail
        assert not (tmp_path / "spec.result.json").exists()
    (tmp_path / "go").touch()
    resumed = run_spec(path)
    fast = tmp_path / "fast"
    fast.mkdir()
    whole = run_spec(write_spec(fast, budget=80))
    assert resumed.x.tobytes() == whole.x.tobytes()


def test_log_of_other_settings_is_refused(tmp_path, in_process):
    path = write_spec(tmp_path, budget=80)
    run_spec(path)
    with pytest.raises(ValueError, match="its seed is 5, this run's is 6"):
        run_spec(write_spec(tmp_path, budget=80, seed=6))
    in_process.clear()
    run_spec(write_spec(tmp_path, budget=80, workers=2, timeout=3.0, retries=0))
    assert not in_process


def test_broken_logs_are_refused(tmp_path, in_process):
    path = write_spec(tmp_path, budget=80)
    run_spec(path)
    log = tmp_path / "spec.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    for broken, message in [
        ([lines[0], b"{oops\n", *lines[1:]], "line 2 is not readable"),
        ([*lines[:3], lines[2], *lines[3:]], "line 4: evaluation 1 again"),
        (lines[1:], "no log of a run"),
        ([b'{"format": 99}\n'], "no log of a run"),
    ]:
        log.write_bytes(b"".join(broken))
        with pytest.raises(ValueError, match=message):
            run_spec(path)
    moved = json.loads(lines[1]) | {"x": [9.0, 9.0]}
    log.write_bytes(b"".join([lines[0], json.dumps(moved).encode() + b"\n"]))
    with pytest.raises(ValueError, match="another version of the method"):
        run_spec(path)


def test_a_log_has_one_run_at_a_time(tmp_path, in_process):
    path = write_spec(tmp_path, budget=80)
    with (
        RunLog(tmp_path / "spec.jsonl", load_spec(path).settings()),
        pytest.raises(BlockingIOError, match="open in another run"),
    ):
        run_spec(path)


def test_lost_values_take_their_pair_along_and_stay_lost_on_resume(tmp_path, monkeypatch):
    failing = {20, 41, 60}
    calls = []

    def flaky(self, number, x, seed):
        calls.append(number)
        value = math.nan if number in failing else quadratic(x, seed)
        error = "exit status 1: boo" if number in failing else ""
        return Evaluation(number, tuple(x), value, seed, 0.0, 3 if error else 1, error)

    monkeypatch.setattr(Processes, "evaluate", flaky)
    path = write_spec(tmp_path)
    seen = []
    whole = run_spec(path, progress=seen.append)
    assert whole.success and whole.lost >= 2
    assert seen[-1].lost == 3
    assert "boo" in whole.message
    logged = read_log(tmp_path / "spec.jsonl")
    assert set(logged.errors) == failing
    assert set(logged.ids[np.isnan(logged.values_N)]) == failing
    # In batches that are closed, failures are part of the course.
    calls.clear()
    failing.clear()
    resumed = run_spec(path)
    assert not calls
    assert resumed.x.tobytes() == whole.x.tobytes()


def test_a_run_that_lost_too_much_goes_on_when_the_command_works_again(tmp_path, monkeypatch):
    broken = True

    def evaluate(self, number, x, seed):
        value = math.nan if broken else quadratic(x, seed)
        error = "exit status 1: license expired" if broken else ""
        return Evaluation(number, tuple(x), value, seed, 0.0, 3 if broken else 1, error)

    monkeypatch.setattr(Processes, "evaluate", evaluate)
    path = write_spec(tmp_path)
    found = run_spec(path)
    assert not found.success and found.status == 3
    assert "license expired" in found.message
    np.testing.assert_array_equal(found.x, [0.0, 0.0])
    broken = False
    found = run_spec(path)
    assert found.success and found.lost == 0
    logged = read_log(tmp_path / "spec.jsonl")
    assert np.isfinite(logged.values_N).all() and not logged.errors
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    assert run_spec(write_spec(fresh)).x.tobytes() == found.x.tobytes()


def test_maximize_is_the_mirror_image(tmp_path, monkeypatch):
    sign = 1.0

    def evaluate(self, number, x, seed):
        return Evaluation(number, tuple(x), sign * quadratic(x, seed), seed)

    monkeypatch.setattr(Processes, "evaluate", evaluate)
    least = run_spec(write_spec(tmp_path), log=tmp_path / "least.jsonl")
    sign = -1.0
    most = run_spec(write_spec(tmp_path, maximize=True), log=tmp_path / "most.jsonl")
    assert most.x.tobytes() == least.x.tobytes()
    assert repr(most.fun) == repr(-least.fun)
    rounds = [read_log(tmp_path / f"{name}.jsonl").rounds for name in ("least", "most")]
    assert len(rounds[0]) == len(least.trace) > 0
    for one, other, traced in zip(*rounds, least.trace, strict=True):
        np.testing.assert_array_equal(one.x, traced.x)
        np.testing.assert_array_equal(one.fun, traced.fun)
        np.testing.assert_array_equal(other.fun, -one.fun)
        assert one.nfev == traced.nfev


def test_paired_seeds(tmp_path, monkeypatch):
    seeds = {}

    def evaluate(self, number, x, seed):
        seeds[number] = seed
        return Evaluation(number, tuple(x), quadratic(x, seed), seed)

    monkeypatch.setattr(Processes, "evaluate", evaluate)
    run_spec(write_spec(tmp_path, paired=True, budget=100))
    assert len(set(seeds.values())) < len(seeds)
    paired = dict(seeds)
    seeds.clear()
    run_spec(write_spec(tmp_path, budget=100), log=tmp_path / "other.jsonl")
    assert len(set(seeds.values())) == len(seeds) == len(paired)
    assert all(0 <= seed < 2**31 for seed in seeds.values())


def test_named_parameters_and_bounds(tmp_path, monkeypatch):
    points = []

    def evaluate(self, number, x, seed):
        points.append(x)
        return Evaluation(number, tuple(x), quadratic(x, seed), seed)

    monkeypatch.setattr(Processes, "evaluate", evaluate)
    run_spec(
        write_spec(
            tmp_path,
            cmd=["sim", "{gain}", "{lag}"],
            start={"gain": 0.0, "lag": 0.0},
            bounds={"gain": [-0.2, 0.3]},
        )
    )
    gains = np.array(points)[:, 0]
    assert -0.2 <= gains.min() and gains.max() <= 0.3
    result = json.loads((tmp_path / "spec.result.json").read_text())
    assert set(result["x"]) == {"gain", "lag"}
    assert result["x"]["gain"] <= 0.3


def test_read_log_of_a_running_or_torn_log(tmp_path, in_process):
    path = write_spec(tmp_path, budget=80)
    run_spec(path)
    log = tmp_path / "spec.jsonl"
    whole = read_log(log)
    assert whole.points_Nd.shape == (len(whole.ids), 2)
    assert whole.values_N[0] == quadratic(whole.points_Nd[0], json.loads(find_line(log, 0))["seed"])
    log.write_bytes(log.read_bytes()[:-9])
    torn = read_log(log)
    assert len(torn.rounds) < len(whole.rounds) or len(torn.ids) < len(whole.ids)
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0])
    empty = read_log(log)
    assert empty.points_Nd.shape == (0, 2) and empty.rounds == ()
    (tmp_path / "other").write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match="no log of a run"):
        read_log(tmp_path / "other")


def test_log_lines_from_many_threads_stay_whole(tmp_path):
    counter = itertools.count()
    with RunLog(tmp_path / "log.jsonl", {"start": [0.0]}) as log:

        def work():
            for _ in range(50):
                log.append(Evaluation(next(counter), (0.5,), 1.0, 1, error="x" * 500))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert read_log(tmp_path / "log.jsonl").ids.tolist() == list(range(400))


def test_a_crash_while_the_result_is_written_leaves_the_old_one(tmp_path, in_process, monkeypatch):
    path = write_spec(tmp_path, budget=80)
    run_spec(path)
    before = (tmp_path / "spec.result.json").read_bytes()

    def crash(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="disk full"):
        run_spec(path)
    assert (tmp_path / "spec.result.json").read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {
        "spec.toml",
        "spec.jsonl",
        "spec.result.json",
    }


def test_result_file_is_strict_json():
    assert strict({"a": (math.nan, [math.inf, 1.5]), "b": np.array([[1.0, math.nan]])}) == {
        "a": [None, [None, 1.5]],
        "b": [[1.0, None]],
    }


def test_quality_with_nothing_known(tmp_path, in_process):
    path = write_spec(
        tmp_path,
        method=None,
        noise=None,
        strong_convexity=None,
        hessian_lipschitz=None,
        budget=2000,
    )
    found = run_spec(path)
    start, end = (quadratic(x, 0) - quadratic((1.0, -0.5), 0) for x in ((0.0, 0.0), found.x))
    assert end < start / 20
    assert found.success and found.noise_std == pytest.approx(0.3, rel=0.3)
    result = json.loads((tmp_path / "spec.result.json").read_text())
    assert result["noise_std"] == found.noise_std
    np.testing.assert_array_equal(result["hess"], found.hess)


def test_public_names():
    for name in command.__all__:
        assert getattr(command, name).__doc__
