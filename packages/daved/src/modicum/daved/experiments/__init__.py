"""What the package claims, as experiments that anybody can run (``modicum demo daved``).

`EXPERIMENTS` lists them; importing it loads none of the code that runs them. A new experiment is a
new module with a function ``run(ctx) -> Result`` and a line in the list.
"""

from importlib import import_module
from importlib.util import find_spec

from modicum.core.experiment import Experiment, Result, RunContext

PACKAGE = "modicum-daved"


def _experiment(name: str, title: str, summary: str, *, networks: bool = False) -> Experiment:
    def run(ctx: RunContext) -> Result:
        if networks and find_spec("torch") is None:
            raise ImportError(f'{name} needs torch: pip install "{PACKAGE}[torch]"')
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
    _experiment(
        "federated_equals_central",
        "Sellers who keep their rows",
        "Federated purchases beside central ones: picks, objective, and bytes on the wire.",
    ),
    _experiment(
        "budget_ablation",
        "Steps, rounding, queries and step rules",
        "What every choice of the design does to small and to large purchases.",
    ),
    _experiment(
        "real_tables",
        "Small purchases from tables",
        "Four real tables and two generated ones, cross-validated: designs, neighbours, valuation.",
    ),
    _experiment(
        "prices",
        "Prices, noise and sellers whose labels lie",
        "What knowing prices gains at equal spending, and what a design without labels cannot see.",
    ),
    _experiment(
        "learned_features",
        "Features of a small network",
        "Purchases by learned, raw and random features; linear models and fine-tuned networks.",
        networks=True,
    ),
]
