"""Experiments with a real language model: text on disk, peers through transformers, attacks.

Runs the small model that the package ships (or any model handed in) through ``generate`` and reads
the responses without prompt or target. Belongs to the integrations because it needs an engine;
simulations without one are in `modicum.ewatermark.experiments`.

Legend: ``R`` responses, ``T`` tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modicum.core.device import one_thread
from modicum.core.experiment import Claim, Experiment, Result, RunContext, Table, write_atomic
from modicum.core.stats import clopper_pearson, median_interval, ratio_of_medians_interval
from modicum.ewatermark.config import EWatermarkConfig
from modicum.ewatermark.detector import EWatermarkDetector

if TYPE_CHECKING:
    from collections.abc import Callable

    Edit = Callable[[NDArray[np.int64]], NDArray[np.int64]]

ALPHA = 0.01
LENGTH = 200
KEY = b"the key of the end-to-end demo"
START_OF_HUMAN_SPLICE = 200


class _World:
    """Model, tokenizer, anchor and human text of one run, loaded once."""

    def __init__(self, device: str) -> None:
        from modicum.core.watermark.adapters.loading import (
            load_anchor,
            load_model,
            load_tokenizer,
        )
        from modicum.core.watermark.corpus_text import stdlib_text

        self.tokenizer = load_tokenizer("tiny")
        self.model = load_model("tiny", device)
        self.vocab_size = len(self.tokenizer)
        self.anchor = load_anchor("tiny", self.vocab_size, device=device)
        # Line by line: tokenizers warn about texts longer than their model reads at once.
        encoded = [
            self.tokenizer.encode(line, add_special_tokens=False)
            for line in stdlib_text(40_000).splitlines(keepends=True)
        ]
        self.human = np.array([i for line in encoded for i in line], dtype=np.int64)

    def config(self, **changes: Any) -> EWatermarkConfig:
        fields: dict[str, Any] = {
            "key": KEY,
            "vocab_size": self.vocab_size,
            "anchor": self.anchor,
        }
        return EWatermarkConfig(**(fields | changes))

    def generate(
        self, num: int, temperature: float, seed: int, watermarking_config: Any
    ) -> NDArray[np.int64]:
        import torch

        from modicum.core.watermark.adapters.loading import generate_ids

        first = self.model.generation_config.bos_token_id or 0
        prompts = torch.full((num, 1), first, device=self.model.device)
        with one_thread():
            ids = generate_ids(
                self.model,
                prompts,
                max_new_tokens=LENGTH,
                temperature=temperature,
                seed=seed,
                watermarking_config=watermarking_config,
            )
        return ids.cpu().numpy()

    def nll(self, responses: NDArray[np.int64], temperature: float) -> NDArray[np.float64]:
        """Mean negative log-likelihood per token (nats) of each response under the target."""
        import torch

        first = self.model.generation_config.bos_token_id or 0
        ids_RT = torch.from_numpy(responses).to(self.model.device)
        full = torch.cat([torch.full_like(ids_RT[:, :1], first), ids_RT], dim=1)
        with torch.inference_mode():
            logits = self.model(full[:, :-1]).logits.float() / temperature
        logp = logits.log_softmax(-1).gather(-1, ids_RT[..., None])[..., 0]
        return -logp.double().mean(dim=1).cpu().numpy()


def _times(
    detector: EWatermarkDetector, responses: NDArray[np.int64] | list[Any]
) -> NDArray[np.float64]:
    with one_thread():
        out = detector(list(responses))
    return np.where(out.stopping_time > 0, out.stopping_time, np.inf).astype(float)


def _median(times: NDArray[np.float64]) -> str:
    low, high = median_interval(times)
    return f"{np.median(times):g} [{low:g}, {high:g}]"


def run_sample(ctx: RunContext) -> Result:
    """Watermark a file of text, read it back, edit it, read it again."""
    from modicum.core.watermark import attacks
    from modicum.core.watermark.corpus_text import stdlib_text

    task = ctx.progress(3, "generate")
    world = _World(ctx.device)
    config = world.config()
    ids = world.generate(1, 1.0, ctx.seed, config.for_transformers())[0]
    text = world.tokenizer.decode(ids, skip_special_tokens=True)
    path = write_atomic(ctx.out / "sample.txt", text)
    record = ctx.out / "sample.wm.json"
    config.record().save(record)
    task.advance(1)
    detector = EWatermarkDetector(config, alpha=ALPHA, start="mixture")
    rng = np.random.default_rng(ctx.seed)
    read = np.array(
        world.tokenizer.encode(path.read_text(encoding="utf-8"), add_special_tokens=False)
    )
    V = world.vocab_size
    human = world.human
    versions: list[tuple[str, Any]] = [
        ("as written to disk", read),
        ("10 % of tokens substituted", attacks.substitute(read, 0.1, rng, vocab_size=V).ids_T),
        ("10 % of tokens deleted", attacks.delete(read, 0.1, rng).ids_T),
        ("10 % random tokens inserted", attacks.insert(read, 0.1, rng, vocab_size=V).ids_T),
        (
            f"pasted behind {START_OF_HUMAN_SPLICE} tokens of documentation",
            attacks.splice(read, before=human[:START_OF_HUMAN_SPLICE]).ids_T,
        ),
        (f"{len(read)} tokens of documentation alone", human[: len(read)]),
        ("a licence text and docstrings", human[1000 : 1000 + 2 * len(read)]),
    ]
    task.advance(1)
    rows: list[list[Any]] = []
    found = []
    for name, version in versions:
        out = detector(version)
        found.append(bool(out.prediction[0]))
        rows.append(
            [
                name,
                len(version),
                int(out.num_tokens_scored[0]),
                float(out.log_e_value[0] / np.log(10)),
                float(out.p_value[0]),
                int(out.stopping_time[0]) if found[-1] else None,
            ]
        )
    task.advance(1)
    edited = sum(found[1:5])
    claims = [
        Claim(
            "sample-detected",
            "A watermarked file, read back from disk as text, is detected",
            paper=None,
            measured=float(found[0]),
            interval=None,
            holds=found[0],
            note=f"alpha = {ALPHA}, no prompt, no target model at detection",
        ),
        Claim(
            "sample-edited",
            "Versions of it that were edited or pasted into other text are detected",
            paper=None,
            measured=float(edited),
            interval=None,
            holds=edited == 4,
            unit="of 4",
        ),
        Claim(
            "sample-human",
            "Human text is not reported",
            paper=None,
            measured=float(sum(found[5:])),
            interval=None,
            holds=sum(found[5:]) == 0,
            unit="of 2",
            note=f"each would be reported with probability at most {ALPHA}",
        ),
    ]
    table = Table(
        "The sample and what was done to it",
        [
            "version",
            "tokens",
            "scored",
            "log10 e-value at the end",
            "anytime-valid p-value",
            "detected after",
        ],
        rows,
        note="start mixture; the null text is prose of the standard library "
        f"({len(stdlib_text(2000))} characters and more)",
    )
    return ctx.result(claims=claims, tables=[table], files=[path, record], text=text[:1200])


def run_peers(ctx: RunContext) -> Result:
    """Compare tokens to detection with the watermarks of transformers, same model, same level."""
    from modicum.core.watermark.adapters import peers

    num = 24 if ctx.quick else 200
    temperatures = (1.0,) if ctx.quick else (0.4, 0.7, 1.0)
    world = _World(ctx.device)
    ours = world.config()
    uniform = world.config(anchor=None)
    tokens = world.config(num_groups=world.vocab_size)
    paper = EWatermarkConfig.paper(KEY, world.vocab_size, world.anchor)

    def detect_with(config: EWatermarkConfig) -> Callable[[Any], NDArray[np.float64]]:
        detector = EWatermarkDetector(config, alpha=ALPHA)
        return lambda ids: _times(detector, ids)

    schemes: list[tuple[str, Any, Callable[[Any], NDArray[np.float64]]]] = [
        ("ours, m=16, small LM as anchor", ours.for_transformers, detect_with(ours)),
        ("ours, m=16, uniform anchor", uniform.for_transformers, detect_with(uniform)),
        ("ours, token level, small LM as anchor", tokens.for_transformers, detect_with(tokens)),
        ("as published: m=2, delta=0.3, LM anchor", paper.for_transformers, detect_with(paper)),
        (
            "Gumbel-max, e-process",
            lambda: peers.GumbelConfig(KEY),
            lambda ids: peers.gumbel_times(ids, KEY, ALPHA)[1],
        ),
        (
            "Gumbel-max, p-value with union bound",
            lambda: peers.GumbelConfig(KEY),
            lambda ids: peers.gumbel_times(ids, KEY, ALPHA)[0],
        ),
        (
            "KGW of transformers (bias 2), union bound",
            peers.kgw_config,
            lambda ids: peers.kgw_times(ids, world.vocab_size, ALPHA),
        ),
        (
            "SynthID of transformers (30 keys), union bound",
            peers.synthid_config,
            lambda ids: peers.synthid_times(ids, ALPHA),
        ),
    ]
    task = ctx.progress(len(temperatures) * (len(schemes) + 1), "peers")
    rows: list[list[Any]] = []
    medians: dict[tuple[str, float], NDArray[np.float64]] = {}
    distortion: dict[tuple[str, float], tuple[float, float]] = {}
    false_alarms = 0
    for temperature in temperatures:
        plain = world.generate(num, temperature, ctx.seed + 1, None)
        plain_nll = world.nll(plain, temperature)
        task.advance(1)
        texts: dict[str, NDArray[np.int64]] = {}
        for name, make, times_of in schemes:
            kind = name.split(",")[0] if name.startswith("Gumbel") else name
            # Both Gumbel tests read the same text.
            if kind not in texts:
                texts[kind] = world.generate(num, temperature, ctx.seed + 2, make())
            times = times_of(texts[kind])
            alarms = int(np.isfinite(times_of(plain)).sum())
            if name.startswith("ours"):
                false_alarms += alarms
            nll = world.nll(texts[kind], temperature)
            gap = float(nll.mean() - plain_nll.mean())
            error = float(np.sqrt(nll.var(ddof=1) / num + plain_nll.var(ddof=1) / num))
            medians[name, temperature] = times
            distortion[name, temperature] = gap, error
            rows.append(
                [
                    temperature,
                    name,
                    _median(times),
                    float(np.isfinite(times).mean()),
                    f"{alarms}/{num}",
                    f"{gap:+.3f} ± {error:.3f}",
                ]
            )
            task.advance(1)
    claims = _peer_claims(schemes, temperatures, medians, distortion, false_alarms, num, ctx.seed)
    table = Table(
        f"Tokens to detection at alpha = {ALPHA}, {num} responses of {LENGTH} tokens per cell",
        [
            "temperature",
            "scheme",
            "median tokens [95 %]",
            "detected",
            "plain text reported",
            "change of NLL per token (nats)",
        ],
        rows,
        note="every row is sequential: it may stop after any token",
    )
    return ctx.result(claims=claims, tables=[table])


def _peer_claims(
    schemes: list[Any],
    temperatures: tuple[float, ...],
    medians: dict[tuple[str, float], NDArray[np.float64]],
    distortion: dict[tuple[str, float], tuple[float, float]],
    false_alarms: int,
    num: int,
    seed: int,
) -> list[Claim]:
    first = schemes[0][0]
    temperature = temperatures[-1]
    claims: list[Claim] = []
    for name, _, _ in schemes[3:]:
        ratio, interval = ratio_of_medians_interval(
            medians[first, temperature], medians[name, temperature], rng=seed
        )
        claims.append(
            Claim(
                "ratio-" + name.split(" ")[0].strip(",").lower() + f"-{len(claims)}",
                f"Default setting needs fewer tokens than: {name} (ratio of medians, "
                f"T={temperature:g})",
                paper=None,
                measured=float(ratio),
                interval=interval,
                holds=bool(interval[1] < 1),
            )
        )
    gap, error = distortion[first, temperature]
    claims.append(
        Claim(
            "nll-unchanged",
            "The watermark leaves the text's likelihood unchanged (difference in NLL per token)",
            paper=None,
            measured=gap,
            interval=(gap - 1.96 * error, gap + 1.96 * error),
            holds=abs(gap) <= 3 * error,
            unit="nats",
            note="holds means within three standard errors of zero",
        )
    )
    total = 3 * num * len(temperatures)
    low, high = clopper_pearson(false_alarms, total)
    claims.append(
        Claim(
            "plain-not-reported",
            f"Plain text of the same model is reported with probability at most {ALPHA}",
            paper=None,
            measured=false_alarms / total,
            interval=(float(low), float(high)),
            holds=bool(low <= ALPHA),
        )
    )
    return claims


def run_attacks(ctx: RunContext) -> Result:
    """Edit marked responses and count what is still detected."""
    from modicum.core.watermark import attacks

    num = 30 if ctx.quick else 200
    world = _World(ctx.device)
    config = world.config()
    responses = world.generate(num, 1.0, ctx.seed + 3, config.for_transformers())
    rng = np.random.default_rng(ctx.seed)
    V = world.vocab_size
    plain = EWatermarkDetector(config, alpha=ALPHA)
    mixture = EWatermarkDetector(config, alpha=ALPHA, start="mixture")
    human = world.human

    def spliced(ids: NDArray[np.int64]) -> NDArray[np.int64]:
        at = int(rng.integers(len(human) - START_OF_HUMAN_SPLICE))
        return attacks.splice(ids, before=human[at : at + START_OF_HUMAN_SPLICE]).ids_T

    def substitute(rate: float) -> Edit:
        return lambda ids: attacks.substitute(ids, rate, rng, vocab_size=V).ids_T

    def delete(rate: float) -> Edit:
        return lambda ids: attacks.delete(ids, rate, rng).ids_T

    def insert(rate: float) -> Edit:
        return lambda ids: attacks.insert(ids, rate, rng, vocab_size=V).ids_T

    edits: list[tuple[str, Edit]] = [("none", lambda ids: ids)]
    for rate in (0.05, 0.1, 0.2):
        edits += [
            (f"substitute {rate:.0%}", substitute(rate)),
            (f"delete {rate:.0%}", delete(rate)),
            (f"insert {rate:.0%}", insert(rate)),
        ]
    edits += [
        ("truncate to 50%", lambda ids: attacks.truncate(ids, 0.5).ids_T),
        (f"behind {START_OF_HUMAN_SPLICE} human tokens", spliced),
    ]
    task = ctx.progress(len(edits), "attacks")
    rows: list[list[Any]] = []
    shares: dict[str, tuple[float, float]] = {}
    for name, edit in edits:
        edited = [edit(ids) for ids in responses]
        by_plain, by_mixture = _times(plain, edited), _times(mixture, edited)
        shares[name] = (
            float(np.isfinite(by_plain).mean()),
            float(np.isfinite(by_mixture).mean()),
        )
        rows.append(
            [name, _median(by_plain), shares[name][0], _median(by_mixture), shares[name][1]]
        )
        task.advance(1)
    # The loop ends with the spliced texts.
    last = edits[-1][0]
    ratio, interval = ratio_of_medians_interval(
        by_mixture - START_OF_HUMAN_SPLICE,
        by_plain - START_OF_HUMAN_SPLICE,
        rng=ctx.seed,
        paired=True,
    )
    strong_low, strong_high = clopper_pearson(round(shares["substitute 10%"][0] * num), num)
    claims = [
        Claim(
            "late-start",
            "A marked text behind 200 human tokens: the start mixture finds it after fewer tokens "
            "(ratio of the medians counted from the start of the mark)",
            paper=None,
            measured=ratio,
            interval=interval,
            holds=bool(interval[1] < 1) and shares[last][1] >= 0.9,
            note=f"detected: {shares[last][1]:.3f} with the mixture, {shares[last][0]:.3f} without",
        ),
        Claim(
            "substitute-10",
            "Detected after substituting 10 % of the tokens",
            paper=None,
            measured=shares["substitute 10%"][0],
            interval=(float(strong_low), float(strong_high)),
            holds=shares["substitute 10%"][0] > 0.9,
        ),
    ]
    table = Table(
        f"Detection after edits, alpha = {ALPHA}, {num} responses of {LENGTH} tokens",
        ["edit", "median tokens", "detected", "median, start mixture", "detected, start mixture"],
        rows,
    )
    return ctx.result(claims=claims, tables=[table])


EXPERIMENTS = (
    Experiment(
        name="sample",
        package="modicum-ewatermark",
        title="A file of text, watermarked and detected",
        summary="Generate, write, read back, edit, detect.",
        run=run_sample,
        demo=True,
    ),
    Experiment(
        name="peers",
        package="modicum-ewatermark",
        title="Tokens to detection beside the watermarks of transformers",
        summary="One model, one level, every scheme sequential.",
        run=run_peers,
        demo=True,
    ),
    Experiment(
        name="attacks",
        package="modicum-ewatermark",
        title="What edits do to detection",
        summary="Substitution, deletion, insertion, truncation, pasting.",
        run=run_attacks,
        demo=True,
    ),
)
