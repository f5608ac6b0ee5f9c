"""A trace as an animation, drawn with pillow in a font of matplotlib's.

Every frame has all tokens of one sequence in their places, each committed one with the letter of
its reason, so that nothing depends on colour.
"""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modicum.core.experiment import write_atomic
from modicum.core.plots import COLOURS, GREY
from modicum.pvf.trace import LETTERS, Trace, visible

__all__ = ["write_gif"]

_COLOURS = {"H": COLOURS[0], "P": COLOURS[1], "F": "#00694c", "X": "#8a3270", "E": GREY}
_PAPER, _INK, _QUIET, _BAD = "#ffffff", "#1d1f21", "#5c6166", "#a8251c"
_SIZE, _SMALL = 15, 11
"""Pixels of letters."""
_MARGIN, _GAP, _HEIGHT = 16, 6, 40
_LEAST_WIDTH, _MOST_LETTERS = 22, 24
_LAST_FRAME = 5
"""Times as long as another frame."""


def write_gif(
    trace: Trace,
    path: str | os.PathLike[str],
    sequence: int = 0,
    *,
    seconds: float = 0.4,
    width: int = 760,
) -> Path:
    """Write an animation of one sequence, whole or not at all.

    Parameters
    ----------
    trace
        What was recorded.
    path
        Where the animation goes; missing folders are made.
    sequence
        Number of the sequence.
    seconds
        Between two commits, at least 0.02; the last frame stays five times as long.
    width
        Of the picture, in pixels.

    Raises
    ------
    ValueError
        If there is no such sequence, or a number is out of range.
    ImportError
        Without pillow or matplotlib.
    """
    try:
        from matplotlib import get_data_path
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise ImportError(
            'animations need pillow and matplotlib: pip install "modicum-pvf[plot]"'
        ) from error
    trace.check_sequence(sequence)
    if not seconds >= 0.02:
        raise ValueError(f"seconds must be at least 0.02, not {seconds!r}")
    if width < 200:
        raise ValueError(f"width must be at least 200, not {width!r}")
    # Pillow's own font lacks the marks that stand for spaces and line ends.
    file = Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    fonts = (ImageFont.truetype(file, _SIZE), ImageFont.truetype(file, _SMALL))
    boxes, height = _boxes(trace, sequence, fonts[0], width)
    frames = []
    for count in range(len(trace.commits[sequence]) + 1):
        image = Image.new("RGB", (width, height), _PAPER)
        _Frame(trace, sequence, count, fonts).draw(ImageDraw.Draw(image), boxes, height)
        # Exact colours: there are few, and a palette of the whole picture holds them.
        frames.append(image.quantize(64))
    times = [round(1000 * seconds)] * len(frames)
    times[-1] *= _LAST_FRAME
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return write_atomic(path, buffer.getvalue())


def _boxes(
    trace: Trace, sequence: int, font: Any, width: int
) -> tuple[list[tuple[int, int, int, str]], int]:
    """Give left, top, width and text of every token, and the height of the picture."""
    boxes, x, y = [], _MARGIN, _MARGIN + 2 * _SIZE
    for token in trace.canvas(sequence):
        text = "" if token == trace.mask_id else visible(trace.text(token))
        text = text if len(text) <= _MOST_LETTERS else text[: _MOST_LETTERS - 1] + "…"
        wide = max(_LEAST_WIDTH, int(font.getlength(text)) + 10)
        if x + wide > width - _MARGIN and x > _MARGIN:
            x, y = _MARGIN, y + _HEIGHT + _GAP
        boxes.append((x, y, wide, text))
        x += wide + _GAP
    return boxes, y + _HEIGHT + _MARGIN + 2 * _SIZE


@dataclass(frozen=True)
class _Frame:
    """The picture after some commits."""

    trace: Trace
    sequence: int
    count: int
    fonts: tuple[Any, Any]

    def draw(self, pen: Any, boxes: list[tuple[int, int, int, str]], height: int) -> None:
        """Draw heading, tokens and letters' meanings."""
        commits = self.trace.commits[self.sequence][: self.count]
        reasons = {
            position: reason
            for commit in commits
            for position, reason in zip(commit.positions, commit.reasons, strict=True)
        }
        new = set(commits[-1].positions) if commits else set()
        tested = {draft.position for draft in commits[-1].rejected} if commits else set()
        pen.text((_MARGIN, _MARGIN), self._heading(), _INK, font=self.fonts[0])
        canvas = self.trace.canvas(self.sequence, self.count)
        for position, box in enumerate(boxes):
            if position in reasons:
                self._committed(pen, box, reasons[position], position in new)
            elif canvas[position] == self.trace.mask_id:
                self._open(pen, box, position in tested)
            else:
                x, y, _, text = box
                pen.text((x + 5, y + 3), text, _QUIET, font=self.fonts[0])
        x = _MARGIN
        for letter, name in (*LETTERS.items(), ("×", "not kept")):
            said = f"{letter} {name}"
            colour = _COLOURS.get(letter, _BAD)
            pen.text((x, height - _MARGIN - _SMALL), said, colour, font=self.fonts[1])
            x += int(self.fonts[1].getlength(said)) + 14

    def _heading(self) -> str:
        if not self.count:
            return "before the first call"
        commit = self.trace.commits[self.sequence][self.count - 1]
        rows = "1 row" if commit.rows == 1 else f"{commit.rows} rows"
        calls = self.trace.cost(self.sequence).calls
        return f"call {commit.call} of {calls}, {commit.route}, {rows}"

    def _committed(
        self, pen: Any, box: tuple[int, int, int, str], reason: str, is_new: bool
    ) -> None:
        x, y, wide, text = box
        colour = _COLOURS[reason]
        pen.rounded_rectangle((x, y, x + wide, y + _HEIGHT), 4, _PAPER, colour, 3 if is_new else 1)
        pen.text((x + wide / 2, y + 3), text, _INK, font=self.fonts[0], anchor="ma")
        pen.text((x + wide / 2, y + _HEIGHT - 4), reason, colour, font=self.fonts[1], anchor="ms")

    def _open(self, pen: Any, box: tuple[int, int, int, str], is_tested: bool) -> None:
        x, y, wide, _ = box
        colour = _BAD if is_tested else _QUIET
        pen.rounded_rectangle((x, y, x + wide, y + _HEIGHT), 4, _PAPER, colour)
        if is_tested:
            pen.text((x + wide / 2, y + _HEIGHT / 2), "×", colour, font=self.fonts[0], anchor="mm")
