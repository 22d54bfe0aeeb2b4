"""The page as text: what it is made of and how large it may become."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from spikeguard.components.spike_evaluator import result
from spikeguard.components.stability_report import rendering
from spikeguard.components.stability_report.collecting import collect
from spikeguard.components.stability_report.comparison import Comparison, text_of
from spikeguard.components.stability_report.comparison_page import render_comparison
from spikeguard.components.stability_report.content import ReportContent
from spikeguard.components.training_curve import TrainingCurve
from tests.bench.report import large_content
from tests.components.stability_report.runs import losses, spiky, write_run

# Of uPlot 1.6.32 as npm has it.
UPLOT = {
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "uPlot.LICENSE.txt": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}


@pytest.mark.parametrize("name", UPLOT)
def test_borrowed_files_are_unchanged(name: str) -> None:
    content = (pathlib.Path(rendering.__file__).parent / "page" / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == UPLOT[name]


def test_page_names_the_licence_of_what_it_carries() -> None:
    page = rendering.render(ReportContent("a", "open", "b."))
    assert "Copyright (c) 2022 Leon Sorokin" in page
    assert "The above copyright notice and this permission notice shall be included" in page


def test_policy_allows_the_page_s_own_script_and_style_alone() -> None:
    page = rendering.render(ReportContent("a", "open", "b."))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for name in ("script", "style"):
        (text,) = re.findall(f"<{name}>(.*?)</{name}>", page, flags=re.DOTALL)
        assert f"{name}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert "style=" not in page


def test_page_of_the_largest_content_stays_within_its_size_and_says_what_it_left_out() -> None:
    content = large_content(steps=20_000, features=1_100)
    page = rendering.render(content)
    assert len(page.encode()) < rendering.LARGEST_PAGE_BYTES
    assert page.count('<svg class="histogram"') == 1_101
    assert "200 more anomalies are in the artifacts." in page
    # Texts as long as they may be.
    wordy = tuple({**row, "text": "word " * 120} for row in content.anomalies)
    (table,) = content.outliers
    table = {**table, "features": [{**feature, "rule": "rule " * 120} for feature in table["features"]]}
    (proofs,) = content.normalization
    shown = rendering.render(
        dataclasses.replace(content, anomalies=wordy, outliers=(table,) * 3, normalization=(proofs,) * 2)
    )
    assert len(shown.encode()) < rendering.LARGEST_PAGE_BYTES
    # Cut, not emptied.
    assert 1_000 <= shown.count('<svg class="histogram"') < 3_000
    assert "more features are in the artifacts." in shown


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values within a JSON value."""
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in entries:
        yield from _places(entry, (*path, name))


def _with(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[path[0]] = _with(value[path[0]], path[1:], new)
    return changed


@pytest.mark.parametrize("part", ["outliers", "class_balance", "normalization"])
def test_table_of_another_shape_than_promised_costs_no_more_than_itself(tmp_path: pathlib.Path, part: str) -> None:
    content = collect(write_run(tmp_path, losses(100), features=1), "shapes")
    (table,) = getattr(content, part)
    bare = ReportContent("shapes", "open", "Nothing.", anomalies=content.anomalies)
    dropped = 0
    for path in _places(table):
        for new in (None, "x", 7, -1.5, [3], {"a": {}}, [None, ["y"]]):
            page = rendering.render(dataclasses.replace(bare, **{part: (_with(table, path, new),)}))
            assert "33 rows lie outside the fences." in page
            dropped += "cannot be shown" in page
    assert dropped > 0


def test_spike_that_was_not_replayed_says_why(tmp_path: pathlib.Path) -> None:
    content = collect(write_run(tmp_path, spiky()), "left out")
    assert content.evaluation is not None
    first, second = content.evaluation["spikes"]
    left_out = {"first_step": 771, "reason": "the time for replays was over", "steps": [], "recorded": [], "losses": []}
    evaluation = {**content.evaluation, "spikes": [first, {**second, "replay": left_out}]}
    page = rendering.render(dataclasses.replace(content, evaluation=evaluation))
    assert page.count('<figure class="replayed">') == 1
    assert "Not replayed: the time for replays was over." in page


def test_spikes_of_the_validation_loss_are_told_with_their_causes(tmp_path: pathlib.Path) -> None:
    content = collect(write_run(tmp_path, losses()), "validation")
    assert content.evaluation is not None
    calm = np.tile([1.0, 1.01, 0.99, 1.0], 25)
    calm[[40, 80]] = 4.0, 6.0
    curve = TrainingCurve.from_columns(
        loss=0.1 + 0.001 * np.tile([0.0, 1.0, -1.0, 0.0], 250),
        validation_step=np.arange(10, 1001, 10),
        validation_loss=calm,
    )
    judged = result.to_json(result.with_causes(result.evaluate(curve)))
    assert (len(judged["spikes"]), len(judged["validation_spikes"])) == (0, 2)
    page = rendering.render(dataclasses.replace(content, evaluation=judged))
    assert "step 410: validation loss 4 where 1 was expected" in page
    assert "step 810: validation loss 6 where 1 was expected" in page
    assert "learns its rows by heart" in page
    assert "<dd>0, and 2 of the validation loss</dd>" in page
    assert 'id="spike-1"' not in page


def test_features_with_the_most_outliers_stand_first(tmp_path: pathlib.Path) -> None:
    content = collect(write_run(tmp_path, losses(100), features=3), "order")
    (table,) = content.outliers
    features = [
        {**feature, "counts": {"train": {"above": above, "missing": 999 - above}}}
        for feature, above in zip(table["features"], (3, 40, 0), strict=True)
    ]
    page = rendering.render(dataclasses.replace(content, outliers=({**table, "features": features},)))
    names = re.findall(r"<tr><td>(feature \d)</td><td><svg", page)
    assert names == ["feature 1", "feature 0", "feature 2"]
    assert "they were brought to the fences" in page


def test_class_stands_with_its_share_of_the_train_split_and_its_rows_in_a_batch(tmp_path: pathlib.Path) -> None:
    page = rendering.render(collect(write_run(tmp_path, losses(300)), "classes"))
    (row,) = re.findall(r"<tr><td>cancelled</td>.*?</tr>", page)
    cells = [re.sub("<[^>]+>", "", cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
    assert cells == ["cancelled", "10%", "50", "100", "4.5", "3.2 ± 1.7", "3.4%"]
    assert re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", page[page.index("In a batch of 32 rows") :])[0] == (
        "loss jitter",
        "0.2",
    )


def test_of_very_many_spikes_the_highest_are_told_under_their_own_numbers() -> None:
    content = large_content(steps=500_000, features=1)
    page = rendering.render(content)
    assert content.evaluation is not None
    spikes = content.evaluation["spikes"]
    told = [int(number) for number in re.findall(r'id="spike-(\d+)"', page)]
    assert told == sorted(told)
    assert len(told) == 200 < len(spikes)
    assert f"{len(spikes) - 200} lower spikes are in report.json" in page
    assert [int(number) for number in re.findall(r'href="#spike-(\d+)"', page)] == told
    assert min(spikes[number - 1]["height"] for number in told) >= sorted(spike["height"] for spike in spikes)[-200]


def test_compared_runs_name_what_differs(tmp_path: pathlib.Path) -> None:
    a = collect(write_run(tmp_path / "a", losses()), "calm", has_pusher=True)
    b = collect(write_run(tmp_path / "b", spiky()[:900], features=4), "wild", has_pusher=True)
    comparison = Comparison(a, b)
    text = text_of(comparison, 100)
    assert text.startswith("B is less stable than A: it is unstable where A is stable.\n  A  calm\n  B  wild\n")
    assert re.search(r"^  spikes +0 +2$", text, flags=re.MULTILINE)
    assert re.search(r"^  recipe: steps +1000 +900$", text, flags=re.MULTILINE)
    assert re.search(r"^  OutlierDetector: feature 3: Outliers +\u2013 +warning$", text, flags=re.MULTILINE)
    assert "recipe: loss" not in text
    assert not Comparison(b, a).is_worse
    assert Comparison(a, a).sentence == "Both runs are stable."
    page = render_comparison(comparison)
    assert page.count('<path class="run') == 2


def test_runs_without_a_curve_can_be_compared() -> None:
    nothing = ReportContent("a", "open", "Nothing was judged.")
    comparison = Comparison(nothing, nothing)
    assert comparison.sentence == "Both runs are not judged."
    assert "<svg" not in render_comparison(comparison)
