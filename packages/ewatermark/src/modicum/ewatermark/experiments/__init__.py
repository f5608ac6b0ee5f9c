"""What the package claims, as experiments that anybody can run (``modicum demo ewatermark``).

`EXPERIMENTS` lists them; importing it loads none of the code that runs them. A new experiment is a
new module with a function ``run(ctx) -> Result`` and a line in the list.
"""

from importlib import import_module

from modicum.core.experiment import Experiment, Result, RunContext

PACKAGE = "modicum-ewatermark"


def _experiment(name: str, title: str, summary: str, *, demo: bool = True) -> Experiment:
    def run(ctx: RunContext) -> Result:
        return import_module(f"{__name__}.{name}").run(ctx)

    return Experiment(name, PACKAGE, title, summary, run, demo=demo)


EXPERIMENTS = [
    _experiment(
        "tokens_to_detect",
        "Tokens to detection, all schemes side by side",
        "How many tokens each watermark needs at equal error probability, on the same laws.",
    ),
    _experiment(
        "optional_stopping",
        "False positives when one looks after every token",
        "How often unmarked text is ever called marked, for four kinds of simulated text and two "
        "kinds of real text.",
    ),
    _experiment(
        "stopping_law",
        "Growth rate and stopping time against theory",
        "Measured growth and mean stopping time against their closed forms, and the price of "
        "sequential testing.",
    ),
]
