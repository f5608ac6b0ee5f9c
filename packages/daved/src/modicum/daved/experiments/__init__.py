"""What the package will claim, as experiments; not yet among those of ``modicum demo``.

`EXPERIMENTS` lists them; importing it loads none of the code that runs them. A new experiment is a
new module with a function ``run(ctx) -> Result`` and a line in the list.
"""

from importlib import import_module

from modicum.core.experiment import Experiment, Result, RunContext

PACKAGE = "modicum-daved"


def _experiment(name: str, title: str, summary: str) -> Experiment:
    def run(ctx: RunContext) -> Result:
        return import_module(f"{__name__}.{name}").run(ctx)

    return Experiment(name, PACKAGE, title, summary, run)


EXPERIMENTS = [
    _experiment(
        "gaussian_market",
        "Error of a buyer's model after small purchases",
        "The published synthetic market: designs beside random purchases and data valuation.",
    ),
    _experiment(
        "solver_accuracy",
        "How near solvers come to the optimum",
        "Objective and certificate of every solver beside the exact optimum, with and without"
        " prices.",
    ),
    _experiment(
        "validation_trap",
        "Choosing data by a validation set",
        "Excess error of choosing by validation error against choosing by design, over dimensions.",
    ),
    _experiment(
        "inflated_rows",
        "A seller who inflates features",
        "Share of purchases that multiplied rows take, and how normalising rows takes it back.",
    ),
]
