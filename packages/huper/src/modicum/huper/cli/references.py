"""What should be said: texts, dictionaries, and channels of what people make of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modicum.huper.cli import options
from modicum.huper.cli.corpora import phones_of, read
from modicum.huper.cli.show import bars, print_json, print_table

if TYPE_CHECKING:
    from modicum.huper.channel import EditChannel
    from modicum.huper.corpus import Item
    from modicum.huper.g2p import G2P, Word
    from modicum.huper.phones import PhoneSet

__all__ = ["Wanted", "channel", "channel_of", "g2p_of"]

ENGINES = {"espeak": "Espeak", "cmudict": "CMU", "gruut": "Gruut", "phonemizer": "Phonemizer"}
"""Names on the command line, and classes of `modicum.huper.g2p`."""

Text = Annotated[
    str | None,
    typer.Option(
        help="What should be said in the recording; lists and corpora have their own.",
        rich_help_panel=options.REFERENCE,
        show_default=False,
    ),
]
Pronouncing = Annotated[
    str | None,
    typer.Option(
        "--g2p",
        help="Make phones of the text by espeak (or espeak:VOICE), cmudict, gruut, phonemizer, or "
        "a file with a word and its phones in each line. By default the phonemes of a corpus, and "
        "else espeak.",
        rich_help_panel=options.REFERENCE,
        show_default=False,
    ),
]
Channel = Annotated[
    Path | None,
    typer.Option(
        help="Folder that the command channel wrote; by default speakers mostly do what the "
        "dictionary says.",
        rich_help_panel=options.REFERENCE,
        show_default=False,
    ),
]
Lam = Annotated[
    float,
    typer.Option(
        min=0,
        help="Weight of the reference against what is heard.",
        rich_help_panel=options.REFERENCE,
    ),
]


def g2p_of(name: str) -> "G2P":
    """Return what makes phones of a text.

    Raises
    ------
    FileNotFoundError
        If there is no such file or program.
    ImportError
        If its package is missing.
    ValueError
        If the name is unknown, or the file no dictionary.
    """
    from modicum.huper import g2p

    engine, _, voice = name.partition(":")
    found: Any
    if engine in ENGINES and (not voice or engine == "espeak"):
        kind = getattr(g2p, ENGINES[engine])
        found = kind(voice) if voice else kind()
    elif Path(name).is_file():
        found = g2p.Dict(name)
    else:
        raise ValueError(
            f"--g2p must be {', '.join(ENGINES)}, espeak:VOICE or a dictionary's file, not {name!r}"
        )
    return found  # type: ignore[no-any-return]


def channel_of(folder: Path | None, phones: "PhoneSet") -> "EditChannel":
    """Read a channel, or return one that knows no speaker.

    Raises
    ------
    FileNotFoundError, ValueError
        As `EditChannel.load`.
    """
    from modicum.huper.channel import EditChannel

    return EditChannel.fit([], phones=phones) if folder is None else EditChannel.load(folder)


class Wanted:
    """What should be said in recordings.

    Parameters
    ----------
    items
        The recordings.
    text
        Of the only one.
    g2p
        Name of a g2p; None for phonemes of the corpus, and espeak where it has none.

    Raises
    ------
    ValueError
        If there is a text for several recordings, or as `g2p_of`.
    """

    def __init__(self, items: "Sequence[Item]", text: str | None, g2p: str | None) -> None:
        if text is not None and len(items) != 1:
            raise ValueError(
                f"--text is for one recording, not for {len(items)}; lists and corpora have texts"
            )
        self.text, self.by_text = text, g2p is not None or text is not None
        self.g2p = g2p_of(g2p or "espeak") if self._needs_g2p(items) else None

    def _needs_g2p(self, items: "Iterable[Item]") -> bool:
        return self.by_text or any(one.phonemes is None and one.text is not None for one in items)

    def __call__(self, item: "Item") -> "Sequence[Word] | tuple[str, ...]":
        """Return its words, or its canonical phones where words are not known.

        Raises
        ------
        ValueError
            If it has neither text nor phonemes, or a word is unknown.
        """
        text = item.text if self.text is None else self.text
        if item.phonemes is not None and not self.by_text:
            return item.phonemes
        if text is None or self.g2p is None:
            raise ValueError(
                "there is no text of the recording: give --text, or a corpus whose rows have text "
                "or phonemes"
            )
        return self.g2p(text)

    def words(self, item: "Item") -> "list[Word]":
        """Return its words; canonical phones without known words are one word.

        Raises
        ------
        ValueError
            As for a call.
        """
        from modicum.huper.g2p import Word

        found = self(item)
        if found and isinstance(found[0], Word):
            return list(found)  # type: ignore[arg-type]
        return [Word(item.text or item.id, tuple(map(str, found)))]


# Channels ---------------------------------------------------------------------------------------


def channel(
    corpus: Annotated[
        list[Path], typer.Argument(metavar="CORPUS…", help="JSONL files or Kaldi folders.")
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder to write.", rich_help_panel=options.OUTPUT, show_default=False),
    ],
    label: Annotated[
        str, typer.Option(help="What was said: realized, label, or phones of a transcript.")
    ] = "realized",
    em: Annotated[
        bool,
        typer.Option(
            "--em", help="Count without labels: listen to the audio beside canonical phones."
        ),
    ] = False,
    iterations: Annotated[int, typer.Option(min=1, help="Of --em.")] = 5,
    context: Annotated[
        bool,
        typer.Option("--context", help="Let what happens to a phone depend on its neighbours."),
    ] = False,
    alpha: Annotated[float, typer.Option(help="Mass of edits that were never seen.")] = 0.05,
    keep_prior: Annotated[float, typer.Option(help="Mass of saying the phone itself.")] = 1.0,
    model: options.Model = "tiny",
    batch_size: options.BatchSize = 16,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Count what speakers make of the phones of the dictionary.

    Utterances need canonical phones (field phonemes) and realized ones, or with --em their audio.
    The phones are those of the model.
    """
    from modicum.huper.channel import EditChannel
    from modicum.huper.recognizer import Recognizer

    items = [item for path in corpus for item in read(path)]
    if not items:
        raise ValueError("there is no utterance to count on")
    recognizer = Recognizer.from_pretrained(model, device=device)
    how: dict[str, Any] = {
        "alpha": alpha,
        "keep_prior": keep_prior,
        "context": "lr" if context else None,
        "phones": recognizer.phones,
    }
    if em:
        from modicum.huper.cli.inputs import sound_of

        canonicals = [item.phones("canonical") for item in items]
        with bars(quiet) as bar:
            emissions = recognizer.emissions(
                [sound_of(item) for item in items],
                batch_size=batch_size,
                progress=bar(len(items), "listening"),
            )
        found = EditChannel.fit_em(
            emissions,
            [list(recognizer.phones.canonicalise(one)) for one in canonicals],
            iterations=iterations,
            **how,
        )
    else:
        pairs = [(item.phones("canonical"), phones_of(item, label)) for item in items]
        found = EditChannel.fit(pairs, **how)
    found.save(out)
    _tell(found, out, len(items), as_json)


def _tell(found: "EditChannel", out: Path, utterances: int, as_json: bool) -> None:
    import numpy as np

    names = found.phones.phones
    probability = found.outcomes()
    counts = np.concatenate([found.sub_counts, found.del_counts[:, None]], axis=1)
    np.fill_diagonal(counts[:, : len(names)], 0)
    rows = []
    for at in np.argsort(-counts, axis=None, kind="stable")[:20].tolist():
        one, two = divmod(at, counts.shape[1])
        if counts[one, two] > 0.5:
            said = names[two] if two < len(names) else "∅"
            count, share = float(counts[one, two]), float(probability[one, two])
            rows.append([names[one], said, count, share])
    columns = ["canonical", "said", "count", "probability"]
    if as_json:
        edits = [dict(zip(columns, row, strict=True)) for row in rows]
        print_json({"channel": str(out), "utterances": utterances, "edits": edits})
    else:
        print_table(columns, rows, f"{out}: {utterances} utterances")
