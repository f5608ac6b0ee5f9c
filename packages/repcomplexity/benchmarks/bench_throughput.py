"""Steps per second of a majority process by simulator, and seconds of its exact solution.

The baseline is what one would write by hand: an environment of plain Python integers in Gymnasium's
``SyncVectorEnv``, or with a process for each in its ``AsyncVectorEnv``. All simulators run the same
process with the same kind of observations and random actions that were drawn before; they take
turns. A call is two episodes and the resets between them. Times are those of a clock on the wall,
for the processor time of the calling process leaves out what workers do.

    python packages/repcomplexity/benchmarks/bench_throughput.py [--device cuda]

rewrites its part of ``RESULTS.md`` in about two minutes; ``--quick`` takes a few seconds and only
prints.

Shapes: B episodes, n representation bits.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import gymnasium
import numpy as np
import torch

from modicum.core.benchmark import medians, preamble, table, write_section
from modicum.core.device import numpy_generator, one_thread, resolve_device
from modicum.repcomplexity.envs import BitMDPEnv, BitMDPVectorEnv, TorchVecMDP
from modicum.repcomplexity.families import MajorityMDP
from modicum.repcomplexity.solver import solve

RESULTS = Path(__file__).with_name("RESULTS.md")
REPRESENTATION_BITS = 16
SINGLE_ENVS = 64
"""Episodes of the vector that all others are compared with."""
SYNC_SIZES = (8, SINGLE_ENVS, 512)
"""Episodes of Gymnasium's vectors of single environments in one process."""
ASYNC_SIZES = (2, 8, SINGLE_ENVS)
"""Episodes, each in a process of its own."""

PLAIN, SYNC = "SyncVectorEnv, written by hand", "SyncVectorEnv of BitMDPEnv"
ASYNC = "AsyncVectorEnv, written by hand"
VECTOR, TENSORS = "BitMDPVectorEnv", "TorchVecMDP"


class PlainMajority(gymnasium.Env):
    """The default majority process in plain Python, as a single environment."""

    def __init__(self, n: int):
        self.n, self.horizon = n, n + n // 2
        self.observation_space = gymnasium.spaces.MultiBinary(n + n.bit_length() - 1)
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        """Begin in a random state."""
        super().reset(seed=seed)
        self.set_state(int(self.np_random.integers(self.n << self.n)))
        return self._observation(), {}

    def set_state(self, code: int) -> None:
        """Begin in a given state."""
        self.c, self.x, self.steps = code >> self.n, code & ((1 << self.n) - 1), 0

    def step(self, action: int) -> tuple:
        """Flip or advance."""
        reward = float(self.x == (1 << self.n) - 1)
        if action:
            self.x ^= 1 << self.c
        else:
            self.c = (self.c + 1) % self.n
        self.steps += 1
        return self._observation(), reward, self.steps >= self.horizon, False, {}

    def _observation(self) -> np.ndarray:
        code = self.x << (self.n.bit_length() - 1) | self.c
        width = self.n + self.n.bit_length() - 1
        return np.array([code >> i & 1 for i in range(width)], dtype=np.int8)


def check_plain(mdp: MajorityMDP) -> None:
    """Stop if the environment written by hand is not the process."""
    plain, env = PlainMajority(mdp.n), BitMDPEnv(mdp)
    rng = numpy_generator(0, "benchmark of throughput", "check")
    for code in rng.integers(mdp.n_states, size=20):
        plain.set_state(int(code))
        env.reset(options={"state": int(code)})
        for action in rng.integers(2, size=mdp.horizon):
            one, other = plain.step(action), env.step(action)
            if not np.array_equal(one[0], other[0]) or one[1:4] != other[1:4]:
                raise SystemExit("the environment written by hand is another process")


def simulators(
    mdp: MajorityMDP, sizes: list[int], device: str, quick: bool, stack: ExitStack
) -> dict[tuple[str, int], Callable]:
    """Give for each simulator and B a call of two episodes; the stack closes what has workers."""
    steps = 2 * (mdp.horizon + 1)
    rng = numpy_generator(0, "benchmark of throughput")
    calls: dict[tuple[str, int], Callable] = {}

    def call_of(env: object, actions: object) -> Callable[[], object]:
        def run() -> object:
            for step in range(steps):
                last = env.step(actions[step])
            return last

        return run

    def drawn(size: int) -> object:
        return rng.integers(2, size=(steps, size))

    def plain() -> gymnasium.Env:
        return PlainMajority(mdp.n)

    # Processes are forked before torch has run anything.
    for size in () if quick else ASYNC_SIZES:
        workers = gymnasium.vector.AsyncVectorEnv([plain] * size)
        stack.callback(workers.close)
        workers.reset(seed=0)
        calls[ASYNC, size] = call_of(workers, drawn(size))
    for name, make in ((PLAIN, plain), (SYNC, lambda: BitMDPEnv(mdp))):
        for size in (SINGLE_ENVS,) if quick else SYNC_SIZES:
            sync = gymnasium.vector.SyncVectorEnv([make] * size)
            sync.reset(seed=0)
            calls[name, size] = call_of(sync, drawn(size))
    for size in sizes:
        if device == "cpu":
            vector = BitMDPVectorEnv(mdp, size)
            vector.reset(seed=0)
            calls[VECTOR, size] = call_of(vector, drawn(size))
        tensors = TorchVecMDP(mdp, size, device=device, seed=0)
        tensors.reset()
        calls[TENSORS, size] = call_of(tensors, torch.from_numpy(drawn(size)).to(device))
    return calls


def throughput(sizes: list[int], repeats: int, device: str, quick: bool) -> list[str]:
    """Measure steps per second; gives the lines of a table and what it says."""
    mdp = MajorityMDP(REPRESENTATION_BITS)
    check_plain(mdp)
    steps = 2 * (mdp.horizon + 1)
    with ExitStack() as stack:
        calls = simulators(mdp, sizes, device, quick, stack)
        names = {f"{name} {size}": (name, size) for name, size in calls}
        taken = medians({label: calls[key] for label, key in names.items()}, repeats, device)
    rate = {key: key[1] * steps / taken[label] for label, key in names.items()}
    base = rate[PLAIN, SINGLE_ENVS]
    rows = [
        [name, f"{size:,}", f"{value:.2e}", f"{value / base:,.1f}"]
        for (name, size), value in rate.items()
    ]
    best = max(value for (name, _), value in rate.items() if name in (PLAIN, ASYNC))
    ours = {key: value for key, value in rate.items() if key[0] in (VECTOR, TENSORS)}
    behind = [f"{name} of {size:,}" for (name, size), value in ours.items() if value < best]
    slow = rate[PLAIN, SINGLE_ENVS] / rate[SYNC, SINGLE_ENVS]
    return [
        *table(["simulator", "B", "steps per second", f"times {PLAIN}, {SINGLE_ENVS}"], rows),
        "",
        f"Losses: the single environment of this package, which checks what it is given and knows "
        f"any process, takes {slow:.1f} times as long as the one written by hand. Vectors of this "
        "package that are slower than the best one written by hand: "
        f"{', '.join(behind) or 'none'}.",
    ]


def solutions(bits: list[int], repeats: int, device: str) -> list[str]:
    """Measure seconds of exact solutions; gives the lines of a table."""
    rows = []
    for n in bits:
        mdp = MajorityMDP(n)
        calls = {
            "dynamic programming, NumPy": lambda mdp=mdp: solve(mdp, method="dynamic_programming"),
            f"dynamic programming, torch on {device}": lambda mdp=mdp: solve(
                mdp, method="dynamic_programming", device=device
            ),
            "closed form, NumPy": lambda mdp=mdp: solve(mdp, method="closed_form"),
        }
        for name, seconds in medians(calls, repeats, device).items():
            rows.append([str(n), f"{mdp.n_states:,}", str(mdp.horizon), name, f"{seconds:.3g}"])
    return table(["n", "states", "H", "solution", "seconds"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="where tensors live")
    parser.add_argument("--quick", action="store_true", help="small sizes; only print")
    options = parser.parse_args()
    device = resolve_device(options.device)
    largest = 1 << 20 if device.startswith("cuda") else 1 << 16
    sizes = [SINGLE_ENVS, 4096] if options.quick else [SINGLE_ENVS, 4096, largest]
    repeats = 2 if options.quick else 3
    script = "packages/repcomplexity/benchmarks/bench_throughput.py"
    command = shlex.join(["python", script, *sys.argv[1:]])
    how = f"one CPU thread, medians of {repeats} turns, Gymnasium {version('gymnasium')}"
    with one_thread():
        lines = [
            *preamble(command, how),
            f"**Majority process, n = {REPRESENTATION_BITS}**, observations are bits:",
            "",
            *throughput(sizes, repeats, device, options.quick),
            "",
            "**Exact solution** of the majority process, Q of the first step:",
            "",
            *solutions([8] if options.quick else [8, 12, 16], repeats, device),
        ]
    if options.quick:
        print("\n".join(lines))
    else:
        write_section(RESULTS, f"throughput-{device.partition(':')[0]}", lines)


if __name__ == "__main__":
    main()
