"""What the engine costs per sample and per decision, and its memory, on backends that cost nothing.

Strategies run through the engine on fake backends that answer at once: a server (many requests
under way) and an offline engine (waves). Beside them asyncio alone with the same requests, and
its_hub's own loops on the same fake language model. Times are CPU time of the process, which other
load on the machine does not stretch; whoever is compared takes turns. Peak memory is that of a
process of its own that streams prompts by the thousand (Linux only).

    python packages/testtime/benchmarks/bench_engine.py

rewrites its part of ``RESULTS.md`` in a few minutes; ``--dry-run`` uses small sizes and only
prints.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from modicum.core.benchmark import preamble, table, write_section
from modicum.testtime.best_of_n import BestOfN
from modicum.testtime.samples import Completion, DegenerateSampling, Request, Sampling
from modicum.testtime.self_consistency import SelfConsistency
from modicum.testtime.stopping.beta import BetaStop
from modicum.testtime.stopping.certificate import ModeCertificate
from modicum.testtime.stopping.curtailed import Curtailed
from modicum.testtime.stopping.fixed import FixedN

RESULTS = Path(__file__).with_name("RESULTS.md")
SAMPLES = 8
PARAMS = Sampling()
ANSWERS = ("a", "a", "a", "a", "b", "b", "b", "c")
TARGET_MICROSECONDS = 50.0


def answer(seed: int) -> str:
    """Return an answer that the low bits of a seed decide."""
    return ANSWERS[seed & 7]


class Server:
    """Answers after one turn of the event loop."""

    async def agenerate(self, request: Request) -> Completion:
        """Return the answer of the request's seed."""
        await asyncio.sleep(0)
        return Completion(answer(request.seed), n_tokens=3)


class Offline:
    """Answers a wave."""

    def generate(self, requests: Any) -> Iterator[tuple[Request, Completion]]:
        """Yield the answers of the requests' seeds."""
        for request in requests:
            yield request, Completion(answer(request.seed), n_tokens=3)


def reward(prompt: Any, responses: list[str]) -> list[float]:
    return [float(response == "a") for response in responses]


# Who is measured ---------------------------------------------------------------------------------


def drain(strategy: Any, num_prompts: int, **options: Any) -> int:
    """Run a strategy over a stream of prompts and return how many samples it used."""
    used = 0
    prompts = (str(i) for i in range(num_prompts))
    for event in strategy.iter_events(prompts, **options):
        if event.result is not None:
            used += event.result.usage.used
    return used


def asyncio_alone(num_prompts: int, in_flight: int) -> int:
    """Run the same requests as tasks of an event loop, and nothing else."""
    backend = Server()
    texts = 0

    async def main() -> None:
        nonlocal texts
        for start in range(0, num_prompts * SAMPLES, in_flight):
            tasks = [
                asyncio.create_task(backend.agenerate(Request("", i, "", PARAMS, i)))
                for i in range(start, min(start + in_flight, num_prompts * SAMPLES))
            ]
            texts += len(await asyncio.gather(*tasks))

    asyncio.run(main())
    return texts


def its_hub_loop(name: str, num_prompts: int, concurrency: int, *, together: bool) -> int:
    """Run its_hub's own loop for each prompt, one after the other or all at once."""
    from its_hub.api import AbstractLanguageModel
    from its_hub.core.algorithms.beta_self_consistency import BetaSelfConsistency
    from its_hub.core.algorithms.self_consistency import SelfConsistency as Peer
    from its_hub.core.orchestrator import LMOrchestrator

    class FakeLM(AbstractLanguageModel):
        calls = 0

        async def agenerate(self, messages: Any, *args: Any, **options: Any) -> Any:
            raise NotImplementedError

        async def agenerate_single(self, messages: Any, *args: Any, **options: Any) -> dict:
            # its_hub has no seeds; a multiplicative hash plays their part.
            FakeLM.calls += 1
            seed = FakeLM.calls * 2_654_435_761 >> 16
            await asyncio.sleep(0)
            return {"role": "assistant", "content": answer(seed)}

    orchestrator = LMOrchestrator(max_concurrency=concurrency)
    kind = {"votes": Peer, "beta": BetaSelfConsistency}[name]
    algorithm = kind(orchestrator=orchestrator)
    model = FakeLM()

    async def one(prompt: str) -> int:
        result = await algorithm.ainfer(model, prompt, SAMPLES, return_response_only=False)
        return len(result.responses)

    async def main() -> int:
        prompts = [str(i) for i in range(num_prompts)]
        if together:
            return sum(await asyncio.gather(*map(one, prompts)))
        return sum([await one(prompt) for prompt in prompts])

    return asyncio.run(main())


def candidates(num_prompts: int, folder: Path) -> dict[str, Callable[[], int]]:
    """Return who is measured: functions that give the number of samples they drew."""
    everything = {"inflight": num_prompts, "prompts_in_flight": num_prompts, "wave": 1}
    waves = {"prompts_in_flight": num_prompts, "wave": 1}
    few = max(1, num_prompts // 10)
    logs = iter(range(10**6))

    def ours(stop: Any, backend: Any, options: dict[str, Any], **run: Any) -> Callable[[], int]:
        strategy = SelfConsistency(backend, stop=stop, max_samples=SAMPLES, **options)
        return lambda: drain(strategy, num_prompts, **run)

    def logged() -> int:
        strategy = SelfConsistency(Server(), stop=Curtailed(SAMPLES), wave=1)
        return drain(strategy, num_prompts, log=folder / f"{next(logs)}.jsonl")

    best = BestOfN(Offline(), reward, n=SAMPLES, prompts_in_flight=num_prompts)
    in_flight = f"{num_prompts:,} prompts in flight"
    return {
        f"asyncio alone, {num_prompts:,} requests in flight": lambda: asyncio_alone(
            num_prompts, num_prompts
        ),
        "asyncio alone, 64 requests in flight": lambda: asyncio_alone(num_prompts, 64),
        f"FixedN({SAMPLES}), server, {in_flight}": ours(FixedN(SAMPLES), Server(), everything),
        f"Curtailed({SAMPLES}), server, {in_flight}": ours(
            Curtailed(SAMPLES), Server(), everything
        ),
        f"Curtailed({SAMPLES}), server, 64 in flight": ours(
            Curtailed(SAMPLES), Server(), {"wave": 1}
        ),
        f"Curtailed({SAMPLES}), waves, {in_flight}": ours(Curtailed(SAMPLES), Offline(), waves),
        f"Curtailed({SAMPLES}), waves, 64 in flight": ours(
            Curtailed(SAMPLES), Offline(), {"prompts_in_flight": 64, "wave": 1}
        ),
        "BetaStop(.95), server, 64 in flight": ours(BetaStop(0.95), Server(), {"wave": 1}),
        "ModeCertificate(.05), server, 64 in flight": ours(
            ModeCertificate(0.05), Server(), {"wave": 1}
        ),
        f"best of {SAMPLES}, waves, {in_flight}": lambda: drain(best, num_prompts),
        f"Curtailed({SAMPLES}), server, 64 in flight, with a log": logged,
        "its_hub votes, prompts in turn, unlimited": lambda: its_hub_loop(
            "votes", few, -1, together=False
        ),
        f"its_hub votes, {few:,} prompts at once, unlimited": lambda: its_hub_loop(
            "votes", few, -1, together=True
        ),
        "its_hub votes, prompts in turn, its default of 32": lambda: its_hub_loop(
            "votes", few, 32, together=False
        ),
        "its_hub Beta .95, prompts in turn, unlimited": lambda: its_hub_loop(
            "beta", few, -1, together=False
        ),
        f"its_hub Beta .95, {few:,} prompts at once, unlimited": lambda: its_hub_loop(
            "beta", few, -1, together=True
        ),
    }


# Clocks ------------------------------------------------------------------------------------------


def cpu_times(
    calls: dict[str, Callable[[], int]], warm_up: dict[str, Callable[[], int]], repeats: int
) -> dict[str, tuple[float, float, float]]:
    """Return samples and CPU µs per sample, with the garbage collector and without, as medians."""
    for call in warm_up.values():
        call()
    drawn: dict[str, int] = {}
    times: dict[tuple[str, bool], list[float]] = {}
    for _ in range(repeats):
        for name, call in calls.items():
            for collecting in (True, False):
                gc.collect()
                if not collecting:
                    gc.disable()
                start = time.process_time()
                drawn[name] = call()
                taken = time.process_time() - start
                gc.enable()
                times.setdefault((name, collecting), []).append(1e6 * taken / drawn[name])
    return {
        name: (
            drawn[name],
            statistics.median(times[name, True]),
            statistics.median(times[name, False]),
        )
        for name in calls
    }


# Memory ------------------------------------------------------------------------------------------

MEMORY = """
import sys, warnings
sys.path.insert(0, {here!r})
warnings.simplefilter("ignore")
from bench_engine import Curtailed, Offline, SelfConsistency, Server, drain, peak_kib
backend = {{"server": Server, "waves": Offline}}[{kind!r}]()
strategy = SelfConsistency(backend, stop=Curtailed(4), wave=1, prompts_in_flight=64)
drain(strategy, 100)
before = peak_kib()
drain(strategy, {num_prompts})
print(peak_kib() - before, before)
"""


def peak_kib() -> int:
    """Return the most memory that this process ever held, in KiB."""
    # Not getrusage: its peak is inherited from the process that started this one.
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise RuntimeError("/proc/self/status has no VmHWM")


def memory(kind: str, num_prompts: int) -> tuple[float, float]:
    """Return by how many MiB a process grew over prompts that it streamed, and its size before."""
    here = str(Path(__file__).parent)
    code = MEMORY.format(here=here, kind=kind, num_prompts=num_prompts)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown, before = map(int, out.stdout.split())
    return grown / 1024, before / 1024


# The page ----------------------------------------------------------------------------------------


def measure(num_prompts: int, repeats: int, streams: tuple[int, ...]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateSampling)
        calls = candidates(num_prompts, Path(folder))
        # What is imported at the first call is no cost of the others.
        found = cpu_times(calls, candidates(10, Path(folder, "warm-up")), repeats)
    rows = []
    for name, (drawn, with_gc, without) in found.items():
        prompts = max(1, num_prompts // 10) if name.startswith("its_hub") else num_prompts
        per_prompt = drawn / prompts
        rows.append(
            [
                name,
                f"{per_prompt:.2f}",
                f"{with_gc:.1f}",
                f"{without:.1f}",
                f"{with_gc * per_prompt:.0f}",
            ]
        )
        print(rows[-1], flush=True)
    header = ["", "samples per prompt", "µs per sample", "without GC", "µs per prompt"]
    lines = table(header, rows)
    engine = [v[1] for k, v in found.items() if not k.startswith(("asyncio", "its_hub"))]
    held = sum(value < TARGET_MICROSECONDS for value in engine)
    lines += [
        "",
        f"Every sample is a decision: the rule is asked after each. {held} of {len(engine)}"
        f" settings stay below the target of {TARGET_MICROSECONDS:g} µs each, garbage collection"
        " included. Without GC: the same with Python's cyclic collector off, which with very many"
        " prompts in flight walks all of them again and again. µs per prompt: from its admission"
        " to its result. asyncio alone: tasks that await the same fake server, the floor of any"
        " concurrent engine. its_hub gets a tenth of the prompts; its plain vote costs less per"
        " sample, and neither seeds, numbers nor orders samples; its default orchestrator takes a"
        " slot of its semaphore in a thread per request.",
        "",
    ]
    rows = []
    for kind in ("server", "waves"):
        for size in streams:
            grown, before = memory(kind, size)
            rows.append([kind, f"{size:,}", f"{before:.0f}", f"{grown:.1f}"])
            print(rows[-1], flush=True)
    lines += table(["backend", "prompts streamed", "MiB before", "MiB more at the peak"], rows)
    lines += [
        "",
        "Curtailed(4), 64 prompts in flight, results dropped as they come (``iter_events``). What"
        " grows are the ids of the prompts, which must not repeat.",
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=10_000, help="prompts per timed run")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each")
    parser.add_argument("--dry-run", action="store_true", help="small sizes; RESULTS.md stays")
    options = parser.parse_args()
    command = "python packages/testtime/benchmarks/bench_engine.py " + shlex.join(
        ["--prompts", str(options.prompts), "--repeats", str(options.repeats)]
    )
    how = (
        f"CPU time of the process, median of {options.repeats} runs, taking turns; at most"
        f" {SAMPLES} samples per prompt; its-hub {version('its-hub')}"
    )
    lines = preamble(command, how)
    streams = (100, 1_000) if options.dry_run else (1_000, 10_000, 100_000)
    prompts = min(options.prompts, 500) if options.dry_run else options.prompts
    lines += measure(prompts, options.repeats, streams)
    print("\n".join(lines))
    if not options.dry_run:
        write_section(RESULTS, "engine", lines)


if __name__ == "__main__":
    main()
