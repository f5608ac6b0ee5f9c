"""How far off the phones are in languages that the networks have never heard.

Networks that have heard nothing but English phones listen to other languages, each spoken by
espeak-ng's own voice of it. What they hear is held to the phones that the same program says it
speaks, by feature distance: a phone that English lacks costs what the nearest English one lacks.

Compared are networks that learnt realized phones, canonical ones, realized ones of 80 utterances,
and fresh weights; yardsticks are an empty answer, and what the first of them heard, held to another
sentence of the same language. Intervals are of languages, drawn by branch: relatives are not
independent.

Legend: ``L`` languages.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from modicum.core.device import one_thread
from modicum.core.experiment import Claim, Figure, Result, RunContext, Table
from modicum.huper import audio, espeak
from modicum.huper.experiments._sentences import BRANCHES, ENGLISH, SENTENCES
from modicum.huper.experiments._world import world
from modicum.huper.metrics import Normaliser, feature_errors, ratio_interval
from modicum.huper.recognizer import AcousticModel, Recognizer
from modicum.huper.tiny import TinyConvCTC

__all__ = ["FULL", "QUICK", "Plan", "heard", "run", "spoken"]

PAPER = 0.19
"""PFER over 95 unseen languages in the paper, a ratio."""

PAPER_ENGLISH = "0.0882 over five benchmarks of human speech"
MOST = 0.20
"""Largest mean that counts as holding."""

SHARE = 1 / 3
"""Largest share of what fresh weights get."""

NORMALISER = Normaliser(length="drop", ties="drop", on_unknown="drop")
"""Affricates are two segments on both sides, and length is no feature; what is unknown is counted
and reported."""

ARMS = {
    "ceiling": "realized",
    "canonical": "canonical",
    "seed": "80 utterances",
    "untrained": "untrained",
    "tiny": "shipped",
    "silence": "nothing heard",
}
"""Networks, and an answer without any phone, by their names in tables."""

OTHER = "another sentence"
_BRANCH_OF = {language: branch for branch, all_ in BRANCHES.items() for language in all_}
_JOBS = 2


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes
    ----------
    worlds
        Of networks that are trained; without any the one that is shipped listens.
    languages
        Names of voices of espeak-ng.
    sentences
        Of each language, the first ones of `SENTENCES`.
    """

    worlds: int
    languages: tuple[str, ...]
    sentences: int


FULL = Plan(3, tuple(name for name in SENTENCES if name != ENGLISH), 5)
QUICK = Plan(
    0,
    (
        *("af", "az", "cs", "cy", "de", "el", "es", "et", "eu", "fi"),
        *("hi", "hu", "id", "it", "ka", "lv", "pl", "sq", "sw", "tr"),
    ),
    1,
)


def run(ctx: RunContext) -> Result:
    """Let each network listen to each language."""
    plan = QUICK if ctx.quick else FULL
    names = (*plan.languages, ENGLISH)
    trained = plan.worlds * ("ceiling", "canonical", "seed")
    worlds = [world(ctx, ctx.seed + number) for number in range(plan.worlds)]
    steps = sum(one.steps(arm) for one in worlds for arm in ("ceiling", "canonical", "seed"))
    task = ctx.progress(steps + len(names), "languages")
    found: dict[str, dict[str, Any]] = {}
    missing = []
    for name in names:
        kept = ctx.load_partial(f"language-{name}")
        if kept is None:
            missing.append(name)
        else:
            found[name] = kept
    task.advance(len(names) - len(missing))
    if missing:
        with one_thread():
            models: dict[str, list[AcousticModel]] = {
                "tiny": [Recognizer.from_pretrained("tiny", device="cpu").model],
                "untrained": [
                    TinyConvCTC(seed=ctx.seed + number) for number in range(max(1, plan.worlds))
                ],
            }
            for arm in dict.fromkeys(trained):
                models[arm] = [one.net(arm, task).to("cpu") for one in worlds]
            for name in missing:
                found[name] = listen(name, plan.sentences, models)
                ctx.save_partial(f"language-{name}", found[name])
                task.advance(1)
    else:
        task.advance(steps)
    best = "ceiling" if plan.worlds else "tiny"
    unseen = {name: found[name] for name in plan.languages}
    claims = [
        zero_shot_claim(unseen, best, plan),
        untrained_claim(unseen, best, plan),
        *([realized_claim(unseen, plan)] if plan.worlds else []),
        english_claim(found[ENGLISH], unseen, best),
    ]
    return ctx.result(
        claims=claims,
        tables=[language_table(found, best), branch_table(unseen, best), unknown_table(found)],
        figures=figures_of(unseen, best),
        text=ABOUT,
    )


ABOUT = (
    "The voices are synthetic and of one program, which also spoke what the networks learnt from; "
    "the phones that are held against are the program's own. This is a check of a mechanism and no "
    "benchmark: the paper's figure, of human speech in 95 languages and a network of 315 million "
    "parameters that has heard 94,000 hours of unlabelled speech, stands beside it for orientation."
    "\n\n"
    "Feature distance forgives much: what was heard, held to another sentence of the language, "
    "costs only what the column of that name says.\n\n"
    "Allosaurus, which knows many languages, is not in the table: its package brings no weights "
    "and fetches them when it is first used, and nothing here may depend on a network."
)


# Listening --------------------------------------------------------------------------------------


@functools.cache
def spoken(language: str, sentences: int) -> tuple[list[np.ndarray], list[list[str]]]:
    """Speak the sentences of a language.

    Parameters
    ----------
    language
        A key of `SENTENCES`.
    sentences
        How many.

    Returns
    -------
    recordings, references
        float32 (N,) with 16,000 samples per second each; and what espeak-ng says it speaks: IPA
        without stress, length and ties, without marks of another language.

    Raises
    ------
    FileNotFoundError
        If espeak-ng is not installed.
    """
    texts = SENTENCES[language][:sentences]

    def speak(text: str) -> tuple[np.ndarray, list[str]]:
        samples_N, rate = espeak.speak(text, voice=language)
        phones = espeak.ipa_words(text, language, length=False)
        return audio.standardise(samples_N, rate), [one for word in phones for one in word]

    with ThreadPoolExecutor(_JOBS) as pool:
        pairs = list(pool.map(speak, texts))
    return [one for one, _ in pairs], [phones for _, phones in pairs]


def heard(model: AcousticModel, recordings: Sequence[np.ndarray]) -> list[list[str]]:
    """Return the bottom-up phones of recordings, in the model's own names."""
    found = Recognizer(model).transcribe(list(recordings), audio.SAMPLE_RATE)
    return [list(one.phones) for one in found]


def listen(
    language: str, sentences: int, models: Mapping[str, Sequence[AcousticModel]]
) -> dict[str, Any]:
    """Return the PFER of a language by network, and what its references have that is unknown.

    The value of ``"another sentence"`` is that of the first network that is there of ``"ceiling"``
    and ``"tiny"``, each answer held to the next sentence; None if there is only one.
    """
    recordings, references = spoken(language, sentences)
    rates: dict[str, list[float]] = {}
    unknown: Counter[str] = Counter()
    other = None
    for arm, several in models.items():
        rates[arm] = []
        for model in several:
            said = heard(model, recordings)
            errors = feature_errors(said, references, normaliser=NORMALISER)
            rates[arm].append(errors.pfer())
            unknown = Counter(errors.unknown)
            if other is None and len(references) > 1 and arm == _judge(models):
                moved = [*references[1:], references[0]]
                other = feature_errors(said, moved, normaliser=NORMALISER).pfer()
    silent = feature_errors([[] for _ in references], references, normaliser=NORMALISER)
    rates["silence"] = [silent.pfer()]
    segments = sum(len(NORMALISER.split(one).segments) for one in references)
    return {"rates": rates, "other": other, "segments": segments, "unknown": dict(unknown)}


def _judge(models: Mapping[str, Any]) -> str:
    return "ceiling" if "ceiling" in models else "tiny"


# What it says -----------------------------------------------------------------------------------


def values(found: Mapping[str, Mapping[str, Any]], arm: str) -> np.ndarray:
    """Return (L,) rates of an arm, each the mean over its networks."""
    return np.array([np.mean(one["rates"][arm]) for one in found.values()])


def mean_interval(
    values_L: np.ndarray, languages: Sequence[str], below_L: np.ndarray | None = None
) -> tuple[float, float] | None:
    """Return the 95 % interval of Σvalues / Σbelow (their mean without `below_L`), by branch."""
    below_L = np.ones(len(values_L)) if below_L is None else below_L
    return ratio_interval(values_L, below_L, groups=[_BRANCH_OF[name] for name in languages])


def _world_of(plan: Plan) -> str:
    nets = (
        f"networks of {plan.worlds} worlds"
        if plan.worlds
        else "the shipped network, which learnt realized phones"
    )
    return (
        f"Mean over {len(plan.languages)} languages of {plan.sentences} sentences, {nets}. 95 % "
        "bootstrap over branches of languages."
    )


def zero_shot_claim(found: Mapping[str, Mapping[str, Any]], best: str, plan: Plan) -> Claim:
    """Judge the mean over languages."""
    rates_L = values(found, best)
    mean = float(rates_L.mean())
    return Claim(
        "zero_shot",
        "Phones of languages that were never heard: mean PFER of a network that learnt realized"
        " English ones",
        PAPER,
        mean,
        mean_interval(rates_L, list(found)),
        mean <= MOST and len(found) >= 20,
        "",
        f"{_world_of(plan)} Criterion: at most {MOST:g}, of at least 20 languages. The paper's is "
        "of human speech in 95 languages; here one synthesiser speaks, and says what it speaks.",
    )


def untrained_claim(found: Mapping[str, Mapping[str, Any]], best: str, plan: Plan) -> Claim:
    """Judge the share of what can be had without learning anything."""
    rates_L = values(found, best)
    fresh_L, silent_L = values(found, "untrained"), values(found, "silence")
    # Fresh weights may babble, which costs more than to say nothing.
    below_L = fresh_L if fresh_L.mean() <= silent_L.mean() else silent_L
    share = float(rates_L.mean() / below_L.mean())
    others = [one["other"] for one in found.values()]
    further = (
        ""
        if None in others
        else f" Held to another sentence, the same answers get {np.mean(others):.3f}."
    )
    return Claim(
        "untrained",
        "That PFER, in the PFER of fresh weights or of an empty answer, whichever is less",
        None,
        share,
        mean_interval(rates_L, list(found), below_L),
        share <= SHARE,
        "",
        f"{_world_of(plan)} Fresh weights get {fresh_L.mean():.3f}, an empty answer "
        f"{silent_L.mean():.3f}.{further} Criterion: at most one third.",
    )


def realized_claim(found: Mapping[str, Mapping[str, Any]], plan: Plan) -> Claim:
    """Judge whether realized labels make a better ear for other languages than canonical ones."""
    realized_L, canonical_L = values(found, "ceiling"), values(found, "canonical")
    gap_L = realized_L - canonical_L
    return Claim(
        "realized",
        "PFER of networks of realized labels minus that of networks of canonical labels",
        "less restoration of canonical phones than in networks trained on g2p labels",
        float(gap_L.mean()),
        mean_interval(gap_L, list(found)),
        float(gap_L.mean()) <= 0,
        "",
        f"{_world_of(plan)} {realized_L.mean():.4f} and {canonical_L.mean():.4f}; lower in "
        f"{int((gap_L < 0).sum())} of {len(gap_L)} languages. Criterion: at most 0.",
    )


def english_claim(
    english: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]], best: str
) -> Claim:
    """Report English, which the networks know."""
    rate = float(np.mean(english["rates"][best]))
    return Claim(
        "english",
        "PFER of English sentences, for comparison",
        PAPER_ENGLISH,
        rate,
        None,
        None,
        "",
        f"The same sentences by the English voice; other languages get "
        f"{values(found, best).mean() / max(rate, 1e-9):.2g} times as much. English as the "
        "program reads it, with phones and words that are not in the networks' world. No threshold "
        "and too few sentences for an interval.",
    )


def language_table(found: Mapping[str, Mapping[str, Any]], best: str) -> Table:
    """Return a row for each language, and their mean."""
    first = next(iter(found.values()))
    arms = [arm for arm in ARMS if arm in first["rates"]]
    others = all(one["other"] is not None for one in found.values())
    unseen = [name for name in found if name != ENGLISH]

    def cells(names: Sequence[str]) -> list[Any]:
        row = [
            f"{np.mean([np.mean(found[name]['rates'][arm]) for name in names]):.3f}" for arm in arms
        ]
        if others:
            row.append(f"{np.mean([found[name]['other'] for name in names]):.3f}")
        return row

    order = sorted(unseen, key=lambda name: np.mean(found[name]["rates"][best]))
    rows = [[name, _BRANCH_OF[name], found[name]["segments"], *cells([name])] for name in order]
    total = sum(found[one]["segments"] for one in unseen)
    rows.append(["mean", f"{len(unseen)} languages", total, *cells(unseen)])
    if ENGLISH in found:
        rows.append([ENGLISH, "known", found[ENGLISH]["segments"], *cells([ENGLISH])])
    spread = {
        ARMS[arm]: [
            float(np.mean([found[name]["rates"][arm][number] for name in unseen]))
            for number in range(len(first["rates"][arm]))
        ]
        for arm in arms
        if len(first["rates"][arm]) > 1
    }
    each = "; ".join(f"{arm}: {', '.join(f'{x:.3f}' for x in xs)}" for arm, xs in spread.items())
    return Table(
        "PFER by language",
        ["voice", "branch", "segments", *(ARMS[arm] for arm in arms), *([OTHER] if others else [])],
        rows,
        "Σ feature distances / Σ reference segments, a ratio; columns are what the network learnt "
        "from." + (f" Means over languages by seed: {each}." if each else ""),
    )


def branch_table(found: Mapping[str, Mapping[str, Any]], best: str) -> Table:
    """Return a row for each branch."""
    rows: list[list[Any]] = []
    for branch, members in BRANCHES.items():
        names = [name for name in members if name in found]
        if names:
            rates = [float(np.mean(found[name]["rates"][best])) for name in names]
            rows.append([branch, len(names), f"{np.mean(rates):.3f}", f"{min(rates):.3f}",
                         f"{max(rates):.3f}"])  # fmt: skip
    rows.sort(key=lambda row: row[2])
    return Table(
        f"PFER by branch, networks of {ARMS[best]} labels" if best == "ceiling"
        else "PFER by branch, the shipped network",
        ["branch", "languages", "mean", "least", "most"],
        rows,
    )  # fmt: skip


def unknown_table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return what references have that the feature table does not know."""
    rows: list[list[Any]] = [
        [name, " ".join(one["unknown"]), sum(one["unknown"].values()), one["segments"]]
        for name, one in found.items()
        if one["unknown"]
    ]
    return Table(
        "Symbols of references without features",
        ["voice", "symbols", "how often", "known segments"],
        rows,
        "They count as nothing." if rows else "There is none.",
    )


def figures_of(found: Mapping[str, Mapping[str, Any]], best: str) -> list[Figure]:
    """Draw every language; nothing without matplotlib, which is optional."""
    from modicum.core.plots import look, new_axes

    try:
        figure, axes = new_axes("modicum-huper", height=4.2)
    except ImportError:
        return []
    order = sorted(found, key=lambda name: np.mean(found[name]["rates"][best]))
    # What has learnt nothing is far above all others, and would press them together.
    rates = found[order[0]]["rates"]
    arms = [arm for arm in ARMS if arm in rates and arm not in ("untrained", "silence")]
    words = []
    for index, arm in enumerate(arms):
        shown = [float(np.mean(found[name]["rates"][arm])) for name in order]
        style = {**look(index), "linestyle": "none"}
        axes.plot(range(len(order)), shown, marker="o", markersize=3, label=ARMS[arm], **style)
        words.append(f"{ARMS[arm]}: mean {np.mean(shown):.3f}")
    axes.axhline(MOST, linewidth=0.8, color="grey")
    axes.set_xticks(range(len(order)), order, rotation=90, fontsize="x-small")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("PFER")
    axes.legend(frameon=False, fontsize="small")
    return [
        Figure.from_matplotlib(
            figure,
            "Languages that were never heard",
            f"Each by its own voice of espeak-ng; the line is at {MOST:g}.",
            f"PFER of {len(order)} languages by what the network learnt from. {'; '.join(words)}.",
        )
    ]
