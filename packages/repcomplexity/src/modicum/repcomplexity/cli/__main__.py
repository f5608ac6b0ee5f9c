"""``python -m modicum.repcomplexity.cli``: the same commands."""

from modicum.repcomplexity.cli import main

main()
