"""Samples per second of the local backends: one by one, in waves, streaming.

vLLM on the CPU and transformers sample short continuations from the shipped tiny model, every
sample with a seed of its own. Beside them stand the engines' own ways to draw many samples:
``LLM.generate`` on the same requests, and ``model.generate`` with ``num_return_sequences``, whose
samples depend on their batch. All modes take turns. Then a vote is run through the engine in
several modes, and what each draws in vain is counted.

    python packages/testtime/benchmarks/bench_backends.py

rewrites its part of ``RESULTS.md`` in two minutes; ``--dry-run`` uses small sizes and only prints.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
os.environ.update(ENVIRONMENT)

from modicum.core.benchmark import medians, preamble, table, write_section  # noqa: E402
from modicum.core.watermark.adapters.tiny_lm import load_tiny, tiny_path  # noqa: E402
from modicum.testtime.integrations.transformers import TransformersBackend  # noqa: E402
from modicum.testtime.integrations.vllm import VLLMBackend, sampling_params  # noqa: E402
from modicum.testtime.samples import Request, Sampling, sample_seed  # noqa: E402
from modicum.testtime.self_consistency import SelfConsistency  # noqa: E402
from modicum.testtime.stopping.curtailed import Curtailed  # noqa: E402

RESULTS = Path(__file__).with_name("RESULTS.md")
PROMPTS = [
    "The committee met in the morning and",
    "She was tired because",
    "He found a",
    "They wanted to",
    "The old",
    "In the evening the",
    "The next day",
    "It was a",
]
PARAMS = Sampling(max_tokens=24)
CLAUSE = Sampling(temperature=0.7, max_tokens=48, stop=(".", ",", "\n"))
MOST = 64
"""Requests that an engine computes at once."""


def requests(per_prompt: int) -> list[Request]:
    return [
        Request(f"p{p}", i, prompt, PARAMS, sample_seed(0, f"p{p}", i))
        for p, prompt in enumerate(PROMPTS)
        for i in range(per_prompt)
    ]


def in_waves(backend: Any, wanted: list[Request], size: int) -> None:
    """Give a backend so many requests at a time."""
    for start in range(0, len(wanted), size):
        for _ in backend.generate(wanted[start : start + size]):
            pass


def streaming(backend: VLLMBackend, wanted: list[Request]) -> None:
    """Keep `MOST` requests under way, as a server would have them."""
    stream = backend.stream()

    async def main() -> None:
        places = asyncio.Semaphore(MOST)

        async def one(request: Request) -> None:
            async with places:
                await stream.agenerate(request)

        await asyncio.gather(*map(one, wanted))

    asyncio.run(main())


def own_generate(model: Any, tokenizer: Any, per_prompt: int) -> None:
    """Sample with transformers' generate, a batch per prompt."""
    import torch

    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            model.generate(
                inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                do_sample=True,
                top_k=0,
                max_new_tokens=PARAMS.max_tokens,
                num_return_sequences=per_prompt,
            )


def speeds(llm: Any, model: Any, tokenizer: Any, per_prompt: int, repeats: int) -> list[list[str]]:
    """Return a row per engine and mode."""
    wanted = requests(per_prompt)
    ours, own = VLLMBackend(llm), TransformersBackend(model, tokenizer, batch_size=MOST)
    texts = [request.prompt for request in wanted]
    params = [sampling_params(request) for request in wanted]
    groups: dict[str, dict[str, Callable[[], object]]] = {
        "vLLM": {
            "one by one": lambda: in_waves(ours, wanted, 1),
            "waves of 4": lambda: in_waves(ours, wanted, 4),
            "waves of 16": lambda: in_waves(ours, wanted, 16),
            "all at once": lambda: in_waves(ours, wanted, len(wanted)),
            f"streaming, {MOST} under way": lambda: streaming(ours, wanted),
            "LLM.generate": lambda: llm.generate(texts, params, use_tqdm=False),
        },
        "transformers": {
            "one by one": lambda: in_waves(own, wanted, 1),
            "waves of 4": lambda: in_waves(own, wanted, 4),
            "waves of 16": lambda: in_waves(own, wanted, 16),
            "all at once": lambda: in_waves(own, wanted, len(wanted)),
            "model.generate, a batch per prompt": lambda: own_generate(
                model, tokenizer, per_prompt
            ),
        },
    }
    rows = []
    for engine, calls in groups.items():
        times = medians(calls, repeats)
        rows += [
            [engine, mode, f"{len(wanted) / taken:.1f}", f"{times['one by one'] / taken:.2f}"]
            for mode, taken in times.items()
        ]
    return rows


def votes(llm: Any, cap: int) -> list[list[str]]:
    """Return a row per way to run a curtailed vote of `cap` samples per prompt."""
    backend = VLLMBackend(llm)
    modes: dict[str, tuple[Any, dict[str, Any]]] = {
        f"all {cap}, then the vote": (backend, {"wave": cap}),
        "geometric waves": (backend, {"wave": "geometric"}),
        "waves up to the boundary": (backend, {"wave": "boundary"}),
        "streaming, geometric": (backend.stream(), {"wave": "geometric", "inflight": MOST}),
        f"streaming, all {cap} at once": (backend.stream(), {"wave": cap, "inflight": MOST}),
    }
    rows, first = [], None
    for mode, (gen, options) in modes.items():
        strategy = SelfConsistency(
            gen,
            extract=lambda text: text.split()[0] if text.split() else None,
            stop=Curtailed(cap),
            **options,
        )
        before = generated(llm)
        results = strategy.run(PROMPTS, CLAUSE)
        usage = results.usage
        first = first or (results.answers, usage.used)
        same = "yes" if first == (results.answers, usage.used) else "no"
        drawn = generated(llm) - before
        rows.append(
            [mode, str(usage.used), str(usage.submitted), str(usage.cancelled), f"{drawn:.0f}",
             f"{usage.seconds:.2f}", same]
        )  # fmt: skip
    return rows


def generated(llm: Any) -> float:
    return sum(m.value for m in llm.get_metrics() if m.name == "vllm:generation_tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--per-prompt", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cap", type=int, default=40)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    if options.dry_run:
        options.per_prompt, options.repeats, options.cap = 4, 1, 8
    command = shlex.join(
        ["python", "packages/testtime/benchmarks/bench_backends.py", *sys.argv[1:]]
    )

    import torch
    from vllm import LLM

    torch.set_num_threads(1)
    size = len(PROMPTS) * options.per_prompt
    lines = preamble(
        command,
        f"{size} samples of up to {PARAMS.max_tokens} tokens ({options.per_prompt} of each of "
        f"{len(PROMPTS)} prompts) from the shipped tiny model, float32, one thread; wall-clock "
        f"time, median of {options.repeats} turns, modes taking turns",
    )
    llm = LLM(
        str(tiny_path("target")), dtype="float32", enforce_eager=True, max_model_len=256,
        max_num_seqs=MOST, block_size=32, enable_prefix_caching=True, generation_config="vllm",
        disable_log_stats=False,
    )  # fmt: skip
    model, tokenizer = load_tiny("target", device="cpu")
    lines += table(
        ["engine", "mode", "samples/s", "of one by one"],
        speeds(llm, model, tokenizer, options.per_prompt, options.repeats),
    )
    lines += [
        "",
        f"A vote of {options.cap} samples per prompt with `Curtailed({options.cap})` through the "
        f"engine, on vLLM: what is drawn for the same decisions.",
        "",
        *table(
            ["mode", "used", "submitted", "cancelled", "tokens drawn", "seconds", "same decisions"],
            votes(llm, options.cap),
        ),
    ]
    print("\n".join(lines))
    if not options.dry_run:
        write_section(RESULTS, "backends", lines)
    llm.llm_engine.engine_core.shutdown()


if __name__ == "__main__":
    main()
