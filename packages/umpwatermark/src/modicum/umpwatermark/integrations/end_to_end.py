"""Experiments with a real language model: text on disk, tokens to detection, peers, edits.

Generates with the small model that comes with modicum-core through ``generate`` of transformers and
reads the responses with and without a model. Belongs to the integrations because it needs an
engine; simulations without one are in `modicum.umpwatermark.experiments`.

Legend: ``R`` responses, ``T`` tokens, ``V`` vocabulary, ``L`` lengths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modicum.core.device import one_thread
from modicum.core.experiment import Claim, Experiment, Result, RunContext, Table, write_atomic
from modicum.core.stats import clopper_pearson, paired_difference
from modicum.umpwatermark.config import UMPWatermarkConfig
from modicum.umpwatermark.detector import UMPWatermarkDetector
from modicum.umpwatermark.evidence import Evidence
from modicum.umpwatermark.prefixes import length_reaching, prefix_p_values
from modicum.umpwatermark.samplers.gumbel import gumbel_match

if TYPE_CHECKING:
    Ids = NDArray[np.int64]
    Edit = Callable[[Ids], Ids]
    Read = tuple[NDArray[np.int64], NDArray[np.float64]]
    """Positions of the scored tokens of a response, and the p-value after each of them."""

ALPHA = 1e-3
LENGTH = 200
PROMPT_TOKENS = 24
KEY = b"the key of the end-to-end demo"
HUMAN_BEFORE = 100
ROWS_AT_ONCE = 25
NUM_DRAWS = 1999

DEFAULT = (0.3, 0.3)
PIVOT = (0.7, 0.0)
WEIGHTS = (DEFAULT, PIVOT, (0.0, 0.7), (0.45, 0.45), (0.6, 0.3), (0.5, 0.0), (0.3, 0.0))

COMBINED = "ours: combined, the model and its prompt"
WITH_PROMPT = "ours: log-probabilities, the model and its prompt"
NO_PROMPT = "ours: log-probabilities, the model without prompt"
SMALL_COMBINED = "ours: combined, a small model without prompt"
SMALL = "ours: log-probabilities, a small model without prompt"
SUM = "sum test of the same text, key alone"
KGW = "KGW of transformers (bias 2)"
SYNTHID = "SynthID of transformers (30 keys)"
MODEL_TESTS = (COMBINED, WITH_PROMPT, NO_PROMPT, SMALL_COMBINED, SMALL)
PEERS = (KGW, SYNTHID)


class _World:
    """Models, tokenizer and human text of one run, loaded once."""

    def __init__(self, device: str, seed: int, length: int = LENGTH) -> None:
        from modicum.core.watermark.adapters.loading import load_model, load_tokenizer, quiet
        from modicum.core.watermark.adapters.tiny_lm import load_tiny
        from modicum.core.watermark.corpus_text import stdlib_text

        self.tokenizer = load_tokenizer("tiny")
        self.model = load_model("tiny", device)
        with quiet():
            self.small = load_tiny("anchor", device=device)[0]
        self.vocab_size = len(self.tokenizer)
        self.first = int(self.model.generation_config.bos_token_id or 0)
        self.seed, self.length = seed, length
        # Line by line: tokenizers warn about texts longer than their model reads at once.
        encoded = [
            self.tokenizer.encode(line, add_special_tokens=False)
            for line in stdlib_text(60_000).splitlines(keepends=True)
        ]
        self.human = np.array([i for line in encoded for i in line], dtype=np.int64)

    def config(self, key: bytes = KEY) -> UMPWatermarkConfig:
        return UMPWatermarkConfig(key=key, vocab_size=self.vocab_size)

    def prompts(self, num: int) -> Ids:
        """Return the beginnings of documents the model was not trained on, ``[R, 1 + P]``."""
        from modicum.core.watermark.corpus_text import document

        rows = []
        for index in range(num):
            ids = self.tokenizer.encode(
                document(10_000 + self.seed, index), add_special_tokens=False
            )
            rows.append([self.first, *ids[:PROMPT_TOKENS]])
        return np.array(rows, dtype=np.int64)

    def generate(
        self, prompts: Ids, temperature: float, seed: int, watermarking_config: Any
    ) -> Ids:
        import torch

        from modicum.core.watermark.adapters.loading import generate_ids

        with one_thread():
            ids = generate_ids(
                self.model,
                torch.from_numpy(prompts).to(self.model.device),
                max_new_tokens=self.length,
                temperature=temperature,
                seed=seed,
                watermarking_config=watermarking_config,
            )
        return np.asarray(ids.cpu().numpy(), dtype=np.int64)

    def laws(
        self, model: Any, prompts: Ids, responses: Ids, temperature: float
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the log-law of each response's tokens given what stands before, ``[T, V]``."""
        import torch

        full = np.concatenate([prompts, responses], axis=1)
        start = prompts.shape[1] - 1
        for at in range(0, len(full), ROWS_AT_ONCE):
            ids = torch.from_numpy(full[at : at + ROWS_AT_ONCE, :-1]).to(model.device)
            with one_thread(), torch.inference_mode():
                logits = model(ids, use_cache=False).logits[:, start:, : self.vocab_size]
                log_law = (logits.float() / temperature).log_softmax(-1).cpu().numpy()
            yield from log_law


def own_log_probs(log_law_TV: NDArray[Any], ids_T: Ids) -> NDArray[np.float64]:
    """Return the log-probability of each token of a text under its laws, float64 ``[T]``."""
    picked = np.take_along_axis(log_law_TV, ids_T[:, None], axis=1)[:, 0]
    return np.minimum(picked.astype(np.float64), 0.0)


def read_text(
    detector: UMPWatermarkDetector, ids_T: Ids, log_law_TV: NDArray[Any]
) -> tuple[Ids, Evidence]:
    """Return scored positions and the evidence that a detector with this surrogate reads."""
    ids_T, contexts_Tc, scored_T = detector.positions(ids_T)
    position_S = np.flatnonzero(scored_T)
    uniforms = detector.scheme.uniforms
    state = uniforms.context_state(contexts_Tc[position_S])
    tokens_S = ids_T[position_S]
    law_SV = log_law_TV[position_S]
    evidence = Evidence(
        uniforms.uniforms_at(state, tokens_S),
        prob_S=np.exp(own_log_probs(law_SV, tokens_S)),
        match_S=gumbel_match(law_SV, tokens_S, state, uniforms),
    )
    return position_S, evidence


def detected_at(reads: list[Read], num_tokens: int) -> NDArray[np.bool_]:
    """Return whether the p-value after n tokens is at most alpha, ``[R, n]`` for n = 1, 2, …."""
    found = np.zeros((len(reads), num_tokens), dtype=bool)
    for row, (positions, p_values) in zip(found, reads, strict=True):
        read_T = np.searchsorted(positions, np.arange(1, num_tokens + 1), side="left")
        row[:] = np.concatenate([[1.0], p_values])[read_T] <= ALPHA
    return found


def ratio_of_lengths(
    x_RT: NDArray[np.bool_], y_RT: NDArray[np.bool_], rng: np.random.Generator, *, paired: bool
) -> list[float]:
    """Return the ratio of the lengths at which half of the texts are detected, with its interval.

    Parameters
    ----------
    x_RT, y_RT
        Whether each text is detected at each length.
    rng
        Source of 2000 bootstrap resamples of the texts.
    paired
        Row r of both is the same text.

    Returns
    -------
    list of float
        Ratio x / y and its 95 % percentile interval. A length that is not reached counts as one
        more than the longest.
    """

    def length(found_XT: NDArray[np.float64]) -> NDArray[np.float64]:
        rising_XT = np.maximum.accumulate(found_XT, axis=-1)
        return 1.0 + (rising_XT < 0.5).sum(axis=-1)

    size = len(x_RT)
    ratio = float(length(x_RT.mean(axis=0)) / length(y_RT.mean(axis=0)))
    x_BR = rng.multinomial(size, np.full(size, 1 / size), size=2000) / size
    y_BR = x_BR if paired else rng.multinomial(size, np.full(size, 1 / size), size=2000) / size
    ratio_B = length(x_BR @ x_RT) / length(y_BR @ y_RT)
    low, high = np.quantile(ratio_B, [0.025, 0.975])
    return [ratio, float(low), float(high)]


COMPARED = (
    ("prompt-helps", WITH_PROMPT, NO_PROMPT),
    ("model-helps", NO_PROMPT, SUM),
    ("small-model-helps", SMALL, SUM),
    ("combined-helps", COMBINED, WITH_PROMPT),
    ("sum-against-synthid", SUM, SYNTHID),
    ("ours-against-kgw", NO_PROMPT, KGW),
)
"""Name of a claim, and of the tests of which the first should need fewer tokens."""


def _sum_read(evidence: Evidence, position_S: Ids) -> Read:
    from modicum.core.watermark.peer_laws import gumbel_p_values

    return position_S, gumbel_p_values(evidence.y_S[None])[0]


def run_sample(ctx: RunContext) -> Result:
    """Watermark a file of text, read it back, edit it, read it again."""
    from modicum.core.watermark import attacks
    from modicum.core.watermark.adapters.loading import load_anchor
    from modicum.umpwatermark.integrations.transformers import score_token_logprobs

    task = ctx.progress(3, "generate")
    world = _World(ctx.device, ctx.seed)
    config = world.config()
    ids = world.generate(world.prompts(1), 1.0, ctx.seed, config.for_transformers())[0]
    text = world.tokenizer.decode(ids, skip_special_tokens=True)
    path = write_atomic(ctx.out / "sample.txt", text)
    record = ctx.out / "sample.wm.json"
    config.record().save(record)
    task.advance(1)
    rng = np.random.default_rng(ctx.seed)
    read = np.array(
        world.tokenizer.encode(path.read_text(encoding="utf-8"), add_special_tokens=False)
    )
    V, human = world.vocab_size, world.human
    versions: list[tuple[str, Any]] = [
        ("as written to disk", read),
        ("10 % of tokens substituted", attacks.substitute(read, 0.1, rng, vocab_size=V).ids_T),
        ("10 % of tokens deleted", attacks.delete(read, 0.1, rng).ids_T),
        ("10 % random tokens inserted", attacks.insert(read, 0.1, rng, vocab_size=V).ids_T),
        (
            f"pasted behind {HUMAN_BEFORE} tokens of documentation",
            attacks.splice(read, before=human[:HUMAN_BEFORE]).ids_T,
        ),
        (f"{len(read)} tokens of documentation alone", human[: len(read)]),
        (f"{2 * len(read)} other tokens of documentation", human[1000 : 1000 + 2 * len(read)]),
    ]
    task.advance(1)
    anchor = load_anchor("tiny", V, device=ctx.device)
    key_alone = UMPWatermarkDetector(config, alpha=ALPHA)
    with_small = UMPWatermarkDetector(config, alpha=ALPHA, surrogate=anchor)
    rows: list[list[Any]] = []
    found = []
    for name, version in versions:
        with one_thread():
            log_probs = score_token_logprobs(world.model, [world.first], version, vocab_size=V)
            outputs = [
                key_alone(version),
                key_alone.detect_logprobs(version, log_probs),
                with_small(version),
            ]
        found.append([bool(out.prediction[0]) for out in outputs])
        p_values = [float(out.p_value[0]) for out in outputs]
        scored = int(outputs[0].num_tokens_scored[0])
        rows.append([name, len(version), scored, *p_values, all(found[-1])])
    task.advance(1)
    called = np.array(found)
    columns = ["version", "tokens", "scored", "p, key alone", "p, log-probabilities"]
    columns += ["p, small model", "detected by all"]
    claims = [
        Claim(
            "sample-detected",
            "A watermarked file, read back from disk as text, is detected: with the key alone, "
            "with log-probabilities of the model without its prompt, with a small model",
            paper=None,
            measured=float(called[0].sum()),
            interval=None,
            holds=bool(called[0].all()),
            unit="of 3",
            note=f"alpha = {ALPHA}, {len(read)} tokens",
        ),
        Claim(
            "sample-edited",
            "Versions of it that were edited or pasted into other text are detected",
            paper=None,
            measured=float(called[1:5].sum()),
            interval=None,
            holds=bool(called[1:5].all()),
            unit="of 12",
            note="four versions, three detectors",
        ),
        Claim(
            "sample-human",
            "Human text is not reported",
            paper=None,
            measured=float(called[5:].sum()),
            interval=None,
            holds=not called[5:].any(),
            unit="of 6",
            note=f"each would be reported with probability at most {ALPHA}",
        ),
    ]
    table = Table(
        "The sample and what was done to it",
        columns,
        rows,
        "The human text is prose of the standard library. Fixed-length p-values.",
    )
    return ctx.result(claims=claims, tables=[table], files=[path, record], text=text[:1200])


def sizes_of(quick: bool) -> dict[str, Any]:
    """Return how much `run_tiny` does: responses, tokens, temperatures, edits, keys."""
    if quick:
        return {
            "num": 16,
            "length": 120,
            "temperatures": (0.5,),
            "rates": (0.1,),
            "edited": 8,
            "keys": 150,
        }
    return {
        "num": 200,
        "length": LENGTH,
        "temperatures": (1.0, 0.5),
        "rates": (0.05, 0.1, 0.2),
        "edited": 200,
        "keys": 2000,
    }


def measure(
    world: _World,
    temperature: float,
    *,
    num: int,
    rates: tuple[float, ...],
    edited: int,
    advance: Callable[[int], Any] = lambda steps: None,
) -> dict[str, Any]:
    """Generate with every scheme at one temperature, read, and edit.

    Returns
    -------
    dict
        JSON-able: ``detected`` (counts by test and length), ``ratios`` (of lengths, with
        intervals, by the names in `COMPARED`), ``alarms`` (counts on plain text by
        test), ``nll`` (gap and standard error by scheme), ``weights`` (counts by surrogate and
        weights), ``edits`` (shares by edit and test), ``entropy`` (mean surprisal, nats).
    """
    from modicum.core.watermark.adapters import peers

    seed = world.seed
    config = world.config()
    detector = UMPWatermarkDetector(config, alpha=ALPHA, num_null_draws=NUM_DRAWS)
    rng = np.random.default_rng([seed, round(100 * temperature)])
    prompts = world.prompts(num)
    start = np.full((num, 1), world.first, dtype=np.int64)
    texts: dict[str, Ids] = {}
    for at, (name, settings) in enumerate(
        (
            ("plain", None),
            ("ours", config.for_transformers()),
            (KGW, peers.kgw_config()),
            (SYNTHID, peers.synthid_config()),
        )
    ):
        texts[name] = world.generate(prompts, temperature, 4 * seed + at, settings)
        advance(1)

    surrogates = (
        ("with prompt", world.model, prompts),
        ("no prompt", world.model, start),
        ("small", world.small, start),
    )
    names: dict[str, tuple[str | None, str]] = {
        "with prompt": (COMBINED, WITH_PROMPT),
        "no prompt": (None, NO_PROMPT),
        "small": (SMALL_COMBINED, SMALL),
    }
    detected: dict[str, NDArray[np.bool_]] = {}
    alarms: dict[str, int] = {}
    counts: dict[str, dict[str, int]] = {}
    nll: dict[str, NDArray[np.float64]] = {}
    for kind in ("ours", "plain"):
        reads: dict[str, list[Read]] = {SUM: []}
        for surrogate, model, before in surrogates:
            by_weights = np.zeros((len(WEIGHTS), world.length), dtype=np.int64)
            surprisal = []
            for ids_T, law_TV in zip(
                texts[kind],
                world.laws(model, before, texts[kind], temperature),
                strict=True,
            ):
                position_S, evidence = read_text(detector, ids_T, law_TV)
                p = prefix_p_values(evidence, WEIGHTS, NUM_DRAWS, rng)
                for test, pair in zip(names[surrogate], (DEFAULT, PIVOT), strict=True):
                    if test is not None:
                        reads.setdefault(test, []).append((position_S, p[pair]))
                by_weights += [
                    detected_at([(position_S, p[pair])], world.length)[0] for pair in WEIGHTS
                ]
                surprisal.append(-own_log_probs(law_TV, ids_T).mean())
                if surrogate == "with prompt":
                    reads[SUM].append(_sum_read(evidence, position_S))
            if surrogate == "with prompt":
                nll[kind] = np.array(surprisal)
            if kind == "ours" and surrogate != "no prompt":
                # Where the default detects about half, weights differ most.
                half = int(np.abs(by_weights[0] - num / 2).argmin())
                counts[surrogate] = {
                    f"{a:g}/{b:g}": int(row[half])
                    for (a, b), row in zip(WEIGHTS, by_weights, strict=True)
                } | {"tokens": half + 1}
            advance(1)
        for name, read in reads.items():
            found = detected_at(read, world.length)
            if kind == "ours":
                detected[name] = found
            else:
                alarms[name] = int(found[:, -1].sum())
    for name, reader in (
        (KGW, lambda ids: peers.kgw_p_values(ids, world.vocab_size)),
        (SYNTHID, peers.synthid_p_values),
    ):
        detected[name] = detected_at(reader(texts[name]), world.length)
        alarms[name] = int(detected_at(reader(texts["plain"]), world.length)[:, -1].sum())
        laws = world.laws(world.model, prompts, texts[name], temperature)
        nll[name] = np.array(
            [
                -own_log_probs(law_TV, ids_T).mean()
                for ids_T, law_TV in zip(texts[name], laws, strict=True)
            ]
        )
        advance(1)
    gaps = {}
    for name in ("ours", KGW, SYNTHID):
        difference = paired_difference(nll[name], nll["plain"])
        gaps[name] = [difference.mean, difference.stderr]
    edits = _edits(world, detector, texts, temperature, rates, edited, rng)
    advance(1)
    ratios = {
        name: ratio_of_lengths(detected[x], detected[y], rng, paired=y not in PEERS)
        for name, x, y in COMPARED
    }
    return {
        "detected": {name: found.sum(axis=0).tolist() for name, found in detected.items()},
        "ratios": ratios,
        "alarms": alarms,
        "nll": gaps,
        "weights": counts,
        "edits": edits,
        "entropy": float(nll["plain"].mean()),
    }


def _edits(
    world: _World,
    detector: UMPWatermarkDetector,
    texts: dict[str, Ids],
    temperature: float,
    rates: tuple[float, ...],
    edited: int,
    rng: np.random.Generator,
) -> dict[str, dict[str, int]]:
    """Edit responses and count what whole-text tests still detect."""
    from modicum.core.watermark import attacks
    from modicum.core.watermark.adapters import peers
    from modicum.umpwatermark.integrations.transformers import score_token_logprobs

    V = world.vocab_size

    def substitute(ids: Ids, rate: float) -> Ids:
        return attacks.substitute(ids, rate, rng, vocab_size=V).ids_T

    def delete(ids: Ids, rate: float) -> Ids:
        return attacks.delete(ids, rate, rng).ids_T

    def insert(ids: Ids, rate: float) -> Ids:
        return attacks.insert(ids, rate, rng, vocab_size=V).ids_T

    found: dict[str, dict[str, int]] = {}
    for rate in rates:
        for name, edit in (("substitute", substitute), ("delete", delete), ("insert", insert)):
            ours = [edit(ids, rate) for ids in texts["ours"][:edited]]
            with one_thread():
                log_probs = [
                    score_token_logprobs(
                        world.model, [world.first], ids, temperature=temperature, vocab_size=V
                    )
                    for ids in ours
                ]
            row = {
                NO_PROMPT: int(detector.detect_logprobs(ours, log_probs).prediction.sum()),
                SUM: int(detector(ours).prediction.sum()),
            }
            for scheme, reader in (
                (KGW, lambda ids: peers.kgw_p_values(ids, V)),
                (SYNTHID, peers.synthid_p_values),
            ):
                read = reader([edit(ids, rate) for ids in texts[scheme][:edited]])
                row[scheme] = sum(int(p[-1] <= ALPHA) for _, p in read)
            found[f"{name} {rate:.0%}"] = row
    return found


def false_alarms(world: _World, num_keys: int, rng: np.random.Generator) -> dict[str, int]:
    """Count random keys under which pieces of human text are reported at level 0.01."""
    from modicum.umpwatermark.integrations.transformers import score_token_logprobs

    level = HUMAN_LEVEL
    pieces = [world.human[at : at + HUMAN_TOKENS] for at in range(0, 4000, HUMAN_TOKENS)]
    with one_thread():
        log_probs = [
            score_token_logprobs(world.model, [world.first], ids, vocab_size=world.vocab_size)
            for ids in pieces
        ]
    found = {SUM: 0, NO_PROMPT: 0}
    for index in range(num_keys):
        config = world.config(key=rng.bytes(32))
        # A seed per key: the null draws of one text must not be the same for all of them.
        detector = UMPWatermarkDetector(config, alpha=level, num_null_draws=999, seed=index)
        ids, own = pieces[index % len(pieces)], log_probs[index % len(pieces)]
        found[SUM] += int(detector(ids).prediction[0])
        found[NO_PROMPT] += int(detector.detect_logprobs(ids, own).prediction[0])
    return found


HUMAN_LEVEL = 0.01
HUMAN_TOKENS = 100


def _claims(
    results: dict[float, dict[str, Any]], alarms: dict[str, int], sizes: dict[str, Any]
) -> tuple[list[Claim], dict[tuple[float, str], tuple[float, tuple[float, float]]]]:
    num = sizes["num"]
    lengths = np.arange(1, sizes["length"] + 1)
    needed = {
        (temperature, name): length_reaching(lengths, counts, num, 0.5)
        for temperature, result in results.items()
        for name, counts in result["detected"].items()
    }
    claims = []
    cold = min(results)
    for temperature in results:
        suffix = f"t{round(10 * temperature)}"
        for name, better, worse in COMPARED:
            ratio = results[temperature]["ratios"][name]
            of = [needed[temperature, test][0] for test in (better, worse)]
            statement = f"{better}, against {worse} (T={temperature:g})"
            claims.append(
                _ratio_claim(f"{name}-{suffix}", statement, ratio, of, num, worse not in PEERS)
            )
    gap, error = (results[cold]["nll"]["ours"][i] for i in (0, 1))
    claims.append(
        Claim(
            "nll-unchanged",
            f"The watermark leaves the text's likelihood unchanged (difference in NLL per token, "
            f"T={cold:g})",
            None,
            gap,
            (gap - 1.96 * error, gap + 1.96 * error),
            abs(gap) <= 3 * error,
            "nats",
            "Same prompts, paired. Holds within three standard errors of zero.",
        )
    )
    kgw_gap, kgw_error = results[cold]["nll"][KGW]
    claims.append(
        Claim(
            "kgw-distorts",
            f"KGW buys its tokens with likelihood (difference in NLL per token, T={cold:g})",
            None,
            kgw_gap,
            (kgw_gap - 1.96 * kgw_error, kgw_gap + 1.96 * kgw_error),
            True if kgw_gap > 3 * kgw_error else None,
            "nats",
            "Holds if it exceeds three standard errors.",
        )
    )
    claims += _level_claims(results, alarms, num, sizes["keys"])
    claims.append(_weights_claim(results, num))
    claims.append(_edits_claim(results, sizes))
    return claims, needed


def _ratio_claim(
    name: str, statement: str, found: list[float], lengths: list[float], num: int, paired: bool
) -> Claim:
    ratio, low, high = found
    few, many = lengths
    return Claim(
        name,
        f"Fewer tokens until half of the texts are detected: {statement}.",
        None,
        ratio,
        (low, high),
        True if high < 1 else False if low > 1 else None,
        "ratio of tokens",
        f"{few:.0f} against {many:.0f} tokens at α = {ALPHA}, {num} texts"
        f"{', the same for both' if paired else ' of either'}; 95 % bootstrap over texts. "
        "Undecided where the interval holds 1.",
    )


def _level_claims(
    results: dict[float, dict[str, Any]], alarms: dict[str, int], num: int, num_keys: int
) -> list[Claim]:
    from scipy.special import bdtrc

    plain = sum(
        count for result in results.values() for name, count in result["alarms"].items()
        if name not in PEERS
    )  # fmt: skip
    total = num * len(results) * (len(MODEL_TESTS) + 1)
    low, high = clopper_pearson(plain, total)
    worst = max(alarms, key=lambda name: alarms[name])
    count = alarms[worst]
    human_low, human_high = clopper_pearson(count, num_keys)
    tail = 1.0 if count == 0 else float(bdtrc(count - 1, num_keys, HUMAN_LEVEL))
    return [
        Claim(
            "plain-not-reported",
            f"Plain text of the same model is reported with probability at most {ALPHA}",
            None,
            plain / total,
            (float(low), float(high)),
            bool(low <= ALPHA),
            "share reported",
            f"{plain} of {total} readings by our tests and the sum test.",
        ),
        Claim(
            "human-not-reported",
            f"Prose of the standard library under random keys is reported with probability at most "
            f"{HUMAN_LEVEL}",
            None,
            count / num_keys,
            (float(human_low), float(human_high)),
            tail > 1e-6,
            "share reported",
            f"{worst}, the worse of two tests: {count} of {num_keys} keys. Fails where a valid "
            "test would do so with probability below 1e-6.",
        ),
    ]


def _weights_claim(results: dict[float, dict[str, Any]], num: int) -> Claim:
    losses = []
    for temperature, result in results.items():
        for surrogate, row in result["weights"].items():
            own = row[f"{DEFAULT[0]:g}/{DEFAULT[1]:g}"]
            best = max((name for name in row if name != "tokens"), key=lambda name: row[name])
            losses.append(((row[best] - own) / num, temperature, surrogate, row["tokens"], best))
    loss, temperature, surrogate, tokens, best = max(losses)
    # Two shares of the same texts differ by at most this many standard errors of one.
    error = 3 * math.sqrt(0.25 / num)
    return Claim(
        "default-weights",
        "On generated text the weights 0.3/0.3 lose at most 0.035 of power to the best of seven "
        "settings where they detect about half.",
        None,
        loss,
        None,
        True if loss <= 0.035 else False if loss > 0.035 + error else None,
        "power lost",
        f"Worst at T={temperature:g}, surrogate: {surrogate}, {tokens} tokens, where {best} is "
        f"best in hindsight; {num} texts. Undecided up to 0.035 + {error:.3f}.",
    )


def _edits_claim(results: dict[float, dict[str, Any]], sizes: dict[str, Any]) -> Claim:
    total = sizes["edited"]
    hot = max(results)
    row = results[hot]["edits"]["substitute 10%"]
    low, high = clopper_pearson(row[NO_PROMPT], total)
    return Claim(
        "substitute-10",
        f"Detected after substituting 10 % of the tokens, by log-probabilities of the model "
        f"without prompt (T={hot:g})",
        None,
        row[NO_PROMPT] / total,
        (float(low), float(high)),
        row[NO_PROMPT] >= 0.9 * total,
        "share detected",
        f"{sizes['length']} tokens, α = {ALPHA}; the sum test {row[SUM]}, KGW {row[KGW]}, SynthID "
        f"{row[SYNTHID]} of {total}. Holds from 0.9 on.",
    )


def run_tiny(ctx: RunContext) -> Result:
    """Compare tokens to detection on text of the small model, at equal level, in one run."""
    sizes = sizes_of(ctx.quick)
    task = ctx.progress(len(sizes["temperatures"]) * 13 + 1, "tiny model")
    world = _World(ctx.device, ctx.seed, sizes["length"])
    results: dict[float, dict[str, Any]] = {}
    for temperature in sizes["temperatures"]:
        part = f"t{round(10 * temperature)}"
        kept = ctx.load_partial(part)
        if kept is None:
            kept = measure(
                world,
                temperature,
                num=sizes["num"],
                rates=sizes["rates"],
                edited=sizes["edited"],
                advance=task.advance,
            )
            ctx.save_partial(part, kept)
        else:
            task.advance(13)
        results[temperature] = kept
    alarms = false_alarms(world, sizes["keys"], np.random.default_rng([ctx.seed, 7]))
    task.advance(1)
    claims, needed = _claims(results, alarms, sizes)
    num = sizes["num"]
    rows: list[list[Any]] = []
    for (temperature, name), (n, (low, high)) in needed.items():
        result = results[temperature]
        counts = result["detected"][name]
        ninety, _ = length_reaching(np.arange(1, world.length + 1), counts, num, 0.9)
        rows.append(
            [
                temperature,
                name,
                n,
                low,
                high,
                ninety,
                counts[-1] / num,
                f"{result['alarms'][name]}/{num}",
                "{:+.3f} ± {:.3f}".format(*result["nll"].get(name, result["nll"]["ours"])),
            ]
        )
    edit_rows: list[list[Any]] = [
        [temperature, edit, *(row[name] / sizes["edited"] for name in (NO_PROMPT, SUM, *PEERS))]
        for temperature, result in results.items()
        for edit, row in result["edits"].items()
    ]
    columns = ["temperature", "test", "tokens, half detected", "95 % low", "95 % high"]
    columns += ["tokens, 90 % detected", f"detected at {world.length}", "plain text reported"]
    columns += ["change of NLL per token (nats)"]
    lines = ["temperature,test,tokens,detected"]
    lines += [
        f'{temperature},"{name}",{n},{count}'
        for temperature, result in results.items()
        for name, counts in result["detected"].items()
        for n, count in enumerate(counts, start=1)
    ]
    write_atomic(ctx.out / "tiny_model.csv", "\n".join(lines) + "\n")
    entropy = ", ".join(f"{r['entropy']:.2f} at T={t:g}" for t, r in results.items())
    return ctx.result(
        claims=claims,
        tables=[
            Table(
                f"Tokens to detection at α = {ALPHA}, {num} responses of {world.length} tokens",
                columns,
                rows,
                "Fixed-length p-values, exactly valid at every length; KGW and SynthID by the "
                "exact tails of their own counts. The first five and the sum test read the same "
                f"text. Surprisal of plain text: {entropy} nats per token.",
            ),
            Table(
                f"Detected after edits, α = {ALPHA}, {sizes['edited']} responses",
                ["temperature", "edit", NO_PROMPT, SUM, *PEERS],
                edit_rows,
                "Random places, random tokens.",
            ),
        ],
        files=["tiny_model.csv"],
        text=(
            "Prompts are beginnings of documents; every scheme continues the same ones. The "
            "detector with the prompt knows what nobody but the provider knows; without it, what "
            "anybody knows who can run the model; with the small model, what anybody knows who can "
            "run some model. Not like for like: the sum test, KGW and SynthID ask no model."
        ),
    )


EXPERIMENTS = (
    Experiment(
        name="sample",
        package="modicum-umpwatermark",
        title="A file of text, watermarked and detected",
        summary="Generate, write, read back, edit, detect with and without a model.",
        run=run_sample,
        demo=True,
    ),
    Experiment(
        name="tiny_model",
        package="modicum-umpwatermark",
        title="Tokens to detection on generated text beside the watermarks of transformers",
        summary="One model, one level, with prompt, without, with a small model, with none.",
        run=run_tiny,
        demo=True,
    ),
)
