"""Fine-tuning without gradients: the radius, shared batches, replay from a file, and memory.

A randomly initialised transformer of two layers on a synthetic task, copying a sequence after a
separator, trained by `ZOOptimizer`, all of it or low-rank adapters only. Slopes are compared with
those of automatic differentiation, which knows them exactly; everything else runs without
gradients.

Legend: ``B`` sequences, ``T`` tokens, ``D`` width; ``M`` directions, ``R`` radii, ``S`` seeds.
"""

import json
import math
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from modicum.core.device import one_thread, torch_generator
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.zeroth.errors import ZerothWarning
from modicum.zeroth.torch import (
    AutoRadius,
    TrajectoryWriter,
    ZOOptimizer,
    decay_groups,
    normals,
    replay,
)
from modicum.zeroth.torch.optimizer import Perturb

SYMBOLS, LENGTH = 12, 6
WIDTH, HEADS, LAYERS = 32, 2, 2
RANK = 4
GRADIENT_BATCH, HELD_OUT = 1024, 512
"""Sequences of the exact gradient and of the losses before and after training."""

RADII = tuple(10.0 ** (half / 2) for half in range(-8, 1))
QUICK_RADII = RADII[::2]
"""Standard deviations of a coordinate's perturbation, 1e-4 … 1."""
SMALL = 1.01e-2
"""Radii up to here are small: bias is far below everything else."""

SLOPE_BATCH = 32
DIRECTIONS, QUICK_DIRECTIONS = 200, 12
MEASURING_START = 0.1
"""Where measuring the radius begins."""
TRAIN_BATCH = 16
STEPS, QUICK_STEPS = 200, 12
SEEDS, QUICK_SEEDS = 4, 2
RATES = {"adapters": 0.02, "full": 0.003}
"""Learning rates, the largest round ones that train stably with shared batches."""

BLOWN_UP = 100.0
"""Growth of the weights' norm beyond which a run counts as diverged, whatever its loss says: where
normalisation overflows, all symbols become equally likely."""

TIMES_WORSE = 3.0
FLAT = 1.1
FLAT_LOSS = 0.01
SLOPE_TOLERANCE = 0.1
AUTO_WORSE = 2.0
REPLAY_STEPS = 12
BYTES_PER_STEP = 40.0
MEMORY_SHARE = 1.05
MEMORY_BATCH, MEMORY_LENGTH, MEMORY_WIDTH = 256, 15, 128
PERTURBS: dict[str, tuple[Perturb, ...]] = {
    "full": ("streamed", "in-place"),
    "adapters": ("streamed", "in-place"),
}
QUICK_PERTURBS: dict[str, tuple[Perturb, ...]] = {"full": ("streamed",), "adapters": ("in-place",)}
STRIDE = 1 << 20


# The model and its task --------------------------------------------------------------------------


class Block(nn.Module):
    """Attention and a two-layer perceptron, each after a normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """Return hidden states ``(B, T, D)``."""
        batch, tokens, width = x_BTD.shape
        joint = self.attention_in(self.attention_norm(x_BTD))
        shape = (batch, tokens, 3, HEADS, width // HEADS)
        query, key, value = joint.view(shape).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x_BTD = x_BTD + self.attention_out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x_BTD + self.down(F.gelu(self.up(self.norm(x_BTD))))


class CopyTransformer(nn.Module):
    """A causal transformer over symbols and a separator."""

    def __init__(self, width: int = WIDTH, length: int = LENGTH) -> None:
        super().__init__()
        self.length = length
        self.tokens = nn.Embedding(SYMBOLS + 1, width)
        self.positions = nn.Embedding(2 * length + 1, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, SYMBOLS, bias=False)

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """Return logits ``(B, T, SYMBOLS)``."""
        x_BTD = self.tokens(ids_BT) + self.positions.weight[: ids_BT.shape[1]]
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.head(self.norm(x_BTD))

    def loss(self, ids_BT: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy of the copied half."""
        logits = self(ids_BT[:, :-1])[:, self.length :]
        return F.cross_entropy(logits.flatten(0, 1), ids_BT[:, self.length + 1 :].flatten())


class LowRank(nn.Module):
    """A linear layer that is kept, plus a trained product of two thin matrices."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.inner = nn.Parameter(torch.randn(RANK, base.in_features) / base.in_features**0.5)
        self.outer = nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output with the product's."""
        return self.base(x) + F.linear(F.linear(x, self.inner), self.outer)


def make_model(seed: int, kind: str, width: int = WIDTH, length: int = LENGTH) -> CopyTransformer:
    """Return a seed's base model: ``"full"``, or with ``"adapters"`` as all that is trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CopyTransformer(width, length)
        if kind == "adapters":
            model.requires_grad_(False)
            for name, module in list(model.named_modules()):
                if isinstance(module, nn.Linear):
                    parent = model.get_submodule(name.rpartition(".")[0])
                    setattr(parent, name.rpartition(".")[2], LowRank(module))
    return model


def sequences(count: int, generator: torch.Generator, length: int = LENGTH) -> torch.Tensor:
    """Return sequences to be copied, a separator and their copies, int64 ``(B, T)``."""
    first = torch.randint(0, SYMBOLS, (count, length), generator=generator)
    return torch.cat([first, torch.full((count, 1), SYMBOLS), first], 1)


def _next_loss(model: CopyTransformer, batches: Iterator[torch.Tensor]) -> torch.Tensor:
    return model.loss(next(batches))


# Slopes ------------------------------------------------------------------------------------------


@dataclass
class Slopes:
    """Errors of slopes in units of the gradient's length, squared.

    Attributes
    ----------
    radii
        As measured at.
    shared_MR, fresh_MR
        Both sides of a pair with the same batch, and each with its own; float64.
    measured_radius, measured_M
        What `AutoRadius` chose for fresh batches, and the errors there.
    """

    radii: Sequence[float]
    shared_MR: NDArray[np.float64]
    fresh_MR: NDArray[np.float64]
    measured_radius: float
    measured_M: NDArray[np.float64]

    @staticmethod
    def typical(errors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return root mean squares over directions."""
        return np.sqrt(errors.mean(axis=0))


def slope_errors(radii: Sequence[float], directions: int, seed: int) -> Slopes:
    """Compare slopes of pairs of losses with those of the gradient, along the same directions."""
    model = make_model(seed, "full")
    generator = torch_generator(seed, "cpu", "slopes")
    model.loss(sequences(GRADIENT_BATCH, generator)).backward()
    gradient = [(i, p.grad) for i, p in enumerate(model.parameters()) if p.grad is not None]
    norm = math.sqrt(sum(float(g.square().sum()) for _, g in gradient))
    exact_M = np.array(
        [
            sum(float(g.flatten() @ normals(seed, d, i, g.numel())) for i, g in gradient)
            for d in range(directions)
        ]
    )
    batches = [
        (sequences(SLOPE_BATCH, generator), sequences(SLOPE_BATCH, generator))
        for _ in range(directions)
    ]

    def errors(radius: float, shared: bool) -> NDArray[np.float64]:
        optimizer = ZOOptimizer(model.parameters(), 0.0, epsilon=radius, seed=seed)
        slopes = []
        for one, other in batches:
            sides = iter([one, one if shared else other])
            optimizer.step(partial(_next_loss, model, sides))
            assert optimizer.last is not None
            slope = optimizer.last.scalars[0]
            slopes.append(math.inf if slope is None else slope)
        return ((np.array(slopes) - exact_M) / norm) ** 2

    auto = AutoRadius(start=MEASURING_START, averaged=1, effective_dimension=1)
    measuring = ZOOptimizer(model.parameters(), 0.0, radius=auto, seed=seed, paired=False)
    measuring.step(lambda: model.loss(sequences(SLOPE_BATCH, generator)))
    assert measuring.epsilon is not None
    return Slopes(
        radii,
        np.stack([errors(radius, True) for radius in radii], 1),
        np.stack([errors(radius, False) for radius in radii], 1),
        measuring.epsilon,
        errors(measuring.epsilon, False),
    )


# Training ----------------------------------------------------------------------------------------


def train(kind: str, radius: float, shared: bool, steps: int, seed: int) -> tuple[float, float]:
    """Train a base model and return its loss before and after, infinite if it diverged."""
    model = make_model(seed, kind)
    generator = torch_generator(seed, "cpu", "batches")
    held_out = sequences(HELD_OUT, torch_generator(seed, "cpu", "held out"))
    with torch.no_grad():
        before = float(model.loss(held_out))
    norm = _norm(model)
    optimizer = ZOOptimizer(
        model.parameters(), RATES[kind], epsilon=radius, seed=seed, paired=shared
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZerothWarning)  # a run that diverges says so here
        for _ in range(steps):
            batch = sequences(TRAIN_BATCH, generator)
            if shared:
                loss = optimizer.step(partial(model.loss, batch))
            else:
                loss = optimizer.step(lambda: model.loss(sequences(TRAIN_BATCH, generator)))
            if not math.isfinite(loss):
                return before, math.inf
    with torch.no_grad():
        after = float(model.loss(held_out))
    diverged = not math.isfinite(after) or _norm(model) > BLOWN_UP * norm
    return before, math.inf if diverged else after


def _norm(model: nn.Module) -> float:
    squares = [float(p.detach().square().sum()) for p in model.parameters() if p.requires_grad]
    return math.sqrt(sum(squares))


@dataclass
class Losses:
    """Losses of trained models.

    Attributes
    ----------
    radii
        As trained with.
    before_S
        Of the base models.
    shared_SR, fresh_SR
        After training with the same batch for both sides of a pair, and with one for each.
    """

    radii: Sequence[float]
    before_S: NDArray[np.float64]
    shared_SR: NDArray[np.float64]
    fresh_SR: NDArray[np.float64]


def train_all(
    kind: str, radii: Sequence[float], steps: int, seeds: Sequence[int], done: Callable[[], Any]
) -> Losses:
    """Train with every radius, kind of batch and seed."""
    after = np.empty((2, len(seeds), len(radii)))
    before = np.empty(len(seeds))
    for index in np.ndindex(*after.shape):
        fresh, row, column = index
        before[row], after[index] = train(kind, radii[column], not fresh, steps, seeds[row])
        done()
    return Losses(radii, before, after[0], after[1])


# Replay and memory -------------------------------------------------------------------------------


@dataclass
class Replayed:
    """What came back from a file.

    Attributes
    ----------
    different_bits
        Bits of all weights that differ, over float32 and bfloat16.
    bytes_per_step
        Mean length of a step's line.
    """

    different_bits: int
    bytes_per_step: float


def replay_bits(folder: Path, seed: int) -> Replayed:
    """Train with decay, momentum and a falling rate, and make the weights again from the file."""
    different, sizes = 0, []
    folder.mkdir(parents=True, exist_ok=True)
    for dtype in (torch.float32, torch.bfloat16):
        path = folder / f"{str(dtype).removeprefix('torch.')}.zo.jsonl"
        path.unlink(missing_ok=True)
        model, again = (make_model(seed, "full").to(dtype) for _ in range(2))
        generator = torch_generator(seed, "cpu", "replay")
        optimizer = ZOOptimizer(
            decay_groups(model, 0.01), 1e-3, epsilon=1e-2, momentum=0.9, seed=seed
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, REPLAY_STEPS)
        with TrajectoryWriter(path, optimizer, model):
            for _ in range(REPLAY_STEPS):
                batch = sequences(TRAIN_BATCH, generator)
                optimizer.step(partial(model.loss, batch))
                scheduler.step()
        replay(again, path)
        for one, other in zip(model.parameters(), again.parameters(), strict=True):
            words = [p.detach().view(torch.uint8).numpy() for p in (one, other)]
            different += int(np.bitwise_count(np.bitwise_xor(*words)).sum())
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        sizes += [len(line) for line in lines if isinstance(json.loads(line), list)]
    return Replayed(different, float(np.mean(sizes)))


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are alive beside some that were there before.

    Attributes
    ----------
    peak
        The most so far. What an operation needs within itself is not seen.
    """

    def __init__(self, known: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._gone, storage._cdata)
        return result

    def _gone(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


@dataclass
class Memory:
    """Bytes at the peak: weights, and what lives beside them.

    Attributes
    ----------
    inference
        Of a loss without gradients.
    steps
        Of a step, by its kind.
    scratch
        Most that NumPy holds while it makes noise; in `steps`, not in `inference`.
    """

    inference: int
    steps: dict[str, int] = field(default_factory=dict)
    scratch: int = 0


def memory(kind: str, perturbs: Sequence[Perturb], seed: int) -> Memory:
    """Measure a wider model on a larger batch, at inference and in steps."""
    model = make_model(seed, kind, MEMORY_WIDTH, MEMORY_LENGTH)
    batch = sequences(MEMORY_BATCH, torch_generator(seed, "cpu", "memory"), MEMORY_LENGTH)
    weights = [*model.parameters(), *model.buffers()]
    resident = sum(p.numel() * p.element_size() for p in weights)

    def peak(call: Callable[[], Any]) -> int:
        with torch.no_grad(), LiveBytes([*weights, batch]) as live:
            call()
        return resident + live.peak

    found = Memory(peak(partial(model.loss, batch)), scratch=_scratch_bytes(seed))
    for perturb in perturbs:
        optimizer = ZOOptimizer(model.parameters(), 0.0, epsilon=1e-3, perturb=perturb, seed=seed)
        step = peak(partial(optimizer.step, partial(model.loss, batch)))
        found.steps[perturb] = step + found.scratch
    return found


def _scratch_bytes(seed: int) -> int:
    """Return NumPy's peak while a tensor of many chunks gets its noise."""
    import tracemalloc

    tracemalloc.start()
    try:
        normals(seed, 0, 0, STRIDE)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# The report --------------------------------------------------------------------------------------


def _slope_claims(slopes: Slopes) -> list[Claim]:
    radii = np.array(slopes.radii)
    small = radii <= SMALL
    typical = Slopes.typical

    def arm(errors: NDArray[np.float64]) -> float:
        return float(np.polyfit(np.log(radii[small]), np.log(typical(errors)[small]), 1)[0])

    def ends(errors: NDArray[np.float64]) -> float:
        e = typical(errors)
        return float(min(e[0], e[-1]) / e.min())

    def spread(errors: NDArray[np.float64]) -> float:
        e = typical(errors)[small]
        return float(e.max() / e.min())

    def rise(errors: NDArray[np.float64]) -> float:
        e = typical(errors)
        return float(e[-1] / e[0])

    def best(errors: NDArray[np.float64]) -> float:
        """Take the last column against the least of the others."""
        e = typical(errors)
        return float(e[-1] / e[:-1].min())

    beside = np.column_stack([slopes.fresh_MR, slopes.measured_M])
    return [
        _claim(
            "noise_falls_as_one_over_radius",
            "With a fresh batch for each side of a pair, the error of a slope at small radii is"
            " noise over radius.",
            -1.0,
            arm,
            slopes.fresh_MR,
            lambda value: abs(value + 1) <= SLOPE_TOLERANCE,
            "exponent",
            f"log-log slope over radii up to 1e-2; holds within {SLOPE_TOLERANCE:g} of -1",
        ),
        _claim(
            "fresh_batches_have_a_best_radius",
            "With fresh batches the error over radii from 1e-4 to 1 is a U: both ends are worse"
            " than the middle.",
            None,
            ends,
            slopes.fresh_MR,
            lambda value: value >= TIMES_WORSE,
            "times the least error",
            f"the better of both ends; holds from {TIMES_WORSE:g} on",
        ),
        _claim(
            "shared_batches_are_flat",
            "With the same batch for both sides, small radii make no difference.",
            None,
            spread,
            slopes.shared_MR,
            lambda value: value <= FLAT,
            "largest over least error",
            f"radii up to 1e-2; holds up to {FLAT:g}",
        ),
        _claim(
            "shared_batches_rise",
            "With the same batch for both sides, a large radius costs accuracy.",
            None,
            rise,
            slopes.shared_MR,
            lambda value: value >= TIMES_WORSE,
            "error at 1 over that at 1e-4",
            f"holds from {TIMES_WORSE:g} on",
        ),
        _claim(
            "measured_radius",
            "The radius that is measured from losses alone is nearly as good as the best one.",
            None,
            best,
            beside,
            lambda value: value <= AUTO_WORSE,
            "times the least error",
            f"fresh batches, one pair averaged; epsilon {slopes.measured_radius:.2g}; holds up to"
            f" {AUTO_WORSE:g}",
        ),
    ]


def _claim(
    name: str,
    statement: str,
    paper: float | None,
    statistic: Callable[[NDArray[np.float64]], float],
    errors_MR: NDArray[np.float64],
    holds: Callable[[float], bool],
    unit: str,
    note: str,
) -> Claim:
    value = statistic(errors_MR)
    rng = np.random.default_rng(0)
    size = len(errors_MR)
    samples = [statistic(errors_MR[rng.integers(0, size, size)]) for _ in range(500)]
    low, high = np.quantile(samples, [0.025, 0.975])
    return Claim(
        name, statement, paper, value, (float(low), float(high)), holds(value), unit,
        f"{note}; 95 % by bootstrap over {size} directions",
    )  # fmt: skip


def _loss_claims(kind: str, losses: Losses) -> list[Claim]:
    best = losses.fresh_SR[:, 1:-1].min(axis=1)
    ends = np.minimum(losses.fresh_SR[:, 0], losses.fresh_SR[:, -1]) - best
    small = np.array(losses.radii) <= SMALL
    spread = np.ptp(losses.shared_SR[:, small], axis=1)
    rise = losses.shared_SR[:, -1] - losses.shared_SR[:, 0]
    seeds = f"worst of {len(best)} seeds"
    return [
        Claim(
            f"{kind}_fresh_loss",
            f"Trained with fresh batches ({kind}), the loss is worse at both ends of the radii.",
            None,
            float(ends.min()),
            None,
            bool(ends.min() > 0),
            "nats above the best radius",
            f"the better of both ends, {seeds}; infinite where the weights diverge; holds above 0",
        ),
        Claim(
            f"{kind}_shared_loss_flat",
            f"Trained with shared batches ({kind}), small radii end at the same loss.",
            None,
            float(spread.max()),
            None,
            bool(spread.max() <= FLAT_LOSS),
            "nats",
            f"largest less least over radii up to 1e-2, {seeds}; holds up to {FLAT_LOSS:g}",
        ),
        Claim(
            f"{kind}_shared_loss_rises",
            f"Trained with shared batches ({kind}), the largest radius ends at a worse loss.",
            None,
            float(rise.min()),
            None,
            bool(rise.min() > 0),
            "nats above the smallest radius",
            f"{seeds}; holds above 0",
        ),
    ]


def _other_claims(replayed: Replayed, memories: dict[str, Memory]) -> list[Claim]:
    full, adapters = memories["full"], memories["adapters"]
    shares = {
        "memory_full": (
            "A step on all weights, perturbed as they are read, needs at most 5 % more memory than"
            " inference.",
            full.steps["streamed"] / full.inference,
        ),
        "memory_adapters": (
            "A step on adapters, perturbed in place, needs at most 5 % more memory than inference.",
            adapters.steps["in-place"] / adapters.inference,
        ),
    }
    claims = [
        Claim(
            "replay_is_exact",
            "The file of steps and the base model give the trained weights bit for bit.",
            0.0,
            replayed.different_bits,
            None,
            replayed.different_bits == 0,
            "bits that differ",
            f"{REPLAY_STEPS} steps with momentum, decay and a falling rate; float32 and bfloat16",
        ),
        Claim(
            "bytes_per_step",
            "A step takes a few tens of bytes.",
            24.0,
            replayed.bytes_per_step,
            None,
            replayed.bytes_per_step <= BYTES_PER_STEP,
            "bytes",
            f"the rate changes in every step; holds up to {BYTES_PER_STEP:g}",
        ),
    ]
    return claims + [
        Claim(
            name, statement, MEMORY_SHARE, share, None, share <= MEMORY_SHARE, "times inference",
            f"live tensors on the CPU, and NumPy's scratch of {full.scratch / 1e6:.1f} MB for"
            " making noise, as if both peaked together; memory within an operation is not seen",
        )
        for name, (statement, share) in shares.items()
    ]  # fmt: skip


def _tables(slopes: Slopes, trained: dict[str, Losses], memories: dict[str, Memory]) -> list[Table]:
    shared, fresh = Slopes.typical(slopes.shared_MR), Slopes.typical(slopes.fresh_MR)
    tables = [
        Table(
            "Error of a slope",
            ["epsilon", "same batch on both sides", "a batch for each side"],
            [
                [radius, float(a), float(b)]
                for radius, a, b in zip(slopes.radii, shared, fresh, strict=True)
            ],
            "Root mean square over directions, in units of the gradient's length. Epsilon is the"
            " standard deviation of a coordinate's perturbation.",
        )
    ]
    for kind, losses in trained.items():
        medians = [np.median(after, axis=0) for after in (losses.shared_SR, losses.fresh_SR)]
        before = float(np.median(losses.before_S))
        tables.append(
            Table(
                f"Loss after training, {kind}",
                ["epsilon", "same batch on both sides", "a batch for each side"],
                np.column_stack([losses.radii, *medians]).tolist(),
                f"Median over {len(losses.before_S)} seeds; before training {before:.4f}.",
            )
        )
    rows: list[list[Any]] = []
    for kind, found in memories.items():
        rows.append([kind, "inference", found.inference / 1e6, 1.0])
        for perturb, size in found.steps.items():
            rows.append([kind, f"step, {perturb}", size / 1e6, size / found.inference])
    tables.append(Table("Peak memory", ["trained", "what", "MB", "times inference"], rows))
    return tables


def _figures(slopes: Slopes) -> list[Figure]:
    from modicum.zeroth import plots

    curves = {
        "a batch for each side": (slopes.radii, Slopes.typical(slopes.fresh_MR)),
        "same batch on both sides": (slopes.radii, Slopes.typical(slopes.shared_MR)),
    }
    try:
        figure = plots.radius_curve(curves, best=slopes.measured_radius, xlabel="epsilon")
    except ImportError:
        return []
    figure.axes[0].set_ylabel("error of a slope / length of the gradient")
    return [
        Figure.from_matplotlib(
            figure,
            "Batches decide about the radius",
            "Error of a loss's slope along random directions; dotted: the radius that was measured"
            " for fresh batches.",
            "A U for fresh batches; flat and then rising for shared ones",
        )
    ]


def run(ctx: RunContext) -> Result:
    """Measure slopes, train, replay and weigh."""
    radii = QUICK_RADII if ctx.quick else RADII
    steps = QUICK_STEPS if ctx.quick else STEPS
    seeds = [ctx.seed + s for s in range(QUICK_SEEDS if ctx.quick else SEEDS)]
    kinds = ("adapters",) if ctx.quick else ("adapters", "full")
    task = ctx.progress(2 + 2 * len(kinds) * len(radii) * len(seeds), "slopes, training, memory")
    with one_thread():
        slopes = slope_errors(radii, QUICK_DIRECTIONS if ctx.quick else DIRECTIONS, ctx.seed)
        task.advance(1)
        trained = {
            kind: train_all(kind, radii, steps, seeds, lambda: task.advance(1)) for kind in kinds
        }
        replayed = replay_bits(ctx.out, ctx.seed)
        weighed = QUICK_PERTURBS if ctx.quick else PERTURBS
        memories = {kind: memory(kind, weighed[kind], ctx.seed) for kind in weighed}
        task.advance(1)
    claims = _slope_claims(slopes)
    for kind, losses in trained.items():
        claims += _loss_claims(kind, losses)
    return ctx.result(
        claims=claims + _other_claims(replayed, memories),
        tables=_tables(slopes, trained, memories),
        figures=_figures(slopes),
        text="The difference of two losses that were computed on different batches has the noise of"
        " both, whatever the radius, so it says less about the slope the closer the points are."
        " On the same batch most of that noise is common and the difference shrinks with the"
        " distance: only the bias of large radii is left.",
    )
