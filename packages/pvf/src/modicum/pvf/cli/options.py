"""Options that commands share, and what is made of them: a model, prompts, a strategy.

Without ``--model`` commands take the tiny model that the package brings, and without prompts items
of its task that it was not trained on. torch is imported when a model is loaded.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from modicum.pvf.predictor import MaskPredictor
    from modicum.pvf.strategies.base import Strategy

__all__ = ["Asked", "asked_of", "model_of", "strategy_of"]

MODEL = "Model"
DECODING = "Decoding"
OUTPUT = "Output"

Model = Annotated[
    str | None,
    typer.Option(
        help="Folder of a checkpoint, its name on the hub, or a .safetensors file of train-tiny; "
        "by default the tiny model that the package brings.",
        rich_help_panel=MODEL,
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, …", rich_help_panel=MODEL)]
Dtype = Annotated[
    str, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=MODEL)
]
Prompt = Annotated[
    list[str] | None,
    typer.Option(help="A prompt; may be given several times.", rich_help_panel=MODEL),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        help="File of prompts: JSON lines with prompt, messages or ids, or plain lines of text.",
        rich_help_panel=MODEL,
    ),
]
Items = Annotated[
    int,
    typer.Option(
        min=1, help="Items of the tiny model's task, without prompts.", rich_help_panel=MODEL
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of all that is drawn.", rich_help_panel=DECODING)]
Preset = Annotated[
    str | None,
    typer.Option(
        help="The paper's settings of pvf, plan and fill: general, code or math.",
        rich_help_panel=DECODING,
    ),
]
PlanVocab = Annotated[
    str | None,
    typer.Option(
        help="Planning tokens: default, paper, code, none, or a file of calibrate.",
        rich_help_panel=DECODING,
    ),
]
GenLength = Annotated[
    int | None,
    typer.Option(
        help="Tokens to generate; by default 128, 32 for the tiny model.",
        rich_help_panel=DECODING,
        show_default=False,
    ),
]
BlockLength = Annotated[
    int | None,
    typer.Option(
        help="Tokens of a block; by default 32, 16 for the tiny model.",
        rich_help_panel=DECODING,
        show_default=False,
    ),
]
BatchSize = Annotated[int, typer.Option(help="Prompts that share calls.", rich_help_panel=DECODING)]
Cache = Annotated[
    str,
    typer.Option(
        help="none, prefix or dual: keys and values that are kept.", rich_help_panel=DECODING
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object and nothing else.", rich_help_panel=OUTPUT),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no bar.", rich_help_panel=OUTPUT)]

_PLANS = ("pvf", "plan", "bin_plan", "extra_token")
"""Strategies that have a planning vocabulary."""
_PRESETS = ("pvf", "plan", "fill")
"""Strategies that have the paper's settings."""


def model_of(given: str | None, device: str, dtype: str) -> "MaskPredictor":
    """Load a model.

    Raises
    ------
    ValueError
        If it is none that predicts masks, or there is no such device.
    """
    if given is None or given.endswith(".safetensors"):
        from modicum.core.device import resolve_device, resolve_dtype
        from modicum.pvf.tiny import load_checkpoint, load_tiny

        where = resolve_device(device)
        kind = resolve_dtype(where, "float32" if dtype == "auto" else dtype)
        if given is None:
            return load_tiny(device=where).to(kind)
        return load_checkpoint(given, device=where, dtype=kind)[0]
    from modicum.pvf.loading import load_mask_predictor

    return load_mask_predictor(given, device=device, dtype=dtype)


@dataclass(frozen=True)
class Asked:
    """What a command decodes.

    Attributes
    ----------
    prompts
        As `modicum.pvf.generate` takes them.
    names
        What they read like.
    gen_length, block_length
        As in `modicum.pvf.generate`.
    """

    prompts: list[Any]
    names: list[str]
    gen_length: int
    block_length: int

    @property
    def shape(self) -> dict[str, int]:
        """Lengths as arguments."""
        return {"gen_length": self.gen_length, "block_length": self.block_length}


def asked_of(
    model: "MaskPredictor",
    prompt: Sequence[str] | None,
    prompts: Path | None,
    items: int,
    seed: int,
    gen_length: int | None,
    block_length: int | None,
) -> Asked:
    """Gather prompts and lengths.

    Raises
    ------
    ValueError
        If there is no prompt for a model other than the tiny one, or a file of prompts is none.
    """
    from modicum.pvf.tiny import ANSWER_LENGTH, TinyMDLM

    is_tiny = isinstance(model, TinyMDLM)
    found: list[Any] = [*(prompt or ()), *(_read_prompts(prompts) if prompts else ())]
    if not found:
        if not is_tiny:
            raise ValueError("there is no prompt: give --prompt TEXT or --prompts FILE")
        found = _held_out(model, items, seed)
    names = [item if isinstance(item, str) else json.dumps(item) for item in found]
    default_length, default_block = (ANSWER_LENGTH, ANSWER_LENGTH // 2) if is_tiny else (128, 32)
    return Asked(
        found,
        names,
        default_length if gen_length is None else gen_length,
        default_block if block_length is None else block_length,
    )


def _held_out(model: "MaskPredictor", items: int, seed: int) -> list[str]:
    from modicum.core.device import torch_generator
    from modicum.pvf.tiny import TinyTokenizer, draw_items

    drawn = draw_items(items, torch_generator(seed, "cpu", "prompts"), held_out=True)
    return TinyTokenizer().batch_decode(drawn.prompt_BP.tolist())


def _read_prompts(path: Path) -> list[Any]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    is_json = path.suffix == ".jsonl"
    found = [
        _json_prompt(f"{path}, line {number}", line) if is_json else line
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not found:
        raise ValueError(f"{path} has no prompts")
    return found


def _json_prompt(where: str, line: str) -> Any:
    try:
        given = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    known = ("prompt", "messages", "ids") if isinstance(given, dict) else ()
    names = [name for name in known if name in given]
    if len(names) != 1:
        raise ValueError(f"{where}: one of prompt, messages and ids is needed, not {line:.60}")
    name, value = names[0], given[names[0]]
    kind, called = {"prompt": (str, "a text"), "messages": (list, "a list of messages")}.get(
        name, (list, "a list of token ids")
    )
    if not isinstance(value, kind) or (name == "messages" and not value):
        raise ValueError(f"{where}: {name} must be {called}, not {json.dumps(value):.60}")
    return value


def strategy_of(
    text: str,
    preset: str | None = None,
    plan_vocab: str | None = None,
    model: "MaskPredictor | None" = None,
) -> "Strategy":
    """Make the strategy that a text names: ``NAME`` or ``NAME:setting=value:setting=value``.

    Parameters
    ----------
    text
        Such as ``pvf:num_drafts=1``; values are read as JSON, or are texts.
    preset
        The paper's settings, for strategies that have them.
    plan_vocab
        Planning tokens, for strategies that have them.
    model
        That a calibrated vocabulary must fit.

    Raises
    ------
    ValueError
        If there is no such strategy or setting.
    """
    from modicum.pvf.strategies.plan_verify_fill import PRESETS
    from modicum.pvf.strategies.registry import as_strategy
    from modicum.pvf.validation import check_choice

    name, *parts = text.split(":")
    settings: dict[str, Any] = {}
    if preset is not None:
        check_choice("--preset", preset, tuple(PRESETS))
        if name in _PRESETS:
            settings |= PRESETS[preset]
    if plan_vocab is not None and name in _PLANS:
        settings["plan_vocab"] = _plan_vocab(plan_vocab, model)
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise ValueError(f"strategy {text!r}: settings are NAME=VALUE, not {part!r}")
        settings[key] = _value(value)
    try:
        return as_strategy(name, **settings)
    except TypeError as error:
        # Python says which setting a strategy does not take.
        raise ValueError(f"strategy {text!r}: {str(error).split('() ')[-1]}") from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _plan_vocab(given: str, model: "MaskPredictor | None") -> Any:
    if given == "none":
        return None
    if not Path(given).exists():
        return given
    from modicum.pvf.calibration import PlanCalibration

    return PlanCalibration.load(given).vocabulary(model=model)
