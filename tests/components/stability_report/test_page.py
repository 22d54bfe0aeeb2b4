"""The page in a browser: what it does, and that hostile content does nothing."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

import pytest

from spikeguard.components.stability_report.collecting import collect
from spikeguard.components.stability_report.comparison import Comparison
from spikeguard.components.stability_report.comparison_page import render_comparison
from spikeguard.components.stability_report.content import ReportContent
from spikeguard.components.stability_report.report import Report
from tests.browser import axe_source, opened
from tests.components.stability_report.runs import SPIKE_STEPS, losses, spiky, write_run

if TYPE_CHECKING:
    from tests.browser import Browser, Page

HOSTILE = (
    "<script>window.owned=1</script>",
    "</script><script>window.owned=1</script><!--",
    "\"'><img src=x onerror=window.owned=1>",
    "\u202egpj.exe \u2066 \u200f abc",
    "{{7*7}}{% raw %}",
    "\u2028\u2029\u0000\u001b[31m",
    "🎢 naïve \u05d0\u05d1\u05d2",
    "x" * 10_000,
)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> ReportContent:
    sources = write_run(tmp_path_factory.mktemp("run"), spiky(), features=12)
    return collect(sources, "delay of flights.csv", has_pusher=True)


@pytest.fixture(scope="module")
def page_text(content: ReportContent) -> str:
    return Report(content).html


def _width(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth"))


def _unfold(page: Page) -> None:
    """Opens what is folded, and has the browser lay out what is not yet in sight."""
    page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    page.locator("section").evaluate_all("all => all.forEach(one => { one.style.contentVisibility = 'visible'; })")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_opens_without_complaint_and_without_network(browser: Browser, page_text: str, scheme: str) -> None:
    with opened(browser, page_text, scheme=scheme) as (page, complaints):
        assert page.locator("#chart canvas").count() == 3
        assert page.locator(".static svg").is_hidden()
        assert "was not pushed because its training was unstable" in page.locator(".headline").inner_text()
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    assert complaints == []


def test_click_on_a_spike_opens_its_causes(browser: Browser, page_text: str) -> None:
    with opened(browser, page_text) as (page, complaints):
        page.locator("details.spike").evaluate_all("all => all.forEach(one => { one.open = false; })")
        assert not page.get_by_text("2 of 256 rows carry 87%").first.is_visible()
        page.get_by_role("button", name=f"Spike 2 at step {SPIKE_STEPS[1]}").click()
        page.locator("#spikes").evaluate("one => { one.style.contentVisibility = 'visible'; }")
        opened_spike = page.locator("details.spike[open]")
        assert opened_spike.count() == 1
        assert opened_spike.get_attribute("id") == "spike-2"
        replayed = opened_spike.get_by_role(
            "img", name=f"Highest loss of steps {SPIKE_STEPS[1] - 15} to {SPIKE_STEPS[1]}"
        )
        assert replayed.is_visible()
        assert replayed.locator("path.recorded, path.unchanged, path.changed").count() == 3
        text = opened_spike.inner_text()
    for part in (
        "outliers",
        "verified",
        "2 of 256 rows",
        "share of loss",
        "8812345",
        "--outliers winsorize",
        "Replayed",
        "replayed with one change: Removing 2 rows",
        "Replayed in part: the time for replays was over after 2 of 3 changes.",
    ):
        assert part.lower() in text.lower()
    assert complaints == []


def test_spike_is_reached_and_zoomed_to_by_the_keyboard(browser: Browser, page_text: str) -> None:
    with opened(browser, page_text) as (page, complaints):
        page.get_by_role("button", name="Spike 1 at step 301").focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.closest('details').id") == "spike-1"
        page.get_by_role("button", name="Show in the curve").first.press("Enter")
        assert page.locator(".mark:visible").count() == 1
        page.get_by_role("button", name="Show the whole run").press("Enter")
        assert page.locator(".mark:visible").count() == 2
        page.get_by_role("button", name="Zoom in").press("Enter")
        assert page.locator(".mark:visible").count() == 1  # Steps 250 to 750.
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert page.locator(".mark:visible").get_attribute("aria-label").startswith("Spike 2")
    assert complaints == []


def test_scale_of_the_loss_is_switched(browser: Browser, page_text: str) -> None:
    with opened(browser, page_text) as (page, complaints):
        linear = page.locator(".mark").first.evaluate("mark => mark.style.top")
        button = page.get_by_role("button", name="Logarithmic scale")
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        assert page.locator(".mark").first.evaluate("mark => mark.style.top") != linear
    assert complaints == []


def test_drag_zooms_all_panels(browser: Browser, page_text: str) -> None:
    with opened(browser, page_text) as (page, _):
        box = page.locator(".u-over").first.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 100)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 100, steps=4)
        page.mouse.up()
        assert page.locator(".mark:visible").count() == 1
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 100)
        readout = page.locator(".readout").inner_text()
    step = int(readout.split()[1])
    assert step == pytest.approx(300, abs=20)
    assert "gradient norm" in readout


def test_anomalies_are_sorted_searched_and_filtered(browser: Browser, page_text: str) -> None:
    with opened(browser, page_text) as (page, complaints):
        _unfold(page)
        section = page.locator("#anomalies")
        rows = section.locator("tbody tr:visible")
        assert rows.count() == 12 + 2 + 1
        assert rows.first.locator("td").first.inner_text() == "error"
        sort = section.get_by_role("button", name="feature")
        sort.click()
        assert section.locator("th[aria-sort=ascending]").inner_text().startswith("feature")
        names = rows.locator("td:nth-child(2)").all_inner_texts()
        assert names == sorted(names)
        sort.click()
        assert rows.locator("td:nth-child(2)").all_inner_texts() == names[::-1]
        section.get_by_role("searchbox").fill("FEATURE 11 outliers")
        assert rows.count() == 1
        assert section.locator("output").inner_text() == "1 of 15 rows"
        section.get_by_role("searchbox").fill("")
        section.get_by_role("combobox").select_option("error")
        assert rows.count() == 2
    assert complaints == []


def test_numbers_are_sorted_as_numbers(browser: Browser, content: ReportContent) -> None:
    rows = [{"feature": f"f{n}", "split": "train", "rows": n, "unusual": []} for n in (9, 1000, 10, 200)]
    with opened(browser, Report(dataclasses.replace(content, statistics=tuple(rows))).html) as (page, _):
        _unfold(page)
        page.locator("#statistics").get_by_role("button", name="rows").click()
        cells = page.locator("#statistics tbody td:nth-child(4)").all_inner_texts()
    assert cells == ["9", "10", "200", "1,000"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_has_no_horizontal_scroll(browser: Browser, page_text: str, scheme: str) -> None:
    with opened(browser, page_text, width=390, scheme=scheme, has_touch=True) as (page, complaints):
        _unfold(page)
        assert _width(page) == 390
    assert complaints == []


def test_everything_is_readable_without_javascript(browser: Browser, page_text: str) -> None:
    with opened(browser, page_text, java_script_enabled=False) as (page, complaints):
        assert page.locator(".static svg .spike").count() == 2
        assert page.locator(".static svg path.loss").is_visible()
        assert page.locator(".replayed svg").first.is_visible()
        for text in (
            "2 of 256 rows carry 87%",
            "Winsorize the outliers",
            "33 rows lie outside",
            "The sd is 41, not 1.",
        ):
            assert page.get_by_text(text).count()
        # Links of the picture lead to the causes, and no dead controls are shown.
        page.locator(".static a").last.click(force=True)
        assert page.url.endswith("#spike-2")
        assert page.locator("button:visible, input:visible, select:visible").count() == 0
    assert complaints == []


def test_printed_page_shows_picture_and_folded_parts(browser: Browser, page_text: str) -> None:
    with opened(browser, page_text) as (page, _):
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        assert page.locator(".static svg").is_visible()
        assert page.locator("#chart").is_hidden()
        assert page.locator(".replayed svg").count() == 2
        assert all(figure.is_visible() for figure in page.locator(".replayed svg").all())
        assert page.locator("details:not([open])").count() == 0
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("details:not([open])").count() > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility_checker_finds_nothing_serious(
    browser: Browser, page_text: str, tmp_path: pathlib.Path, scheme: str
) -> None:
    source = axe_source(tmp_path)
    with opened(browser, page_text, scheme=scheme) as (page, _):
        _unfold(page)
        page.evaluate(source)
        found = page.evaluate("axe.run().then(result => [result.passes.length, result.violations])")
    passes, violations = found
    told = [(one["impact"], one["id"], one["nodes"][0]["html"]) for one in violations]
    assert passes > 20
    assert [one for one in told if one[0] in ("serious", "critical")] == []


def test_hostile_content_is_inert_and_readable(browser: Browser, tmp_path: pathlib.Path) -> None:
    numbers = iter(range(10**6))

    def hostile(text: str) -> str:
        return f"{HOSTILE[next(numbers) % len(HOSTILE)]} {text}"

    sources = write_run(tmp_path, spiky(), text=hostile, features=len(HOSTILE))
    made = collect(sources, HOSTILE[1], has_pusher=True)
    assert made.notes == ()
    for width in (1200, 390):
        with opened(browser, Report(made).html, width=width) as (page, complaints):
            _unfold(page)
            assert page.evaluate("window.owned") is None
            assert page.locator("img").count() == 0
            assert page.locator("script").count() == 2
            assert _width(page) == width
            text = page.locator("body").inner_text()
        assert complaints == []
    assert "<script>window.owned=1</script>" in text
    assert "{{7*7}}" in text
    assert "🎢 naïve" in text
    assert "⟨202E⟩gpj.exe" in text
    assert "\u202e" not in text
    assert "… (10," in text


def test_script_that_got_into_the_page_is_not_run(browser: Browser, page_text: str) -> None:
    injected = page_text.replace("</body>", "<script>window.owned=1</script><img src=x onerror=window.owned=1></body>")
    assert injected != page_text
    with opened(browser, injected) as (page, complaints):
        assert page.evaluate("window.owned") is None
    assert any("Content Security Policy" in complaint for complaint in complaints)


def test_compared_runs_are_drawn_together(browser: Browser, tmp_path: pathlib.Path) -> None:
    calm = collect(write_run(tmp_path / "a", losses()), "calm", has_pusher=True)
    wild = collect(write_run(tmp_path / "b", spiky()), "wild", has_pusher=True)
    with opened(browser, render_comparison(Comparison(calm, wild)), width=390) as (page, complaints):
        assert page.locator(".headline").inner_text() == "B is less stable than A: it is unstable where A is stable."
        assert page.locator("#chart canvas").count() == 3
        _unfold(page)
        assert _width(page) == 390
        assert "spikes\t0\t2" in page.locator("#training tr", has_text="spikes").first.inner_text()
    assert complaints == []


def test_notebook_frame_runs_the_page_and_nothing_else(
    browser: Browser, page_text: str, content: ReportContent
) -> None:
    notebook = f"<!DOCTYPE html><title>notebook</title><body>{Report(content)._repr_html_()}</body>"
    with opened(browser, notebook) as (page, complaints):
        frame = page.frame_locator("iframe")
        assert frame.locator("#chart canvas").count() == 3
        assert frame.locator(".headline").inner_text().startswith("✕ unstable")
    assert [complaint for complaint in complaints if not complaint.endswith("about:srcdoc")] == []
