"""Times noise, perturbation and steps of torch modules beside torch.normal and a plain MeZO loop.

The plain loop is MeZO's: seed torch's generator, draw every tensor's normals again, add them; three
times for a pair and once for the step. Bandwidth counts one read and one write of every weight per
pass; what a copy of the same tensor reaches is given beside it.

    python packages/zeroth/benchmarks/bench_torch.py

rewrites this device's part of ``RESULTS.md`` in about two minutes; ``--dry-run`` uses small sizes
and only prints.
"""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from modicum.core.benchmark import medians, preamble, table, write_section
from modicum.core.device import resolve_device
from modicum.zeroth.torch import Slot, TrajectoryWriter, ZOOptimizer, add_noise
from modicum.zeroth.torch.perturbation import InPlace

RESULTS = Path(__file__).with_name("RESULTS.md")
SEED = 0
EPSILON = 1e-3
# Elements of the single tensor, and layers and width of the module, by where they are.
ELEMENTS = {"cpu": 1 << 22, "cuda": 1_000_000_000, "dry": 1 << 16}
MODULES = {"cpu": (4, 256), "cuda": (24, 2048), "dry": (2, 32)}
TOKENS = {"cpu": 64, "cuda": 2048, "dry": 8}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
STEPS = 200


def plain_noise(tensors: Sequence[torch.Tensor], scale: float) -> None:
    """Add normals of torch's generator, tensor by tensor, as MeZO does."""
    torch.manual_seed(SEED)
    for tensor in tensors:
        normal = torch.normal(0.0, 1.0, tensor.shape, dtype=tensor.dtype, device=tensor.device)
        tensor.add_(normal, alpha=scale)


def our_noise(tensors: Sequence[torch.Tensor], slots: Sequence[Slot], scale: float) -> None:
    add_noise(tensors, tensors, slots, seed=SEED, directions=[0], scales=[scale])


def plain_pair(tensors: Sequence[torch.Tensor]) -> None:
    for scale in (EPSILON, -2 * EPSILON, EPSILON):
        plain_noise(tensors, scale)


def our_pair(tensors: Sequence[torch.Tensor], slots: Sequence[Slot]) -> None:
    with InPlace(tensors, slots, SEED) as perturbation:
        for sign in (1, -1):
            with perturbation.at(0, sign * EPSILON):
                pass


def changed_share(call: Callable[[], object], tensor: torch.Tensor) -> str:
    """Return how many weights are not what they were."""
    before = tensor.clone()
    call()
    share = float((tensor != before).double().mean())
    tensor.copy_(before)
    return f"{share:.2%}"


def passes(device: str, sizes: str, repeats: int) -> list[str]:
    """Time one pass over a large tensor, and both sides of a pair with the way back."""
    rows = []
    elements = ELEMENTS[sizes]
    slots = [Slot(0, 0, elements)]
    for name, dtype in DTYPES.items():
        weights = torch.empty(elements, dtype=dtype, device=device).normal_(0, 0.02)
        other = torch.empty_like(weights)
        calls: dict[str, Callable[[], object]] = {
            "copy": partial(other.copy_, weights),
            "ours": partial(our_noise, [weights], slots, 0.0),
            "torch.normal": partial(plain_noise, [weights], 0.0),
            "our pair": partial(our_pair, [weights], slots),
            "plain pair": partial(plain_pair, [weights]),
        }
        times = medians(calls, repeats, device)
        traffic = 2 * elements * weights.element_size()
        for call, passes_of in (
            ("ours", 1),
            ("torch.normal", 1),
            ("our pair", 2),
            ("plain pair", 3),
        ):
            rate = passes_of * traffic / times[call]
            plain = times["torch.normal" if passes_of == 1 else "plain pair"]
            changed = changed_share(calls[call], weights) if "pair" in call else ""
            rows.append(
                [
                    name,
                    call,
                    f"{times[call] / elements * 1e9:.3g}",
                    f"{rate / 1e9:.3g}",
                    f"{rate / (traffic / times['copy']):.0%}",
                    f"{plain / times[call]:.2f}",
                    changed,
                ]
            )
            print(rows[-1], flush=True)
        del weights, other
    header = [
        "dtype",
        "what",
        "ns/weight",
        "GB/s",
        "of a copy's",
        "plain / this",
        "weights changed",
    ]
    title = (
        f"{elements:,} weights; a pair is both sides and the way back: ours saves the weights and"
        " writes twice, the plain loop adds noise three times."
    )
    return [title, "", *table(header, rows), ""]


class Layers(nn.Module):
    """Residual perceptrons, whose weights are most of a transformer's."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(layers))
        self.down = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return hidden states of the shape of the input."""
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(F.gelu(up(x)))
        return x


def plain_step(module: nn.Module, loss: Callable[[], torch.Tensor]) -> None:
    """Make a step of the plain loop with a rate of zero."""
    tensors = [p.detach() for p in module.parameters()]
    with torch.no_grad():
        plain_noise(tensors, EPSILON)
        plus = loss()
        plain_noise(tensors, -2 * EPSILON)
        minus = loss()
        plain_noise(tensors, EPSILON)
        plain_noise(tensors, -0.0 * float(plus - minus))


def steps(device: str, sizes: str, repeats: int) -> list[str]:
    """Time whole steps of a module with many tensors."""
    layers, width = MODULES[sizes]
    rows = []
    for name, dtype in DTYPES.items():
        module = Layers(layers, width).to(device, dtype)
        x = torch.randn(TOKENS[sizes], width, device=device, dtype=dtype)
        loss = lambda module=module, x=x: module(x).float().square().mean()  # noqa: E731
        calls: dict[str, Callable[[], object]] = {
            "loss": partial(torch.no_grad()(loss)),
            "plain loop": partial(plain_step, module, loss),
        }
        for perturb in ("in-place", "streamed"):
            # A rate that rounds to nothing still takes the whole step.
            optimizer = ZOOptimizer(
                module.parameters(), 1e-30, epsilon=EPSILON, perturb=perturb, seed=SEED
            )
            calls[f"ours, {perturb}"] = partial(optimizer.step, loss)
        times = medians(calls, repeats, device)
        for call, taken in times.items():
            ratio = "" if call == "loss" else f"{times['plain loop'] / taken:.2f}"
            rows.append([name, call, f"{1e3 * taken:.3g}", f"{taken / times['loss']:.2f}", ratio])
            print(rows[-1], flush=True)
    count = sum(p.numel() for p in module.parameters())
    tensors = len(list(module.parameters()))
    title = (
        f"A step of a module with {count:,} weights in {tensors} tensors, {TOKENS[sizes]} tokens:"
    )
    return [title, "", *table(["dtype", "what", "ms", "in losses", "plain / this"], rows), ""]


def trajectory(steps_made: int) -> list[str]:
    """Weigh the lines of trajectory files."""
    rows = []
    for name, pairs, changing in (
        ("1 pair, constant rate", 1, False),
        ("1 pair, a new rate in every step", 1, True),
        ("4 pairs, constant rate", 4, False),
    ):
        module = nn.Linear(8, 4)
        x = torch.randn(16, 8)
        optimizer = ZOOptimizer(module.parameters(), 1e-4, epsilon=EPSILON, pairs=pairs)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps_made)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.zo.jsonl"
            with TrajectoryWriter(path, optimizer, module):
                for _ in range(steps_made):
                    optimizer.step(lambda module=module, x=x: module(x).square().mean())
                    if changing:
                        scheduler.step()
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        sizes = [len(line) for line in lines if isinstance(json.loads(line), list)]
        rows.append([name, f"{sum(sizes) / len(sizes):.1f}"])
    title = f"Trajectory file, mean of {steps_made} steps:"
    return [title, "", *table(["run", "bytes per step"], rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--repeats", type=int, default=5, help="timed readings per cell")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU")
    parser.add_argument("--dry-run", action="store_true", help="small sizes; RESULTS.md stays")
    options = parser.parse_args()
    device = resolve_device(options.device)
    torch.set_num_threads(options.threads)
    sizes = "dry" if options.dry_run else device.partition(":")[0]
    command = "python packages/zeroth/benchmarks/bench_torch.py " + shlex.join(
        ["--device", device, "--repeats", str(options.repeats), "--threads", str(options.threads)]
    )
    how = f"median of {options.repeats} readings, what is compared taking turns; seed {SEED}"
    lines = [
        *preamble(command, how),
        *passes(device, sizes, options.repeats),
        *steps(device, sizes, options.repeats),
        *trajectory(20 if options.dry_run else STEPS),
    ]
    print("\n".join(lines))
    if not options.dry_run:
        write_section(RESULTS, f"torch {device.partition(':')[0]}", lines)


if __name__ == "__main__":
    main()
