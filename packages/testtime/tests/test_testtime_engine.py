"""The engine: decisions that no schedule can change, and what it owes to whoever interrupts it."""

import asyncio
import gc
import json
import random
import signal
import threading
import warnings
import weakref
from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modicum.testtime import backends
from modicum.testtime._sampling import RunSettings, SamplingTask
from modicum.testtime.engine import Engine
from modicum.testtime.log import SampleLog
from modicum.testtime.samples import (
    Budget,
    Completion,
    DegenerateSampling,
    Event,
    OrderBiasWarning,
    Request,
    Result,
    Sample,
    Sampling,
    Usage,
    sample_seed,
)
from modicum.testtime.stopping.base import GO_ON, Decision, StoppingRule, VoteCounter

CAP = 12


@pytest.fixture
def interruptible():
    """Let SIGINT interrupt: a process that was started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Lead(StoppingRule):
    """Stop when the leader is two votes ahead."""

    def __init__(self, lead=2):
        self.lead = lead
        self.reset()

    def reset(self):
        self.votes = VoteCounter()

    def update(self, key, reward=None, weight=1.0):
        self.votes.add(key, weight)
        first, a, _, b = self.votes.top_two()
        return Decision(True, first, "ahead") if a - b >= self.lead else GO_ON

    def min_to_stop(self):
        _, a, _, b = self.votes.top_two()
        return max(1, int(self.lead - (a - b)))


class Exchangeable(Lead):
    guarantee = "anytime"
    needs_exchangeable = True


class VoteTask(SamplingTask):
    def choose(self):
        return self.candidates.top()[0]


def completion_of(request):
    rng = random.Random(request.seed)
    text = rng.choice("aaaabbbc")
    reason = "length" if rng.random() < 0.1 else "stop"
    return Completion(text, reason, n_prompt_tokens=2, n_tokens=1 + rng.randrange(5))


class Server:
    """Completions after a number of turns of the event loop that the seed and a salt decide."""

    def __init__(self, salt=0, turns=6, stubborn=False):
        self.salt, self.turns, self.stubborn = salt, turns, stubborn
        self.asked, self.cancelled = [], 0
        self.now = self.most = 0
        self.per_prompt, self.most_per_prompt = {}, {}
        self.closed = 0

    async def agenerate(self, request):
        self.asked.append((request.prompt_id, request.sample_index))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            rng = random.Random(request.seed + self.salt)
            for _ in range(rng.randrange(self.turns) if self.turns else 0):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled += 1
            if not self.stubborn:
                raise
        finally:
            self.now -= 1
        return completion_of(request)

    async def aclose(self):
        self.closed += 1


class Offline:
    """Completions of a list, in an order that a salt decides."""

    def __init__(self, salt=0):
        self.salt, self.waves, self.asked = salt, [], []

    def generate(self, requests):
        self.waves.append(len(requests))
        shuffled = list(requests)
        random.Random(self.salt).shuffle(shuffled)
        for request in shuffled:
            self.asked.append((request.prompt_id, request.sample_index))
            yield request, completion_of(request)


def tasks(count=5, *, rule=None, wave="geometric", cap=CAP, seed=0, cls=VoteTask):
    for i in range(count):
        own = (rule if rule is not None else Lead()).fresh()
        yield cls(
            str(i), f"prompt {i}", RunSettings(Sampling(), seed), cap=cap, rule=own, wave=wave
        )


def one_by_one(count=5, *, rule=None, cap=CAP, seed=0):
    """What every schedule must give: a loop over samples, written without an engine."""
    expected = {}
    for i in range(count):
        own = (rule if rule is not None else Lead()).fresh()
        votes, used = VoteCounter(), []
        for index in range(cap):
            request = Request(str(i), index, "", Sampling(), sample_seed(seed, str(i), index))
            completion = completion_of(request)
            key = completion.text if completion.finish_reason == "stop" else None
            votes.add(key)
            used.append(key)
            if own.update(key).stop:
                break
        expected[str(i)] = (votes.top_two()[0], votes.counts, used)
    return expected


def decisions(events):
    return {
        event.prompt_id: (
            event.result.answer,
            event.result.votes,
            [sample.key for sample in event.result.samples if sample.used],
        )
        for event in events
        if event.kind == "done"
    }


# Decisions ---------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["server", "offline", "both"]),
    salt=st.integers(0, 10**6),
    inflight=st.integers(1, 40),
    prompts=st.one_of(st.none(), st.integers(1, 7)),
    wave=st.one_of(st.sampled_from(["geometric", "boundary"]), st.integers(1, 20)),
    turns=st.integers(0, 12),
    stubborn=st.booleans(),
    seed=st.integers(0, 5),
    lead=st.integers(1, 4),
)
def test_decisions_do_not_depend_on_the_schedule(
    kind, salt, inflight, prompts, wave, turns, stubborn, seed, lead
):
    backend = Offline(salt) if kind == "offline" else Server(salt, turns, stubborn)
    engine = Engine(backend, inflight=inflight, prompts_in_flight=prompts)
    run = tasks(rule=Lead(lead), wave=wave, seed=seed)
    if kind == "both":

        async def gather():
            async with aclosing(engine.arun(run)) as events:
                return [event async for event in events]

        events = asyncio.run(gather())
    else:
        events = list(engine.run(run))
    assert decisions(events) == one_by_one(rule=Lead(lead), seed=seed)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    data=st.data(),
    first=st.sampled_from(["server", "offline"]),
    then=st.sampled_from(["server", "offline"]),
    salt=st.integers(0, 1000),
)
def test_a_log_cut_anywhere_is_gone_on_with(tmp_path_factory, data, first, then, salt):
    path = tmp_path_factory.mktemp("log") / "run.jsonl"
    backend = {"server": lambda s: Server(s, 5), "offline": Offline}
    with SampleLog(path, {"seed": 0}) as log:
        list(Engine(backend[first](salt), log=log).run(tasks()))
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    again = backend[then](salt + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log = SampleLog(path, {"seed": 0})
    with log:
        held = {
            (record["prompt_id"], record["sample_index"])
            for record in map(json.loads, path.read_bytes().splitlines()[1:])
        }
        events = list(Engine(again, log=log).run(tasks()))
    assert decisions(events) == one_by_one()
    assert not held & set(again.asked)
    # What the file holds in the end is what the decisions rest on.
    used = {}
    for record in map(json.loads, path.read_bytes().splitlines()[1:]):
        used[record["prompt_id"], record["sample_index"]] = record["used"], record["key"]
    for prompt_id, (_, _, keys) in one_by_one().items():
        assert [used[prompt_id, i] for i in range(len(keys))] == [(True, key) for key in keys]
    assert sum(flag for flag, _ in used.values()) == sum(
        len(keys) for _, _, keys in one_by_one().values()
    )


def test_a_finished_log_costs_nothing_to_read_again(tmp_path):
    with SampleLog(tmp_path / "log.jsonl") as log:
        first = decisions(Engine(Server(), log=log).run(tasks()))
    size = (tmp_path / "log.jsonl").stat().st_size
    for backend in (Server(), Offline()):
        with SampleLog(tmp_path / "log.jsonl") as log:
            assert decisions(Engine(backend, log=log).run(tasks(wave=1))) == first
        assert backend.asked == []
    assert (tmp_path / "log.jsonl").stat().st_size == size


def test_events_come_in_order_and_say_what_happened():
    events = list(Engine(Server(3)).run(tasks(3)))
    for i in range(3):
        own = [event for event in events if event.prompt_id == str(i)]
        used = [event.sample.sample_index for event in own if event.sample and event.sample.used]
        kinds = [event.kind for event in own]
        delivered = [e for e in own if e.kind == "sample" and e.sample.used]
        assert [e.sample.sample_index for e in delivered] == list(range(len(delivered)))
        assert kinds.count("decision") == kinds.count("done") == 1
        assert kinds[-1] == "done"
        decision = next(event for event in own if event.kind == "decision")
        assert decision.decision.stop and decision.decision.reason == "ahead"
        assert decision.sample.sample_index == max(used)
        result = own[-1].result
        assert isinstance(result, Result)
        assert [s.sample_index for s in result.samples] == sorted(
            s.sample_index for s in result.samples
        )
        assert result.usage.used == len(delivered)


# What comes too late -----------------------------------------------------------------------------


@pytest.mark.parametrize("stubborn", [False, True])
def test_late_samples_never_vote(stubborn, tmp_path):
    server = Server(turns=40, stubborn=stubborn)
    with SampleLog(tmp_path / "log.jsonl") as log:
        engine = Engine(server, inflight=CAP, log=log)
        events = list(engine.run(tasks(4, wave=CAP)))
    assert decisions(events) == one_by_one(4)
    results = [event.result for event in events if event.kind == "done"]
    late = [s for result in results for s in result.samples if not s.used]
    cancelled = sum(result.usage.cancelled for result in results)
    submitted = sum(result.usage.submitted for result in results)
    used = sum(result.usage.used for result in results)
    assert submitted == used + len(late) + cancelled == engine.usage.submitted
    assert server.cancelled > 0
    assert cancelled == (0 if stubborn else server.cancelled)
    # Paid for: their tokens count, and they are in the log.
    assert engine.usage.completion_tokens == sum(
        s.n_tokens for result in results for s in result.samples
    )
    records = list(map(json.loads, (tmp_path / "log.jsonl").read_bytes().splitlines()))[1:]
    assert sum(not record["used"] for record in records) == len(late)
    assert len(records) == len(late) + used


def test_boundary_waves_draw_nothing_that_is_not_used():
    for backend in (Server(5), Offline(5)):
        engine = Engine(backend)
        list(engine.run(tasks(wave="boundary")))
        assert engine.usage.submitted == engine.usage.used
        assert engine.usage.saved == 5 * CAP - engine.usage.used > 0


def test_limits_on_what_is_under_way_hold():
    server = Server(turns=9)

    class Counting(VoteTask):
        def next_request(self):
            request = super().next_request()
            assert self.asked - self.drawn <= 3
            return request

    engine = Engine(server, inflight=7, prompts_in_flight=4)
    list(engine.run(tasks(20, wave=3, cls=Counting)))
    assert server.most == 7
    assert server.closed == 1


def test_free_slots_go_to_the_prompts_admitted_first():
    server = Server(turns=0)
    list(Engine(server, inflight=4).run(tasks(3, wave=2, rule=Lead(CAP))))
    assert server.asked[:4] == [("0", 0), ("0", 1), ("1", 0), ("1", 1)]


@pytest.mark.parametrize("backend", [Server, Offline])
def test_memory_does_not_grow_with_the_number_of_prompts(backend):
    living, most = weakref.WeakSet(), 0
    pulled, done = 0, 0

    def source():
        nonlocal pulled
        for task in tasks(120, cls=VoteTask):
            living.add(task)
            pulled += 1
            yield task

    for event in Engine(backend(), inflight=8, prompts_in_flight=8).run(source()):
        if event.kind == "done":
            done += 1
            if done % 30 == 0:
                del event
                gc.collect()
                most = max(most, len(living))
        assert pulled <= done + 8 + 1
    assert done == 120
    assert most <= 10


def test_one_prompt_after_the_other_when_asked():
    """A session controller relies on it: the next task is made after the one before is decided."""
    finished = []

    class Session(VoteTask):
        def _finish(self, reason):
            finished.append(self.prompt_id)
            return super()._finish(reason)

    def source():
        for task in tasks(6, cls=Session):
            assert finished == [str(i) for i in range(int(task.prompt_id))]
            yield task

    for backend in (Server(2, 9), Offline(2)):
        finished.clear()
        list(Engine(backend, prompts_in_flight=1).run(source()))
        assert len(finished) == 6


# Order of completion -----------------------------------------------------------------------------


class SlowRight:
    """Answers "a" with probability 0.6; that answer takes longer."""

    async def agenerate(self, request):
        right = random.Random(request.seed).random() < 0.6
        for _ in range(40 if right else 2):
            await asyncio.sleep(0)
        return Completion("a" if right else "b")


def test_completion_order_is_biased_and_warned_of():
    count = 60

    def share_right(order):
        engine = Engine(SlowRight(), order=order, inflight=CAP, prompts_in_flight=1)
        return sum(answer == "a" for answer, _, _ in decisions(engine.run(run())).values()) / count

    def run():
        return tasks(count, wave=CAP, rule=Lead(3))

    assert share_right("submission") > 0.6
    with pytest.warns(OrderBiasWarning, match="short"):
        assert share_right("completion") < 0.3


def test_completion_order_refuses_rules_that_need_exchangeable_samples():
    engine = Engine(Server(), order="completion")
    with (
        pytest.warns(OrderBiasWarning),
        pytest.raises(ValueError, match="exchangeable"),
    ):
        list(engine.run(tasks(rule=Exchangeable())))
    trusting = Engine(Server(), order="completion", assume_exchangeable=True)
    with pytest.warns(OrderBiasWarning):
        assert len(decisions(trusting.run(tasks(rule=Exchangeable())))) == 5
    # Submission order is what they need.
    assert len(decisions(Engine(Server()).run(tasks(rule=Exchangeable())))) == 5


def test_completion_order_in_waves_is_the_order_of_the_backend():
    class Reversed:
        def generate(self, requests):
            for request in reversed(requests):
                yield request, Completion("ab"[request.sample_index >= 2])

    engine = Engine(Reversed(), order="completion")
    with pytest.warns(OrderBiasWarning):
        found = decisions(engine.run(tasks(1)))
    assert found["0"][0] == "b"
    assert decisions(Engine(Reversed()).run(tasks(1)))["0"][0] == "a"


# Null samples and errors -------------------------------------------------------------------------


def played(item):
    if isinstance(item, BaseException):
        raise item
    return item if isinstance(item, Completion) else Completion(item)


class Scripted:
    """Completions from a list, by sample index; in waves."""

    def __init__(self, *script):
        self.script = script

    def generate(self, requests):
        for request in requests:
            yield request, played(self.script[request.sample_index])


class ScriptedServer:
    """Completions from a list, by sample index; one by one."""

    def __init__(self, *script):
        self.script = script

    async def agenerate(self, request):
        await asyncio.sleep(0)
        return played(self.script[request.sample_index])


BOTH = pytest.mark.parametrize("backend", [Scripted, ScriptedServer])


def single(backend, *, cap, rule=None, wave="geometric", cls=VoteTask, **options):
    engine = Engine(backend, **options)
    events = list(engine.run(tasks(1, rule=rule or Lead(99), cap=cap, wave=wave, cls=cls)))
    return events[-1].result


@BOTH
def test_truncated_completions_cost_and_do_not_vote(backend):
    cut = Completion("a", "length", n_tokens=7)
    result = single(backend(cut, cut, cut, "b"), cap=4)
    assert result.answer == "b"
    assert result.votes == {"b": 1.0}
    assert [sample.key for sample in result.samples] == [None, None, None, "b"]
    assert result.usage.used == 4
    assert result.usage.completion_tokens == 21


@BOTH
def test_all_null_is_no_exception(backend):
    result = single(backend(*["", Completion("x", "length")] * 2), cap=4)
    assert (result.answer, result.reason, result.certified) == (None, "no_parseable_answer", False)
    assert result.text == ""


@BOTH
def test_a_failing_request_raises_by_default_and_leaves_a_valid_log(backend, tmp_path):
    script = ["a", "b", "a", OSError("no route"), "a", "a"]
    with (
        SampleLog(tmp_path / "log.jsonl") as log,
        pytest.raises(OSError, match="no route"),
    ):
        single(backend(*script), cap=6, wave=6, log=log)
    script[3] = "b"
    with SampleLog(tmp_path / "log.jsonl") as log:
        assert len(log) >= 3
        assert single(backend(*script), cap=6, wave=6, log=log).votes == {"a": 4.0, "b": 2.0}


@BOTH
def test_a_failing_request_can_be_a_null_sample(backend):
    script = ["a", "a", "b", Completion("", "error", error="refused")]
    result = single(backend(*script), cap=4, on_error="null")
    assert result.votes == {"a": 2.0, "b": 1.0}
    assert result.samples[3].finish_reason == "error"
    with pytest.raises(RuntimeError, match="refused"):
        single(backend(*script), cap=4)


def test_a_failing_request_is_the_same_one_in_a_wave_and_at_a_server():
    script = ["a", "a", OSError("gone"), "b"]
    result = single(Scripted(*script), cap=4, on_error="null")
    assert [sample.finish_reason for sample in result.samples] == ["stop", "stop", "error", "stop"]
    server = single(ScriptedServer(*script), cap=4, on_error="null")
    assert [sample.finish_reason for sample in server.samples] == ["stop", "stop", "error", "stop"]


def test_a_late_failure_is_nobodys_business():
    class LateFailure:
        async def agenerate(self, request):
            if request.sample_index < 2:
                return Completion("a")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise ConnectionError("cut") from None

    engine = Engine(LateFailure())
    result = list(engine.run(tasks(1)))[-1].result
    assert result.answer == "a"
    assert result.usage.cancelled == result.usage.submitted - 2 > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pairs: pairs[:-1], "gave no completion for 1 requests"),
        (lambda pairs: [*pairs, pairs[0]], "came before"),
        (
            lambda pairs: [(Request("x", 0, "", Sampling(), 0), pairs[0][1]), *pairs],
            "not asked",
        ),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "null"])
def test_a_backend_must_answer_each_request_once(change, message, on_error):
    class Wrong:
        def generate(self, requests):
            return iter(change([(request, Completion("a")) for request in requests]))

    with pytest.raises(RuntimeError, match=message):
        single(Wrong(), cap=4, on_error=on_error)


# Budgets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [Server, Offline])
@pytest.mark.parametrize("limit", [1, 4, 7, 13, 30])
def test_a_budget_of_samples_is_exact(backend, limit):
    asked = backend(1)
    engine = Engine(asked, budget=Budget(samples=limit))
    events = list(engine.run(tasks(40, rule=Lead(99))))
    assert len(asked.asked) == engine.usage.submitted == limit
    results = [event.result for event in events if event.kind == "done"]
    assert engine.truncated
    assert sum(result.usage.used for result in results) == limit
    for result in results:
        assert result.truncated == (result.usage.used < CAP)
        assert result.reason == ("budget" if result.truncated else "max_samples") or not any(
            sample.key for sample in result.samples
        )
        if any(sample.key for sample in result.samples):
            assert result.answer is not None


@pytest.mark.parametrize("backend", [Server, Offline])
def test_a_budget_that_suffices_truncates_nothing(backend):
    need = sum(len(keys) for _, _, keys in one_by_one().values())
    engine = Engine(backend(1), budget=Budget(samples=need))
    events = list(engine.run(tasks(wave="boundary")))
    assert decisions(events) == one_by_one()
    assert not engine.truncated
    assert not any(event.result.truncated for event in events if event.result)


@pytest.mark.parametrize("backend", [Server, Offline])
def test_a_budget_of_tokens_ends_the_run(backend):
    engine = Engine(backend(1), budget=Budget(tokens=60), inflight=4)
    results = [event.result for event in engine.run(tasks(50, wave=2)) if event.result]
    total = engine.usage.prompt_tokens + engine.usage.completion_tokens
    # What was under way when it was met is waited for: four requests, or a wave of prompts.
    assert total >= 60
    assert engine.truncated
    if backend is Server:
        assert total < 60 + 4 * 7
        assert len(results) < 50
    assert total == sum(
        sample.n_prompt_tokens + sample.n_tokens for r in results for sample in r.samples
    )


@pytest.mark.parametrize("backend", [Server, Offline])
def test_a_budget_of_seconds_goes_by_the_clock(backend):
    ticks = iter(range(10**6))
    engine = Engine(
        backend(1), budget=Budget(seconds=100), clock=lambda: float(next(ticks)), inflight=2
    )
    results = [event.result for event in engine.run(tasks(300)) if event.result]
    assert engine.truncated
    assert any(result.reason == "budget" and result.truncated for result in results)
    assert engine.usage.seconds > 0


def test_samples_from_the_log_count_towards_the_budget(tmp_path):
    def run(backend):
        with SampleLog(tmp_path / "log.jsonl") as log:
            engine = Engine(backend, budget=Budget(samples=9), log=log, inflight=1)
            return decisions(engine.run(tasks(rule=Lead(99))))

    first = run(Server())
    again = Server()
    assert run(again) == first
    assert again.asked == []


# Interruptions -----------------------------------------------------------------------------------


class Interrupting(Offline):
    """Presses Ctrl-C at its n-th completion."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def generate(self, requests):
        for pair in super().generate(requests):
            if len(self.asked) == self.at:
                signal.raise_signal(signal.SIGINT)
            yield pair


class InterruptingServer(Server):
    def __init__(self, at, presses=1):
        super().__init__()
        self.at, self.presses, self.completed = at, presses, 0

    async def agenerate(self, request):
        completion = await super().agenerate(request)
        self.completed += 1
        if self.at <= self.completed < self.at + self.presses:
            signal.raise_signal(signal.SIGINT)
        return completion


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("kind", [Interrupting, InterruptingServer])
@pytest.mark.parametrize("at", [1, 5, 11, 17])
def test_ctrl_c_leaves_a_log_to_go_on_with(kind, at, tmp_path):
    path = tmp_path / "log.jsonl"
    with pytest.raises(KeyboardInterrupt), SampleLog(path) as log:
        list(Engine(kind(at), inflight=6, log=log).run(tasks()))
    for line in path.read_bytes().splitlines():
        json.loads(line)
    rest = Offline()
    with SampleLog(path) as log:
        held = len(log)
        assert decisions(Engine(rest, log=log).run(tasks())) == one_by_one()
    assert held >= at - 1  # in waves, the one at which it was pressed was not handed over


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_request_that_ends_the_program_ends_the_run(error, tmp_path):
    """Such an exception stops the event loop itself, in the middle of everything."""

    class Ending(Server):
        ended = False

        async def agenerate(self, request):
            completion = await super().agenerate(request)
            if request.sample_index == 3 and not self.ended:
                self.ended = True
                raise error
            return completion

    server = Ending()
    with pytest.raises(error), SampleLog(tmp_path / "log.jsonl") as log:
        list(Engine(server, log=log).run(tasks(20, rule=Lead(99))))
    assert server.now == 0
    asked = len(server.asked)
    with SampleLog(tmp_path / "log.jsonl") as log:
        assert 0 < len(log) <= asked
        assert decisions(Engine(Offline(), log=log).run(tasks())) == one_by_one()


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_twice_loses_nothing(tmp_path):
    server = InterruptingServer(9, presses=2)
    with pytest.raises(KeyboardInterrupt), SampleLog(tmp_path / "log.jsonl") as log:
        list(Engine(server, inflight=6, log=log).run(tasks()))
    with SampleLog(tmp_path / "log.jsonl") as log:
        assert len(log) >= 8
        assert decisions(Engine(Offline(), log=log).run(tasks())) == one_by_one()


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_inside_a_running_loop():
    """The requests run in a thread there; the thread that waits gets the signal."""
    server = Server()
    pressed = threading.Event()

    class Pressing(VoteTask):
        def deliver(self, sample):
            if not pressed.is_set():
                pressed.set()
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            return super().deliver(sample)

    async def inside():
        list(Engine(server, inflight=3).run(tasks(200, cls=Pressing)))

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(inside())
    assert threading.active_count() == before
    assert server.now == 0


@pytest.mark.parametrize("backend", [Server, Offline])
def test_leaving_early_cancels_what_is_under_way(backend, tmp_path):
    asked = backend(1)
    with SampleLog(tmp_path / "log.jsonl") as log:
        events = Engine(asked, log=log).run(tasks(50))
        for event in events:
            if event.kind == "done":
                break
        events.close()
    if backend is Server:
        assert asked.now == 0
        assert asked.closed == 1
    # What had come in is on disk, once.
    with SampleLog(tmp_path / "log.jsonl") as log:
        assert len(log) >= event.result.usage.used


@pytest.mark.parametrize("backend", [Server, Offline])
def test_cancelling_an_async_run_leaves_no_task_behind(backend):
    asked = backend(1)

    async def consume():
        async with aclosing(Engine(asked).arun(tasks(10**6))) as events:
            async for _ in events:
                await asyncio.sleep(0)

    async def main():
        task = asyncio.create_task(consume())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(main()) == set()
    assert asked.asked
    if backend is Server:
        assert asked.now == 0


@pytest.mark.parametrize("backend", [Server, Offline])
def test_a_run_inside_a_running_loop(backend):
    async def inside():
        return decisions(Engine(backend(4)).run(tasks()))

    before = threading.active_count()
    assert asyncio.run(inside()) == one_by_one()
    assert threading.active_count() == before


@pytest.mark.parametrize("backend", [Server, Offline])
def test_async_runs_share_a_loop(backend):
    async def one(seed):
        async with aclosing(Engine(backend(seed)).arun(tasks(seed=seed))) as events:
            return decisions([event async for event in events])

    async def main():
        return await asyncio.gather(*map(one, range(4)))

    assert asyncio.run(main()) == [one_by_one(seed=seed) for seed in range(4)]


# Tasks that do not keep to the rules -------------------------------------------------------------


@pytest.mark.parametrize("backend", [Server, Offline])
def test_two_tasks_of_one_id_are_refused(backend):
    with pytest.raises(ValueError, match="two tasks have the prompt_id '0'"):
        list(Engine(backend()).run([*tasks(1), *tasks(1)]))


@pytest.mark.parametrize("backend", [Server, Offline])
@pytest.mark.parametrize("number", [0, 2])
def test_a_sample_asked_for_twice_or_out_of_turn_is_refused(backend, number):
    class Repeating(VoteTask):
        def next_request(self):
            request = super().next_request()
            self.asked = number
            return request

    with pytest.raises(ValueError, match=f"asked for sample {number} of '0' where sample 1"):
        list(Engine(backend()).run(tasks(1, cls=Repeating)))


@pytest.mark.parametrize("backend", [Server, Offline])
def test_a_task_that_asks_for_nothing_is_an_error_and_no_endless_loop(backend):
    class Mute(VoteTask):
        def next_request(self):
            return super().next_request() if self.drawn < 1 and self.asked < 1 else None

    with pytest.raises(RuntimeError, match="asks for nothing"):
        list(Engine(backend()).run(tasks(1, cls=Mute, rule=Lead(9))))


@pytest.mark.parametrize("backend", [Server, Offline])
def test_a_task_finished_from_the_start_has_a_result(backend):
    def source():
        for task in tasks(3):
            if task.prompt_id == "1":
                task.close("skipped")
            yield task

    found = {e.prompt_id: e.result for e in Engine(backend()).run(source()) if e.result}
    assert found["1"].samples == [] and found["1"].reason == "skipped"
    assert found["0"].samples and found["2"].samples


def test_settings_are_checked():
    for options, message in [
        ({"inflight": 0}, "inflight must be at least 1, not 0"),
        ({"prompts_in_flight": 0}, "prompts_in_flight"),
        ({"order": "random"}, "order must be 'submission' or 'completion', not 'random'"),
        ({"on_error": "ignore"}, "on_error"),
        ({"nan": "drop"}, "nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            Engine(Offline(), **options)
    with pytest.raises(TypeError, match="neither generate"):
        Engine(lambda prompt: "x")
    with pytest.raises(ValueError, match="at least one backend"):
        Engine({})


# Several backends --------------------------------------------------------------------------------


class TwoExperts(VoteTask):
    def next_request(self):
        request = super().next_request()
        if request is None:
            return None
        expert = ("first", "second")[request.sample_index % 2]
        return Request(
            request.prompt_id, request.sample_index, request.prompt, request.params, request.seed,
            expert, 1 + request.sample_index,
        )  # fmt: skip


@pytest.mark.parametrize("first", [Server, Offline])
@pytest.mark.parametrize("second", [Server, Offline])
def test_requests_go_to_the_backend_they_name(first, second):
    backends = {"first": first(1), "second": second(2)}
    engine = Engine(backends)
    events = list(engine.run(tasks(cls=TwoExperts)))
    assert decisions(events) == one_by_one()
    assert {index % 2 for _, index in backends["first"].asked} == {0}
    assert {index % 2 for _, index in backends["second"].asked} == {1}
    for event in events:
        if event.sample:
            assert event.sample.expert == ("first", "second")[event.sample.sample_index % 2]
            assert event.sample.round == 1 + event.sample.sample_index
    with pytest.raises(ValueError, match="asked for expert 'first'; backends are"):
        list(Engine({"other": Offline()}).run(tasks(cls=TwoExperts)))


@pytest.mark.parametrize("on_error", ["raise", "null"])
def test_a_failing_server_beside_an_offline_engine(on_error):
    backends = {"first": Offline(), "second": ScriptedServer(*[OSError("down")] * CAP)}
    engine = Engine(backends, on_error=on_error)
    if on_error == "raise":
        with pytest.raises(OSError, match="down"):
            list(engine.run(tasks(1, cls=TwoExperts)))
    else:
        result = list(engine.run(tasks(1, cls=TwoExperts, rule=Lead(99))))[-1].result
        assert sum(sample.finish_reason == "error" for sample in result.samples) == CAP // 2


# Verifiers ---------------------------------------------------------------------------------------


class Judge:
    """Rewards a text by its place in the alphabet; notes what it was called with."""

    def __init__(self):
        self.calls, self.threads, self.busy = [], set(), 0

    def __call__(self, prompt, responses):
        assert self.busy == 0, "called from two threads at once"
        self.busy += 1
        self.threads.add(threading.get_ident())
        self.calls.append([(prompt, response) for response in responses])
        self.busy -= 1
        return [ord(response) - ord("a") for response in responses]


class ManyJudge(Judge):
    def score_many(self, pairs):
        self.calls.append(list(pairs))
        return [ord(response) - ord("a") for _, response in pairs]


class AsyncJudge(Judge):
    async def ascore(self, prompt, responses):
        await asyncio.sleep(0)
        return self(prompt, responses)


@pytest.mark.parametrize("backend", [Server, Offline])
@pytest.mark.parametrize("judge", [Judge, ManyJudge, AsyncJudge])
def test_samples_have_their_rewards_before_they_are_shown(backend, judge):
    seen = []

    class Looking(VoteTask):
        def deliver(self, sample):
            seen.append(sample)
            return super().deliver(sample)

    verifier = judge()
    events = list(Engine(backend(3), verifier=verifier).run(tasks(cls=Looking)))
    assert decisions(events) == one_by_one()
    assert seen and all(sample.reward == ord(sample.text) - ord("a") for sample in seen)
    verified = [pair for call in verifier.calls for pair in call]
    late = [s for e in events if e.result for s in e.result.samples if not s.used]
    assert len(seen) <= len(verified) <= len(seen) + len(late)
    assert {prompt for prompt, _ in verified} == {f"prompt {i}" for i in range(5)}
    if backend is Offline and judge is ManyJudge:
        assert len({prompt for prompt, _ in verifier.calls[0]}) == 5
    if backend is Server and judge is Judge:
        assert len(verifier.threads) == 1 and threading.get_ident() not in verifier.threads


def test_a_tasks_own_verifier_wins():
    other = Judge()

    class Own(VoteTask):
        verifier = other

    engine_wide = Judge()
    list(Engine(Offline(), verifier=engine_wide).run(tasks(cls=Own)))
    assert other.calls and not engine_wide.calls


@BOTH
def test_failed_requests_are_not_verified(backend):
    judge = Judge()
    result = single(
        backend("a", Completion("", "error"), "b", "c"),
        cap=4,
        verifier=judge,
        on_error="null",
    )
    assert [sample.reward for sample in result.samples] == [0.0, None, 1.0, 2.0]


@BOTH
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_rewards_must_be_finite(backend, value):
    def verifier(prompt, responses):
        return [value if response == "b" else 1.0 for response in responses]

    with pytest.raises(ValueError, match=r"sample 2 of prompt '0' is .*(nan|inf)"):
        single(backend("a", "a", "b", "a"), cap=4, verifier=verifier)
    result = single(backend("a", "a", "b", "a"), cap=4, verifier=verifier, nan="reject")
    assert result.votes == {"a": 3.0}
    assert (result.samples[2].reward, result.samples[2].key) == (None, None)


@BOTH
def test_a_verifier_must_reward_each_response(backend):
    with pytest.raises(ValueError, match="gave 1 rewards for 4 responses"):
        single(backend(*"aabc"), cap=4, verifier=lambda prompt, responses: [1.0])


@pytest.mark.parametrize("backend", [Server, Offline])
def test_a_verifier_that_fails_loses_no_sample(backend, tmp_path):
    calls = []

    def verifier(prompt, responses):
        calls.append(responses)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return [1.0] * len(responses)

    asked = backend(1)
    with (
        SampleLog(tmp_path / "log.jsonl") as log,
        pytest.raises(RuntimeError, match="out of memory"),
    ):
        list(Engine(asked, verifier=verifier, log=log).run(tasks()))
    again = backend(2)
    with SampleLog(tmp_path / "log.jsonl") as log:
        events = list(Engine(again, verifier=verifier, log=log).run(tasks()))
    assert decisions(events) == one_by_one()
    assert all(s.reward == 1.0 for e in events if e.result for s in e.result.samples if s.used)
    assert len(set(asked.asked) & set(again.asked)) <= asked.asked.__len__() - 8


@BOTH
@pytest.mark.parametrize("where", ["read", "deliver"])
def test_a_task_that_fails_loses_no_sample(backend, where, tmp_path):
    class Failing(VoteTask):
        def read(self, sample):
            if where == "read" and sample.sample_index == 2:
                raise RuntimeError("unreadable")
            super().read(sample)

        def deliver(self, sample):
            if where == "deliver" and sample.sample_index == 2:
                raise RuntimeError("unreadable")
            return super().deliver(sample)

    with (
        SampleLog(tmp_path / "log.jsonl") as log,
        pytest.raises(RuntimeError, match="unreadable"),
    ):
        single(backend(*"abcabc"), cap=6, wave=6, cls=Failing, log=log)
    with SampleLog(tmp_path / "log.jsonl") as log:
        assert len(log) == 6


def test_rewards_in_the_log_are_not_asked_for_again(tmp_path):
    with SampleLog(tmp_path / "log.jsonl") as log:
        first = decisions(Engine(Offline(), verifier=Judge(), log=log).run(tasks()))
    judge = Judge()
    with SampleLog(tmp_path / "log.jsonl") as log:
        events = list(Engine(Server(), verifier=judge, log=log).run(tasks()))
    assert decisions(events) == first
    assert judge.calls == []
    assert all(s.reward == ord(s.text) - ord("a") for e in events if e.sample for s in [e.sample])


@pytest.mark.parametrize("backend", [Server, Offline])
def test_words_of_a_verifier_reach_the_task_and_the_log(backend, tmp_path):
    class Speaking:
        returns_text = True
        calls = 0

        def __call__(self, prompt, responses):
            type(self).calls += 1
            return [(0.5, f"no: {response}") for response in responses]

    said = []

    class Listening(VoteTask):
        def take_feedback(self, sample, text):
            said.append((sample.prompt_id, sample.sample_index, text))

    def run():
        said.clear()
        with SampleLog(tmp_path / "log.jsonl") as log:
            list(Engine(backend(), verifier=Speaking(), log=log).run(tasks(cls=Listening)))
        return sorted(said)

    first = run()
    assert first and all(text.startswith("no: ") for _, _, text in first)
    calls = Speaking.calls
    assert run() == first
    assert Speaking.calls == calls


# Sampling that is none ---------------------------------------------------------------------------


class Stuck:
    def generate(self, requests):
        for request in requests:
            yield request, Completion("the same")


class StuckServer:
    async def agenerate(self, request):
        return Completion("the same")


@pytest.mark.parametrize("backend", [Stuck, StuckServer])
def test_identical_samples_under_different_seeds_are_warned_of_once(backend):
    with pytest.warns(DegenerateSampling, match="first 8 samples of prompt '0'") as caught:
        list(Engine(backend(), inflight=1).run(tasks(3, rule=Lead(99))))
    assert len(caught) == 1


@pytest.mark.parametrize("different", range(8))
def test_one_different_sample_among_eight_is_no_reason_to_warn(different):
    script = ["a"] * CAP
    script[different] = "b"
    single(Scripted(*script), cap=CAP)


def test_seven_identical_samples_are_no_reason_to_warn():
    single(Scripted(*["a"] * 7), cap=7)


def test_one_seed_for_all_is_no_surprise():
    class OneSeed(VoteTask):
        def next_request(self):
            request = super().next_request()
            return request and Request(
                request.prompt_id, request.sample_index, request.prompt, request.params, 7
            )

    single(Scripted(*["a"] * CAP), cap=CAP, cls=OneSeed)


def test_failed_samples_are_no_repeated_draw():
    def fail(prompt):
        raise RuntimeError("down")

    (result,) = [
        event.result
        for event in Engine(backends.callable(fail), on_error="null").run(tasks(1, cap=12))
        if event.kind == "done"
    ]
    assert result.usage.used == 12 and result.answer is None


# Log and engine ----------------------------------------------------------------------------------


def test_a_log_of_other_samples_is_refused(tmp_path):
    path = tmp_path / "log.jsonl"
    with SampleLog(path) as log:
        list(Engine(Offline(), log=log).run(tasks(seed=0)))
    with SampleLog(path) as log, pytest.raises(ValueError, match="was drawn with seed"):
        list(Engine(Offline(), log=log).run(tasks(seed=1)))
    renamed = [SamplingTaskOfAnotherPrompt("0", "another prompt")]
    with SampleLog(path) as log, pytest.raises(ValueError, match="was drawn with prompt"):
        list(Engine(Offline(), log=log).run(renamed))
    with SampleLog(path) as log, pytest.raises(ValueError, match="was drawn with expert ''"):
        list(Engine({"first": Offline(), "second": Offline()}, log=log).run(tasks(cls=TwoExperts)))


def SamplingTaskOfAnotherPrompt(prompt_id, prompt):
    return VoteTask(prompt_id, prompt, RunSettings(Sampling()), cap=4, rule=Lead())


def test_the_length_of_a_log_is_asked_for_by_nobody(tmp_path):
    """``if log`` would: it counted all samples for every sample."""

    class Counting(SampleLog):
        def __len__(self):
            raise AssertionError

    for backend in (Server(), Offline()):
        with Counting(tmp_path / f"{type(backend).__name__}.jsonl") as log:
            assert decisions(Engine(backend, log=log).run(tasks())) == one_by_one()


@pytest.mark.parametrize("prompts", [63, 64, 65, 200])
def test_news_of_many_prompts_at_once_is_taken_in_by_and_by(prompts):
    server = Server(turns=0)
    events = list(Engine(server, inflight=500, prompts_in_flight=500).run(tasks(prompts, wave=1)))
    assert decisions(events) == one_by_one(prompts)
    assert server.now == 0


def test_usage_of_a_run_is_the_sum_over_prompts():
    engine = Engine(Server(2))
    results = [event.result for event in engine.run(tasks()) if event.result]
    total = Usage()
    for result in results:
        total.add(result.usage)
    for field in ("submitted", "used", "cancelled", "cap", "prompt_tokens", "completion_tokens"):
        assert getattr(engine.usage, field) == getattr(total, field)
    assert isinstance(results[0].samples[0], Sample)
    assert Event("sample", "0").result is None
