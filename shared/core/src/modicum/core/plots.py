"""What the figures of all packages have in common: bare axes, colours, line styles.

Figures are made directly, without pyplot and its global state. matplotlib is loaded by the first
one; it is an optional dependency. Draws no data.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
GREY = "#767676"


def new_axes(package: str, width: float = 6.4, height: float = 3.8) -> tuple["Figure", Any]:
    """Return a new figure and its axes, without the upper and the right frame.

    Parameters
    ----------
    package
        Distribution whose ``plot`` extra brings matplotlib, for the message if it is missing.
    width, height
        Size in inches.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f'plots need matplotlib: pip install "{package}[plot]"') from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def look(index: int) -> dict[str, str]:
    """Return colour and line style of the line number ``index``: 28 that differ."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": STYLES[(index // len(COLOURS)) % len(STYLES)],
    }
