"""Figures and page of a fork experiment, from its table and its schedules.json.

``fork_figures`` gives PNG, ``fork_section`` the same charts as a section of an HTML page, ``fork_page`` a separate
page. No browser and no script draws them: the SVG takes its colours from the page's palette.
"""

from pipeline.report.fork.fork_page import fork_figures, fork_page, fork_section, fork_style

__all__ = ["fork_figures", "fork_page", "fork_section", "fork_style"]
