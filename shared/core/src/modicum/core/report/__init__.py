"""Results as one self-contained HTML page.

Takes `modicum.core.experiment.Result` objects and gives a page that needs no network, no script
and no second file: styles are inline, figures are data URIs, kept files can be downloaded out of
the page. The same results give the same bytes. It runs nothing and measures nothing.
"""

from modicum.core.report.numbers import format_duration, format_measured, format_number
from modicum.core.report.page import render, write_report

__all__ = ["format_duration", "format_measured", "format_number", "render", "write_report"]
