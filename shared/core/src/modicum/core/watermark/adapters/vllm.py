"""Run a watermark inside vLLM's V1 engine.

Takes a step scheme (what the watermark does with one next-token law) and supplies what vLLM asks
for: a batch-level logits processor that follows every request through continuous batching, hands
the final law of each watermarked row to the scheme and leaves the other rows alone. Contexts hold
response tokens only, never the prompt. Knows nothing of statistics; leaves the engine's sampler,
its random state and its caches alone.

Where it runs. Before this processor, vLLM applies grammars, allowed tokens, bad words, minimum
lengths and logit biases: they may be combined freely with a watermark. After it come penalties, a
thinking budget, temperature, min-p, top-k and top-p, any of which would distort the mark. So a
watermarked request leaves these at their neutral values and names temperature, ``top_k``, ``top_p``
and ``min_p`` among its watermark settings; they are applied here, in vLLM's order::

    SamplingParams(temperature=1.0, extra_args={"ewatermark": {"temperature": 0.7, "top_p": 0.95}})

The settings may also be a JSON text, the only form that the OpenAI-compatible server's
``vllm_xargs`` lets through. A server takes default sampling parameters from the model's
``generation_config.json``; start it with ``--generation-config vllm`` so that they stay neutral.

Configuration. Workers are processes of their own, so the configuration is a JSON file named by an
environment variable, and keys are files named there; see `EngineConfig`. Without the variable the
processor does nothing. A request chooses a key by its name.

Limits. Speculative decoding is refused. vLLM fills in the tokens of asynchronous scheduling only
for processors named explicitly (``logits_processors=[...]`` or ``--logits-processors``). On CPU,
vLLM honours per-request seeds only while every request of the batch has one. Written for vLLM 0.25;
newer model runners ignore such processors.

Shape suffixes: B rows of the batch, R watermarked rows among them, V vocabulary.
"""

import json
import logging
import math
import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from modicum.core.watermark.adapters import StepScheme
from modicum.core.watermark.contexts import ContextTracker
from modicum.core.watermark.record import load_key
from modicum.core.watermark.warpers import warp

SUPPORTED_VLLM = "0.25"

try:
    import vllm
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality
except ImportError as error:
    raise ImportError(
        f"this adapter needs vLLM {SUPPORTED_VLLM} (module vllm.v1.sample.logits_processor): "
        "install the [vllm] extra of the watermark's package"
    ) from error

__all__ = ["EngineConfig", "RequestSettings", "WatermarkLogitsProcessor"]

logger = logging.getLogger(__name__)

CONFIG_FORMAT = 1
_TAIL = 32  # tokens compared to notice that an output list was replaced


def _check_vllm_version() -> None:
    if not vllm.__version__.startswith(f"{SUPPORTED_VLLM}."):
        raise RuntimeError(
            f"this watermark adapter was made for vLLM {SUPPORTED_VLLM}, found {vllm.__version__}: "
            "other versions order the steps of sampling differently or ignore logits processors, "
            f"so the text might go unmarked; install vllm=={SUPPORTED_VLLM}.* or unset the "
            "watermark's configuration"
        )


@dataclass(frozen=True)
class EngineConfig:
    """What an engine's processor is told: which keys there are and how to build the scheme.

    The file is a JSON object::

        {"format": 1,
         "keys": {"2025-06": "2025-06.key"},
         "default_key": "2025-06",
         "scheme": {...}}

    ``keys`` maps names to key files, at least one; relative paths start at the file's own folder.
    ``default_key`` serves requests that name no key and may be left out when there is one key.
    ``scheme`` holds whatever the watermark itself needs. A changed file is seen after a restart.

    Attributes
    ----------
    path
        The file.
    keys
        Keys by name, as `modicum.core.watermark.record.load_key` reads them.
    default_key
        Name of the key for requests that name none.
    scheme
        Settings of the watermark.
    """

    path: Path
    keys: Mapping[str, bytes]
    default_key: str
    scheme: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"EngineConfig(path={str(self.path)!r}, keys={sorted(self.keys)})"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "EngineConfig":
        """Read and check a configuration file and its key files.

        Raises
        ------
        ValueError
            If the file is missing, not as described, or names a key file that cannot be read.
        """
        path = Path(path).absolute()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot read the watermark configuration {path}: {error}") from error
        known = {"format", "keys", "default_key", "scheme"}
        if not isinstance(content, dict) or not content.keys() <= known:
            raise ValueError(f"{path} must hold a JSON object with the fields {sorted(known)}")
        if content.get("format") != CONFIG_FORMAT:
            raise ValueError(
                f"{path} has format {content.get('format')!r}; this version reads {CONFIG_FORMAT}"
            )
        names = content.get("keys")
        if (
            not isinstance(names, dict)
            or not names
            or not all(isinstance(file, str) for file in names.values())
        ):
            raise ValueError(f"'keys' in {path} must map at least one name to a key file")
        keys = {}
        for name, file in names.items():
            try:
                keys[name] = load_key(path.parent / file)
            except (OSError, ValueError) as error:
                raise ValueError(f"cannot read key {name!r} of {path}: {error}") from error
        default_key = content.get("default_key", next(iter(keys)) if len(keys) == 1 else None)
        if not isinstance(default_key, str) or default_key not in keys:
            raise ValueError(
                f"'default_key' in {path} is {default_key!r}, must be one of {sorted(keys)}"
            )
        scheme = content.get("scheme", {})
        if not isinstance(scheme, dict):
            raise ValueError(f"'scheme' in {path} must be an object, got {scheme!r}")
        return cls(path=path, keys=keys, default_key=default_key, scheme=scheme)


_load_once = lru_cache(EngineConfig.load)


@dataclass(frozen=True)
class RequestSettings:
    """What one request asks of the watermark.

    Parameters
    ----------
    enabled
        False leaves the request alone.
    temperature
        Positive and finite. Greedy decoding (0) has no randomness to carry a mark.
    top_k
        Keep the k most likely tokens; 0 or -1 for all.
    top_p
        In (0, 1]; 1 for all.
    min_p
        In [0, 1]; 0 for all.
    key
        Name of a configured key; ``None`` for the default.

    Raises
    ------
    ValueError
        If a value is of the wrong type or out of range.
    """

    enabled: bool = True
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    key: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.enabled, bool):
            raise ValueError(f"'enabled' must be true or false, got {self.enabled!r}")
        for name in ("temperature", "top_p", "min_p"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{name!r} must be a number, got {value!r}")
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < -1:
            raise ValueError(
                f"'top_k' must be a positive integer, or 0 for all, got {self.top_k!r}"
            )
        if self.temperature == 0:
            raise ValueError(
                "'temperature' 0 is greedy decoding, which has no randomness to carry a "
                "watermark; give a positive temperature or leave the watermark out"
            )
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"'temperature' must be positive, got {self.temperature!r}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"'top_p' must lie in (0, 1], got {self.top_p!r}")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"'min_p' must lie in [0, 1], got {self.min_p!r}")
        if self.key is not None and not isinstance(self.key, str):
            raise ValueError("'key' must be the name of a configured key (never a key itself)")

    @classmethod
    def parse(cls, value: Any, where: str = "the watermark settings") -> "RequestSettings":
        """Read the settings of a request: an object, or the JSON text of one.

        Raises
        ------
        ValueError
            If the value is something else, or has unknown or wrong fields; says where.
        """
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError as error:
                raise ValueError(f"{where}: not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ValueError(f"{where}: must be an object, got {type(value).__name__}")
        known = {field.name for field in fields(cls)}
        if unknown := value.keys() - known:
            raise ValueError(
                f"{where}: unknown fields {sorted(map(str, unknown))}, known are {sorted(known)}"
            )
        try:
            return cls(**value)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


class _Row:
    """One watermarked request of the batch and its response so far."""

    __slots__ = ("output_ids", "scheme", "settings", "tracker")

    def __init__(
        self, settings: RequestSettings, scheme: StepScheme, output_ids: list[int]
    ) -> None:
        self.settings = settings
        self.scheme = scheme
        self.output_ids = output_ids
        self.tracker: ContextTracker = scheme.new_tracker()

    def follow(self) -> None:
        """Bring the tracker up to the engine's list, which may also have shrunk or changed."""
        ids, seen = self.output_ids, self.tracker.length
        tail = self.tracker.tokens[-_TAIL:]
        if seen > len(ids) or ids[seen - len(tail) : seen] != tail:
            self.tracker, seen = self.scheme.new_tracker(), 0
        for token in ids[seen:]:
            if token < 0:
                raise RuntimeError(
                    "vLLM shows a placeholder instead of the last output token, so the watermark "
                    "has no context; name the processor explicitly (logits_processors=[...] or "
                    "--logits-processors) or switch asynchronous scheduling off"
                )
            self.tracker.push(token)


class WatermarkLogitsProcessor(LogitsProcessor):
    """Logits processor for vLLM that marks the rows whose request asks for it.

    A subclass names the field of ``SamplingParams.extra_args`` and the environment variable of the
    configuration, and builds the schemes. Pass the subclass, or ``"module:Class"``, to the engine's
    ``logits_processors``.

    Parameters
    ----------
    vllm_config, device, is_pin_memory
        As vLLM passes them.

    Attributes
    ----------
    request_field
        Key in ``SamplingParams.extra_args`` whose value holds the settings of a request.
    config_variable
        Environment variable that names the configuration file.
    stands_in_for
        For a class that is registered as an entry point: the class that users name explicitly. When
        they do, vLLM loads both, and this one does nothing.

    Raises
    ------
    ValueError
        If the configuration is wrong, the scheme's vocabulary is larger than the model's, the
        processor is listed twice, or asynchronous scheduling would hide the output tokens.
    NotImplementedError
        If the engine decodes speculatively.
    RuntimeError
        If the version of vLLM is not supported.
    """

    request_field: ClassVar[str]
    config_variable: ClassVar[str]
    stands_in_for: ClassVar["type[WatermarkLogitsProcessor] | None"] = None

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, _Row] = {}
        self._schemes: Mapping[str, StepScheme] = {}
        self._warned = False
        self.device = torch.device(device)
        self.config = self._load_config()
        listed = [_qualified(item) for item in vllm_config.model_config.logits_processors or ()]
        self._stands_back = self.stands_in_for is not None and _qualified(self.stands_in_for) in (
            listed
        )
        if self.config is None or self._stands_back:
            return
        _check_vllm_version()
        if listed.count(_qualified(type(self))) > 1:
            raise ValueError(
                f"{_qualified(type(self))} is listed twice in logits_processors; a text can be "
                "marked once"
            )
        if vllm_config.speculative_config is not None:
            raise NotImplementedError(
                "speculative decoding accepts or rejects drafted tokens after the watermark and "
                "breaks its contexts; start the engine without it"
            )
        if _qualified(type(self)) not in listed and vllm_config.scheduler_config.async_scheduling:
            name = _qualified(self.stands_in_for or type(self))
            raise ValueError(
                "asynchronous scheduling hides the output tokens from a logits processor that "
                f"comes from an entry point; name it explicitly (--logits-processors {name}) or "
                "start the engine with --no-async-scheduling"
            )
        self._schemes = self.build_schemes(self.config)
        vocab_size = max(scheme.vocab_size for scheme in self._schemes.values())
        if vocab_size > vllm_config.model_config.get_vocab_size():
            raise ValueError(
                f"the watermark in {self.config.path} was made for a vocabulary of {vocab_size}, "
                f"the model has {vllm_config.model_config.get_vocab_size()}"
            )

    @abstractmethod
    def build_schemes(self, config: EngineConfig) -> Mapping[str, StepScheme]:
        """Build the watermark of every key; called once, when the engine starts.

        Parameters
        ----------
        config
            The configuration: settings, keys and the folder that relative paths start at.

        Returns
        -------
        Mapping
            A scheme for each name in ``config.keys``, working on ``self.device``.

        Raises
        ------
        ValueError
            If the settings or a key are wrong; stops the start of the engine.
        """

    @classmethod
    def _load_config(cls) -> EngineConfig | None:
        path = os.environ.get(cls.config_variable)
        return _load_once(path) if path else None

    @classmethod
    def _request(cls, params: SamplingParams) -> RequestSettings | None:
        """Return the settings of a request that is to be watermarked, else ``None``."""
        extra_args = params.extra_args or {}
        if cls.request_field not in extra_args:
            return None
        where = f"extra_args[{cls.request_field!r}]"
        settings = RequestSettings.parse(extra_args[cls.request_field], where)
        return settings if settings.enabled else None

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a request that cannot be watermarked as it asks.

        Raises
        ------
        ValueError
            If the watermark's settings are wrong, name an unknown key, there is no configuration,
            or the request uses something that vLLM applies after the watermark.
        """
        settings = cls._request(sampling_params)
        if settings is None:
            return
        config = cls._load_config()
        where = f"extra_args[{cls.request_field!r}]"
        if config is None:
            raise ValueError(
                f"{where} asks for a watermark but this engine has none: the environment variable "
                f"{cls.config_variable} does not name a configuration file"
            )
        if settings.key is not None and settings.key not in config.keys:
            raise ValueError(f"{where}: there is no key named {settings.key!r}")
        for name, neutral in (
            ("temperature", (1,)),
            ("top_k", (0, -1)),
            ("top_p", (1,)),
            ("min_p", (0,)),
        ):
            value = getattr(sampling_params, name)
            if value not in neutral:
                raise ValueError(
                    f"{name}={value!r} would be applied after the watermark; leave the request's "
                    f"{name} at {neutral[0]} and put {name!r} into {where}"
                )
        for name, off in (
            ("presence_penalty", 0),
            ("frequency_penalty", 0),
            ("repetition_penalty", 1),
            ("thinking_token_budget", None),
        ):
            value = getattr(sampling_params, name)
            if value != off:
                raise ValueError(
                    f"{name}={value!r} is applied after the watermark and would distort it; leave "
                    f"it at {off} in a watermarked request"
                )

    def is_argmax_invariant(self) -> bool:
        """Return False: vLLM then runs the processor before its own sampling steps."""
        return False

    def _new_row(self, params: SamplingParams, output_ids: list[int]) -> _Row | None:
        settings = self._request(params)
        if settings is None or self._stands_back:
            return None
        if self.config is None:
            raise RuntimeError(
                "a request asks for a watermark but this worker has none: its environment lacks "
                f"{self.config_variable}, which the front end has"
            )
        return _Row(settings, self._schemes[settings.key or self.config.default_key], output_ids)

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests that left, joined or changed rows."""
        if batch_update is None:
            return
        rows = self._rows
        for index in batch_update.removed:
            rows.pop(index, None)
        for index, params, _, output_ids in batch_update.added:
            row = self._new_row(params, output_ids)
            if row is None:
                rows.pop(index, None)
            else:
                rows[index] = row
        for source, target, direction in batch_update.moved:
            moving, displaced = rows.pop(source, None), rows.pop(target, None)
            if moving is not None:
                rows[target] = moving
            if displaced is not None and direction == MoveDirectionality.SWAP:
                rows[source] = displaced

    def apply(self, logits: Tensor) -> Tensor:
        """Return the logits with every watermarked row replaced by the law to sample from.

        Parameters
        ----------
        logits
            float32 ``[B, V]``; changed in place. Watermarked rows become log-probabilities, with
            ``-inf`` for ids beyond the scheme's vocabulary. A row without any possible token, or
            with NaN, is left to the engine and reported once in the log.
        """
        if not self._rows:
            return logits
        if max(self._rows) >= len(logits):
            raise RuntimeError(
                f"row {max(self._rows)} is to be watermarked but vLLM samples {len(logits)} rows; "
                "this mode of decoding is not supported"
            )
        groups: dict[int, list[int]] = {}
        for index in sorted(self._rows):
            self._rows[index].follow()
            groups.setdefault(id(self._rows[index].scheme), []).append(index)
        for indices in groups.values():
            self._mark(logits, indices)
        return logits

    def _mark(self, logits_BV: Tensor, indices: list[int]) -> None:
        """Replace the rows of one scheme."""
        scheme = self._rows[indices[0]].scheme
        index_R = torch.tensor(indices, device=logits_BV.device)
        target_RV = logits_BV[index_R, : scheme.vocab_size]
        usable = torch.isfinite(target_RV.amax(dim=-1)).tolist()
        if not all(usable):
            self._report_unusable()
            indices = [index for index, good in zip(indices, usable, strict=True) if good]
            if not indices:
                return
            index_R = torch.tensor(indices, device=logits_BV.device)
            target_RV = logits_BV[index_R, : scheme.vocab_size]
        rows = [self._rows[index] for index in indices]
        logprobs_RV = warp(
            target_RV,
            [row.settings.temperature for row in rows],
            [row.settings.top_k for row in rows],
            [row.settings.top_p for row in rows],
            [row.settings.min_p for row in rows],
            order="vllm",
            check=False,
        )
        marked_RV = scheme.transform(logprobs_RV, [row.tracker for row in rows])
        logits_BV[index_R, : scheme.vocab_size] = marked_RV.to(logits_BV.dtype)
        logits_BV[index_R, scheme.vocab_size :] = -math.inf

    def _report_unusable(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "a row of logits has no possible token or holds NaN and is left unmarked; "
                "further such rows are not reported"
            )


def _qualified(item: str | type) -> str:
    return item if isinstance(item, str) else f"{item.__module__}:{item.__qualname__}"
