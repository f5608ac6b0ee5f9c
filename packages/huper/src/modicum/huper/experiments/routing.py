"""Which path to trust: the ear alone, the text alone, both joined, or the one that a rule chooses.

Distorts the test utterances of a synthetic world in many ways, decodes every path, and chooses by
rules that were calibrated on other utterances in white noise only. Once the text is right, once it
is another utterance's for three in ten. See `modicum.huper.experiments._world` for the world and
its recognizers.

Legend: ``N`` utterances, ``R`` resamples.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein
from scipy.stats import spearmanr

from modicum.core.device import numpy_generator, one_thread
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.huper.audio import SAMPLE_RATE, distort, standardise
from modicum.huper.experiments._world import FULL, Sizes, World
from modicum.huper.experiments._world import world as shared_world
from modicum.huper.experiments.labels import LEVEL, interval, rates
from modicum.huper.graph import fused_decode
from modicum.huper.recognizer import Recognizer
from modicum.huper.scheduler import Item, Scheduler, distortion_score, evidence_ratio
from modicum.huper.simulate import EspeakWorld

__all__ = ["PLAN", "QUICK", "Condition", "Plan", "listen", "run"]

WRONG = 0.3
"""Share of the texts that are another utterance's."""

BATCH = 16


@dataclass(frozen=True)
class Condition:
    """What is done to the sound: the kind and level of `modicum.huper.audio.distort`."""

    kind: str | None = None
    level: float | None = None

    @property
    def name(self) -> str:
        """For tables and files."""
        return "clean" if self.kind is None else f"{self.kind} {self.level:g}"


CLEAN = Condition()
NOISE = (CLEAN, *(Condition("white", float(snr)) for snr in (20, 10, 5, 0, -5)))
OTHERS = (
    *(Condition("reverberation", rt60) for rt60 in (0.3, 0.6, 0.9)),
    *(Condition("babble", float(snr)) for snr in (10, 0)),
    Condition("band", 8_000.0),
    Condition("clipping", 0.3),
    Condition("mu_law", 4.0),
)

MISLED = ("clean", "white 20", "white 10", "white 0")
"""Conditions in which some texts are wrong, in the main comparison."""

SCORES: Mapping[str, Mapping[str, Any]] = {
    "entropy": {"beta": 1.0},
    "mix": {"beta": 0.5},
    "margin": {"beta": 0.0},
    "margin, speech": {"beta": 0.0, "frames": "speech"},
}
"""Ways to score distortion."""


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes
    ----------
    seeds
        Worlds.
    sizes
        Of each; the arm ``"ceiling"`` listens, or the recognizer of the package if shipped.
    dev, test
        Utterances in each condition.
    noise, others
        Conditions.
    misled
        Those with wrong texts in the main comparison.
    """

    seeds: int
    sizes: Sizes
    dev: int
    test: int
    noise: tuple[Condition, ...]
    others: tuple[Condition, ...]
    misled: tuple[str, ...]


PLAN = Plan(3, FULL, 60, 60, NOISE, OTHERS, MISLED)
QUICK = Plan(
    1,
    Sizes(labelled=40, unlabelled=0, dev=16, test=16, length=(2, 3), shipped=True),
    16,
    16,
    (CLEAN, Condition("white", 10.0), Condition("white", 0.0)),
    (Condition("reverberation", 0.6),),
    ("clean", "white 10", "white 0"),
)


def run(ctx: RunContext) -> Result:
    """Decode all paths in all conditions, calibrate, and judge."""
    plan = QUICK if ctx.quick else PLAN
    cells: dict[tuple[int, str, str], Callable[[], Any]] = {}
    for number in range(plan.seeds):
        made = _world(ctx, number, plan)
        for condition in (*plan.noise, *plan.others):
            if condition in plan.noise:
                cells[number, "dev", condition.name] = partial(
                    listen, made, "dev", plan.dev, condition
                )
            cells[number, "test", condition.name] = partial(
                listen, made, "test", plan.test, condition
            )
    task = ctx.progress(len(cells), "routing")
    found: dict[tuple[int, str, str], list[dict[str, Any]]] = {}
    with one_thread():
        for key, cell in cells.items():
            name = "-".join(map(str, key)).replace(" ", "_").replace(".", "p")
            found[key] = ctx.load_partial(name)
            if found[key] is None:
                found[key] = cell()
                ctx.save_partial(name, found[key])
            task.advance(1)
    return _Judged(plan, found, ctx.seed).result(ctx)


def _world(ctx: RunContext, number: int, plan: Plan) -> World:
    if not plan.sizes.shipped:
        return shared_world(ctx, ctx.seed + number, plan.sizes)
    folder = ctx.out.parent / "worlds" / f"routing-seed{ctx.seed + number}"
    return World(folder, ctx.seed + number, plan.sizes, ctx.device)


# What is measured -------------------------------------------------------------------------------


def listen(made: World, split: str, count: int, condition: Condition) -> list[dict[str, Any]]:
    """Decode every path of the first utterances of a split in one condition.

    Returns
    -------
    list of dict
        For each utterance ``id``; ``length`` of the realized phones; ``s`` by `SCORES`; edits of
        ``bottom_up``, ``canonical`` (the dictionary as it is) and ``fused`` with the right text;
        ``ratio`` Λ; whether the text that is ``given`` is wrong; and ``given_fused`` and
        ``given_ratio`` with that text.
    """
    items = made.items[split][:count]
    net = made.net("seed" if made.sizes.shipped else "ceiling")
    texts = _texts(made, split, len(items))
    talkers: Sequence[np.ndarray] = ()
    if condition.kind == "babble":
        talkers = EspeakWorld("auto", seed=made.seed, length=made.sizes.length).talkers()
    sounds = []
    for item in items:
        samples = standardise(*item.audio())
        if condition.kind is not None:
            rng = numpy_generator(made.seed, "routing", split, condition.name, item.id)
            samples = distort(samples, condition.kind, condition.level, rng, talkers=talkers)
        sounds.append(samples)
    emissions = Recognizer(net).emissions(sounds, SAMPLE_RATE, batch_size=BATCH)
    greedy = emissions.greedy()
    rows = []
    for number, item in enumerate(items):
        logprobs_TC = emissions.utterance(number)
        said, canonical = item.phones("realized"), item.phones("canonical")
        heard = net.phones.decode(greedy[number][0])
        fused = fused_decode(logprobs_TC, canonical, made.channel)
        row: dict[str, Any] = {
            "id": item.id,
            "length": len(said),
            "s": {name: distortion_score(logprobs_TC, **how) for name, how in SCORES.items()},
            "bottom_up": Levenshtein.distance(heard, said),
            "canonical": Levenshtein.distance(canonical, said),
            "fused": Levenshtein.distance(fused.phones, said),
            "ratio": evidence_ratio(logprobs_TC, fused),
            "wrong": texts[number] != number,
        }
        if row["wrong"]:
            other = items[texts[number]].phones("canonical")
            fused = fused_decode(logprobs_TC, other, made.channel)
        row["given_fused"] = Levenshtein.distance(fused.phones, said)
        row["given_ratio"] = evidence_ratio(logprobs_TC, fused)
        rows.append(row)
    return rows


def _texts(made: World, split: str, count: int) -> list[int]:
    """Say whose text each utterance is given: its own, or in three of ten another's."""
    rng = numpy_generator(made.seed, "routing", split, "texts")
    wrong = rng.permutation(count)[: round(WRONG * count)]
    texts = list(range(count))
    # A cycle: nobody keeps his own.
    for number, other in zip(wrong.tolist(), np.roll(wrong, 1).tolist(), strict=True):
        texts[number] = other
    return texts


# Rules ------------------------------------------------------------------------------------------


def _items(
    rows: Sequence[Mapping[str, Any]], score: str, top_down: str, ratio: str | None = None
) -> list[Item]:
    """Give what a scheduler calibrates on."""
    return [
        Item(
            id=row["id"],
            s=row["s"][score],
            bottom_up=row["bottom_up"],
            top_down=row[top_down],
            length=row["length"],
            ratio=None if ratio is None else row[ratio],
        )
        for row in rows
    ]


def _calibrated(scheduler: Scheduler, items: Sequence[Item]) -> Scheduler:
    """Return a scheduler with the thresholds that suit the items."""
    found = replace(scheduler)
    with warnings.catch_warnings():
        # Few utterances, and a rule that never switches: the tables show both.
        warnings.simplefilter("ignore", UserWarning)
        found.calibrate(items)
    return found


def _chosen(
    scheduler: Scheduler, rows: Sequence[Mapping[str, Any]], score: str, top_down: str
) -> list[int]:
    """Give the edits of the path that the rule takes, for utterances it was not calibrated on."""
    scheduler.check_unseen([row["id"] for row in rows])
    return [
        row[top_down]
        if scheduler.weight(row["s"][score], row["given_ratio"]) > 0
        else row["bottom_up"]
        for row in rows
    ]


def _by_utterance(rows: Sequence[Mapping[str, Any]], wrong: Sequence[int]) -> dict[str, list[int]]:
    """Add the conditions of an utterance up, so that they are drawn together."""
    sums: dict[str, list[int]] = {}
    for row, one in zip(rows, wrong, strict=True):
        total = sums.setdefault(row["id"], [0, 0])
        total[0] += one
        total[1] += row["length"]
    return {"wrong": [a for a, _ in sums.values()], "total": [b for _, b in sums.values()]}


class _Judged:
    """What the cells say together."""

    def __init__(
        self, plan: Plan, found: Mapping[tuple[int, str, str], list[dict[str, Any]]], seed: int
    ) -> None:
        self.plan, self.found, self.seed = plan, found, seed
        self.noise = [one.name for one in plan.noise]
        self.others = [one.name for one in plan.others]
        # Rules of each world, from its dev utterances in white noise alone.
        self.rigid: dict[str, list[Scheduler]] = {
            score: [
                _calibrated(
                    Scheduler("threshold", **how),
                    _items(self.rows(number, "dev", self.noise), score, "canonical"),
                )
                for number in range(plan.seeds)
            ]
            for score, how in SCORES.items()
        }
        self.rules: dict[str, list[Scheduler]] = {
            name: [
                _calibrated(
                    rule,
                    _items(
                        self.rows(number, "dev", plan.misled), "entropy", "given_fused",
                        "given_ratio",
                    ),
                )
                for number in range(plan.seeds)
            ]
            for name, rule in {
                "s": Scheduler("threshold"),
                "Λ": Scheduler("llr", joint=False),
                "Λ and s": Scheduler("llr"),
            }.items()
        }  # fmt: skip

    def rows(self, number: int, split: str, names: Sequence[str]) -> list[dict[str, Any]]:
        """Give utterances of a world in some conditions."""
        return [row for name in names for row in self.found[number, split, name]]

    def path(self, key: str, names: Sequence[str]) -> list[dict[str, Any]]:
        """Give the errors of one path in test utterances, for each world."""
        return [self._taken(number, names, key) for number in range(self.plan.seeds)]

    def _taken(self, number: int, names: Sequence[str], key: str) -> dict[str, Any]:
        rows = self.rows(number, "test", names)
        return {"test": _by_utterance(rows, [row[key] for row in rows])}

    def least(self, key: str, names: Sequence[str]) -> list[dict[str, Any]]:
        """Give the errors of whoever knows which of ear and `key` is better."""
        found = []
        for number in range(self.plan.seeds):
            rows = self.rows(number, "test", names)
            best = [min(row["bottom_up"], row[key]) for row in rows]
            found.append({"test": _by_utterance(rows, best)})
        return found

    def rule(
        self, rules: Sequence[Scheduler], names: Sequence[str], score: str, key: str
    ) -> list[dict[str, Any]]:
        """Give the errors of a rule."""
        found = []
        for number, scheduler in enumerate(rules):
            rows = self.rows(number, "test", names)
            found.append({"test": _by_utterance(rows, _chosen(scheduler, rows, score, key))})
        return found

    def per(self, found: Sequence[Mapping[str, Any]]) -> tuple[float, np.ndarray]:
        """Return an error rate over all worlds and its resamples, alike for all paths."""
        return rates(found, "test", self.seed)

    def cell(self, found: Sequence[Mapping[str, Any]]) -> str:
        """Write an error rate with its interval, in per cent."""
        value, samples_R = self.per(found)
        low, high = interval(samples_R)
        return f"{100 * value:.1f} ({100 * low:.1f} … {100 * high:.1f})"

    # What it says -------------------------------------------------------------------------------

    def result(self, ctx: RunContext) -> Result:
        """Put all together."""
        return ctx.result(
            claims=[
                self.rigid_claim(),
                self.fused_claim(),
                self.misled_claim(),
                self.gap_claim(),
                self.spearman_claim(),
                self.transfer_claim(),
            ],
            tables=[
                self.noise_table(),
                self.rigid_table(),
                self.misled_table(),
                self.other_table(),
            ],
            figures=self.figures(),
            text=ABOUT,
        )

    def rigid_claim(self) -> Claim:
        """Compare a switch between ear and dictionary with either."""
        adaptive, adaptive_R = self.per(
            self.rule(self.rigid["entropy"], self.noise, "entropy", "canonical")
        )
        pure = [self.per(self.path(key, self.noise)) for key in ("bottom_up", "canonical")]
        return Claim(
            "rigid",
            "Switching between the ear and the dictionary beats both",
            "switching helps most on distorted speech",
            adaptive / min(value for value, _ in pure),
            interval(adaptive_R / np.min([samples for _, samples in pure], axis=0)),
            adaptive <= min(value for value, _ in pure),
            "",
            "Phone error rate of the switch over the better of both, all levels of white noise "
            f"together: {100 * adaptive:.1f} % for {100 * pure[0][0]:.1f} % (ear) and "
            f"{100 * pure[1][0]:.1f} % (dictionary). Thresholds from dev utterances. Criterion: at "
            f"most 1. Bootstrap over utterances within their world, {LEVEL:.0%}.",
        )

    def fused_claim(self) -> Claim:
        """Ask whether both joined beat either in every noise, if the text is right."""
        worst, where, span = -math.inf, "", (0.0, 0.0)
        for name in self.noise:
            fused, fused_R = self.per(self.path("fused", [name]))
            pure = [self.per(self.path(key, [name])) for key in ("bottom_up", "canonical")]
            ratio = fused / min(value for value, _ in pure)
            if ratio > worst:
                samples_R = fused_R / np.min([samples for _, samples in pure], axis=0)
                worst, where, span = ratio, name, interval(samples_R)
        return Claim(
            "fused",
            "With the right text, ear and dictionary joined beat both in every noise",
            None,
            worst,
            span,
            worst <= 1,
            "",
            "Largest ratio over levels of noise of the phone error rate of the joined path to the "
            f"better of both: in {where}. Criterion: at most 1. Bootstrap as above.",
        )

    def misled_claim(self) -> Claim:
        """Compare the joint rule with always and never, where texts may be wrong."""
        names = self.plan.misled
        rule, rule_R = self.per(self.rule(self.rules["Λ and s"], names, "entropy", "given_fused"))
        pure = [self.per(self.path(key, names)) for key in ("bottom_up", "given_fused")]
        return Claim(
            "misled",
            "Where three texts of ten are wrong, the rule beats believing all and believing none",
            None,
            rule / min(value for value, _ in pure),
            interval(rule_R / np.min([samples for _, samples in pure], axis=0)),
            rule <= min(value for value, _ in pure),
            "",
            f"Phone error rate of the rule of Λ and s, {100 * rule:.1f} %, over the better of ear "
            f"({100 * pure[0][0]:.1f} %) and text always ({100 * pure[1][0]:.1f} %), in "
            f"{', '.join(names)}. Criterion: at most 1. Bootstrap as above.",
        )

    def gap_claim(self) -> Claim:
        """Ask how much of what could be gained the rule gains."""
        names = self.plan.misled
        always, always_R = self.per(self.path("given_fused", names))
        oracle, oracle_R = self.per(self.least("given_fused", names))
        closed = {}
        for name, rules in self.rules.items():
            rule, rule_R = self.per(self.rule(rules, names, "entropy", "given_fused"))
            with np.errstate(divide="ignore", invalid="ignore"):
                closed[name] = (
                    (always - rule) / (always - oracle),
                    (always_R - rule_R) / (always_R - oracle_R),
                )
        value, samples_R = closed["Λ"]
        others = ", ".join(f"{name} {one[0]:.2f}" for name, one in closed.items() if name != "Λ")
        return Claim(
            "gap",
            "The test of Λ closes nine tenths of the gap between believing all texts and knowing",
            None,
            value,
            interval(samples_R[np.isfinite(samples_R)]),
            value >= 0.9,
            "",
            "(Always − rule) / (always − oracle) of phone error rates; the oracle knows which path "
            f"is better. Other rules: {others}. Criterion: at least .9. Bootstrap as above.",
        )

    def spearman_claim(self) -> Claim:
        """Ask whether the score follows the error rate."""
        found, pairs = {}, {}
        for score in SCORES:
            pairs[score] = [
                (row["id"], number, row["s"][score], row["bottom_up"] / max(1, row["length"]))
                for number in range(self.plan.seeds)
                for row in self.rows(number, "test", self.noise)
            ]
            found[score] = float(
                spearmanr(
                    [one[2] for one in pairs[score]], [one[3] for one in pairs[score]]
                ).statistic
            )
        listed = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
        return Claim(
            "spearman",
            "The distortion score follows the error rate of the ear",
            "distortion correlates with error",
            found["entropy"],
            _spearman_interval(pairs["entropy"], self.seed),
            found["entropy"] >= 0.8,
            "",
            "Spearman's correlation of s with the phone error rate over utterances in all levels "
            f"of white noise: {listed}. Criterion: at least .8 for the entropy. Bootstrap over "
            f"utterances with all their levels, {LEVEL:.0%}.",
        )

    def transfer_claim(self) -> Claim:
        """Ask whether rules from white noise do harm elsewhere."""
        worst, where, span = -math.inf, "", (0.0, 0.0)
        for name in self.others:
            rule, rule_R = self.per(
                self.rule(self.rules["Λ and s"], [name], "entropy", "given_fused")
            )
            pure = [self.per(self.path(key, [name])) for key in ("bottom_up", "given_fused")]
            loss = rule - min(value for value, _ in pure)
            if loss > worst:
                samples_R = rule_R - np.min([samples for _, samples in pure], axis=0)
                worst, where, span = loss, name, interval(samples_R)
        return Claim(
            "transfer",
            "Calibrated in white noise, the rule does no harm in rooms, babble, codecs, clipping",
            None,
            100 * worst,
            (100 * span[0], 100 * span[1]),
            worst <= 0.01,
            "points",
            "Largest difference of phone error rates between the rule of Λ and s and the better of "
            f"ear and text always, three texts of ten being wrong: in {where}. Criterion: at most "
            "1 point. Bootstrap as above.",
        )

    def noise_table(self) -> Table:
        """Return a row for each level of noise."""
        rows: list[list[Any]] = []
        for name in self.noise:
            s = {
                score: np.mean(
                    [
                        row["s"][score]
                        for number in range(self.plan.seeds)
                        for row in self.rows(number, "test", [name])
                    ]
                )
                for score in ("margin", "entropy")
            }
            rows.append(
                [
                    name,
                    *(self.cell(self.path(key, [name])) for key in ("bottom_up", "fused")),
                    self.cell(self.path("canonical", [name])),
                    f"{s['margin']:.3f}",
                    f"{s['entropy']:.3f}",
                ]
            )
        return Table(
            "White noise, right text",
            ["SNR", "ear, PER %", "joined", "dictionary", "s (margin)", "s (entropy)"],
            rows,
            f"{self.plan.seeds} worlds of {self.plan.test} utterances in each condition; bootstrap "
            f"over utterances within their world, {LEVEL:.0%}.",
        )

    def rigid_table(self) -> Table:
        """Return switches between ear and dictionary."""
        rows: list[list[Any]] = [
            ["ear always", self.cell(self.path("bottom_up", self.noise)), ""],
            ["dictionary always", self.cell(self.path("canonical", self.noise)), ""],
        ]
        for score, rules in self.rigid.items():
            rows.append(
                [
                    f"s ({score}) > τ",
                    self.cell(self.rule(rules, self.noise, score, "canonical")),
                    ", ".join(f"τ = {one.tau_ref:.3g}" for one in rules),
                ]
            )
        rows.append(["oracle", self.cell(self.least("canonical", self.noise)), ""])
        return Table(
            "Ear or dictionary, all levels of white noise",
            ["rule", "PER, %", "calibrated, by world"],
            rows,
            f"Calibrated on {self.plan.dev} dev utterances of each world in the same levels.",
        )

    def misled_table(self) -> Table:
        """Return rules for texts that may be wrong."""
        names = self.plan.misled
        rows: list[list[Any]] = [
            ["ear always", self.cell(self.path("bottom_up", names)), ""],
            ["text always", self.cell(self.path("given_fused", names)), ""],
        ]
        for name, rules in self.rules.items():
            settings = [
                f"τ = {one.tau_ref:.3g}" if one.policy == "threshold"
                else f"a = {one.a:.3g}, b = {one.b:g}"
                for one in rules
            ]  # fmt: skip
            rows.append(
                [
                    name,
                    self.cell(self.rule(rules, names, "entropy", "given_fused")),
                    "; ".join(settings),
                ]
            )
        rows.append(["oracle", self.cell(self.least("given_fused", names)), ""])
        means = []
        for name in names:
            both = [
                np.mean(
                    [
                        row["given_ratio"]
                        for number in range(self.plan.seeds)
                        for row in self.rows(number, "test", [name])
                        if row["wrong"] == wrong and math.isfinite(row["given_ratio"])
                    ]
                )
                for wrong in (False, True)
            ]
            means.append(f"{name}: {both[0]:.1f} and {both[1]:.1f}")
        return Table(
            "Three texts of ten are wrong",
            ["rule", "PER, %", "calibrated, by world"],
            rows,
            f"In {', '.join(names)}. Mean Λ of right and wrong texts in nats per phone: "
            f"{'; '.join(means)}.",
        )

    def other_table(self) -> Table:
        """Return a row for each other distortion."""
        rows: list[list[Any]] = [
            [
                name,
                *(self.cell(self.path(key, [name])) for key in ("bottom_up", "given_fused")),
                self.cell(self.rule(self.rules["Λ and s"], [name], "entropy", "given_fused")),
                self.cell(self.least("given_fused", [name])),
                self.cell(self.rule(self.rigid["entropy"], [name], "entropy", "canonical")),
            ]
            for name in self.others
        ]
        return Table(
            "Other distortions, rules from white noise",
            ["distortion", "ear, PER %", "text always", "Λ and s", "oracle", "ear or dictionary"],
            rows,
            "Three texts of ten are wrong, but for the last column, which switches between the ear "
            "and the right dictionary phones by s.",
        )

    def figures(self) -> list[Figure]:
        """Draw error over noise and the plane of Λ and s; nothing without matplotlib."""
        from modicum.huper.plots import evidence_against_score, per_against_snr

        snr = [math.inf if one.level is None else one.level for one in self.plan.noise]
        curves = {
            label: [self.per(found(name))[0] for name in self.noise]
            for label, found in {
                "ear": lambda name: self.path("bottom_up", [name]),
                "dictionary": lambda name: self.path("canonical", [name]),
                "text always, 30 % wrong": lambda name: self.path("given_fused", [name]),
                "rule of Λ and s": lambda name: self.rule(
                    self.rules["Λ and s"], [name], "entropy", "given_fused"
                ),
            }.items()
        }
        rows = [row for row in self.rows(0, "test", self.plan.misled)
                if math.isfinite(row["given_ratio"])]  # fmt: skip
        rule = self.rules["Λ and s"][0]
        try:
            noise = per_against_snr(curves, snr, adaptive="rule of Λ and s")
            plane = evidence_against_score(
                [row["s"]["entropy"] for row in rows],
                [row["given_ratio"] for row in rows],
                [row["given_fused"] < row["bottom_up"] for row in rows],
                a=rule.a if math.isfinite(rule.a) else None,
                b=rule.b,
            )
        except ImportError:
            return []
        words = "; ".join(
            f"{label}: {', '.join(f'{100 * one:.0f}' for one in curve)}"
            for label, curve in curves.items()
        )
        return [
            Figure.from_matplotlib(
                noise,
                "Error over noise",
                "Three texts of ten are wrong; the dictionary's are right.",
                f"Phone error rates in per cent in {', '.join(self.noise)}. {words}.",
            ),
            Figure.from_matplotlib(
                plane,
                "What believing the text costs",
                "Test utterances of the first world with the rule from its dev utterances.",
                "Λ over s: utterances whose text is worth believing lie below the line.",
            ),
        ]


ABOUT = (
    "The paper switches by a threshold that was read off the utterances it was judged on, on speech"
    " of people with aphasia; its figures are of that speech. Here speech is synthetic, distortions"
    " are known, and every number of a rule comes from other utterances in white noise."
)


def _spearman_interval(
    pairs: Sequence[tuple[str, int, float, float]], seed: int, resamples: int = 500
) -> tuple[float, float]:
    """Return a bootstrap interval; an utterance is drawn with all its levels, within its world."""
    places: dict[tuple[int, str], list[int]] = {}
    for at, (name, number, _, _) in enumerate(pairs):
        places.setdefault((number, name), []).append(at)
    score_N = np.array([one[2] for one in pairs])
    error_N = np.array([one[3] for one in pairs])
    worlds = sorted({number for number, _ in places})
    groups = [[np.array(at) for key, at in places.items() if key[0] == one] for one in worlds]
    rng = numpy_generator(seed, "spearman")
    values = []
    for _ in range(resamples):
        drawn = np.concatenate(
            [group[at] for group in groups for at in rng.integers(0, len(group), len(group))]
        )
        values.append(float(spearmanr(score_N[drawn], error_N[drawn]).statistic))
    return interval(np.array(values))
