"""What the package claims, as experiments that anybody can run (``modicum demo umpwatermark``).

`EXPERIMENTS` lists them; importing it loads none of the code that runs them. A new experiment is a
new module with a function ``run(ctx) -> Result`` and a line in the list.
"""

from importlib import import_module

from modicum.core.experiment import Experiment, Result, RunContext

PACKAGE = "modicum-umpwatermark"


def _experiment(name: str, title: str, summary: str, *, demo: bool = True) -> Experiment:
    def run(ctx: RunContext) -> Result:
        return import_module(f"{__name__}.{name}").run(ctx)

    return Experiment(name, PACKAGE, title, summary, run, demo=demo)


EXPERIMENTS = [
    _experiment(
        "tokens_against_entropy",
        "Tokens needed against entropy per token",
        "How the optimum, our tests and every peer scale with the entropy, at equal errors.",
    ),
    _experiment(
        "detector_power",
        "Power of the detector against the optimum",
        "How close a test that knows a model comes to the optimum on the same text, with models "
        "of different quality.",
    ),
    _experiment(
        "validity",
        "False positives of every test",
        "How often text without the key is called marked, for five kinds of text and every test.",
    ),
    _experiment(
        "couplings",
        "Laws of the couplings, green lists and hazard sampling",
        "Marginals, errors and prices by enumeration; what distortion-free green lists and hazard "
        "sampling gain.",
    ),
    _experiment(
        "robust_optimum",
        "The optimum under edits",
        "Optimal errors against any d substitutions, certified, beside an actual scheme under "
        "random and chosen edits.",
    ),
]
