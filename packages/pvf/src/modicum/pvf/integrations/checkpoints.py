"""Checkpoints of every family, loaded by the classes of transformers.

A family says which class takes the weights, how the configuration is read, and under which names
the weights are stored. Weights go shard by shard from files to the device; the model is laid out on
the meta device before. Which family a checkpoint is of is decided in `modicum.pvf.loading`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from modicum.pvf.integrations import dream, llada
from modicum.pvf.integrations.transformers import (
    BidirectionalPredictor,
    BlockCausalPredictor,
    EncoderPredictor,
)

try:
    import transformers
    from transformers.utils import cached_file
except ModuleNotFoundError as missing:
    if missing.name != "transformers":
        raise
    raise ImportError(
        'checkpoints need transformers: pip install "modicum-pvf[transformers]"'
    ) from missing

__all__ = ["load", "read_config"]

_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")
_WHERE = ("cache_dir", "local_files_only", "revision", "subfolder", "token")


def _where(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the options that say where files are."""
    return {name: options[name] for name in _WHERE if name in options}


def _as_it_is(given: Mapping[str, Any]) -> dict[str, Any]:
    """Leave away what is about code and not about the model."""
    return {k: v for k, v in given.items() if k not in ("auto_map", "model_type", "architectures")}


@dataclass(frozen=True)
class _Decoder:
    """How a family of decoders is read."""

    config: str
    model: str
    fields: Callable[[Mapping[str, Any]], dict[str, Any]] = _as_it_is
    weight_names: Mapping[str, str] | None = None
    tokenizer: str = "AutoTokenizer"


_DECODERS = {
    "llada": _Decoder(
        "LlamaConfig",
        "LlamaForCausalLM",
        llada.llama_config,
        llada.WEIGHT_NAMES,
        "PreTrainedTokenizerFast",
    ),
    "dream": _Decoder(
        "Qwen2Config", "Qwen2ForCausalLM", dream.qwen2_config, tokenizer="Qwen2Tokenizer"
    ),
    "llama": _Decoder("LlamaConfig", "LlamaForCausalLM"),
    "qwen2": _Decoder("Qwen2Config", "Qwen2ForCausalLM"),
    "qwen3": _Decoder("Qwen3Config", "Qwen3ForCausalLM"),
}


def read_config(path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Give the contents of a checkpoint's ``config.json``; options as of ``from_pretrained``."""
    given, _ = transformers.PreTrainedConfig.get_config_dict(path, **_where(options))
    return dict(given)


def load(
    path: str,
    family: str,
    given: Mapping[str, Any],
    *,
    special: Mapping[str, int | None],
    right_shift: bool | None,
    tokenizer: Any,
    device: str,
    options: Mapping[str, Any],
) -> Any:
    """Load a checkpoint of a family as a mask predictor.

    Parameters
    ----------
    path
        Folder or name on the hub.
    family
        ``"llada"``, ``"dream"``, ``"llama"``, ``"qwen2"``, ``"qwen3"``, ``"encoder"`` or
        ``"remote"``.
    given
        Contents of its ``config.json``.
    special
        Ids and limits for the predictor.
    right_shift
        For decoders.
    tokenizer
        Instead of the checkpoint's.
    device
        Where the weights go.
    options
        Of ``from_pretrained``.
    """
    if family in _DECODERS:
        return _load_decoder(
            path, _DECODERS[family], given, special, right_shift, tokenizer, device, options
        )
    if right_shift:
        raise ValueError(f"right_shift=True is for decoders, not for {given['model_type']!r}")
    kind: Any = transformers.AutoModelForMaskedLM
    predictor: Any = EncoderPredictor
    config, rest = None, {}
    if family == "remote":
        kind, predictor = transformers.AutoModelForCausalLM, BlockCausalPredictor
        rest = {"trust_remote_code": True}
    elif str(given["model_type"]).startswith("a2d-"):
        base = str(given["model_type"]).removeprefix("a2d-")
        config = transformers.AutoConfig.for_model(base, **_as_it_is(given))
    model = _load_model(
        path, kind, config, device, {**options, **rest}, takes_more=family == "encoder"
    )
    tokenizer = tokenizer or _tokenizer(path, "AutoTokenizer", model.config, options, **rest)
    return predictor(model, tokenizer=tokenizer, **special)


def _load_decoder(
    path: str,
    family: _Decoder,
    given: Mapping[str, Any],
    special: Mapping[str, int | None],
    right_shift: bool | None,
    tokenizer: Any,
    device: str,
    options: Mapping[str, Any],
) -> BidirectionalPredictor:
    config = getattr(transformers, family.config)(**family.fields(given))
    kind = getattr(transformers, family.model)
    model = _load_model(path, kind, config, device, options, family.weight_names)
    tokenizer = tokenizer or _tokenizer(path, family.tokenizer, config, options)
    return BidirectionalPredictor(model, right_shift=right_shift, tokenizer=tokenizer, **special)


def _load_model(
    path: str,
    kind: Any,
    config: Any,
    device: str,
    options: Mapping[str, Any],
    weight_names: Mapping[str, str] | None = None,
    takes_more: bool = False,
) -> Any:
    """Load weights into a model of a class, and refuse what is missing or left over.

    A model `takes_more` where its class is that of the checkpoint: what is left over then belongs
    to other heads, as the one for pairs of sentences in BERT's.
    """
    options = dict(options)
    places_itself = "device_map" in options or "tp_plan" in options
    # Without accelerate the weights go through the memory of the host.
    if not places_itself and device != "cpu" and find_spec("accelerate") is not None:
        options["device_map"] = {"": device}
    # Reported below, by name.
    options["ignore_mismatched_sizes"] = True
    if config is not None:
        options["config"] = config
    if weight_names is not None:
        options["key_mapping"] = dict(weight_names)
    model, found = kind.from_pretrained(path, output_loading_info=True, **options)
    refused = ("missing_keys", "mismatched_keys", *(() if takes_more else ("unexpected_keys",)))
    for problem in refused:
        names = sorted(map(str, found[problem]))
        if names:
            shown = ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
            raise ValueError(f"{problem.replace('_', ' ')} in the weights of {path!r}: {shown}")
    if weight_names is not None:
        # A model that is saved again has the names of its class and not those of the checkpoint.
        model._weight_conversions = []
    return model if places_itself else model.to(device)


def _tokenizer(path: str, kind: str, config: Any, options: Mapping[str, Any], **rest: Any) -> Any:
    """Load a checkpoint's tokenizer; None if it has none."""
    where = _where(options)
    is_there = any(
        cached_file(path, name, _raise_exceptions_for_missing_entries=False, **where)
        for name in _TOKENIZER_FILES
    )
    if not is_there:
        return None
    if kind == "AutoTokenizer":
        rest = {**rest, "config": config}
    return getattr(transformers, kind).from_pretrained(path, **where, **rest)
