"""Two tiny causal language models, shipped with the package: load them, or train them again.

The *target* (4 layers, width 192) writes text to be watermarked; the *anchor* (2 layers, width 96)
is the public model a detector compares it with. Both are `LlamaForCausalLM` networks over one
byte-level BPE tokenizer of 2048 entries, saved in float16 in the layout of `save_pretrained`, so
transformers and vLLM load them from their folders without a network connection. They were trained
on the generated English of `modicum.core.watermark.corpus_text`, which this repository owns; they
know no other text.

    python -m modicum.core.watermark.adapters.tiny_lm train --out DIR

repeats the training from nothing on one CPU core (`training.json` beside the models says how long
it took) and goes on where it stopped when it is interrupted. Every row of every batch depends only
on the seed and its own number, so a resumed run takes the very steps that an uninterrupted one
would have taken.

Needs transformers (`pip install "modicum-core[transformers]"`). Knows nothing about
watermarks.

Shapes: B rows of a batch, T positions, V vocabulary.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.resources
import json
import math
import os
import platform
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch.nn import functional as F

from modicum.core.device import describe_hardware, resolve_device
from modicum.core.watermark import corpus_text

try:
    import safetensors.torch
    import tokenizers
    import transformers
    from tokenizers import Tokenizer
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        GenerationConfig,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )
except ImportError as error:
    raise ImportError(
        'the tiny models need transformers: pip install "modicum-core[transformers]"'
    ) from error

__all__ = ["TinyName", "load_tiny", "tiny_path", "train_tiny"]

TinyName = Literal["target", "anchor"]

VOCAB_SIZE = 2048
END_OF_TEXT = "<|endoftext|>"
MAX_POSITIONS = 1024

# Documents 0 … of these corpora: what the models learn from, and what they are measured on.
_TOKENIZER_DOCUMENTS = 4000
_VALIDATION_SEED_OFFSET = 1_000_003
_VALIDATION_ROWS = 64
_VALIDATION_LENGTH = 256

_TOKENS_PER_STEP = 1024
_SHORT_ROW = 128
# The last part of the training sees rows of the full length, so that all positions are trained.
_SHORT_ROWS_SHARE = 0.85
_WARMUP_STEPS = 40
_COOLDOWN_SHARE = 0.5
_CHECKPOINT_STEPS = 50


@dataclass(frozen=True)
class _Recipe:
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    learning_rate: float

    def config(self) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_heads,
            intermediate_size=self.intermediate_size,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
            use_cache=True,
        )


# Heads of 32 are the smallest that the attention kernels of vLLM's CPU engine take.
_RECIPES: dict[TinyName, _Recipe] = {
    "target": _Recipe(192, 4, 6, 512, learning_rate=3e-3),
    "anchor": _Recipe(96, 2, 3, 256, learning_rate=6e-3),
}


def tiny_path(name: TinyName = "target") -> Path:
    """Give the folder of a shipped model, for anything that takes a `from_pretrained` path.

    Parameters
    ----------
    name : {"target", "anchor"}
        Which of the two models.

    Returns
    -------
    pathlib.Path
        Folder with `config.json`, `model.safetensors`, `tokenizer.json` and `training.json`.

    Raises
    ------
    ValueError
        If there is no model of that name.
    FileNotFoundError
        If the package was installed without its data files.
    """
    if name not in get_args(TinyName):
        raise ValueError(f"name must be one of {', '.join(get_args(TinyName))}, got {name!r}")
    path = Path(str(importlib.resources.files("modicum.core.watermark") / "data" / name))
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"the tiny model is not installed: {path} has no config.json")
    return path


def load_tiny(
    name: TinyName = "target",
    *,
    device: str = "auto",
    dtype: torch.dtype = torch.float32,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Load a shipped model and its tokenizer, in evaluation mode.

    Parameters
    ----------
    name : {"target", "anchor"}
        Which of the two models.
    device : str
        Where the weights go: `"auto"`, `"cpu"`, `"cuda"`, ….
    dtype : torch.dtype
        Floating-point type of the weights in memory; on disk they are float16.

    Returns
    -------
    model : transformers.LlamaForCausalLM
        Takes `input_ids[B, T]` (int64, 0 ≤ id < 2048, T ≤ 1024), gives `logits[B, T, 2048]`.
    tokenizer : transformers.PreTrainedTokenizerFast
        The same for both models. Adds no special tokens by itself; `decode(encode(text))` gives
        back every text exactly.

    Raises
    ------
    ValueError
        If there is no model of that name.
    FileNotFoundError
        If the package was installed without its data files.
    """
    path = tiny_path(name)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    return model.to(resolve_device(device)).eval(), tokenizer


def train_tiny(
    out: str | os.PathLike[str],
    *,
    steps: int = 1000,
    seed: int = 0,
    progress: bool = True,
    resume: bool = True,
) -> dict[str, Any]:
    """Train tokenizer, target and anchor from nothing and save them under `out`.

    Runs on the CPU with the threads torch has been given. Progress is saved every few dozen steps;
    the same call made again continues from there.

    Parameters
    ----------
    out : path
        Folder for the results, `out/target` and `out/anchor`; created if missing.
    steps : int
        Optimiser steps of 1024 tokens for each of the two models, at least 1.
    seed : int
        Decides the training text, the initial weights and the validation text.
    progress : bool
        Show progress bars.
    resume : bool
        Continue an interrupted training found in `out`; otherwise start again.

    Returns
    -------
    dict
        What is saved as `training.json` in both folders: validation loss of each model
        (nats/token), entropy of the target's next-token distribution at temperatures 1 and 0.7
        (nats), mean total-variation distance between anchor and target, and where, how and for how
        long the training ran.

    Raises
    ------
    ValueError
        If `steps` is less than 1, or if `out` holds a training with other settings and `resume`
        is true.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    out = Path(out)
    work = out / "unfinished"
    settings = {"steps": steps, "seed": seed, "recipes": repr(_RECIPES)}
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    started = work / "settings.json"
    if started.is_file() and (found := json.loads(started.read_text())) != settings:
        raise ValueError(
            f"{work} holds a training with steps={found['steps']}, seed={found['seed']}, not "
            f"steps={steps}, seed={seed}: continue that one, or pass resume=False to drop it"
        )
    work.mkdir(parents=True, exist_ok=True)
    _write(started, json.dumps(settings))

    tokenizer = _tokenizer(work / "tokenizer.json", seed, progress)
    models: dict[TinyName, LlamaForCausalLM] = {}
    seconds: dict[TinyName, float] = {}
    for name in get_args(TinyName):
        models[name], seconds[name] = _train(
            name, tokenizer, work / f"{name}.pt", steps=steps, seed=seed, progress=progress
        )
    models = {name: model.to(torch.float16).float() for name, model in models.items()}
    summary: dict[str, Any] = {
        "command": "python -m modicum.core.watermark.adapters.tiny_lm train --out DIR"
        f" --steps {steps} --seed {seed} --threads {torch.get_num_threads()}",
        "seed": seed,
        "steps": steps,
        "tokens_per_step": _TOKENS_PER_STEP,
        "parameters": {name: model.num_parameters() for name, model in models.items()},
        "measured": _measure(models, tokenizer, seed),
        "training_seconds": {name: round(value, 1) for name, value in seconds.items()},
        "hardware": f"{describe_hardware()['cpu']}, {torch.get_num_threads()} of its threads",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }
    for name, model in models.items():
        _save(out / name, model, tokenizer, summary)
    shutil.rmtree(work)
    return summary


def _tokenizer(path: Path, seed: int, progress: bool) -> Tokenizer:
    if path.is_file():
        return Tokenizer.from_file(str(path))
    tokenizer = Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    with _bar("tokenizer", _TOKENIZER_DOCUMENTS, progress) as advance:

        def texts() -> Iterator[str]:
            for index in range(_TOKENIZER_DOCUMENTS):
                yield corpus_text.document(seed, index)
                advance(index + 1, "")

        tokenizer.train_from_iterator(texts(), trainer)
    _write(path, tokenizer.to_str(pretty=True))
    return tokenizer


def _rows(tokenizer: Tokenizer, seed: int, numbers: Sequence[int], length: int) -> torch.Tensor:
    """Rows of `length` tokens, each a window at a random place of its own few documents."""
    rows = []
    for number in numbers:
        rng = random.Random(f"modicum rows {seed} {number}")
        first = int(rng.random() * 2**40)
        encoded = (
            [0, *tokenizer.encode(text, add_special_tokens=False).ids]
            for text in corpus_text.documents(seed, start=first)
        )
        ids = next(encoded)
        offset = int(rng.random() * len(ids))
        while len(ids) < offset + length:
            ids += next(encoded)
        rows.append(ids[offset : offset + length])
    return torch.tensor(rows, dtype=torch.int64)


def _train(
    name: TinyName, tokenizer: Tokenizer, path: Path, *, steps: int, seed: int, progress: bool
) -> tuple[LlamaForCausalLM, float]:
    recipe = _RECIPES[name]
    model = _new_model(recipe, seed)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )
    done, seconds = 0, 0.0
    if path.is_file():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done, seconds = state["step"], state["seconds"]
    model.train()
    before = time.perf_counter() - seconds
    with _bar(name, steps, progress) as advance:
        for step in range(done, steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _schedule(step, steps)
            loss = _step(model, optimizer, _batch(tokenizer, seed, step, steps))
            seconds = time.perf_counter() - before
            advance(step + 1, f"loss {loss:.3f} nats/token")
            if (step + 1) % _CHECKPOINT_STEPS == 0 or step + 1 == steps:
                partial = path.with_suffix(".partial")
                torch.save(
                    {
                        "step": step + 1,
                        "seconds": seconds,
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                    },
                    partial,
                )
                os.replace(partial, path)
    return model.eval(), seconds


def _new_model(recipe: _Recipe, seed: int) -> LlamaForCausalLM:
    # transformers initialises from the global generator: lend it ours and put theirs back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(recipe.config()).float()


def _batch(tokenizer: Tokenizer, seed: int, step: int, steps: int) -> torch.Tensor:
    length = _SHORT_ROW if step < _SHORT_ROWS_SHARE * steps else MAX_POSITIONS
    # Row numbers are spaced for the larger batches, so no row comes twice.
    first = step * (_TOKENS_PER_STEP // _SHORT_ROW)
    return _rows(tokenizer, seed, range(first, first + _TOKENS_PER_STEP // length), length + 1)


def _schedule(step: int, steps: int) -> float:
    """Learning rate as a share of its peak: linear warm-up, plateau, linear decay to zero."""
    cooldown = math.ceil(_COOLDOWN_SHARE * steps)
    return min(1.0, (step + 1) / _WARMUP_STEPS, (steps - step) / cooldown)


def _step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, ids_BT: torch.Tensor) -> float:
    logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
    loss = F.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@torch.inference_mode()
def _measure(
    models: dict[TinyName, LlamaForCausalLM], tokenizer: Tokenizer, seed: int
) -> dict[str, float]:
    """Losses, entropies and distances over validation text, averaged over all positions."""
    totals: dict[str, float] = {}
    for number in range(_VALIDATION_ROWS):
        ids_BT = _rows(tokenizer, seed + _VALIDATION_SEED_OFFSET, [number], _VALIDATION_LENGTH + 1)
        probs = {}
        for name, model in models.items():
            logits_TV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits[0]
            loss = F.cross_entropy(logits_TV, ids_BT[0, 1:]).item()
            totals[f"{name}_validation_nats_per_token"] = (
                totals.get(f"{name}_validation_nats_per_token", 0.0) + loss
            )
            for temperature in (1.0, 0.7):
                log_probs_TV = (logits_TV / temperature).log_softmax(-1)
                probs[name, temperature] = log_probs_TV.exp()
                entropy = -(log_probs_TV.exp() * log_probs_TV).sum(-1).mean().item()
                key = f"{name}_entropy_nats_at_temperature_{temperature}"
                totals[key] = totals.get(key, 0.0) + entropy
        for temperature in (1.0, 0.7):
            gap_TV = (probs["target", temperature] - probs["anchor", temperature]).abs()
            key = f"anchor_target_total_variation_at_temperature_{temperature}"
            totals[key] = totals.get(key, 0.0) + gap_TV.sum(-1).mean().item() / 2
        key = "characters_per_token"
        text = tokenizer.decode(ids_BT[0].tolist(), skip_special_tokens=True)
        totals[key] = totals.get(key, 0.0) + len(text) / ids_BT.shape[1]
    return {key: round(total / _VALIDATION_ROWS, 4) for key, total in totals.items()}


def _save(
    folder: Path, model: LlamaForCausalLM, tokenizer: Tokenizer, summary: dict[str, Any]
) -> None:
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    config = model.config
    config.architectures, config.dtype = ["LlamaForCausalLM"], torch.float16
    config.save_pretrained(partial)
    # Sampling from the model's whole law: top_k=0 keeps engines from cutting it at their default.
    GenerationConfig(
        bos_token_id=0, eos_token_id=0, pad_token_id=0, do_sample=True, temperature=1.0, top_k=0
    ).save_pretrained(partial)
    # The output matrix is the embedding matrix; it is stored once.
    tensors = {
        key: value.to(torch.float16).contiguous()
        for key, value in model.state_dict().items()
        if key != "lm_head.weight"
    }
    weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
    (partial / "model.safetensors").write_bytes(weights)
    fast.save_pretrained(partial)
    _write(partial / "training.json", json.dumps(summary, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


@contextlib.contextmanager
def _bar(title: str, total: int, enabled: bool) -> Iterator[Callable[[int, str], None]]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), disable=not enabled) as bar:
        task = bar.add_task(title, total=total, note="")
        yield lambda done, note: bar.update(task, completed=done, note=note)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: `train --out DIR [--steps N] [--seed N] [--restart] [--threads N]`.

    Parameters
    ----------
    arguments : sequence of str, optional
        Command-line words; those of the process by default.
    """
    parser = argparse.ArgumentParser(prog="python -m modicum.core.watermark.adapters.tiny_lm")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train both models from nothing")
    train.add_argument("--out", type=Path, required=True, help="folder for the results")
    train.add_argument("--steps", type=int, default=1000, help="steps of 1024 tokens per model")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--threads", type=int, help="CPU threads (default: what torch chooses)")
    train.add_argument("--restart", action="store_true", help="drop an unfinished training")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    summary = train_tiny(
        options.out, steps=options.steps, seed=options.seed, resume=not options.restart
    )
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
