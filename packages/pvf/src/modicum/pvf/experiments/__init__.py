"""What the package claims, as experiments that anybody can run (``modicum demo pvf``).

`EXPERIMENTS` lists them; importing it loads none of the code that runs them. A new experiment is a
new module with a function ``run(ctx) -> Result`` and a line in the list.
"""

from importlib import import_module

from modicum.core.experiment import Experiment, Result, RunContext

PACKAGE = "modicum-pvf"


def _experiment(name: str, title: str, summary: str) -> Experiment:
    def run(ctx: RunContext) -> Result:
        return import_module(f"{__name__}.{name}").run(ctx)

    return Experiment(name, PACKAGE, title, summary, run)


EXPERIMENTS = [
    _experiment(
        "trained_model",
        "A trained network",
        "Eight decoders on the tiny model that the package brings, and on an undertrained one.",
    ),
    _experiment(
        "oracle_savings",
        "Calls and rows on an exact posterior",
        "Twenty-one decoders on ledgers whose posterior is known: correct answers, calls, rows.",
    ),
    _experiment(
        "planning_tokens",
        "Planning tokens against any tokens",
        "An untested extra token in every call, of several kinds, and what the fallback costs.",
    ),
    _experiment(
        "verification",
        "What testing drafts is for",
        "Fills and plans with and without their test, on coherent and disturbed posteriors.",
    ),
    _experiment(
        "block_size",
        "Calls over block lengths",
        "Threshold decoding and plan-verify-fill in blocks of 8 to 48, opened early or not.",
    ),
    _experiment(
        "batching",
        "A batch is its prompts one by one",
        "Sixteen prompts of different lengths together and alone, by every kind of strategy.",
    ),
    _experiment(
        "parity",
        "The usual decoders and their published rules",
        "Threshold, factor, schedule and ranks, token for token against rules written again.",
    ),
]
