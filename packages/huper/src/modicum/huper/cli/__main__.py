"""``python -m modicum.huper.cli``: the same commands."""

from modicum.huper.cli import main

main()
