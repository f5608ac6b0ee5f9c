"""The commands ``align`` and ``score``: recordings beside what should be said."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modicum.huper.cli import options, references
from modicum.huper.cli.inputs import items_of, sound_of, work_through
from modicum.huper.cli.listening import check_targets, tell, with_transcript, write_files
from modicum.huper.cli.references import Wanted, channel_of
from modicum.huper.cli.show import bars

if TYPE_CHECKING:
    from modicum.huper.corpus import Item
    from modicum.huper.g2p import Word
    from modicum.huper.graph import Alignment
    from modicum.huper.phones import PhoneSet
    from modicum.huper.transcript import TimedWord

__all__ = ["align", "score"]

METHODS = ("edits", "dysfluent", "forced")


def align(
    audio: options.Audio,
    text: references.Text = None,
    g2p: references.Pronouncing = None,
    method: Annotated[
        str,
        typer.Option(
            help="edits: the best of all phones near the reference. forced: take the reference for "
            "granted and place it. dysfluent: the graph of Dysfluent WFST, to compare with.",
            rich_help_panel=options.REFERENCE,
        ),
    ] = "edits",
    channel: references.Channel = None,
    lam: references.Lam = 1.0,
    repeat: Annotated[
        float | None,
        typer.Option(
            max=0,
            help="Allow going back by a phone, as in stutter, with this log-weight, such as -3.",
            rich_help_panel=options.REFERENCE,
            show_default=False,
        ),
    ] = None,
    model: options.Model = "tiny",
    out: options.Out = None,
    textgrid: options.TextGrid = None,
    ctm: options.Ctm = None,
    batch_size: options.BatchSize = 16,
    jobs: options.Jobs = 1,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Place what was said in time, next to what should have been said.

    Prints a line for each recording: phones, V>B for a substitution, -T for a deletion and +AH for
    an insertion. With --json, --out, --textgrid or --ctm it has all times.
    """
    from modicum.huper import graph, pronounce
    from modicum.huper.recognizer import Recognizer
    from modicum.huper.transcript import Transcript

    if method not in METHODS:
        raise ValueError(f"--method must be one of {', '.join(METHODS)}, not {method!r}")
    if method != "edits" and repeat is not None:
        raise ValueError(f"--repeat is for the method edits, not for {method}")
    items = items_of(audio)
    check_targets(items, textgrid)
    wanted = Wanted(items, text, g2p)
    recognizer = Recognizer.from_pretrained(model, device=device)
    edits = channel_of(channel, recognizer.phones)

    def work(batch: "Sequence[Item]") -> "list[Item]":
        given = [wanted(one) for one in batch]
        emissions = recognizer.emissions([sound_of(one) for one in batch], batch_size=batch_size)
        if method == "forced":
            placed = pronounce.align(emissions, given if len(given) > 1 else [given[0]])
            return [with_transcript(*pair) for pair in zip(batch, placed, strict=True)]
        phones = [_phones(one, recognizer.phones) for one in given]
        found = graph.fused_decode(
            emissions,
            phones,
            edits,
            lam,
            graph="edit" if method == "edits" else "dysfluent",
            repeat=repeat,
        )
        done = []
        for number, (item, one, alignment) in enumerate(zip(batch, given, found, strict=True)):
            transcript = Transcript.from_alignment(
                alignment,
                _confidences(emissions.utterance(number), alignment),
                phones=recognizer.phones,
                words=_words(one, alignment, recognizer.phones),
                trace={"path": "reference", "lam": lam, "method": method}
                | ({} if alignment.reason is None else {"reason": alignment.reason}),
            )
            done.append(with_transcript(item, transcript))
        return done

    settings = {
        "command": "align",
        "model": model,
        "method": method,
        "text": text,
        "g2p": g2p,
        "channel": None if channel is None else str(channel),
        "lam": lam,
        "repeat": repeat,
    }
    with bars(quiet) as bar:
        done, failures = work_through(
            items,
            work,
            out=out,
            settings=settings,
            open_bar=bar,
            what="aligning",
            batch_size=batch_size,
            jobs=jobs,
        )
    write_files(done, textgrid, ctm, single=len(items) == 1)
    shown = [replace(one, extra={**one.extra, "shown": _marked(one)}) for one in done]
    tell(done if as_json else shown, as_json, "shown", single=len(items) == 1)
    if failures:
        raise typer.Exit(1)


def _phones(given: "Sequence[Word] | tuple[str, ...]", phones: "PhoneSet") -> tuple[str, ...]:
    """Return canonical phones in the inventory of the model."""
    found: list[str] = []
    for one in given:
        if isinstance(one, str):
            found += phones.canonicalise([one])
        else:
            found += phones.canonicalise(one.phones, word=one.text)
    return tuple(found)


def _words(
    given: "Sequence[Word] | tuple[str, ...]", alignment: "Alignment", phones: "PhoneSet"
) -> "list[TimedWord]":
    """Return words with what was said of them; an insertion belongs to the word before it."""
    from modicum.huper.transcript import Span, TimedWord

    found, start = [], 0
    shift = alignment.frame_shift or 0.0
    for word in given:
        if isinstance(word, str):
            return []
        canonical = phones.canonicalise(word.phones, word=word.text)
        stop = start + len(canonical)
        said = []
        for edit in alignment.edits:
            at = max(edit.index - 1, 0) if edit.op == "ins" else edit.index
            if start <= at < stop and edit.phone is not None and edit.span is not None:
                said.append((edit.phone, edit.span))
        span = None
        if said:
            first, last = min(one[0] for _, one in said), max(one[1] for _, one in said)
            span = Span(first * shift, last * shift)
        names = tuple(phone for phone, _ in said)
        found.append(TimedWord(word.text, canonical, names, span))
        start = stop
    return found


def _confidences(logprobs_TC: Any, alignment: "Alignment") -> list[float]:
    import numpy as np

    return [
        float(np.exp(logprobs_TC[start:end, phone]).mean())
        for (start, end), phone in zip(alignment.spans, alignment.ids, strict=True)
    ]


def _marked(item: "Item") -> list[str]:
    """Write edits as marks."""
    found = []
    for edit in item.extra["edits"]:
        mark = {"sub": f"{edit['canonical']}>{edit['phone']}", "del": f"-{edit['canonical']}"}
        mark |= {"ins": f"+{edit['phone']}", "rep": f"~{edit['phone']}"}
        found.append(mark.get(edit["op"], edit["phone"]))
    return found


# Scores -----------------------------------------------------------------------------------------


def score(
    audio: options.Audio,
    text: references.Text = None,
    g2p: references.Pronouncing = None,
    channel: references.Channel = None,
    lam: references.Lam = 1.0,
    theta: Annotated[
        float,
        typer.Option(
            help="Nats by which a way that is not native must be likelier to be flagged; below 0 "
            "learners are caught earlier.",
            rich_help_panel=options.REFERENCE,
        ),
    ] = 0.0,
    native_share: Annotated[
        float,
        typer.Option(
            help="Probability under the channel from which on a way counts as native.",
            rich_help_panel=options.REFERENCE,
        ),
    ] = 0.05,
    model: options.Model = "tiny",
    out: options.Out = None,
    batch_size: options.BatchSize = 16,
    jobs: options.Jobs = 1,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Say how each phone was said, and what of it native speakers do not do.

    Prints a table for one recording; for many a line each, with the score and what is flagged. The
    channel says what native speakers do: write one with the command channel, best with --context.
    """
    from modicum.huper import pronounce
    from modicum.huper.recognizer import Recognizer

    items = items_of(audio)
    wanted = Wanted(items, text, g2p)
    recognizer = Recognizer.from_pretrained(model, device=device)
    native = channel_of(channel, recognizer.phones)

    def work(batch: "Sequence[Item]") -> "list[Item]":
        given = [wanted(one) for one in batch]
        emissions = recognizer.emissions([sound_of(one) for one in batch], batch_size=batch_size)
        found = pronounce.score(
            emissions,
            canonical=given,
            channel=native,
            lam=lam,
            theta=theta,
            native_share=native_share,
        )
        return [
            replace(item, extra={**item.extra, "pronunciation": one.to_dict()})
            for item, one in zip(batch, found, strict=True)
        ]

    # Bad thresholds are refused before any recording is read.
    pronounce.score(
        recognizer.emissions([[0.0] * 400], 16_000),
        canonical=[()],
        channel=native,
        lam=lam,
        theta=theta,
        native_share=native_share,
    )
    settings = {
        "command": "score",
        "model": model,
        "text": text,
        "g2p": g2p,
        "channel": None if channel is None else str(channel),
        "lam": lam,
        "theta": theta,
        "native_share": native_share,
    }
    with bars(quiet) as bar:
        done, failures = work_through(
            items,
            work,
            out=out,
            settings=settings,
            open_bar=bar,
            what="scoring",
            batch_size=batch_size,
            jobs=jobs,
        )
    if as_json:
        tell(done, True, "", single=False)
    else:
        for item in done:
            found = pronounce.Pronunciation.from_dict(item.extra["pronunciation"])
            typer.echo(found.table() if len(items) == 1 else f"{item.id}\t{_summary(found)}")
    if failures:
        raise typer.Exit(1)


def _summary(found: Any) -> str:
    total = "-" if found.score is None else f"{found.score:.3f}"
    flags = []
    for one in found.flags:
        if hasattr(one, "slot"):
            flags.append(f"+{one.phone}")
        else:
            flags.append(f"{one.phone}>{one.said}" if one.said else f"-{one.phone}")
    return f"{total}\t{' '.join(flags)}"
