"""Commands on samples: run draws them, curve estimates from recorded ones."""

from pathlib import Path
from typing import Annotated, Any

import typer

from modicum.testtime.cli.inputs import (
    EQUALITIES,
    EXTRACTORS,
    PromptFile,
    accuracy,
    by_prompt,
    equality_of,
    extractor_of,
    object_of,
    read_answers,
    read_prompts,
    reference_key,
)
from modicum.testtime.cli.show import Json, Seed, cell, integers, print_json, print_table

Extract = Annotated[str, typer.Option(help=f"How the answer is read: {EXTRACTORS}.")]
Equal = Annotated[str, typer.Option(help=f"When two answers are the same: {EQUALITIES}.")]
StripThink = Annotated[
    bool, typer.Option("--strip-think", help="Leave out <think> … </think> before reading.")
]

STRATEGIES = ("self-consistency", "best-of-n", "self-correction")
BACKENDS = ("openai", "vllm", "transformers", "replay")


def _backend(
    name: str,
    model: str,
    base_url: list[str] | None,
    samples: Path | None,
    chat: bool,
    inflight: int,
) -> Any:
    """Return the backend that the options describe."""
    from modicum.testtime import backends

    if name == "replay":
        if samples is None:
            raise ValueError("--backend replay needs --samples, a file of recorded samples")
        return backends.replay(samples)
    if name not in BACKENDS:
        raise ValueError(f"--backend is one of {', '.join(BACKENDS)}, not {name!r}")
    if not model:
        raise ValueError(f"--backend {name} needs --model")
    if name == "openai":
        if not base_url:
            raise ValueError("--backend openai needs --base-url, such as http://localhost:8000/v1")
        return backends.openai(base_url, model, chat=chat, concurrency=inflight)
    if name == "vllm":
        from modicum.testtime.integrations.loading import load_engine

        return backends.vllm(load_engine(model), chat=chat)
    from modicum.testtime.integrations.loading import load_model

    return backends.transformers(*load_model(model), chat=chat)


def _verifier(name: str | None, file: PromptFile, extractor: Any, equal: Any) -> Any:
    """Return the verifier that an option names: "answers" compares with the references."""
    if name is None:
        return None
    if name != "answers":
        return object_of(name, "--verifier")
    from modicum.testtime.verifiers import ExactAnswer

    return ExactAnswer(extractor, by_prompt(file), equal=equal)


def _strategy(
    name: str, backend: Any, verifier: Any, common: dict[str, Any], chosen: dict[str, Any]
) -> Any:
    """Return the strategy that the options describe."""
    from modicum.testtime.best_of_n import BestOfN
    from modicum.testtime.self_consistency import SelfConsistency
    from modicum.testtime.stopping import parse_rule

    stop = None if chosen["stop"] is None else parse_rule(chosen["stop"])
    if name == "self-consistency":
        max_samples = chosen["max_samples"]
        if stop is None and chosen["delta"] is None and max_samples is None:
            max_samples = 16
        return SelfConsistency(
            backend,
            stop=stop,
            delta=chosen["delta"],
            max_samples=max_samples,
            weight=chosen["weight"],
            verifier=verifier,
            **common,
        )
    if verifier is None:
        raise ValueError(f"--strategy {name} needs --verifier (module:name, or answers)")
    if name == "best-of-n":
        return BestOfN(
            backend,
            verifier,
            n=chosen["max_samples"] or 16,
            threshold=chosen["threshold"],
            select=chosen["select"],
            min_votes=chosen["min_votes"],
            stop=stop,
            **common,
        )
    if name == "self-correction":
        from modicum.testtime.controllers import parse_controller
        from modicum.testtime.self_correction import SelfCorrection

        return SelfCorrection(
            _experts(chosen["template"], backend),
            verifier,
            rounds=chosen["max_samples"] or 8,
            view=chosen["view"],
            threshold=chosen["threshold"],
            controller=chosen["controller"] and parse_controller(chosen["controller"]),
            stop=stop,
            **common,
        )
    raise ValueError(f"--strategy is one of {', '.join(STRATEGIES)}, not {name!r}")


def _experts(templates: list[str] | None, backend: Any) -> list[Any]:
    """Return an expert per template over one backend; without templates a single one."""
    from modicum.testtime.self_correction import Expert

    if not templates:
        return [Expert("model", backend)]
    return [
        Expert(f"template-{number}", backend, template=template)
        for number, template in enumerate(templates, 1)
    ]


def run(
    prompts: Annotated[
        Path,
        typer.Argument(
            help="JSON lines with prompt (or question, or messages), and if there are any id and "
            "answer."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write a JSON line per prompt with answer and samples.")
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(help="File of all samples; an interrupted run goes on from it."),
    ] = None,
    strategy: Annotated[str, typer.Option(help=f"{', '.join(STRATEGIES)}.")] = "self-consistency",
    backend: Annotated[str, typer.Option(help=f"{', '.join(BACKENDS)}.")] = "openai",
    model: Annotated[
        str, typer.Option(help="Name of the model at the server, or its folder.")
    ] = "",
    base_url: Annotated[
        list[str] | None, typer.Option(help="Address of a server; several share the load.")
    ] = None,
    samples: Annotated[Path | None, typer.Option(help="Recorded samples, for replay.")] = None,
    chat: Annotated[
        bool, typer.Option("--chat/--no-chat", help="Put texts as chats of one message.")
    ] = True,
    extract: Extract = "last-number",
    equal: Equal = "exact",
    strip_think: StripThink = False,
    stop: Annotated[
        str | None,
        typer.Option(help="Stopping rule such as certificate:delta=0.05, curtailed:n=40, …"),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Certify the most frequent answer at this error.")
    ] = None,
    max_samples: Annotated[
        int | None, typer.Option(help="Most samples (rounds) per prompt.")
    ] = None,
    verifier: Annotated[
        str | None,
        typer.Option(help="module:name of a verifier, or 'answers': compare with the references."),
    ] = None,
    select: Annotated[
        str, typer.Option(help="best-of-n: max, weighted, verified_majority or bom.")
    ] = "max",
    min_votes: Annotated[int | None, typer.Option(help="Least votes, with --select bom.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Reward of an accepted answer, which ends the prompt.")
    ] = None,
    weight: Annotated[str | None, typer.Option(help="Weight of votes: reward or logprob.")] = None,
    view: Annotated[
        str, typer.Option(help="self-correction: none, last, all or feedback_only.")
    ] = "all",
    controller: Annotated[
        str | None,
        typer.Option(help="self-correction: round-robin, eliminate, ucb1:c=2, thompson, …"),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(help="self-correction: an expert's text with {prompt}; may be repeated."),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 0.8,
    top_p: Annotated[float, typer.Option(help="Nucleus mass.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(help="Most new tokens per sample.")] = 1024,
    inflight: Annotated[int, typer.Option(help="Requests at once.")] = 64,
    budget_samples: Annotated[int | None, typer.Option(help="Most samples of the run.")] = None,
    budget_tokens: Annotated[int | None, typer.Option(help="Most tokens of the run.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Answer prompts by sampling; exit status 1 if the budget did not suffice."""
    from modicum.testtime.samples import Budget, Sampling

    file = read_prompts(prompts)
    extractor = extractor_of(extract, strip_think)
    equality = equality_of(equal, extractor)
    common = {"extract": extractor, "equal": equality, "inflight": inflight}
    chosen = {
        "stop": stop,
        "delta": delta,
        "max_samples": max_samples,
        "select": select,
        "min_votes": min_votes,
        "threshold": threshold,
        "weight": weight,
        "view": view,
        "controller": controller,
        "template": template,
    }
    # Settings are looked at before an engine is started for them.
    judge = _verifier(verifier, file, extractor, equality)
    placeholder = _strategy(strategy, _Nothing(), judge, common, chosen)
    del placeholder
    built = _strategy(
        strategy, _backend(backend, model, base_url, samples, chat, inflight), judge, common, chosen
    )
    params = Sampling(
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        logprobs=weight == "logprob",
    )
    budget = None
    if budget_samples is not None or budget_tokens is not None:
        budget = Budget(samples=budget_samples, tokens=budget_tokens)
    results = built.run(
        list(file.prompts.items()), params, seed=seed, budget=budget, log=log, progress=True
    )
    if out is not None:
        results.to_jsonl(out)
    summary = _summary(results, file, extractor, equality)
    if json:
        print_json(summary)
    else:
        print_table(["", ""], [[name, cell(value)] for name, value in summary.items()])
    if results.truncated:
        raise typer.Exit(1)


class _Nothing:
    """Stands where the backend will be while settings are checked."""

    def generate(self, requests: Any) -> Any:
        """Give nothing."""
        yield from ()


def _summary(results: Any, file: PromptFile, extractor: Any, equality: Any) -> dict[str, Any]:
    from modicum.testtime.equality import as_canonicaliser

    usage = results.usage
    summary = {
        "prompts": len(results),
        "answered": sum(result.answer is not None for result in results),
        "certified": sum(result.certified for result in results),
        "samples": usage.submitted,
        "samples used": usage.used,
        "samples saved": usage.saved,
        "saved share": usage.saved / usage.cap if usage.cap else 0.0,
        "prompt tokens": usage.prompt_tokens,
        "new tokens": usage.completion_tokens,
        "truncated by budget": results.truncated,
    }
    if file.answers:
        answers, references = {}, {}
        for result in results:
            if result.prompt_id in file.answers:
                # A reference and an answer may be written differently and yet have one key.
                canonical = as_canonicaliser(equality)
                reference = file.answers[result.prompt_id]
                references[result.prompt_id] = reference_key(reference, extractor, canonical)
                answers[result.prompt_id] = canonical(result.answer)
        summary["accuracy"] = accuracy(answers, references)
    return summary


def curve(
    samples: Annotated[Path, typer.Argument(help="Recorded samples: a log, or JSON lines.")],
    answers: Annotated[
        Path, typer.Option(help="JSON lines with id and answer (the prompts of the run will do).")
    ],
    ks: Annotated[
        str | None, typer.Option(help="Numbers of samples with commas; default powers of two.")
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            help="majority, coverage, best_of_n, weighted or verified_majority; may be repeated."
        ),
    ] = None,
    extract: Annotated[
        str | None, typer.Option(help="Read the answers from the texts again; as in run.")
    ] = None,
    equal: Equal = "exact",
    strip_think: StripThink = False,
    plot: Annotated[Path | None, typer.Option(help="Write a figure (.svg, .png, .pdf).")] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Fit a power law to the coverage.")] = False,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Estimate accuracy against the number of samples, unbiased, from recorded samples."""
    from modicum.testtime import recorded

    prompts = _recorded(samples, answers, extract, equal, strip_think)
    most = min(len(prompt.keys) for prompt in prompts)
    numbers = [2**i for i in range(most.bit_length())] if ks is None else integers(ks, "--ks")
    kinds = select or ["majority", "coverage"]
    curves = {
        kind: recorded.curve(prompts, numbers, kind, seed=seed)  # type: ignore[arg-type]
        for kind in kinds
    }
    fitted = None
    if fit:
        coverage = recorded.curve(prompts, numbers, "coverage")
        fitted = recorded.fit_coverage(numbers, coverage.mean)
    if plot is not None:
        from modicum.testtime.plots import accuracy_curves

        drawn = {kind: (found.ks, found.mean, found.se) for kind, found in curves.items()}
        exact = None if fitted is None else {"power law": (numbers, fitted.predict(numbers))}
        accuracy_curves(drawn, exact=exact).savefig(plot)
    if json:
        values: dict[str, Any] = {
            kind: {"k": numbers, "mean": found.mean.tolist(), "se": found.se.tolist()}
            for kind, found in curves.items()
        }
        if fitted is not None:
            values["fit"] = {"a": fitted.a, "b": fitted.b, "rmse": fitted.rmse}
        print_json(values | {"prompts": len(prompts)})
        return
    rows = [
        [k, *(f"{found.mean[i]:.4f} ± {found.se[i]:.4f}" for found in curves.values())]
        for i, k in enumerate(numbers)
    ]
    print_table(["k", *curves], rows, f"{len(prompts)} prompts, ± one standard error over them")
    if fitted is not None:
        typer.echo(f"coverage(k) = exp(-{fitted.a:.4g} k^-{fitted.b:.4g}), rmse {fitted.rmse:.2g}")


def _recorded(
    samples: Path, answers: Path, extract: str | None, equal: str, strip_think: bool
) -> list[Any]:
    """Return the recorded samples of each prompt that has a reference answer."""
    from modicum.testtime.equality import as_canonicaliser
    from modicum.testtime.recorded import Recorded
    from modicum.testtime.table import SampleTable

    table = SampleTable.from_jsonl(samples)
    references = read_answers(answers)
    extractor = extractor_of(extract or "text", strip_think)
    equality = equality_of(equal, extractor)
    rewards_known = bool(len(table)) and not bool((table.reward_S != table.reward_S).any())
    found = []
    for prompt_id, rows in table.groups():
        if prompt_id not in references:
            continue
        canonical = as_canonicaliser(equality)
        if extract is None:
            keys = [None if i < 0 else table.keys[i] for i in table.key_S[rows]]
            correct = _recorded_key(references[prompt_id], keys, canonical)
        else:
            correct = reference_key(references[prompt_id], extractor, canonical)
            texts = zip(table.texts[rows], table.finish_reasons[rows], strict=True)
            keys = [
                None
                if reason == "length" or (answer := extractor(text)) is None
                else canonical(answer)
                for text, reason in texts
            ]
        rewards = table.reward_S[rows].tolist() if rewards_known else None
        found.append(Recorded(keys, correct, rewards))
    if not found:
        raise ValueError(f"no prompt of {samples} has an answer in {answers}")
    return found


def _recorded_key(answer: Any, keys: list[Any], canonical: Any) -> Any:
    """Return a reference as it stands among recorded keys: as it is, or as a number."""
    for form in (answer, canonical(answer)):
        if form in keys:
            return form
    if isinstance(answer, str):
        from modicum.testtime.extract import last_number

        number = last_number()(answer)
        if number is not None and number in keys:
            return number
    return canonical(answer)
