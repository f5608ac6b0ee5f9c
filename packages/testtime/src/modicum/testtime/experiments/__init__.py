"""What the package claims, as experiments that anybody can run (``modicum demo testtime``).

`EXPERIMENTS` lists them; importing it loads none of the code that runs them. A new experiment is a
new module with a function ``run(ctx) -> Result`` and a line in the list.
"""

from importlib import import_module

from modicum.core.experiment import Experiment, Result, RunContext

PACKAGE = "modicum-testtime"


def _experiment(name: str, title: str, summary: str, *, demo: bool = True) -> Experiment:
    def run(ctx: RunContext) -> Result:
        return import_module(f"{__name__}.{name}").run(ctx)

    return Experiment(name, PACKAGE, title, summary, run, demo=demo)


EXPERIMENTS: list[Experiment] = []
