"""lm-eval: masked diffusion models under any strategy as the model ``modicum-pvf``.

Importing this module registers the model. The command of lm-eval with it is ::

    python -m modicum.pvf.integrations.lm_eval run --model modicum-pvf \
        --model_args pretrained=FOLDER,strategy=pvf,block_length=32 --tasks TASK

Tasks that generate are answered by `modicum.pvf.generate`. Log-likelihoods are estimated by masking
at random, if a number of samples is given. What a task is and how it is scored is lm-eval's.

Shapes: R rows of a call, L columns of prompt and answer, A tokens of an answer.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from modicum.core.device import torch_generator
from modicum.pvf.generation import generate
from modicum.pvf.loading import load_mask_predictor
from modicum.pvf.predictor import MaskPredictor
from modicum.pvf.stats import DecodeStats
from modicum.pvf.strategies.registry import as_strategy
from modicum.pvf.validation import check_count

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
except ModuleNotFoundError as missing:
    if (missing.name or "").split(".")[0] != "lm_eval":
        raise
    raise ImportError(
        'tasks of lm-eval need lm-eval: pip install "modicum-pvf[lm-eval]"'
    ) from missing

__all__ = ["MaskedDiffusionLM", "masked_log_likelihood"]

logger = logging.getLogger(__name__)

DEFAULT_LENGTH = 256
"""Tokens to generate where neither the model nor the task says; lm-eval's own number."""

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_TAKEN = {"until", "do_sample", "temperature", *_LENGTHS}


@register_model("modicum-pvf")
class MaskedDiffusionLM(TemplateLM):  # type: ignore[misc]
    """A mask predictor under a strategy, as a model of lm-eval.

    Parameters
    ----------
    pretrained
        Folder or name on the hub, as of `modicum.pvf.loading.load_mask_predictor`, or a
        `MaskPredictor` with a tokenizer.
    strategy
        A name of `modicum.pvf.strategies`, or a strategy.
    gen_length
        Tokens to generate; by default what the task asks for.
    block_length, batch_size, cfg_scale, cache, seed, suppress_eos, eos_early_stop
        As in `modicum.pvf.generate`.
    log_likelihood_samples
        Masks that are drawn for a log-likelihood; None refuses tasks that compare them.
    device, dtype, trust_remote_code
        As in `modicum.pvf.loading.load_mask_predictor`.
    settings
        Of a strategy given by its name, such as ``threshold=0.8``.

    Attributes
    ----------
    stats : list of DecodeStats
        Cost of every answer that was generated.

    Raises
    ------
    ValueError
        If the model has no tokenizer, or an argument is not valid.
    """

    def __init__(
        self,
        pretrained: Any,
        *,
        strategy: Any = "pvf",
        gen_length: int | None = None,
        block_length: int = 32,
        batch_size: int | str = 8,
        cfg_scale: float = 0.0,
        cache: str = "none",
        seed: int = 0,
        suppress_eos: bool = False,
        eos_early_stop: bool = True,
        log_likelihood_samples: int | None = None,
        device: str = "auto",
        dtype: str = "auto",
        trust_remote_code: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__()
        if not isinstance(pretrained, MaskPredictor):
            pretrained = load_mask_predictor(
                pretrained, device=device, dtype=dtype, trust_remote_code=trust_remote_code
            )
        if getattr(pretrained, "tokenizer", None) is None:
            raise ValueError("pretrained has no tokenizer: the texts of tasks need one")
        for name, count in (
            ("gen_length", gen_length),
            ("log_likelihood_samples", log_likelihood_samples),
        ):
            if count is not None:
                check_count(name, count)
        self.predictor: Any = pretrained
        self.tokenizer = pretrained.tokenizer
        self.strategy = as_strategy(strategy, **settings)
        self.gen_length = gen_length
        self.batch_size = _batch_size(batch_size)
        self.log_likelihood_samples = log_likelihood_samples
        self.options: dict[str, Any] = {
            "strategy": self.strategy,
            "block_length": block_length,
            "batch_size": self.batch_size,
            "cfg_scale": cfg_scale,
            "cache": cache,
            "seed": seed,
            "suppress_eos": suppress_eos,
        }
        self.eos_early_stop = eos_early_stop
        self.stats: list[DecodeStats] = []
        self._device = pretrained.device

    @property
    def eot_token_id(self) -> int | None:
        """Id of the token that ends an answer."""
        found: int | None = self.predictor.eos_id
        return found

    @property
    def tokenizer_name(self) -> str:
        """Name by which lm-eval tells its caches apart."""
        return str(getattr(self.tokenizer, "name_or_path", type(self.tokenizer).__name__))

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Give the tokenizer's template of chats; "" without one."""
        return getattr(self.tokenizer, "chat_template", None) or ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Give the text of a chat; its last message goes on without a generation prompt."""
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Give the token ids of a text; a template's own first token is not put before it twice."""
        if add_special_tokens is None:
            ids = list(self.tokenizer(string)["input_ids"])
        else:
            ids = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        first = getattr(self.tokenizer, "bos_token_id", None)
        return ids[1:] if first is not None and ids[:2] == [first, first] else ids

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Answer each request, up to the first of its stop strings.

        Raises
        ------
        ValueError
            If a task samples with settings that are not taken, such as ``top_p``.
        """
        groups: dict[tuple[int, float], list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(self._how(request.args[1]), []).append(number)
        texts = [""] * len(requests)
        for (length, temperature), numbers in groups.items():
            out = generate(
                self.predictor,
                [self._prompt(requests[number].args[0], length) for number in numbers],
                gen_length=length,
                temperature=temperature,
                eos_early_stop=self.eos_early_stop,
                progress=not disable_tqdm,
                **self.options,
            )
            self.stats += out.stats
            for number, text in zip(numbers, self._words(out.generated), strict=True):
                request = requests[number]
                texts[number] = _stopped(text, request.args[1].get("until"))
                self.cache_hook.add_partial("generate_until", request.args, texts[number])
        return texts

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Estimate the log-likelihood of whole texts, in pieces as long as the model takes.

        No piece knows the one before it.
        """
        limit = getattr(self.predictor, "max_length", None)
        found = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            width = limit or max(1, len(ids))
            pieces = [ids[begin : begin + width] for begin in range(0, len(ids), width)]
            value = sum(self._log_likelihood([], piece) for piece in pieces)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
            found.append(value)
        return found

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Estimate log-likelihoods, and say whether decoding gives the answer."""
        found = []
        for key, context, answer in requests:
            value = self._log_likelihood(context, answer)
            out = generate(
                self.predictor,
                [context],
                gen_length=len(answer),
                eos_early_stop=False,
                **self.options,
            )
            result = (value, out.generated[0].tolist() == answer)
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, result)
            found.append(result)
        return found

    def _log_likelihood(self, context: Sequence[int], answer: Sequence[int]) -> float:
        if self.log_likelihood_samples is None:
            raise NotImplementedError(
                "a masked diffusion model estimates log-likelihoods by masking at random: give "
                "log_likelihood_samples, such as 128, for tasks that compare them"
            )
        if not answer:
            return 0.0
        return masked_log_likelihood(
            self.predictor,
            context,
            answer,
            samples=self.log_likelihood_samples,
            seed=self.options["seed"],
            batch_size=self.batch_size,
        )

    def _how(self, asked: Mapping[str, Any]) -> tuple[int, float]:
        """Give length and temperature of a request."""
        length = next((int(asked[name]) for name in _LENGTHS if name in asked), DEFAULT_LENGTH)
        temperature = 0.0
        if asked.get("do_sample"):
            others = sorted(set(asked) - _TAKEN)
            if others:
                raise ValueError(
                    f"the task samples with {', '.join(f'{k}={asked[k]!r}' for k in others)}: only "
                    "a temperature is taken"
                )
            temperature = float(asked.get("temperature", 1.0))
        return self.gen_length or length, temperature

    def _prompt(self, context: str, length: int) -> list[int]:
        """Give the ids of a context, without its beginning where it is too long."""
        ids = self.tok_encode(context)
        limit = getattr(self.predictor, "max_length", None)
        if limit is None or len(ids) + length <= limit or length >= limit:
            return ids
        logger.warning(
            "a context of %d tokens loses its beginning: with %d tokens to generate the model "
            "takes %d", len(ids), length, limit - length,
        )  # fmt: skip
        return ids[length - limit :]

    def _words(self, generated: torch.Tensor) -> list[str]:
        """Give texts up to the first end token, without special tokens."""
        special = set(self.tokenizer.all_special_ids)
        texts = []
        for row in generated.tolist():
            ended = row[: row.index(self.eot_token_id)] if self.eot_token_id in row else row
            texts.append(self.tokenizer.decode([token for token in ended if token not in special]))
        return texts


@torch.inference_mode()
def masked_log_likelihood(
    predictor: MaskPredictor,
    prompt: Sequence[int],
    answer: Sequence[int],
    *,
    samples: int = 128,
    seed: int = 0,
    batch_size: int = 8,
) -> float:
    """Estimate a lower bound of log p(answer | prompt), in nats, by masking at random.

    Of A tokens of the answer l are masked, l uniform on 1 … A, and their log-probabilities are
    summed and multiplied by A / l. The mean of this is the bound; for a model whose conditionals
    belong to one joint distribution it is the log-likelihood itself. The l of several samples are
    spread evenly.

    Parameters
    ----------
    predictor
        The model.
    prompt, answer
        Token ids; the answer has at least one.
    samples
        Masks to draw.
    seed
        Of the masks.
    batch_size
        Rows of a call.

    Raises
    ------
    ValueError
        If the answer is empty, or a count is not positive.

    Notes
    -----
    Source: LLaDA (arXiv 2502.09992), appendix on the evaluation of conditional likelihoods.
    """
    check_count("samples", samples)
    check_count("batch_size", batch_size)
    if not answer:
        raise ValueError("answer is empty: it has no log-likelihood")
    generator = torch_generator(seed)
    length = len(answer)
    first = int(torch.randint(length, (), generator=generator))
    spread_K = (first + torch.arange(samples) * length // samples) % length + 1
    order_KA = torch.rand(samples, length, generator=generator).argsort(-1).argsort(-1)
    masked_KA = order_KA < spread_K[:, None]
    ids_A = torch.tensor(answer)
    head_P = torch.tensor(prompt, dtype=torch.int64)
    columns_A = torch.arange(len(prompt), len(prompt) + length)
    total = 0.0
    for masks_RA, count_R in zip(
        masked_KA.split(batch_size), spread_K.split(batch_size), strict=True
    ):
        answer_RA = ids_A.repeat(len(masks_RA), 1).masked_fill(masks_RA, predictor.mask_id)
        ids_RL = torch.cat([head_P.repeat(len(masks_RA), 1), answer_RA], dim=1)
        positions_RA = columns_A.repeat(len(masks_RA), 1).to(predictor.device)
        logits_RAV = predictor.forward(ids_RL.to(predictor.device), None, positions_RA).float()
        logits_RAV[..., predictor.mask_id] = -torch.inf
        log_probs_RAV = logits_RAV.log_softmax(-1).cpu()
        said_RA = log_probs_RAV.gather(-1, ids_A.repeat(len(masks_RA), 1)[..., None])[..., 0]
        sums_R = said_RA.masked_fill(~masks_RA, 0.0).double().sum(-1)
        total += float((sums_R * length / count_R).sum())
    return total / samples


def _batch_size(given: int | str) -> int:
    """Give a number; lm-eval hands over what stood on its command line."""
    if not str(given).isdecimal():
        raise ValueError(f"batch_size must be a number, not {given!r}")
    return check_count("batch_size", int(given))


def _stopped(text: str, until: str | Iterable[str] | None) -> str:
    """Cut a text before the first of some strings."""
    for stop in (until,) if isinstance(until, str) else until or ():
        if stop:
            text = text.split(stop)[0]
    return text


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
