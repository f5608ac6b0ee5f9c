"""False positives of every test, on text that was written without the key.

Reads six kinds of text through the real detector, each with many random keys: samples of the model,
greedy text, uniform tokens, English prose, text read with a surrogate that knows nothing true, and
templates. What is measured is the share of keys under which a text is called marked, at several
levels. Templates read without de-duplication are the contrast that shows the experiment can find a
test that is not valid.

Legend: ``B`` positions, ``V`` vocabulary, ``L`` context, ``T`` tokens, ``K`` keys.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modicum.core.experiment import Claim, Result, RunContext, Table, write_atomic
from modicum.core.stats import clopper_pearson
from modicum.core.watermark.anchors import Anchor, NGramAnchor
from modicum.core.watermark.bank import TokenBank
from modicum.core.watermark.corpus_text import corpus_text, stdlib_text
from modicum.core.watermark.warnings import ValidityWarning
from modicum.umpwatermark.config import UMPWatermarkConfig
from modicum.umpwatermark.detector import UMPWatermarkDetector
from modicum.umpwatermark.experiments.bank_texts import bank_profile, draw_marked
from modicum.umpwatermark.statistics import Statistic, make_statistic
from modicum.umpwatermark.uniforms import make_uniforms

VOCAB = 256
LEVELS = (0.1, 0.05, 0.01, 0.001)
TOKENS = 60
KEYS_AT_ONCE = 10
"""Keys under which each text is read."""

ERROR = 1e-6
"""Probability that any claim of a run fails although every test is valid."""

Text = NDArray[np.int64]


@dataclass(eq=False)
class BankAnchor:
    """A language model of order one: the law of the next token is the row of the last one.

    Attributes
    ----------
    laws_VV
        Laws, one row per last token.
    name
        What to call it.
    """

    laws_VV: NDArray[np.float64]
    name: str
    window: int | None = 1
    vocab_size: int = VOCAB

    @property
    def fingerprint(self) -> str:
        """Name of the law."""
        return f"bank-{self.name}"

    def log_probs(self, context_ids_BL: Any, lengths_B: Any) -> NDArray[np.float64]:
        """Return ``[B, V]`` log-probabilities of the next token; row 0 where there is none."""
        last_B = np.where(lengths_B > 0, context_ids_BL[:, -1], 0)
        return np.asarray(np.log(self.laws_VV[last_B]))


def chain(laws_VV: NDArray[np.float64], num_tokens: int, rng: np.random.Generator) -> Text:
    """Sample a text from the laws."""
    cumulative = np.cumsum(laws_VV, axis=1)
    ids = np.empty(num_tokens, dtype=np.int64)
    last = int(rng.integers(VOCAB))
    for t in range(num_tokens):
        last = min(int(np.searchsorted(cumulative[last], rng.random())), VOCAB - 1)
        ids[t] = last
    return ids


def greedy(laws_VV: NDArray[np.float64], num_tokens: int, rng: np.random.Generator) -> Text:
    """Follow the likeliest token, from a random one every eight tokens: else it runs in a loop."""
    best_V = laws_VV.argmax(axis=1)
    ids = rng.integers(0, VOCAB, size=num_tokens)
    for t in range(num_tokens):
        if t % 8:
            ids[t] = best_V[ids[t - 1]]
    return ids


def template(num_tokens: int, rng: np.random.Generator) -> Text:
    """Repeat one phrase of 20 tokens with one token changed in every copy."""
    phrase = rng.integers(0, VOCAB, size=20)
    copies = np.tile(phrase, (-(-num_tokens // 20), 1))
    copies[np.arange(len(copies)), rng.integers(0, 20, size=len(copies))] = rng.integers(
        0, VOCAB, size=len(copies)
    )
    return copies.ravel()[:num_tokens]


def english(num_tokens: int) -> Callable[[np.random.Generator], Text]:
    """Return a source of pieces of prose of the standard library, as bytes."""
    ids = np.frombuffer(stdlib_text(60_000).encode(), dtype=np.uint8).astype(np.int64)

    def piece(rng: np.random.Generator) -> Text:
        at = int(rng.integers(0, len(ids) - num_tokens))
        return ids[at : at + num_tokens]

    return piece


@dataclass(frozen=True)
class Null:
    """A kind of text without the key, and the surrogate it is read with."""

    name: str
    words: str
    draw: Callable[[np.random.Generator], Text]
    surrogate: Anchor


def nulls(num_tokens: int = TOKENS) -> list[Null]:
    """Return the kinds of text."""
    laws = TokenBank.build("base", num_contexts=VOCAB, seed=0).target_BV
    exact = BankAnchor(laws, "exact")
    # A surrogate that knows nothing true.
    shuffled = BankAnchor(np.random.default_rng(0).permuted(laws, axis=1), "shuffled")
    bytes_of = np.frombuffer(corpus_text(100_000, 1).encode(), dtype=np.uint8).astype(np.int64)
    bigram = NGramAnchor(VOCAB, order=2).fit([bytes_of])
    return [
        Null(
            "model_sample",
            "sampled from the model that is the surrogate",
            lambda rng: chain(laws, num_tokens, rng),
            exact,
        ),
        Null(
            "greedy",
            "the model's likeliest tokens",
            lambda rng: greedy(laws, num_tokens, rng),
            exact,
        ),
        Null(
            "uniform",
            "uniform tokens",
            lambda rng: rng.integers(0, VOCAB, size=num_tokens),
            exact,
        ),
        Null("english", "English prose, read with a bigram model", english(num_tokens), bigram),
        Null(
            "shuffled_surrogate",
            "sampled from a model, read with a surrogate of shuffled probabilities",
            lambda rng: chain(laws, num_tokens, rng),
            shuffled,
        ),
        Null(
            "template",
            "a repeated phrase with changes",
            lambda rng: template(2 * num_tokens, rng),
            exact,
        ),
    ]


Tests = dict[str, list[tuple[str, Statistic]]]


def tests(num_draws: int) -> Tests:
    """Return all statistics by sampler."""
    calibration = draw_marked(bank_profile("base", "exact"), 400, 50, np.random.default_rng(0))
    learned = make_statistic("learned", calibration=calibration.y_RT.ravel())
    draws: dict[str, Any] = {"num_null_draws": num_draws}

    def make(name: str, **options: Any) -> Statistic:
        return make_statistic(name, **draws, **options)

    return {
        "gumbel": [
            ("sum", make("sum")),
            ("binomial γ=.5", make("binomial")),
            ("learned", learned),
            ("trgof", make("trgof")),
            ("combined", make("combined")),
            ("combined, winsorised", make("combined", truncate=True)),
            ("combined, mixture", make("combined", mixture=True)),
            ("combined, bound", make("combined", method="bound")),
            ("weighted-pivot", make("weighted-pivot")),
            ("match", make("match")),
        ],
        "hazard": [
            ("hazard: combined", make("combined")),
            ("hazard: weighted-pivot", make("weighted-pivot")),
        ],
        "greenlist": [
            ("green list: hits", make("hits")),
            ("green list: weighted-hits", make("weighted-hits")),
        ],
        "ump-aware": [
            ("UMP per token: hits", make("hits")),
            ("UMP per token: weighted-hits", make("weighted-hits")),
        ],
    }


ONLY_FULL = ("combined, winsorised", "combined, mixture", "combined, bound")
"""Left out of quick runs for their time."""

E_VALUE = "combined, e-value"
"""The product of e-values as a test of its own: called marked where it reaches 1/alpha."""


def p_values(
    null: Null,
    by_sampler: Tests,
    num_keys: int,
    rng: np.random.Generator,
    *,
    deduplicate: bool = True,
    advance: Callable[[int], Any] = lambda readings: None,
) -> dict[str, NDArray[np.float64]]:
    """Read texts of one kind under random keys.

    Parameters
    ----------
    null
        Kind of text.
    by_sampler
        Statistics, as `tests` gives them.
    num_keys
        Readings, `KEYS_AT_ONCE` of every text.
    rng
        Source of texts, keys and null draws.
    deduplicate
        Score every context once.
    advance
        Told of finished readings.

    Returns
    -------
    dict
        By test p-values, float64 ``[K]``.
    """
    found: dict[str, list[float]] = {}
    for start in range(0, num_keys, KEYS_AT_ONCE):
        text = null.draw(rng)
        count = min(KEYS_AT_ONCE, num_keys - start)
        for sampler, statistics in by_sampler.items():
            aware = null.surrogate if sampler == "ump-aware" else None
            config = UMPWatermarkConfig(
                key=rng.bytes(32),
                vocab_size=VOCAB,
                sampler=sampler,
                surrogate=aware,
                deduplicate=deduplicate,
            )
            with warnings.catch_warnings():
                # Without de-duplication is what the contrast is about.
                warnings.simplefilter("ignore", ValidityWarning)
                detector = UMPWatermarkDetector(
                    config, surrogate=None if aware is not None else null.surrogate
                )
                keys = [make_uniforms(config.replace(key=rng.bytes(32))) for _ in range(count)]
            for reading in detector.read_with(keys, text):
                for name, statistic in statistics:
                    p = statistic.p_value(reading.evidence, rng)
                    found.setdefault(name, []).append(p)
                    if name == "combined":
                        # Markov's inequality makes it a p-value.
                        e_p = float(np.exp(min(0.0, -statistic.log_e(reading.evidence))))
                        found.setdefault(E_VALUE, []).append(e_p)
        advance(count)
    return {name: np.array(p) for name, p in found.items()}


def tail_probability(called: int, total: int, level: float) -> float:
    """Return the probability that a valid test calls at least so many texts marked."""
    from scipy.special import bdtrc

    return 1.0 if called == 0 else float(bdtrc(called - 1, total, level))


Counts = dict[str, dict[str, list[int]]]
"""By kind of text and test: texts called marked at each of `LEVELS`."""


def null_claim(null: Null, counts: dict[str, list[int]], total: int, share: float) -> Claim:
    """State that no test exceeds any level on one kind of text."""
    worst = min(
        (tail_probability(called, total, level), name, level, called)
        for name, row in counts.items()
        for level, called in zip(LEVELS, row, strict=True)
    )
    least, name, level, called = worst
    low, high = clopper_pearson(called, total)
    return Claim(
        f"type_one_{null.name}",
        f"Text that is {null.words}: no test calls it marked under more than a share α of the "
        f"keys, at α = {', '.join(map(str, LEVELS))}.",
        "Type I error ≤ α",
        called / total,
        (float(low), float(high)),
        least > share,
        f"share called marked at α = {level:g}",
        f"Shown is what is least likely for a valid test: {name} at α = {level:g}, {called} of "
        f"{total} keys, probability {least:.2g}; 95 % Clopper-Pearson. {len(counts)} tests, "
        f"{len(LEVELS)} levels; fails below {share:.1g}, so that valid tests fail somewhere in "
        f"this experiment with probability {ERROR:g} at most.",
    )


def run(ctx: RunContext) -> Result:
    """Count false positives."""
    num_keys = 80 if ctx.quick else 2000
    num_draws = 399 if ctx.quick else 999
    kinds, by_sampler = nulls(), tests(num_draws)
    if ctx.quick:
        by_sampler = {
            sampler: [test for test in found if test[0] not in ONLY_FULL]
            for sampler, found in by_sampler.items()
        }
    task = ctx.progress(num_keys * (len(kinds) + 1), "false positives")
    counts: Counts = {}
    cells = [(null, True) for null in kinds] + [(kinds[-1], False)]
    for number, (null, deduplicate) in enumerate(cells):
        part = null.name if deduplicate else f"{null.name}_repeated"
        kept = ctx.load_partial(part)
        if kept is None:
            rng = np.random.default_rng([ctx.seed, number])
            read = by_sampler if deduplicate else {"gumbel": by_sampler["gumbel"]}
            p = p_values(null, read, num_keys, rng, deduplicate=deduplicate, advance=task.advance)
            kept = {
                name: [int((values <= level).sum()) for level in LEVELS]
                for name, values in p.items()
            }
            ctx.save_partial(part, kept)
        else:
            task.advance(num_keys)
        counts[part] = kept
    num_tests = sum(len(counts[null.name]) for null in kinds) * len(LEVELS)
    claims = [null_claim(null, counts[null.name], num_keys, ERROR / num_tests) for null in kinds]
    claims.append(_contrast_claim(counts[cells[-1][0].name + "_repeated"], num_keys))
    columns = ["text", "test", *(f"α = {level:g}" for level in LEVELS)]
    rows: list[list[Any]] = [
        [part, name, *(called / num_keys for called in row)]
        for part, found in counts.items()
        for name, row in found.items()
    ]
    lines = ["text,test,level,called,keys,low,high"]
    for part, found in counts.items():
        for name, row in found.items():
            for level, called in zip(LEVELS, row, strict=True):
                low, high = clopper_pearson(called, num_keys)
                lines.append(f'{part},"{name}",{level},{called},{num_keys},{low},{high}')
    write_atomic(ctx.out / "validity.csv", "\n".join(lines) + "\n")
    return ctx.result(
        claims=claims,
        tables=[
            Table(
                "Share of keys under which text without the key is called marked",
                columns,
                rows,
                f"{num_keys} random keys per kind of text, {KEYS_AT_ONCE} per text; {TOKENS} "
                "tokens, templates twice that. Exact intervals are in the CSV file. The e-value "
                "is compared with 1/α and gives away most of it.",
            )
        ],
        files=["validity.csv"],
        text=(
            "The probability is over keys, for the text as it is: that is why greedy text, prose "
            "and a surrogate that is wrong everywhere must do as well as the model's own samples. "
            "The one thing that a text can do is to repeat itself: the same context has the same "
            "uniforms, and counting them twice counts one chance twice."
        ),
    )


def _contrast_claim(counts: dict[str, list[int]], total: int) -> Claim:
    level = LEVELS[2]
    name = max(counts, key=lambda test: counts[test][2])
    called = counts[name][2]
    low, high = clopper_pearson(called, total)
    return Claim(
        "loss_without_deduplication",
        f"A loss that is avoided: where repeated contexts are scored again, templates are called "
        f"marked under more than a share α = {level:g} of the keys (worst test shown).",
        None,
        called / total,
        (float(low), float(high)),
        True if tail_probability(called, total, level) < ERROR / len(counts) else None,
        "share called marked",
        f"{name}; {called} of {total} keys, 95 % Clopper-Pearson. Holds if a valid test would do "
        f"so with probability below {ERROR / len(counts):.1g}. It is also what shows that the "
        "experiment finds a test that is not valid.",
    )
