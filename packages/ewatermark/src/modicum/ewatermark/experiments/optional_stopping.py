"""False positives of every test when it is looked at after every token and may stop at any.

Simulates text written without the key in four ways, from greedy to uniform, and reads real text
with random keys through the real detector. SEAL's p-value on the same text is the contrast that
shows the experiment can find a test that is not valid.
"""

import importlib.metadata
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modicum.core.experiment import Claim, Figure, Result, RunContext, Table, write_atomic
from modicum.core.stats import clopper_pearson
from modicum.core.watermark.anchors import Anchor, NGramAnchor
from modicum.core.watermark.bank import TokenBank
from modicum.core.watermark.corpus_text import corpus_text, stdlib_text
from modicum.ewatermark.baselines import (
    corrected_p_values,
    e_process_times,
    peeked_times,
    seal_p_values,
    union_bound_times,
)
from modicum.ewatermark.config import EWatermarkConfig
from modicum.ewatermark.detector import EWatermarkDetector
from modicum.ewatermark.evalues import (
    AnchoredMixtureScore,
    AnchoredScore,
    DefensiveScore,
    Score,
)
from modicum.ewatermark.scheme import EWatermarkScheme
from modicum.ewatermark.simulation import NULLS, log_wealth, simulate

ALPHA = 0.02
NULL_WORDS = {
    "anchor-argmax": "the anchor's likeliest token (greedy)",
    "anchor-sample": "a sample of the anchor",
    "target-sample": "a sample of the model",
    "uniform": "uniform tokens",
}
GREEDY_AND_SAMPLED = ("anchor-argmax", "anchor-sample")
TEXTS_AT_ONCE = 250

BYTES = 256
REAL_TOKENS = 400
REAL_GROUPS = 16
E_CAP = 100.0

Counts = dict[str, list[int]]
"""By test: how many texts were called marked, and how many there were."""


def scores_for(num_groups: int) -> dict[str, Score]:
    """Return the scores that are tested with a number of groups."""
    if num_groups > 2:
        return {f"defensive-mixture, m={num_groups}": DefensiveScore()}
    return {
        "anchored δ=0.1, m=2": AnchoredScore(2, 0.1),
        "anchored δ=0.3, m=2": AnchoredScore(2, 0.3),
        "anchored-mixture, m=2": AnchoredMixtureScore(2),
        "defensive a=0.3, m=2": DefensiveScore((0.3,)),
        "defensive-mixture, m=2": DefensiveScore(),
    }


def count_e_processes(
    bank: TokenBank,
    null: str,
    *,
    num_groups: int,
    num_texts: int,
    num_tokens: int,
    rng: np.random.Generator,
    task: Any = None,
) -> Counts:
    """Count unmarked texts whose e-process ever reaches ``1/alpha``."""
    scores = scores_for(num_groups)
    counts = {name: [0, 0] for name in scores}
    for at in range(0, num_texts, TEXTS_AT_ONCE):
        size = min(TEXTS_AT_ONCE, num_texts - at)
        texts = simulate(
            bank.target_BV,
            bank.anchor_BV,
            num_groups=num_groups,
            num_texts=size,
            num_tokens=num_tokens,
            rng=rng,
            null=null,
        )
        for name, score in scores.items():
            times = e_process_times(log_wealth(score, texts), ALPHA)
            counts[name][0] += int(np.isfinite(times).sum())
            counts[name][1] += size
        if task is not None:
            task.advance(size * num_tokens)
    return counts


def count_p_values(
    bank: TokenBank,
    null: str,
    *,
    num_texts: int,
    num_tokens: int,
    rng: np.random.Generator,
    task: Any = None,
) -> Counts:
    """Count unmarked texts that p-values call marked: peeked at, at fixed lengths, corrected."""
    counts: Counts = {}
    for at in range(0, num_texts, TEXTS_AT_ONCE):
        size = min(TEXTS_AT_ONCE, num_texts - at)
        texts = simulate(
            bank.target_BV,
            bank.anchor_BV,
            num_groups=2,
            num_texts=size,
            num_tokens=num_tokens,
            rng=rng,
            null=null,
        )
        seal, corrected = seal_p_values(texts), corrected_p_values(texts)
        outcomes = {
            "SEAL, peeked at every token": np.isfinite(peeked_times(seal, ALPHA)),
            "SEAL, fixed at 100 tokens": seal[:, 99] <= ALPHA,
            f"SEAL, fixed at {num_tokens} tokens": seal[:, -1] <= ALPHA,
            "SEAL, union bound": np.isfinite(union_bound_times(seal, ALPHA)),
            "corrected, fixed at 100 tokens": corrected[:, 99] <= ALPHA,
            "corrected, peeked at every token": np.isfinite(peeked_times(corrected, ALPHA)),
            "corrected, union bound": np.isfinite(union_bound_times(corrected, ALPHA)),
        }
        for name, called in outcomes.items():
            entry = counts.setdefault(name, [0, 0])
            entry[0] += int(called.sum())
            entry[1] += size
        if task is not None:
            task.advance(size * num_tokens)
    return counts


def byte_documents(text: str, num_tokens: int = REAL_TOKENS) -> list[NDArray[np.int64]]:
    """Cut a text into documents of bytes, int64 ``[num_tokens]`` each; the rest is dropped."""
    ids = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)
    return [ids[at : at + num_tokens] for at in range(0, len(ids) - num_tokens + 1, num_tokens)]


def licence_text(max_chars: int) -> str:
    """Read licence texts of installed distributions and of Python, each once.

    Parameters
    ----------
    max_chars
        Largest length of the result in characters.

    Raises
    ------
    FileNotFoundError
        If nothing installed carries its licence.
    """
    seen: set[str] = set()
    parts: list[str] = []
    for text in _licences():
        # Copies of one licence differ in their first lines, the owner's name.
        body = text[-2000:]
        if body in seen:
            continue
        seen.add(body)
        parts.append(text)
        if sum(map(len, parts)) >= max_chars:
            break
    if not parts:
        raise FileNotFoundError("no installed distribution carries a licence text")
    return "\n\n".join(parts)[:max_chars]


def _licences() -> Iterator[str]:
    distributions = importlib.metadata.distributions()
    for distribution in sorted(distributions, key=lambda d: str(d.metadata["Name"]).lower()):
        for path in distribution.files or ():
            if path.name.upper().startswith(("LICENSE", "LICENCE", "COPYING")):
                try:
                    yield Path(str(path.locate())).read_text(encoding="utf-8")
                except (OSError, UnicodeDecodeError):
                    continue


def read_real_text(
    documents: list[NDArray[np.int64]],
    anchor: Anchor | None,
    num_keys: int,
    seed: int,
    task: Any = None,
) -> tuple[int, NDArray[np.float64]]:
    """Read documents in turn, each time with a new random key, through the real detector.

    Returns
    -------
    int
        Readings whose e-process ever reached ``1/alpha``.
    float64[num_keys]
        Log e-value at the end of each reading.
    """
    rng = np.random.default_rng([seed, num_keys, len(documents)])
    crossed = 0
    log_e = []
    for index in range(num_keys):
        config = EWatermarkConfig(
            key=rng.bytes(32), vocab_size=BYTES, num_groups=REAL_GROUPS, anchor=anchor
        )
        output: Any = EWatermarkDetector(config, ALPHA)(documents[index % len(documents)])
        crossed += int(output.prediction[0])
        log_e.append(float(output.log_e_value[0]))
        if task is not None:
            task.advance(REAL_TOKENS)
    return crossed, np.array(log_e)


def rate_claim(name: str, statement: str, test: str, called: int, total: int) -> Claim:
    """State that a rate of false positives does not exceed alpha by three standard errors."""
    low, high = clopper_pearson(called, total)
    limit = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / total)
    return Claim(
        name,
        statement,
        f"at most α = {ALPHA}",
        called / total,
        (float(low), float(high)),
        called / total <= limit,
        "false positives",
        f"Worst test: {test}; {called} of {total} texts, 95 % Clopper-Pearson interval. Holds if "
        f"at most α plus three standard errors, {limit:.4f}.",
    )


def _rows(null: str, counts: Counts) -> list[list[Any]]:
    rows = []
    for test, (called, total) in counts.items():
        low, high = clopper_pearson(called, total)
        rows.append([null, test, called / total, float(low), float(high), total])
    return rows


def sizes_of(quick: bool) -> tuple[dict[str, dict[int, tuple[int, int]]], tuple[int, int], int]:
    """Return texts and tokens by null and number of groups, those of p-values, and random keys."""
    sizes = {}
    for null in NULLS:
        many = (20_000, 500) if null in GREEDY_AND_SAMPLED else (6000, 400)
        sizes[null] = (
            {2: (1000, 250), 16: (500, 250), 256: (200, 200)}
            if quick
            else {2: many, 16: (3000, 400), 256: (3000, 300)}
        )
    return sizes, (400, 300) if quick else (4000, 300), 150 if quick else 2000


def run(ctx: RunContext) -> Result:
    """Count false positives on simulated and real text."""
    bank = TokenBank.build("base", seed=ctx.seed)
    sizes, p_size, num_keys = sizes_of(ctx.quick)
    steps = sum(n * t for by_m in sizes.values() for n, t in by_m.values())
    steps += len(GREEDY_AND_SAMPLED) * p_size[0] * p_size[1] + 4 * num_keys * REAL_TOKENS
    task = ctx.progress(steps, "false positives")

    claims: list[Claim] = []
    rows: list[list[Any]] = []
    contrast_rows: list[list[Any]] = []
    for number, null in enumerate(NULLS):
        counts: Counts = {}
        for m, (num_texts, num_tokens) in sizes[null].items():
            part = f"e-{null}-{m}"
            found = ctx.load_partial(part)
            if found is None:
                rng = np.random.default_rng([ctx.seed, 1, number, m])
                found = count_e_processes(
                    bank,
                    null,
                    num_groups=m,
                    num_texts=num_texts,
                    num_tokens=num_tokens,
                    rng=rng,
                    task=task,
                )
                ctx.save_partial(part, found)
            counts |= found
        rows += _rows(null, counts)
        worst = max(counts, key=lambda test: counts[test][0] / counts[test][1])
        claims.append(
            rate_claim(
                f"type_one_{null.replace('-', '_')}",
                f"On text that is {NULL_WORDS[null]}, no e-score is ever above 1/α in more than α "
                "of the texts.",
                worst,
                *counts[worst],
            )
        )
    for number, null in enumerate(GREEDY_AND_SAMPLED):
        part = f"p-{null}"
        counts = ctx.load_partial(part)
        if counts is None:
            rng = np.random.default_rng([ctx.seed, 2, number])
            counts = count_p_values(
                bank, null, num_texts=p_size[0], num_tokens=p_size[1], rng=rng, task=task
            )
            ctx.save_partial(part, counts)
        contrast_rows += _rows(null, counts)
        claims.append(_contrast_claim(null, *counts["SEAL, peeked at every token"]))
    greedy = {row[1]: row for row in contrast_rows if row[0] == "anchor-argmax"}
    claims.append(_fixed_claim(greedy["SEAL, fixed at 100 tokens"]))

    real_rows: list[list[Any]] = []
    bigram = NGramAnchor(BYTES, order=2).fit(
        [np.frombuffer(corpus_text(200_000, 1).encode(), dtype=np.uint8).astype(np.int64)]
    )
    texts = {"docstrings": stdlib_text(60_000), "licences": licence_text(60_000)}
    for kind, text in texts.items():
        claims.append(_real_text(ctx, kind, text, bigram, num_keys, real_rows, task))

    columns = ["text", "test", "called marked", "95 % low", "95 % high", "texts"]
    lines = [",".join(columns), *(",".join(map(_cell, row)) for row in rows + contrast_rows)]
    write_atomic(ctx.out / "optional_stopping.csv", "\n".join(lines) + "\n")
    return ctx.result(
        claims=claims,
        tables=[
            Table(
                f"e-processes, looked at after every token, α = {ALPHA}",
                columns,
                rows,
                "Share of texts without the key that ever cross 1/α. Exact intervals.",
            ),
            Table(
                f"p-values on the same kind of text, two groups, α = {ALPHA}",
                columns,
                contrast_rows,
                "SEAL takes the anchor's mass of the seed symbol as match probability; the "
                "corrected test that of the token's own group. Peeking is not what a p-value "
                "allows; at a fixed length the corrected one keeps its level.",
            ),
            Table(
                f"Real text read byte by byte with random keys, α = {ALPHA}",
                [
                    "text",
                    "anchor",
                    "called marked",
                    "95 % low",
                    "95 % high",
                    "keys",
                    f"mean of min(E, {E_CAP:g})",
                    "standard error",
                ],
                real_rows,
                f"Documents of {REAL_TOKENS} bytes, {REAL_GROUPS} groups, defensive mixture, the "
                "detector that users run. The mean e-value must not exceed 1.",
            ),
        ],
        figures=_figures(bigram, ctx.seed, bank),
        files=["optional_stopping.csv"],
        text=(
            "A text that does not depend on the key must be called marked with probability at most "
            "α, however long one looks and whatever the text is. Greedy text is the hard case for "
            "tests that assume text to follow the anchor."
        ),
    )


def _cell(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else f"{value:.6g}"


def _contrast_claim(null: str, called: int, total: int) -> Claim:
    low, high = clopper_pearson(called, total)
    return Claim(
        f"seal_peeked_{null.replace('-', '_')}",
        f"The contrast has teeth: SEAL's p-value peeked at every token calls more than 3α of texts "
        f"marked that are {NULL_WORDS[null]}.",
        None,
        called / total,
        (float(low), float(high)),
        bool(low > 3 * ALPHA),
        "false positives",
        f"{called} of {total} texts. Holds if the 95 % Clopper-Pearson interval lies above 3α.",
    )


def _fixed_claim(row: list[Any]) -> Claim:
    return Claim(
        "seal_fixed_greedy",
        "SEAL's p-value is not valid on greedy text even at a length fixed in advance (100 "
        "tokens).",
        None,
        row[2],
        (row[3], row[4]),
        bool(row[3] > ALPHA),
        "false positives",
        "Holds if the 95 % Clopper-Pearson interval lies above α.",
    )


def _real_text(
    ctx: RunContext,
    kind: str,
    text: str,
    bigram: NGramAnchor,
    num_keys: int,
    rows: list[list[Any]],
    task: Any,
) -> Claim:
    documents = byte_documents(text)
    worst: tuple[float, str, int] = (-1.0, "", 0)
    means_hold = True
    anchors: dict[str, Anchor | None] = {"uniform": None, "bigrams": bigram}
    for name, anchor in anchors.items():
        part = f"real-{kind}-{name}"
        found = ctx.load_partial(part)
        if found is None:
            crossed, log_e = read_real_text(documents, anchor, num_keys, ctx.seed, task)
            capped = np.exp(np.minimum(log_e, math.log(E_CAP)))
            stderr = float(capped.std(ddof=1)) / math.sqrt(num_keys)
            found = [crossed, float(capped.mean()), stderr]
            ctx.save_partial(part, found)
        crossed, mean, stderr = found
        low, high = clopper_pearson(crossed, num_keys)
        rows.append(
            [kind, name, crossed / num_keys, float(low), float(high), num_keys, mean, stderr]
        )
        means_hold &= mean <= 1 + 3 * stderr
        worst = max(worst, (crossed / num_keys, f"{name} anchor", crossed))
    claim = rate_claim(
        f"type_one_{kind}",
        f"On real text ({kind}) read with random keys, the detector is ever above 1/α in at most "
        "α of the readings, and its mean e-value does not exceed 1.",
        worst[1],
        worst[2],
        num_keys,
    )
    note = claim.note + " Also requires the mean of capped e-values to be at most 1 plus three "
    return Claim(
        claim.name,
        claim.statement,
        claim.paper,
        claim.measured,
        claim.interval,
        bool(claim.holds and means_hold),
        claim.unit,
        note + "standard errors.",
    )


def generate_bytes(
    target: NGramAnchor, scheme: EWatermarkScheme, num_tokens: int, rng: np.random.Generator
) -> list[int]:
    """Write a marked text of bytes, the model being an n-gram table."""
    tracker = scheme.new_tracker()
    for _ in range(num_tokens):
        window = tracker.tokens[-2:]
        ids_BL = np.array([[-1] * (2 - len(window)) + list(window)], dtype=np.int64)
        log_probs = np.asarray(target.log_probs(ids_BL, np.array([len(window)])))
        marked = np.exp(np.asarray(scheme.transform(log_probs, [tracker]), dtype=np.float64)[0])
        tracker.push(int(rng.choice(BYTES, p=marked / marked.sum())))
    return list(tracker.tokens)


def _figures(bigram: NGramAnchor, seed: int, bank: TokenBank) -> list[Figure]:
    from modicum.ewatermark import plots

    rng = np.random.default_rng([seed, 4])
    corpus = np.frombuffer(corpus_text(200_000, 1).encode(), dtype=np.uint8).astype(np.int64)
    target = NGramAnchor(BYTES, order=3).fit([corpus])
    config = EWatermarkConfig(
        key=rng.bytes(32), vocab_size=BYTES, num_groups=REAL_GROUPS, anchor=bigram
    )
    ids = generate_bytes(target, EWatermarkScheme(config), 200, rng)
    detector = EWatermarkDetector(config, ALPHA)
    own: Any = detector(ids)
    others = []
    for _ in range(100):
        other: Any = EWatermarkDetector(config.replace(key=rng.bytes(32)), ALPHA)(ids)
        others.append(other.trajectory[0])
    documents = []
    for null, count in ((None, 60), ("target-sample", 140)):
        texts = simulate(
            bank.target_BV,
            bank.anchor_BV,
            num_groups=REAL_GROUPS,
            num_texts=count,
            num_tokens=30,
            rng=rng,
            null=null,
        )
        documents.append(log_wealth(DefensiveScore(), texts)[:, -1])
    stopped = int(own.stopping_time[0])
    try:
        return [
            Figure.from_matplotlib(
                plots.trajectories(
                    own.trajectory[0], ALPHA, others_BT=np.stack(others), stopping_time=stopped
                ),
                "One marked text read with its key and with 100 others",
                "A text of 200 bytes written by a trigram table, its anchor a bigram table.",
            ),
            Figure.from_matplotlib(
                plots.staircase(np.concatenate(documents), 0.05),
                "Which of 200 documents are marked",
                "60 marked and 140 unmarked documents of 30 tokens each, listed by "
                "e-Benjamini-Hochberg at false discovery rate 0.05.",
            ),
        ]
    except ImportError:
        # matplotlib is optional; tables and claims stand without it.
        return []
