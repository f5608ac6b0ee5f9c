"""Math-Verify in its worker: what it reads and equates, in threads, under a time limit."""

import asyncio
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest

from modicum.testtime import backends, equality, extract
from modicum.testtime.integrations.math_verify import MathVerify
from modicum.testtime.self_consistency import SelfConsistency
from modicum.testtime.stopping import FixedN
from modicum.testtime.verifiers import ExactAnswer

pytestmark = pytest.mark.skipif(
    find_spec("math_verify") is None, reason="math-verify is not installed"
)


@pytest.fixture(scope="module")
def reader():
    """One worker for all tests; importing SymPy takes a second or two."""
    with MathVerify(timeout_s=30) as reader:
        yield reader
        assert reader.n_crashes == 0


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


EQUAL = [
    (r"\frac{1}{2}", "0.5"),
    (r"\frac12", r"\dfrac{2}{4}"),
    ("1/2", ".5"),
    (r"1\frac{1}{2}", r"\frac{3}{2}"),
    (r"\frac{1}{3}", "0.333333"),
    ("1,234", "1234"),
    ("1{,}234", "1234.0"),
    (r"\$18.00", "18"),
    ("5.", "5"),
    (r"3.0\times 10^{5}", "300000"),
    ("10!", "3628800"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"\frac{\sqrt2}{2}", r"\frac{1}{\sqrt 2}"),
    (r"\log_2 8", "3"),
    (r"\sin(\pi/6)", "1/2"),
    ("x^2+2x+1", "(x+1)^2"),
    (r"\frac{x^2-1}{x-1}", "x+1"),
    (r"50\%", "0.5"),
    (r"50\%", "50"),
    (r"90^\circ", "90"),
    (r"5\text{ cm}", "5"),
    (r"\{1,2,3\}", r"\{3,2,1\}"),
    ("1,2,3", "3,1,2"),
    (r"\{1\}", "1"),
    (r"\pm 2", r"\{-2,2\}"),
    ("[1,2)", r"\left[1, 2\right)"),
    (r"(-\infty,3)", r"(-\infty, 3)"),
    ("1<x<2", r"x\in(1,2)"),
    ("(1,2)", "1<x<2"),
    (r"x \le 3", r"3\ge x"),
    ("x=5", "5"),
    ("y=2x+3", "2x+3"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\ \frac{4}{2}\end{pmatrix}"),
    (r"\text{blue}", "blue"),
    (r"\text{(B)}", "B"),
    ("2:3", r"\frac{2}{3}"),
    ("1/2/3", "1/6"),
]
DIFFERENT = [
    (r"\frac{1}{2}", "0.51"),
    (r"\frac{1}{3}", "0.33"),
    ("0.5", "50"),
    (r"\sqrt{8}", "2.828"),
    (r"\pi", "3.14159"),
    ("x^2+2x+1", "(x+2)^2"),
    (r"\{1,2,3\}", r"\{1,2,4\}"),
    (r"\{1,2,3\}", r"\{1,2\}"),
    ("(1,2)", "(2,1)"),
    ("[1,2)", "[1,2]"),
    (r"(-\infty,3)", r"(-\infty,3]"),
    ("1<x<2", r"1 \le x<2"),
    (r"\infty", r"-\infty"),
    ("x=1", "y=1"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"\text{blue}", r"\text{red}"),
    ("1234567", "1234568"),
    ("10000000.1", "10000000.2"),
    ("10^{-9}", "0"),
    ("", "0"),
]


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal(reader, a, b):
    assert reader.equal(a, b) and reader.equal(b, a)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different(reader, a, b):
    assert not reader.equal(a, b) and not reader.equal(b, a)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so we get $x = \boxed{\frac{3}{4}}$.", r"\frac{3}{4}"),
        (r"\boxed{1} is wrong. So \boxed{2}.", "2"),
        ("The answer is 1/3.", "1/3"),
        ("The answer is 1,234.56 dollars", "1234.56"),
        ("so 50% of them", r"50\%"),
        (r"Hence $x^2+1$ it is.", "x^2+1"),
        (r"\boxed{5\text{ cm}}", "5"),
        (r"\boxed{(1,2)}", "(1,2)"),
        (r"\boxed{\text{blue}}", r"\text{blue}"),
    ],
)
def test_reads(reader, text, answer):
    found = reader(text)
    assert found == answer
    # The bare answer means what the text does: it can be compared and voted on by itself.
    assert reader.equal(found, answer) and reader(rf"\boxed{{{found}}}") is not None


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (r"$\frac{1}{2}$ and $\frac{1}{3}$", r"\frac13, \frac12"),
        (r"The answer is $50\%$.", "0.5"),
        (r"\boxed{x \in [1, 2]}", r"x\in[1,2]"),
        (r"\boxed{\$1{,}000}", "1000"),
        ("**Answer:** $2\\sqrt{2}$", r"\sqrt{8}"),
    ],
)
def test_reads_what_means(reader, text, meaning):
    assert reader.equal(reader(text), meaning)


def test_nothing_to_read_is_counted(reader):
    before = reader.n_unparsed
    for text in ("", "no number here", r"the answer is \boxed{5", "\ud800", "{" * 2000):
        assert reader(text) is None
    assert reader.n_unparsed == before + 5
    assert reader("5") == "5" and reader.n_unparsed == before + 5


def test_answers_that_are_no_strings(reader):
    assert reader.equal(0.5, r"\frac12") and not reader.equal(1, 2) and reader.equal("a", "a ")


def test_off_the_main_thread_and_in_coroutines(reader):
    with ThreadPoolExecutor(4) as threads:
        texts = [rf"\boxed{{{i}}}" for i in range(40)]
        assert list(threads.map(reader, texts)) == [str(i) for i in range(40)]
        halves = threads.map(lambda i: reader.equal(rf"\frac{{{i}}}{{2}}", str(i / 2)), range(1, 9))
        assert all(halves)

    async def inside():
        awaited = await asyncio.to_thread(reader.equal, r"\sqrt{9}", "3")
        return awaited, reader(r"\boxed{7}")

    assert asyncio.run(inside()) == (True, "7")


def test_votes(reader):
    keys = equality.as_canonicaliser(reader.equal)
    texts = [r"\boxed{\frac12}", "The answer is 0.5.", r"\boxed{2}", "none", r"$\frac{2}{4}$"]
    assert [keys(reader(text)) for text in texts] == [
        r"\frac{1}{2}", r"\frac{1}{2}", "2", None, r"\frac{1}{2}",
    ]  # fmt: skip


def test_known_equalities_that_are_not_transitive(reader):
    keys = equality.PairwiseKeys(reader.equal)
    assert keys("x=1") == "x=1" and keys("1") == "x=1"
    with pytest.warns(equality.NonTransitive, match="x=1"):
        assert keys("y=1") == "x=1"
    with pytest.warns(equality.NonTransitive):
        equality.group_equivalent(["0.5", r"50\%", "50"], reader.equal)


def test_reference_answers(reader):
    verifier = ExactAnswer(reader, {"q": "x^2+2x+1", "r": r"\frac{3}{4}"}, equal=reader.equal)
    assert verifier("q", [r"\boxed{(x+1)^2}", r"\boxed{x^2+1}", "none"]) == [1.0, 0.0, 0.0]
    assert verifier("r", ["It is 0.75", "It is 0.7"]) == [1.0, 0.0]
    # The reader brings its equality, also inside of another extractor.
    for extractor in (reader, extract.strip_think(reader)):
        own = ExactAnswer(extractor, {"r": r"\frac{3}{4}"})
        assert own("r", ["It is 0.75", "It is 0.7"]) == [1.0, 0.0]


def test_towers_of_powers_run_out_of_time(reader):
    patient, reader.timeout_s = reader.timeout_s, 0.3
    before = reader.n_timeouts
    try:
        assert not reader.equal(r"10^{10^{10}}", "3")
    finally:
        reader.timeout_s = patient
    assert reader.n_timeouts == before + 1
    assert reader.equal(r"\frac12", "0.5")


def test_rounding_and_variables(reader, monkeypatch):
    assert not reader.equal("0.12", "0.1") and not reader.equal("x+1", "y+1")
    monkeypatch.setattr(reader, "float_rounding", 1)
    monkeypatch.setattr(reader, "strict", False)
    assert reader.equal("0.12", "0.1") and not reader.equal("0.22", "0.1")
    assert reader.equal("x+1", "y+1") and not reader.equal("x+1", "y+2")


STAND_IN = """
import os, time

def parse(text, parsing_timeout):
    assert parsing_timeout is None
    if "sleep" in text:
        time.sleep(100)
    if "exit" in text:
        os._exit(3)
    if "memory" in text:
        return [bytes(2**33)]
    return [] if "none" in text else [text]

def verify(gold, target, timeout_seconds, **options):
    assert timeout_seconds is None
    print("this goes nowhere")
    return gold == target
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Put a module in Math-Verify's place that starts at once and does as it is told."""
    package = tmp_path / "math_verify"
    package.mkdir()
    (package / "__init__.py").write_text(STAND_IN)
    (package / "grader.py").write_text("get_pct_val = lambda expression: None")
    (tmp_path / "sympy.py").write_text("Rational, latex = bytearray, str")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_too_long_a_request_costs_the_worker_and_nothing_else(stand_in):
    with MathVerify(timeout_s=30) as reader:
        assert reader("5") == "5"
        first = reader._worker.process
        reader.timeout_s = 0.1
        assert reader("sleep") is None
        assert (reader.n_timeouts, reader.n_crashes, reader.n_unparsed) == (1, 0, 1)
        assert first.returncode == -signal.SIGKILL and not alive(first.pid)
        reader.timeout_s = 30
        assert reader("6") == "6"
        second = reader._worker.process
        assert second.pid != first.pid
        # A worker that something else ends while it is idle is replaced without a loss.
        second.kill()
        second.wait()
        assert reader("7") == "7" and reader.n_crashes == 0


def test_a_crash_costs_its_request(stand_in):
    with MathVerify() as reader:
        assert reader("exit") is None and not reader.equal("exit", "5")
        assert (reader.n_timeouts, reader.n_crashes, reader.n_unparsed) == (0, 2, 1)
        assert reader("none") is None and reader.n_unparsed == 2
        assert reader("5") == "5" and reader.equal("a", "a ") and not reader.equal("a", "b")


def test_the_memory_limit_ends_a_request_only(stand_in):
    with MathVerify(memory_mb=1024) as reader:
        assert reader("5") == "5"
        process = reader._worker.process
        assert reader("memory") is None and not reader.equal("memory", "5")
        assert reader("6") == "6" and reader._worker.process is process
        assert (reader.n_timeouts, reader.n_crashes, reader.n_unparsed) == (0, 0, 1)


def test_an_interrupted_request_does_not_answer_the_next(stand_in, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    with MathVerify() as reader:
        assert reader("5") == "5"
        worker = reader._worker
        monkeypatch.setattr(worker.connection, "poll", interrupt)
        with pytest.raises(KeyboardInterrupt):
            reader("6")
        assert worker.process.returncode is not None
        assert reader("7") == "7"
        # A Ctrl-C in the terminal reaches the worker as well, which leaves it to its starter.
        reader._worker.process.send_signal(signal.SIGINT)
        process = reader._worker.process
        assert reader("8") == "8" and reader._worker.process is process


def test_a_worker_does_not_outlive_a_starter_that_was_killed(stand_in, monkeypatch):
    monkeypatch.setattr("modicum.testtime.integrations.math_verify._ALARM_GRACE_S", 0.1)
    reader = MathVerify(timeout_s=0.2)
    reader("5")
    worker = reader._worker
    # What a killed starter leaves behind: a request under way that nobody waits for.
    with pytest.raises(TimeoutError):
        monkeypatch.setattr(worker, "stop", lambda: None)
        worker.ask({"ask": "read", "text": "sleep"}, 0.2)
    assert worker.process.wait(60) == -signal.SIGALRM
    reader.close()
    worker.connection.close()


def test_ends_with_the_block_and_with_the_last_reference(stand_in):
    with MathVerify() as reader:
        reader("5")
        process = reader._worker.process
    assert process.returncode is not None and not alive(process.pid)
    reader.close()
    assert reader("6") == "6"
    process = reader._worker.process
    del reader
    gc.collect()
    assert process.returncode is not None and not alive(process.pid)


def test_ends_with_the_program(stand_in):
    script = """
        from modicum.testtime import extract
        reader = extract.math()
        assert reader("5") == "5"
        print(reader._worker.process.pid)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        env=os.environ | {"PYTHONPATH": str(stand_in)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "" and not alive(int(done.stdout))


def in_a_fork(reader, answers):
    answers.send((reader("8"), reader._worker.process.pid))
    reader.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_has_its_own_worker(stand_in):
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with MathVerify() as reader, receiver, sender:
        reader("5")
        ours = reader._worker.process.pid
        # As if another thread were in the middle of a request.
        with reader._lock:
            child = context.Process(target=in_a_fork, args=(reader, sender))
            child.start()
            assert receiver.poll(120)
            answer, theirs = receiver.recv()
            child.join()
        assert child.exitcode == 0
        assert answer == "8" and theirs != ours and not alive(theirs)
        # Ours is still there and in step.
        assert reader("9") == "9" and reader._worker.process.pid == ours


def test_settings():
    reader = MathVerify(timeout_s=3, float_rounding=2, memory_mb=2048)
    again = pickle.loads(pickle.dumps(reader))
    assert again.name == reader.name and "timeout_s=3" in reader.name and again.memory_mb == 2048
    assert reader._worker is None and again.n_unparsed == 0
    assert isinstance(extract.math(timeout_s=3), MathVerify)
    assert isinstance(equality.math_verify(timeout_s=3), equality.PairwiseKeys)
    assert extract.strip_think(reader).name.startswith("strip_think(math(timeout_s=3")
    for options in ({"timeout_s": 0}, {"timeout_s": float("nan")}, {"memory_mb": -1}):
        with pytest.raises(ValueError, match="must be positive"):
            MathVerify(**options)


def test_a_worker_that_cannot_start_says_why(monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text("raise ImportError('broken on purpose')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        MathVerify()("5")
    monkeypatch.setattr(
        "modicum.testtime.integrations.math_verify._WORKER", tmp_path / "missing.py"
    )
    with pytest.raises(RuntimeError, match="did not start"):
        MathVerify()("5")


def test_votes_of_a_math_extractor_are_counted_by_its_own_equality():
    texts = ["\\boxed{1/2}", "\\boxed{0.5}", "\\boxed{1/3}", "\\boxed{0.25}"]
    with MathVerify() as reader:
        strategy = SelfConsistency(
            backends.callable(lambda prompt, request: texts[request.sample_index]),
            extract=reader,
            stop=FixedN(4),
        )
        (result,) = strategy.run(["?"])
    assert sorted(result.votes.values()) == [1.0, 1.0, 2.0] and "2" in result.text
