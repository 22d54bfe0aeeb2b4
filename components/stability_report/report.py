"""A report as an object: to write into a folder, to open, and to look at in a notebook."""

from __future__ import annotations

import dataclasses
import functools
import html
import os
import pathlib

from spikeguard.components.curve_readers.reading import read_curve, read_curves
from spikeguard.components.spike_evaluator import result
from spikeguard.components.spike_evaluator.policy import SpikePolicy
from spikeguard.components.stability_report.collecting import content_of_log
from spikeguard.components.stability_report.content import JSON_FILE, PAGE_FILE, ReportContent, read_content

_NOTEBOOK_HEIGHT = 720


@dataclasses.dataclass(frozen=True)
class Report:
    """One report; the last expression of a notebook's cell shows it.

    >>> Report(ReportContent("run 7", "open", "Nothing was judged.")).content.sentence
    'Nothing was judged.'
    """

    content: ReportContent
    """All that the page shows."""

    @functools.cached_property
    def html(self) -> str:
        """The page, complete in itself."""
        # jinja2 is loaded for pages alone.
        from spikeguard.components.stability_report.rendering import render

        return render(self.content)

    def write(self, folder: str | os.PathLike[str]) -> pathlib.Path:
        """Writes `report.html` and `report.json` into an existing or new folder, and returns the page's path."""
        target = pathlib.Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        (target / JSON_FILE).write_text(self.content.to_json(), encoding="utf-8")
        page = target / PAGE_FILE
        page.write_text(self.html, encoding="utf-8")
        return page

    def _repr_html_(self) -> str:
        # A frame of its own: neither the notebook's style nor its scripts reach the page, nor the page's the notebook.
        return (
            f'<iframe title="spikeguard report" sandbox="allow-scripts" width="100%" height="{_NOTEBOOK_HEIGHT}"'
            f' style="border: 0" srcdoc="{html.escape(self.html)}"></iframe>'
        )


def explain(path: str | os.PathLike[str], run: str | None = None, policy: SpikePolicy | None = None) -> Report:
    """Finds the spikes of a log's training curve and judges it, as `spikeguard explain` does.

    Args:
      path: a log file or a folder, as in `read_curves`.
      run: name of the run, where there are several; None judges all and tells of the worst.
      policy: the rules; `SpikePolicy()` where None.

    Raises:
      InvalidDataError: nothing can be read there.

    >>> import tempfile
    >>> log = pathlib.Path(tempfile.mkdtemp()) / "log.csv"
    >>> _ = log.write_text("step,loss\\n" + "".join(f"{step},{1 / step}\\n" for step in range(1, 99)))
    >>> explain(log).content.sentence
    'This training run was stable: the loss fell without unexplained jumps.'
    """
    curves = read_curves(path) if run is None else {run: read_curve(path, run)}
    return Report(content_of_log(result.evaluate_runs(curves, policy=policy), title_of(path)))


def title_of(path: str | os.PathLike[str]) -> str:
    """What a page calls a path: the end of it, which tells it from others."""
    return "/".join(pathlib.Path(os.path.abspath(path)).parts[-2:])


def read_report(folder: str | os.PathLike[str]) -> Report:
    """Reads the report in an `HtmlReport` artifact.

    Args:
      folder: the artifact's `uri`.

    Raises:
      InvalidDataError: there is none, or of another format.
    """
    return Report(read_content(folder))
