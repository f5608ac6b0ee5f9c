"""The decoder is exact, its posteriors are, and what that costs.

Enumerates every CTC path and every edit path of small random cases and holds `fused_decode` and
`edit_posteriors` to the maximum and to the sums. Holds the batched torch form to the one in NumPy
on cases of the size of an utterance, and says how many utterances a second each of them decodes;
the forced alignment of torchaudio, which knows the phones and only places them, is the lower bound.

Legend: ``T`` frames, ``C`` classes, ``L`` canonical phones, ``S`` = L + 1 positions, ``N`` CTC
paths, ``M`` phone sequences.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
import torchaudio  # type: ignore[import-untyped]

from modicum.core.device import numpy_generator, one_thread
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.core.stats import clopper_pearson
from modicum.huper.channel import EditChannel, Weights
from modicum.huper.emissions import Emissions
from modicum.huper.graph import batched, fused_decode
from modicum.huper.graph.posteriors import forward_backward
from modicum.huper.graph.viterbi import best_path
from modicum.huper.phones import PhoneSet

__all__ = ["FULL", "QUICK", "Plan", "random_case", "run", "utterances_of"]

SHAPES = (
    (1, 2, 0, 0),
    (1, 3, 1, 0),
    (2, 2, 3, 2),
    (3, 3, 2, 1),
    (4, 3, 4, 2),
    (5, 2, 2, 1),
    (5, 3, 3, 3),
    (5, 4, 2, 2),
    (6, 3, 2, 0),
    (4, 4, 0, 2),
    (6, 2, 4, 1),
)
"""T, C, L and maxdel of cases that are enumerated."""

LAMBDAS = (0.0, 0.3, 1.0, 2.5)
TOLERANCE = 1e-9
"""Largest difference of scores and probabilities that counts as none; sums are of some ten terms of
double precision."""

FRAMES, CLASSES, PHONES = 110, 44, 21
"""Of a random utterance: 2.2 seconds and the inventory of the public recognizer."""


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes
    ----------
    best, sums
        Random cases of each shape for the best path and for the posteriors.
    seeds
        Batches that torch and NumPy are compared on.
    utterances
        Of each of these batches.
    batch_sizes
        For the throughput.
    repeats
        Turns of each measurement.
    """

    best: int
    sums: int
    seeds: int
    utterances: int
    batch_sizes: tuple[int, ...]
    repeats: int


FULL = Plan(60, 10, 5, 16, (1, 4, 16, 64), 3)
QUICK = Plan(20, 3, 1, 4, (1, 4), 1)


def run(ctx: RunContext) -> Result:
    """Compare with enumeration, compare the forms with each other, and measure."""
    plan = QUICK if ctx.quick else FULL
    cells: dict[str, Callable[[], Any]] = {}
    for number, shape in enumerate(SHAPES):
        cells[f"best-{number}"] = partial(best_errors, shape, plan.best, ctx.seed)
        cells[f"sums-{number}"] = partial(sum_errors, shape, plan.sums, ctx.seed)
    for seed in range(plan.seeds):
        cells[f"batch-{seed}"] = partial(batch_errors, plan.utterances, ctx.seed + seed, ctx.device)
    for size in plan.batch_sizes:
        cells[f"speed-{size}"] = partial(throughput, size, plan.repeats, ctx.seed, ctx.device)
    cells["substituted"] = substituted
    task = ctx.progress(len(cells), "decoder")
    found: dict[str, Any] = {}
    with one_thread():
        for name, cell in cells.items():
            found[name] = ctx.load_partial(name)
            if found[name] is None:
                found[name] = cell()
                ctx.save_partial(name, found[name])
            task.advance(1)
    best = [found[f"best-{number}"] for number in range(len(SHAPES))]
    sums = [found[f"sums-{number}"] for number in range(len(SHAPES))]
    speeds = {size: found[f"speed-{size}"] for size in plan.batch_sizes}
    claims = [
        exactness_claim(best),
        posterior_claim(sums),
        batch_claim([found[f"batch-{seed}"] for seed in range(plan.seeds)], ctx.device),
        substitution_claim(found["substituted"]),
        speed_claim(speeds),
    ]
    return ctx.result(
        claims=claims,
        tables=[shape_table(best, sums), speed_table(speeds, ctx.device)],
        figures=figures_of(speeds),
        text=ABOUT,
    )


ABOUT = (
    "Emissions and weights are random. What is compared is arithmetic, so that nothing here depends"
    " on a recognizer or on speech; what the decoder is worth on speech is the matter of the other"
    " experiments."
)


# Random cases -----------------------------------------------------------------------------------


def random_case(
    rng: np.random.Generator, frames: int, classes: int, length: int, sharpness: float = 1.5
) -> tuple[np.ndarray, Weights]:
    """Draw log-probabilities (T, C) and edits of L random phones that mostly keep them."""
    logits_TC = rng.normal(size=(frames, classes)) * sharpness
    logprobs_TC = logits_TC - np.log(np.exp(logits_TC).sum(1, keepdims=True))
    canonical_L = rng.integers(1, classes, size=length)
    sub_LC = rng.normal(-2, 1.2, size=(length, classes))
    sub_LC[np.arange(length), canonical_L] = rng.normal(-0.3, 0.2, size=length)
    dele_L = -np.abs(rng.normal(-2, 1, length))
    ins_SC = rng.normal(-2.5, 1, (length + 1, classes))
    return logprobs_TC, Weights(canonical_L, sub_LC, dele_L, ins_SC)


def utterances_of(
    count: int, seed: int, frames: int = FRAMES, classes: int = CLASSES, length: int = PHONES
) -> tuple[list[np.ndarray], list[Weights]]:
    """Draw utterances of like size: T and L are 80 to 100 % of what is given."""
    rng = numpy_generator(seed, "utterances", count)
    logprobs, weights = [], []
    for _ in range(count):
        share = rng.uniform(0.8, 1.0)
        one = random_case(rng, round(share * frames), classes, round(share * length), 3.0)
        logprobs.append(one[0].astype(np.float32).astype(np.float64))
        weights.append(one[1])
    return logprobs, weights


@lru_cache
def ctc_paths(
    frames: int, classes: int
) -> tuple[np.ndarray, np.ndarray, tuple[tuple[int, ...], ...]]:
    """List every CTC path.

    Returns
    -------
    paths_NT, number_N, sequences
        int64 paths; which of the M phone sequences each of them says; the sequences.
    """
    paths_NT = np.array(list(itertools.product(range(classes), repeat=frames)), np.int64)
    numbers: dict[tuple[int, ...], int] = {}
    number = [
        numbers.setdefault(tuple(q for q, _ in itertools.groupby(path) if q), len(numbers))
        for path in paths_NT.tolist()
    ]
    return paths_NT.reshape(-1, frames), np.array(number), tuple(numbers)


def best_edit(said: tuple[int, ...], weights: Weights, lam: float, maxdel: int) -> float:
    """Return the log-weight of the best way to edit the canonical phones into what is said."""
    length = len(weights)

    @lru_cache(None)
    def rest(m: int, i: int) -> float:
        """Best weight of all that comes once m phones are said and i canonical ones are behind."""
        if m == len(said):
            return lam * float(weights.dele[i:].sum()) if length - i <= maxdel + 1 else -math.inf
        found = -math.inf
        for at in range(i, min(i + maxdel, length) + 1):
            before = lam * float(weights.dele[i:at].sum())
            found = max(found, before + lam * weights.ins[at, said[m]] + rest(m + 1, at))
            if at < length:
                found = max(found, before + lam * weights.sub[at, said[m]] + rest(m + 1, at + 1))
        return found

    return rest(0, 0)


def all_edits(
    said: tuple[int, ...], weights: Weights, lam: float
) -> list[tuple[float, tuple[tuple[str, int, int], ...]]]:
    """List every way to edit the canonical phones into what is said, with its log-weight."""
    length = len(weights)
    found: list[tuple[float, tuple[tuple[str, int, int], ...]]] = []

    def go_on(m: int, i: int, weight: float, steps: tuple[tuple[str, int, int], ...]) -> None:
        if m == len(said) and i == length:
            found.append((weight, steps))
        if i < length:
            go_on(m, i + 1, weight + lam * weights.dele[i], (*steps, ("dele", i, 0)))
        if m < len(said):
            q = said[m]
            go_on(m + 1, i, weight + lam * weights.ins[i, q], (*steps, ("ins", i, q)))
            if i < length:
                go_on(m + 1, i + 1, weight + lam * weights.sub[i, q], (*steps, ("sub", i, q)))

    go_on(0, 0, 0.0, ())
    return found


# What is compared -------------------------------------------------------------------------------


def best_errors(shape: Sequence[int], count: int, seed: int) -> dict[str, Any]:
    """Compare best paths with the best of all paths.

    Returns
    -------
    dict
        ``cases``; ``wrong`` ones, ``unreachable`` ones (no path by either), and the largest
        difference of ``scores``.
    """
    frames, classes, length, maxdel = shape
    paths_NT, number_N, sequences = ctc_paths(frames, classes)
    rng = numpy_generator(seed, "best", *shape)
    wrong = unreachable = 0
    largest = 0.0
    for trial in range(count):
        logprobs_TC, weights = random_case(rng, frames, classes, length)
        lam = LAMBDAS[trial % len(LAMBDAS)]
        heard_M = np.full(len(sequences), -np.inf)
        np.maximum.at(heard_M, number_N, logprobs_TC[np.arange(frames), paths_NT].sum(1))
        totals = [
            heard + best_edit(said, weights, lam, maxdel)
            for heard, said in zip(heard_M, sequences, strict=True)
        ]
        expected = max(totals)
        path = best_path(logprobs_TC, weights, 0, lam, maxdel)
        if path is None or expected == -math.inf:
            unreachable += path is None and expected == -math.inf
            wrong += (path is None) != (expected == -math.inf)
            continue
        # The phones that are returned must themselves be worth the score.
        worth = totals[sequences.index(path.ids)]
        error = max(abs(path.score - expected), abs(worth - expected))
        wrong += not error <= TOLERANCE
        largest = max(largest, error)
    return {"cases": count, "wrong": wrong, "unreachable": unreachable, "scores": largest}


def sum_errors(shape: Sequence[int], count: int, seed: int) -> dict[str, Any]:
    """Compare posteriors with sums over all pairs of a CTC path and an edit path."""
    frames, classes, length, _ = shape
    paths_NT, number_N, sequences = ctc_paths(frames, classes)
    rng = numpy_generator(seed, "sums", *shape)
    wrong, largest = 0, 0.0
    for trial in range(count):
        logprobs_TC, weights = random_case(rng, frames, classes, length)
        lam = LAMBDAS[trial % len(LAMBDAS)]
        mass_N = np.exp(logprobs_TC[np.arange(frames), paths_NT].sum(1))
        mass_M = np.bincount(number_N, mass_N, len(sequences))
        expected = {
            "sub": np.zeros((length, classes)),
            "ins": np.zeros((length + 1, classes)),
            "dele": np.zeros((length, 1)),
        }
        edited_M = np.zeros(len(sequences))
        for m, said in enumerate(sequences):
            for weight, steps in all_edits(said, weights, lam):
                edited_M[m] += math.exp(weight)
                for kind, i, q in steps:
                    expected[kind][i, q] += mass_M[m] * math.exp(weight)
        total = float(mass_M @ edited_M)
        occupancy_TC = np.zeros((frames, classes))
        weight_N = mass_N * edited_M[number_N]
        for t in range(frames):
            occupancy_TC[t] = np.bincount(paths_NT[:, t], weight_N, classes)
        found = forward_backward(logprobs_TC, weights, 0, lam)
        pairs = [
            (found.sub, expected["sub"] / total),
            (found.ins, expected["ins"] / total),
            (found.dele, expected["dele"][:, 0] / total),
            (found.occupancy, occupancy_TC / total),
            (np.array([found.log_likelihood]), np.array([math.log(total)])),
        ]
        error = max(float(np.abs(a - b).max(initial=0.0)) for a, b in pairs)
        wrong += not error <= TOLERANCE
        largest = max(largest, error)
    return {"cases": count, "wrong": wrong, "probabilities": largest}


def batch_errors(count: int, seed: int, device: str) -> dict[str, Any]:
    """Compare the batched form with the one for an utterance, on cases of an utterance's size."""
    logprobs, weights = utterances_of(count, seed)
    single = [best_path(one, edits) for one, edits in zip(logprobs, weights, strict=True)]
    exact = batched.best_paths(logprobs, weights, device=device, dtype=torch.float64)
    rough = batched.best_paths(logprobs, weights, device=device)
    batch = batched.pad(logprobs, weights, device=device, dtype=torch.float64)
    likelihood = batched.forward_backward(batch).log_likelihood.tolist()
    alone = [
        forward_backward(one, edits).log_likelihood
        for one, edits in zip(logprobs, weights, strict=True)
    ]
    different = 0
    score64 = score32 = 0.0
    for one, two, three in zip(single, exact, rough, strict=True):
        if one is None or two is None or three is None:
            different += 1
            continue
        different += (one.ids, one.starts, one.positions) != (two.ids, two.starts, two.positions)
        score64 = max(score64, abs(one.score - two.score))
        score32 = max(score32, abs(one.score - three.score) / abs(one.score))
    return {
        "cases": count,
        "different": different,
        "float64": score64,
        "float32": score32,
        "likelihood": max(abs(a - b) for a, b in zip(likelihood, alone, strict=True)),
    }


def substituted() -> dict[str, Any]:
    """Decode clear speech of B where the reference has V, by both graphs.

    The graph of "Dysfluent WFST" (arXiv 2505.16351) has an arc for a phone in another's place, but
    what that arc reads is still the canonical phone.
    """
    phones = PhoneSet.arpabet39()
    canonical, said = ("V", "EH", "R", "IY"), ("B", "EH", "R", "IY")
    frames = [phones.blank]
    for phone in said:
        frames += [phones.id(phone)] * 4 + [phones.blank]
    likely_TC = np.full((len(frames), len(phones)), 0.1 / (len(phones) - 1))
    likely_TC[np.arange(len(frames)), frames] = 0.9
    lengths = torch.tensor([len(frames)])
    emissions = Emissions(torch.from_numpy(np.log(likely_TC)), lengths, 0.02, phones, phones.blank)
    channel = EditChannel.fit([(canonical, canonical)], phones=phones)
    edit = fused_decode(emissions, [canonical], channel)[0]
    rigid = fused_decode(emissions, [canonical], channel, graph="dysfluent")[0]
    return {"edit": list(edit.phones), "dysfluent": list(rigid.phones), "said": list(said)}


# Throughput -------------------------------------------------------------------------------------


def alignment_calls(
    logprobs: Sequence[np.ndarray], weights: Sequence[Weights], device: str
) -> Callable[[], None]:
    """Return what places the canonical phones of every utterance by torchaudio, one by one."""
    given = [
        (
            torch.as_tensor(one, dtype=torch.float32, device=device)[None],
            torch.as_tensor(edits.canonical, dtype=torch.int32, device=device)[None],
        )
        for one, edits in zip(logprobs, weights, strict=True)
    ]

    def call() -> None:
        for logprobs_1TC, targets_1L in given:
            torchaudio.functional.forced_align(logprobs_1TC, targets_1L, blank=0)

    return call


def ways(
    logprobs: list[np.ndarray], weights: list[Weights], device: str
) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name; each call works through all utterances."""
    return {
        "fused_decode, NumPy": lambda: [
            best_path(one, edits) for one, edits in zip(logprobs, weights, strict=True)
        ],
        "fused_decode, torch": lambda: batched.best_paths(logprobs, weights, device=device),
        "edit_posteriors, NumPy": lambda: [
            forward_backward(one, edits) for one, edits in zip(logprobs, weights, strict=True)
        ],
        "edit_posteriors, torch": lambda: batched.forward_backward(
            batched.pad(logprobs, weights, device=device)
        ),
        "forced_align, torchaudio": alignment_calls(logprobs, weights, device),
    }


def throughput(size: int, repeats: int, seed: int, device: str) -> dict[str, float]:
    """Return utterances per second of each way, the best of some turns."""
    logprobs, weights = utterances_of(size, seed)
    calls = ways(logprobs, weights, device)
    if device != "cpu":
        # The first call on a device loads what later ones have.
        for call in calls.values():
            call()
    least = dict.fromkeys(calls, math.inf)
    for _ in range(repeats):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            if device != "cpu":
                torch.cuda.synchronize()
            least[name] = min(least[name], time.perf_counter() - begun)
    return {name: size / seconds for name, seconds in least.items()}


# What it says -----------------------------------------------------------------------------------


def _share(wrong: int, cases: int) -> tuple[float, float]:
    low, high = clopper_pearson(wrong, cases)
    return float(low), float(high)


def exactness_claim(found: Sequence[Mapping[str, Any]]) -> Claim:
    """Judge the best paths."""
    cases, wrong = (sum(one[name] for one in found) for name in ("cases", "wrong"))
    return Claim(
        "exact",
        "fused_decode finds the best of all pairs of a CTC path and an edit path",
        None,
        wrong / cases,
        _share(wrong, cases),
        wrong == 0,
        "share of cases",
        f"Wrong ones of {cases} random cases of {len(found)} shapes, each enumerated; exact 95 % "
        f"interval. Largest difference of scores {max(one['scores'] for one in found):.1e}; "
        f"{sum(one['unreachable'] for one in found)} cases have no path by either. Criterion: none "
        f"is wrong by more than {TOLERANCE:g}.",
    )


def posterior_claim(found: Sequence[Mapping[str, Any]]) -> Claim:
    """Judge the posteriors."""
    cases, wrong = (sum(one[name] for one in found) for name in ("cases", "wrong"))
    return Claim(
        "posteriors",
        "edit_posteriors counts every pair of a CTC path and an edit path once",
        None,
        wrong / cases,
        _share(wrong, cases),
        wrong == 0,
        "share of cases",
        f"Wrong ones of {cases} random cases, each enumerated: every edit, every frame, and the "
        f"sum; exact 95 % interval. Largest difference "
        f"{max(one['probabilities'] for one in found):.1e}. Criterion: none is wrong by more than "
        f"{TOLERANCE:g}.",
    )


def batch_claim(found: Sequence[Mapping[str, Any]], device: str) -> Claim:
    """Judge the batched form."""
    cases, different = (sum(one[name] for one in found) for name in ("cases", "different"))
    apart = max(max(one["float64"], one["likelihood"]) for one in found)
    return Claim(
        "batched",
        "The batch in torch gives what one utterance at a time gives in NumPy",
        None,
        different / cases,
        _share(different, cases),
        different == 0 and apart <= 1e-6,
        "share of utterances",
        f"Utterances with another path of {cases} random ones of {FRAMES} frames, on {device} in "
        f"float64; exact 95 % interval. Scores and likelihoods differ by at most {apart:.1e}; in "
        f"float32 scores differ by at most {max(one['float32'] for one in found):.1e} of "
        "themselves. Criterion: no other path, differences up to 1e-6.",
    )


def substitution_claim(found: Mapping[str, Any]) -> Claim:
    """Judge whether the phone in another's place is found."""
    right = found["edit"] == found["said"]
    missed = found["dysfluent"] != found["said"]
    return Claim(
        "substituted",
        "A clear B in the place of V is found here, and not by the graph of Dysfluent WFST",
        None,
        float(right),
        None,
        right and missed,
        "",
        f"Said {' '.join(found['said'])} for V EH R IY. The edit graph: "
        f"{' '.join(found['edit'])}; the other: {' '.join(found['dysfluent']) or 'nothing'}. One "
        "exact case.",
    )


def speed_claim(speeds: Mapping[int, Mapping[str, float]]) -> Claim:
    """Report the price of not knowing the phones."""
    size = max(speeds)
    ratios = {
        size: max(speed["fused_decode, NumPy"], speed["fused_decode, torch"])
        / speed["forced_align, torchaudio"]
        for size, speed in speeds.items()
    }
    return Claim(
        "speed",
        "Utterances per second of fused_decode, in those of forced alignment",
        None,
        ratios[size],
        None,
        None,
        "",
        f"The faster form, batches of {size} random utterances of {FRAMES} frames, {CLASSES} "
        "classes and 21 phones; by batch size: "
        f"{', '.join(f'{size}: {ratio:.3g}' for size, ratio in ratios.items())}. Forced alignment "
        "places phones that are known, and looks at L of the L · C states. No threshold.",
    )


def shape_table(best: Sequence[Mapping[str, Any]], sums: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each shape."""
    rows: list[list[Any]] = [
        [
            *shape,
            len(ctc_paths(shape[0], shape[1])[0]),
            one["cases"],
            one["wrong"],
            f"{one['scores']:.1e}",
            two["cases"],
            two["wrong"],
            f"{two['probabilities']:.1e}",
        ]
        for shape, one, two in zip(SHAPES, best, sums, strict=True)
    ]
    return Table(
        "Random cases beside enumeration",
        ["T", "C", "L", "maxdel", "CTC paths", "best: cases", "wrong", "largest difference",
         "sums: cases", "wrong ", "largest difference "],
        rows,
        "λ is 0, 0.3, 1 and 2.5 in turn. Sums have no limit of deletions in a row.",
    )  # fmt: skip


def speed_table(speeds: Mapping[int, Mapping[str, float]], device: str) -> Table:
    """Return a row for each way."""
    first = next(iter(speeds.values()))
    return Table(
        "Utterances per second, by batch size",
        ["way", *map(str, speeds)],
        [[name, *(f"{speed[name]:.3g}" for speed in speeds.values())] for name in first],
        f"Random utterances of up to {FRAMES} frames, {CLASSES} classes and {PHONES} phones; torch "
        f"and torchaudio on {device}, one thread of the CPU. Forced alignment takes one utterance "
        "at a time.",
    )


def figures_of(speeds: Mapping[int, Mapping[str, float]]) -> list[Figure]:
    """Draw throughput over batch sizes; nothing without matplotlib, which is optional."""
    from modicum.core.plots import look, new_axes

    try:
        figure, axes = new_axes("modicum-huper")
    except ImportError:
        return []
    words = []
    for index, name in enumerate(next(iter(speeds.values()))):
        values = [speed[name] for speed in speeds.values()]
        axes.plot(list(speeds), values, marker="o", markersize=4, label=name, **look(index))
        words.append(f"{name}: {', '.join(f'{value:.3g}' for value in values)}")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(speeds), [str(size) for size in speeds])
    axes.set_xlabel("batch size")
    axes.set_ylabel("utterances per second")
    axes.legend(frameon=False, fontsize="small")
    sizes = ", ".join(map(str, speeds))
    return [
        Figure.from_matplotlib(
            figure,
            "Throughput of the decoder",
            f"Random utterances of {FRAMES} frames; forced alignment is the lower bound.",
            f"Utterances per second for batch sizes {sizes}. {'; '.join(words)}.",
        )
    ]
