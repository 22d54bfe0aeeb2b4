"""What the runs of the guard bench say of each arm, as numbers, as tables and as Markdown."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.table import Table

from tests.bench.guard_data import TWINS_ONLY
from tests.bench.guard_runs import ACTIONS, Run

# What people do and what the recipe does without a guard: the best of these is what an error is compared with.
REFERENCES = ("keras", "recipe")
_SANE_EXCESS, _USEFUL_EXCESS = 1.05, 1.1
_OVERALL = "all"


@dataclasses.dataclass(frozen=True)
class Reference:
    """What the unguarded arms reach on one data set."""

    data: str
    best_error: float
    """Smallest median over seeds of the validation error, over both reference arms and all rates."""
    best_arm: str
    best_rate: float
    clean_error: float | None
    """`best_error` of the data before they were spoiled; None where they were not, or where that was not run."""
    sane_rates: tuple[float, ...]
    """Rates at which the recipe is stable with every seed and its median error lies within 5 % of the best."""
    of: str
    """The data set whose runs these are: the unspoiled twin where rows are not finite, as no unguarded network outlives them."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """One arm on one data set, or on all of them. Ratios are validation errors over `Reference.best_error`.

    None: no run to tell it from. Infinite: an error that was not finite.
    """

    arm: str
    data: str
    runs: int
    stable: float
    """Share of the runs with the verdict `stable`; see `Run.verdict`."""
    stable_sane: float | None
    finite: float
    """Share of the runs whose validation error is finite after the last step."""
    sane_median: float | None
    sane_worst: float | None
    all_median: float | None
    all_worst: float | None
    useful: float | None
    """Share of the runs, at all rates, that ended within 10 % of the best."""
    stable_useful: float | None
    """Share of the runs, at all rates, that are stable and ended within 10 % of the best: a network whose units have died
    predicts a constant, and its curve is calm."""
    clean_median: float | None
    """At the sane rates, over the best error on the unspoiled data."""
    intervened: float | None
    """Share of the steps intervened in, over runs that the recipe passes as stable with the same data, rate and seed, where
    all rows are finite."""
    intervened_sane: float | None
    """The same over the sane rates only, where the recipe is not just calm but good."""
    intervened_by_kind: dict[str, float] | None
    """`intervened` by kind; a step may count for several."""


def references(runs: Sequence[Run]) -> dict[str, Reference]:
    """By data set; without those that no reference arm was run on, or, where rows are not finite, on their twin."""
    found = {}
    for data in dict.fromkeys(run.data for run in runs):
        medians = {
            (arm, rate): statistics.median(_error(run) for run in group)
            for (arm, rate), group in _grouped(
                (run for run in runs if run.data == data and run.arm in REFERENCES and not run.gaps),
                lambda run: (run.arm, run.rate),
            ).items()
        }
        if not medians:
            continue
        (arm, rate), best = min(medians.items(), key=lambda item: item[1])
        recipe = _grouped((run for run in runs if run.data == data and run.arm == "recipe"), lambda run: run.rate)
        sane = tuple(
            rate
            for rate, group in sorted(recipe.items())
            if all(run.verdict == "stable" for run in group) and medians["recipe", rate] <= _SANE_EXCESS * best
        )
        found[data] = Reference(data, best, arm, rate, None, sane, of=data)
    for data, twin in {run.data: run.twin for run in runs if run.twin != run.data}.items():
        if twin in found:
            clean = found[twin]
            found[data] = dataclasses.replace(found.get(data, clean), data=data, clean_error=clean.best_error)
    return found


def summarize(runs: Sequence[Run]) -> list[Summary]:
    """One row per arm over all data sets, then one per arm and data set, in the order of the runs."""
    known = references(runs)
    healthy = {
        (run.data, run.rate, run.seed)
        for run in runs
        if run.arm == "recipe" and run.verdict == "stable" and not run.gaps
    }
    counted = [run for run in runs if run.data not in TWINS_ONLY]
    arms = list(dict.fromkeys(run.arm for run in counted))
    scopes = [_OVERALL, *dict.fromkeys(run.data for run in counted)]
    groups = [
        (arm, scope, [run for run in counted if run.arm == arm and scope in (_OVERALL, run.data)])
        for scope in scopes
        for arm in arms
    ]
    return [_summary(arm, scope, group, known, healthy) for arm, scope, group in groups if group]


def _summary(
    arm: str, scope: str, runs: list[Run], known: dict[str, Reference], healthy: set[tuple[str, float, int]]
) -> Summary:
    compared = [(run, known[run.data]) for run in runs if run.data in known]
    sane = [(run, reference) for run, reference in compared if run.rate in reference.sane_rates]
    ratios = [_error(run) / reference.best_error for run, reference in compared]
    sane_ratios = [_error(run) / reference.best_error for run, reference in sane]
    clean_ratios = [_error(run) / reference.clean_error for run, reference in sane if reference.clean_error]
    left_alone = [run for run in runs if (run.data, run.rate, run.seed) in healthy]
    sane_alone = [run for run, _ in sane if not run.gaps]
    steps, sane_steps = sum(run.steps for run in left_alone), sum(run.steps for run in sane_alone)
    has_worked = [
        run.verdict == "stable" and ratio <= _USEFUL_EXCESS for (run, _), ratio in zip(compared, ratios, strict=True)
    ]
    return Summary(
        arm=arm,
        data=scope,
        runs=len(runs),
        stable=_share(run.verdict == "stable" for run in runs) or 0.0,
        stable_sane=_share(run.verdict == "stable" for run, _ in sane),
        finite=_share(run.error is not None for run in runs) or 0.0,
        sane_median=_median(sane_ratios),
        sane_worst=max(sane_ratios, default=None),
        all_median=_median(ratios),
        all_worst=max(ratios, default=None),
        useful=_share(ratio <= _USEFUL_EXCESS for ratio in ratios),
        stable_useful=_share(has_worked),
        clean_median=_median(clean_ratios),
        intervened=sum(run.intervened for run in left_alone) / steps if steps else None,
        intervened_sane=sum(run.intervened for run in sane_alone) / sane_steps if sane_steps else None,
        intervened_by_kind={kind: sum(run.interventions[kind] for run in left_alone) / steps for kind in ACTIONS}
        if steps
        else None,
    )


_HEADER = (
    "arm",
    "runs",
    "stable",
    "at sane",
    "finite",
    "error, sane",
    "worst",
    "over clean",
    "error, all",
    "worst",
    "useful",
    "and stable",
    "intervened",
    "at sane",
    "skip / clip / back off / roll back",
)


def rows(summaries: Iterable[Summary], data: str) -> list[tuple[str, ...]]:
    """The cells of one scope's table, below `_HEADER`."""
    return [
        (
            one.arm,
            str(one.runs),
            _percent(one.stable),
            _percent(one.stable_sane),
            _percent(one.finite),
            _ratio(one.sane_median),
            _ratio(one.sane_worst),
            _ratio(one.clean_median),
            _ratio(one.all_median),
            _ratio(one.all_worst),
            _percent(one.useful),
            _percent(one.stable_useful),
            _percent(one.intervened, digits=2),
            _percent(one.intervened_sane, digits=2),
            " / ".join(_percent(share, digits=2) for share in (one.intervened_by_kind or {}).values()),
        )
        for one in summaries
        if one.data == data
    ]


def rate_rows(runs: Sequence[Run]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and cells: by arm and rate, the share of stable runs and the median ratio over all data sets."""
    known, rates = references(runs), sorted({run.rate for run in runs})
    counted = [run for run in runs if run.data in known and run.data not in TWINS_ONLY]
    cells = []
    for arm, group in _grouped(counted, lambda run: run.arm).items():
        by_rate = _grouped(group, lambda run: run.rate)
        cells.append((arm, *(_rate_cell(by_rate.get(rate, []), known) for rate in rates)))
    return ("arm", *(f"{rate:g}" for rate in rates)), cells


def _rate_cell(runs: list[Run], known: dict[str, Reference]) -> str:
    ratio = _median([_error(run) / known[run.data].best_error for run in runs])
    return f"{_percent(_share(run.verdict == 'stable' for run in runs))} {_ratio(ratio)}"


def sections(runs: Sequence[Run]) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Title, header and cells of every table."""
    summaries, metrics = summarize(runs), {run.data: run.metric for run in runs}
    known = references(runs)
    reference_cells = [
        (
            one.data,
            metrics[one.data],
            f"{one.best_error:.4g}",
            f"{one.best_arm}, {one.best_rate:g}" + ("" if one.of == one.data else f" ({one.of})"),
            "" if one.clean_error is None else f"{one.best_error / one.clean_error:.3f}",
            ", ".join(f"{rate:g}" for rate in one.sane_rates) or "none",
        )
        for one in known.values()
    ]
    header = ("data", "error", "best", "arm, rate", "best over clean", "sane rates")
    scopes = dict.fromkeys(one.data for one in summaries)
    return [
        ("Best unguarded runs", header, reference_cells),
        *((f"Data: {scope}", _HEADER, rows(summaries, scope)) for scope in scopes),
        ("Share of stable runs and median error ratio, by rate", *rate_rows(runs)),
    ]


def rich_tables(runs: Sequence[Run]) -> list[Table]:
    """The sections for a terminal."""
    tables = []
    for title, header, cells in sections(runs):
        table = Table(*header, title=title)
        for row in cells:
            table.add_row(*row)
        tables.append(table)
    return tables


def markdown(runs: Sequence[Run]) -> str:
    """The sections for a document."""
    parts = []
    for title, header, cells in sections(runs):
        lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *cells)]
        parts.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _grouped(runs: Iterable[Run], key: Callable[[Run], Any]) -> dict[Any, list[Run]]:
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


def _error(run: Run) -> float:
    return float("inf") if run.error is None else run.error


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _share(flags: Iterable[bool]) -> float | None:
    flags = list(flags)
    return sum(flags) / len(flags) if flags else None


def _percent(share: float | None, digits: int = 0) -> str:
    return "" if share is None else f"{share:.{digits}%}"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3f}" if ratio < 100 else f"{ratio:.2g}"
