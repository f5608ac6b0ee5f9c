"""Systems of ear and text: what commands make them of, and the command ``calibrate``."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modicum.huper.cli import options, references
from modicum.huper.cli.corpora import read
from modicum.huper.cli.references import channel_of, g2p_of
from modicum.huper.cli.show import bars, print_json, print_table

if TYPE_CHECKING:
    from modicum.huper.corpus import Item
    from modicum.huper.scheduler import Item as Measured
    from modicum.huper.system import HuPER

__all__ = ["Lexicon", "calibrate", "dev_items", "is_system", "system_of"]

POLICIES = ("llr", "threshold", "soft")
SCOPES = ("utterance", "segment")

System = Annotated[
    str,
    typer.Option(
        "--model",
        help="The model that comes with the package (tiny), or a folder of one, or of a system "
        "that calibrate wrote.",
        rich_help_panel=options.MODEL,
    ),
]
Lexicon = Annotated[
    Path | None,
    typer.Option(
        help="File with a word and its phones in each line: where there is no text, words of it "
        "are looked for in noisy recordings.",
        rich_help_panel=options.REFERENCE,
        show_default=False,
    ),
]
Wrong = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help="Share of the utterances that get the text of another one, so that it is learnt when "
        "not to believe a text.",
        rich_help_panel=options.REFERENCE,
    ),
]


def is_system(model: str) -> bool:
    """Say whether a folder holds a whole system."""
    from modicum.huper.system import SETTINGS_NAME

    return (Path(model) / SETTINGS_NAME).exists()


def system_of(
    model: str,
    *,
    channel: Path | None = None,
    lexicon: Path | None = None,
    g2p: str | None = None,
    device: str = "auto",
    **scheduler: Any,
) -> "HuPER":
    """Read a system, or make one of its parts.

    Raises
    ------
    FileNotFoundError, ImportError
        If a part is missing.
    ValueError
        If a part is bad, or parts are named for a system that has its own.
    """
    from modicum.huper.g2p import Dict
    from modicum.huper.perceiver import Lexicon as Words
    from modicum.huper.perceiver import Perceiver
    from modicum.huper.recognizer import Recognizer
    from modicum.huper.scheduler import Scheduler
    from modicum.huper.system import HuPER

    engine = None if g2p is None else g2p_of(g2p)
    if is_system(model):
        if channel is not None or lexicon is not None:
            raise ValueError(f"{model} is a system and has its own channel and lexicon")
        found = HuPER.from_pretrained(model, g2p=engine, device=device)
        if scheduler:
            found.scheduler = Scheduler(**scheduler)
        return found
    recognizer = Recognizer.from_pretrained(model, device=device)
    perceiver = None
    if lexicon is not None:
        perceiver = Perceiver(Words(Dict(lexicon).entries, recognizer.phones))
    return HuPER(
        recognizer,
        channel_of(channel, recognizer.phones),
        perceiver,
        Scheduler(**scheduler),
        engine,
    )


def dev_items(corpora: Sequence[Path], wrong: float, seed: int) -> "list[Item]":
    """Read utterances to measure on, some of them with the text of another one.

    What simulate made of one utterance keeps its id, so that its versions are never parted.

    Raises
    ------
    FileNotFoundError, ValueError
        As `corpora.read`, and if there is no other text.
    """
    from modicum.core.device import numpy_generator

    items = [item for path in corpora for item in read(path)]
    if not items:
        raise ValueError("there is no utterance")
    found = [replace(item, id=str(item.extra.get("source", item.id))) for item in items]
    if not wrong:
        return found
    # One utterance under several distortions has one and the same text, right or wrong.
    texts = {item.id: (item.text, item.phonemes) for item in found}
    names = sorted(texts)
    if len(set(texts.values())) < 2:
        raise ValueError("a wrong text is another one, and there is only one")
    rng = numpy_generator(seed, "wrong texts")
    given = dict(texts)
    for at in rng.choice(len(names), round(wrong * len(names)), replace=False).tolist():
        # Prompts may be read by many speakers: another utterance's text can be the same.
        others = [one for one in names if texts[one] != texts[names[at]]]
        given[names[at]] = texts[others[int(rng.integers(len(others)))]]
    return [replace(item, text=given[item.id][0], phonemes=given[item.id][1]) for item in found]


def calibrate(
    corpus: Annotated[
        list[Path],
        typer.Argument(
            metavar="DEV…",
            help="Corpora with realized phones, and with texts or canonical phones; best with "
            "noise such as the user's, see simulate.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of the system.", rich_help_panel=options.OUTPUT, show_default=False
        ),
    ],
    test: Annotated[
        list[Path] | None,
        typer.Option(
            help="Corpus of other utterances, which judge the choice.", show_default=False
        ),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="llr: believe a text unless that costs too much. threshold: use it where the "
            "signal is distorted. soft: the more, the more distorted it is."
        ),
    ] = "llr",
    scope: Annotated[
        str, typer.Option(help="utterance, or segment for bursts of noise.")
    ] = "utterance",
    lam: references.Lam = 1.0,
    wrong: Wrong = 0.0,
    channel: references.Channel = None,
    lexicon: Lexicon = None,
    g2p: references.Pronouncing = None,
    model: System = "tiny",
    plot: options.Plot = None,
    batch_size: options.BatchSize = 16,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Choose when to believe the ear and when the text, and write the system.

    transcribe --model FOLDER then uses it. The thresholds are those with the fewest errors on DEV;
    the cross-validated rate, and that on --test, say what they are worth.
    """
    if policy not in POLICIES:
        raise ValueError(f"--policy must be one of {', '.join(POLICIES)}, not {policy!r}")
    if scope not in SCOPES:
        raise ValueError(f"--scope must be one of {', '.join(SCOPES)}, not {scope!r}")
    items = dev_items(corpus, wrong, seed)
    judging = [] if not test else dev_items(test, wrong, seed)
    if lam == 0:
        raise ValueError("--lam must be positive: with 0 a reference has no weight")
    system = system_of(
        model,
        channel=channel,
        lexicon=lexicon,
        g2p=g2p,
        device=device,
        policy=policy,
        scope=scope,
        lam=lam,
    )
    with bars(quiet) as bar:
        measured = system.measure(
            items, batch_size=batch_size, progress=bar(len(items), "measuring")
        )
        found = system.scheduler.calibrate(measured, seed=seed)
        verdict = None
        if judging:
            verdict = system.evaluate(
                judging, batch_size=batch_size, progress=bar(len(judging), "judging")
            )
    system.save_pretrained(out)
    if plot is not None:
        evidence_figure(measured, system).savefig(plot)
    _tell(found, verdict, system, out, as_json)


def evidence_figure(measured: "Sequence[Measured]", system: "HuPER") -> Any:
    """Draw what it costs to believe the reference, and the rule.

    Raises
    ------
    ValueError
        If there is no utterance with a reference.
    """
    from modicum.huper.plots import evidence_against_score

    kept = [one for one in measured if one.ratio is not None and math.isfinite(one.ratio)]
    if not kept:
        raise ValueError("no utterance has a reference, so that there is no evidence to draw")
    rule = system.scheduler
    has_line = rule.policy == "llr" and math.isfinite(rule.a)
    return evidence_against_score(
        [one.s for one in kept],
        [float(one.ratio or 0.0) for one in kept],
        [one.top_down < one.bottom_up for one in kept],
        a=rule.a if has_line else None,
        b=rule.b,
        names=("reference is better", "ear is as good or better"),
    )


def _tell(found: Any, verdict: Any, system: "HuPER", out: Path, as_json: bool) -> None:
    rule = system.scheduler
    settings = {
        name: getattr(rule, name) for name in ("policy", "scope", "tau", "tau_ref", "a", "b")
    }
    if as_json:
        parts = {}
        for path, one in found.items():
            parts[path] = {
                **asdict(one.verdict),
                "cross_validated": one.cross_validated,
                "end": one.end,
            }
        test = None if verdict is None else asdict(verdict)
        plain = json.loads(json.dumps(settings, default=str))
        print_json({"system": str(out), "scheduler": plain, "dev": parts, "test": test})
        return
    columns = ["path", "on", "ear", "text", "adaptive", "cross-validated", "oracle", "switched"]
    rows: list[list[Any]] = []
    for path, one in found.items():
        rows.append([path, "dev", *_cells(one.verdict, one.cross_validated)])
    if verdict is not None:
        rows.append(["all", "test", *_cells(verdict, None)])
    shown = ", ".join(f"{name} {value}" for name, value in settings.items())
    print_table(columns, rows, f"{out}: {shown}")


def _cells(verdict: Any, held_out: float | None) -> list[Any]:
    return [
        verdict.bottom_up,
        verdict.top_down,
        verdict.risk,
        held_out,
        verdict.oracle,
        verdict.switch_rate,
    ]
