"""Phones that were really spoken: by evidence from the sound, and by knowledge where it helps."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modicum.huper import (
        audio,
        corpus,
        drrc,
        edits,
        espeak,
        formats,
        g2p,
        graph,
        metrics,
        phones,
        plots,
        pronounce,
        simulate,
        training,
    )
    from modicum.huper.channel import EditChannel
    from modicum.huper.corrector import Corrector, CorrectorConfig
    from modicum.huper.edits import EditProgram
    from modicum.huper.emissions import Emissions
    from modicum.huper.perceiver import Lexicon, Perceiver
    from modicum.huper.phones import PhoneSet
    from modicum.huper.recognizer import Recognizer
    from modicum.huper.scheduler import Scheduler
    from modicum.huper.selftrain import label_report, self_train
    from modicum.huper.system import HuPER
    from modicum.huper.tiny import TinyConvCTC
    from modicum.huper.transcript import Transcript

__all__ = [
    "EXAMPLE",
    "Corrector",
    "CorrectorConfig",
    "EditChannel",
    "EditProgram",
    "Emissions",
    "HuPER",
    "Lexicon",
    "Perceiver",
    "PhoneSet",
    "Recognizer",
    "Scheduler",
    "TinyConvCTC",
    "Transcript",
    "audio",
    "corpus",
    "drrc",
    "edits",
    "espeak",
    "formats",
    "g2p",
    "graph",
    "label_report",
    "metrics",
    "phones",
    "plots",
    "pronounce",
    "self_train",
    "simulate",
    "training",
]

EXAMPLE = Path(__file__).parent / "data" / "example.flac"
"""A recording of two seconds: a synthetic voice says "I wrote a letter last Sunday" as AY R OW T AH
L EH DX ER L AE S S AH N D EY, with a flapped and a dropped t."""

_MODULES = {
    "audio",
    "corpus",
    "drrc",
    "edits",
    "espeak",
    "formats",
    "g2p",
    "graph",
    "metrics",
    "phones",
    "plots",
    "pronounce",
    "simulate",
    "training",
}
_FROM = {
    "Corrector": "corrector",
    "CorrectorConfig": "corrector",
    "EditChannel": "channel",
    "EditProgram": "edits",
    "Emissions": "emissions",
    "HuPER": "system",
    "Lexicon": "perceiver",
    "Perceiver": "perceiver",
    "PhoneSet": "phones",
    "Recognizer": "recognizer",
    "Scheduler": "scheduler",
    "TinyConvCTC": "tiny",
    "Transcript": "transcript",
    "label_report": "selftrain",
    "self_train": "selftrain",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _FROM:
        found = globals()[name] = getattr(import_module(f"{__name__}.{_FROM[name]}"), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
