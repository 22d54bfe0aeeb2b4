"""What replays of one spike say: whose effect it is, which rows and inputs are unusual, and which change removes it."""

from __future__ import annotations

import time
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spikeguard.components.guarded_trainer.curvature import noise_scale
from spikeguard.components.guarded_trainer.kept_rows import Batch, joined
from spikeguard.components.guarded_trainer.kept_spike import Kept
from spikeguard.components.guarded_trainer.replay_changes import (
    MOST_ROWS,
    Change,
    enlarged,
    rescaled,
    slower,
    standardized,
    with_usual_classes,
    without_rows,
)
from spikeguard.components.guarded_trainer.replay_reference import Bools, Layout, Reference, steadiness
from spikeguard.components.spike_evaluator.causes.surroundings import REMOVED
from spikeguard.components.training_curve import Floats

# A replay without any change has the same spike where it has this share of its rise at least, and this multiple at most.
_LEAST_SAME, _MOST_SAME = 0.5, 3.0
# Rise, in multiples of the expected loss or of the highest one before it, beyond which a higher one is no other.
_UNBOUNDED, _BEYOND_BEFORE = 100.0, 10.0
# Share of the whole rise below which a first high loss is no beginning of it.
_PART = 0.1
# Multiple of what is usual from which a batch is unusual.
_ODD = 1.0
# Batches that the noise of the gradient is taken from.
_GRADIENTS = 6
# JSON has no infinity.
_HUGE = 1e30
# Ordinary rows whose loss is followed through the replayed steps.
_PROBE_ROWS = 256
# -log10 of the chance from which a batch's classes are unusual.
_UNUSUAL = 3.0
# What the learning rate is multiplied by, where it had not jumped, at most and at least.
_CUT, _LEAST_CUT = 0.1, 1e-3
_MOST_ROWS_TOLD = 5


class Steps(Protocol):
    """A model whose steps can be run from a state."""

    def restore(self, state: Any) -> None: ...

    def run(self, batch: Batch, scale: float) -> float: ...

    def losses(self, batch: Batch) -> Floats | None: ...

    def scale_inputs(self, scale: Floats) -> bool: ...

    def curvature(self, batch: Batch, rate: float) -> tuple[float, float] | None: ...

    def gradient_squares(self, batch: Batch) -> float: ...


class Replayed:
    """One kept spike and the model to replay it on."""

    def __init__(self, model: Steps, kept: Kept, deadline: float) -> None:
        self._model, self._kept, self._deadline = model, kept, deadline
        self._last_seconds = 0.0

    @property
    def is_over(self) -> bool:
        """Whether the time for replays would be over before another one ends."""
        return time.monotonic() + self._last_seconds > self._deadline

    def losses_at_state(self, batch: Batch) -> Floats | None:
        """Losses of rows with the kept weights. Shape (rows,); None where unknown."""
        self._model.restore(self._kept.state)
        return self._model.losses(batch)

    def gradient_figures(self, rows: Batch) -> dict[str, float]:
        """Curvature over its limit and noise scale at the kept state; without those that cannot be known."""
        self._model.restore(self._kept.state)
        figures: dict[str, float] = {}
        rate = float(np.max(self._kept.rates)) if np.isfinite(self._kept.rates).all() else 0.0
        found = self._model.curvature(rows, rate)
        if found is not None and np.isfinite(found[0]):
            figures |= {"curvature": found[0], "stability_limit": found[1], "curvature_over_limit": found[0] / found[1]}
        small = self._kept.batches[:_GRADIENTS]
        size = float(np.mean([len(batch) for batch in small]))
        if len(rows) >= 4 * size:
            squares = float(np.mean([self._model.gradient_squares(batch) for batch in small]))
            figures["noise_scale"] = noise_scale(squares, size, self._model.gradient_squares(rows), float(len(rows)))
        return figures

    def run(self, change: Change | None = None) -> Floats | None:
        """Losses of the replayed steps, with a change; None where the model does not allow for it. Shape (steps,)."""
        self._model.restore(self._kept.state)
        batches, scale = self._kept.batches, 1.0
        if change is not None:
            batches, scale = list(change.batches or batches), change.scale
            if change.input_scale is not None and not self._model.scale_inputs(change.input_scale):
                return None
        started = time.monotonic()
        losses = np.array([self._model.run(batch, scale) for batch in batches])
        self._last_seconds = time.monotonic() - started
        return losses

    def follow(self, probe: Batch) -> tuple[Floats, Floats]:
        """Losses of the replayed steps, and the probe's mean loss before each and after the last. Shape (steps,), (steps + 1,)."""
        self._model.restore(self._kept.state)
        losses, levels = [], []
        for batch in self._kept.batches:
            levels.append(_mean(self._model.losses(probe)))
            losses.append(self._model.run(batch, 1.0))
        levels.append(_mean(self._model.losses(probe)))
        return np.array(losses), np.array(levels)


def analyse(kept: Kept, replayed: Replayed, layout: Layout) -> dict[str, Any]:
    """The result of a spike's replays, as the fields of `replay.json`; see `spike_evaluator.causes.replays`.

    Args:
      kept: state and batches.
      replayed: the model.
      layout: of the batches.
    """
    peak_place = len(kept.batches) - 1
    first_place = kept.first - kept.state_step - 1
    reference = _reference(kept, replayed, layout, first_place)
    probe = reference.rows.take(np.arange(min(len(reference.rows), _PROBE_ROWS)))
    losses, levels = replayed.follow(probe)
    expected, peak = kept.expected, _capped(np.max(_ranked(losses[first_place:])))
    recorded = _capped(kept.losses[peak_place])
    rise = recorded - expected
    base: dict[str, Any] = {
        "reason": "",
        "expected": expected,
        "peak": peak,
        "recorded_peak": recorded,
        # Of all replayed steps, so that the curves can be drawn side by side; at most 96 of them are kept.
        "steps": [kept.state_step + 1 + place for place in range(len(kept.batches))],
        "recorded": kept.losses.tolist(),
        "losses": losses.tolist(),
        "changes": [],
    }
    same = (peak - expected) / rise if rise > 0 else 0.0
    look = _Look(kept, replayed, reference, levels, max(peak - expected, 1e-30), first_place, losses)
    if not _LEAST_SAME <= same <= _MOST_SAME:
        reason = f"the replay had a peak of {peak:.4g} where the training had {recorded:.4g}, and so no change could be tried"
        return {**base, **look.findings(), "is_reproduced": False, "reason": reason}
    changes: list[dict[str, Any]] = []
    # Of a loss without bounds all but nothing is left by any change: what counts is how far it is from what was expected.
    # Before a rise at the start the median may be near zero, where a few losses are not.
    before = np.nan_to_num(kept.losses[:first_place], posinf=0.0)
    most = max(
        _UNBOUNDED * max(abs(expected), expected - float(np.min(_ranked(losses)))),
        _BEYOND_BEFORE * float(np.max(before, initial=0.0)),
    )
    gradients: dict[str, float] = {}
    wanted = look.data_changes()
    faults, total = len(wanted), len(wanted) + len(look.setting_changes(0.0, is_explained=False))
    tried = 0
    while tried < len(wanted) or tried == faults:
        if replayed.is_over:
            base["reason"] = f"the time for replays was over after {tried} of {total} changes"
            break
        if tried == faults:
            # A fault of the data explains the spike: other settings would verify nothing, but for a rate that has risen.
            is_explained = any(change["left"] <= REMOVED for change in changes)
            # What the curvature bears tells how far to cut the rate.
            gradients = {} if is_explained else replayed.gradient_figures(probe)
            wanted += look.setting_changes(gradients.get("curvature_over_limit", 0.0), is_explained)
        change = wanted[tried]
        tried += 1
        result = replayed.run(change)
        if result is not None:
            height = _capped(np.max(_ranked(result[first_place:])))
            changes.append(
                {
                    "change": change.name,
                    "cause": change.cause,
                    "text": change.text,
                    "peak": height,
                    "left": min(_HUGE, max(0.0, (height - expected) / min(peak - expected, most))),
                    "figures": change.figures,
                    "losses": result.tolist(),
                }
            )
    findings = look.findings()
    findings["figures"] |= gradients
    return {**base, **findings, "is_reproduced": True, "changes": changes}


class _Look:
    """The batches of one spike, seen against ordinary rows."""

    def __init__(
        self,
        kept: Kept,
        replayed: Replayed,
        reference: Reference,
        levels: Floats,
        rise: float,
        first_place: int,
        replayed_losses: Floats,
    ) -> None:
        self._kept, self._reference = kept, reference
        batches = kept.batches
        rows = joined(batches)
        found = replayed.losses_at_state(rows)
        losses = np.full(len(rows), np.nan) if found is None else found
        cuts = np.cumsum([len(batch) for batch in batches])[:-1]
        self._losses = np.split(losses, cuts)
        distances, columns = reference.distances(rows)
        self._distances, self._columns = np.split(distances, cuts), np.split(columns, cuts)
        expected = kept.expected
        own = _mean(self._losses[-1])
        self.batch_effect = float(np.clip((own - expected) / rise, 0.0, 2.0)) if np.isfinite(own) else 0.0
        last = levels[len(batches) - 1] - levels[0]
        self.weight_effect = float(np.clip(last / rise, 0.0, 2.0)) if np.isfinite(last) else 1.0
        self._first, self._replayed_losses, self._rise = first_place, replayed_losses, rise
        self.suspects = self._find_suspects()
        self.culprit = self._find_culprit(levels)
        self._batch = batches[self.culprit]
        self.surplus = reference.surplus_class(self._batch)
        self.rare_share = self._share_of_loss(reference.rare_rows(self._batch))
        self.off_share = float(np.mean(self._distances[self.culprit] > 1.0))
        self.shifted = reference.shifted_columns(self._batch)
        self.steady, self.amounts = steadiness(reference.layout, batches)
        self.raw = reference.raw_columns()

    def _find_culprit(self, levels: Floats) -> int:
        """Place of the step whose batch is to blame; what follows the first high loss may be its aftermath.

        The first high step, where its batch is high with the kept weights, too; else a step up to there with something
        unusual in its batch; else the one whose update raised the level most.
        """
        last = len(self._kept.batches) - 1
        first = min(self._first, last)
        own = _mean(self._losses[first])
        rise = float(self._replayed_losses[first]) - self._kept.expected
        # Where what follows is out of all proportion to the first high loss, that one is but what came by before.
        is_whole = not rise < _PART * self._rise
        if first == 0 or (is_whole and own - self._kept.expected > 0.5 * rise):
            return first
        oddity = np.array([self._oddity(place) for place in range((first if is_whole else last) + 1)])
        near = max(0, first - 2)
        if oddity[near:].max() >= _ODD:
            return near + int(np.argmax(oddity[near:]))
        if oddity.max() >= 2.0 * _ODD:
            return int(np.argmax(oddity))
        with np.errstate(invalid="ignore"):
            jumps = np.nan_to_num(np.diff(levels)[: first + 1], nan=np.inf, posinf=np.inf)
        return int(np.argmax(jumps))

    def _share_of_loss(self, rows: Bools) -> float:
        """Share of the culprit's loss in some of its rows."""
        losses = np.maximum(np.nan_to_num(self._losses[self.culprit], nan=_HUGE, posinf=_HUGE), 0.0)
        return float(losses[rows].sum() / losses.sum()) if losses.sum() > 0 else 0.0

    def _oddity(self, place: int) -> float:
        """How unusual a batch is, 1 for at the edge of what is usual."""
        batch, losses = self._kept.batches[place], self._losses[place]
        suspects = self.suspects[place]
        total = float(np.sum(np.maximum(np.nan_to_num(losses), 0.0)))
        carried = float(np.sum(np.maximum(np.nan_to_num(losses), 0.0)[suspects])) / total if total > 0 else 0.0
        classes = self._reference.surplus_class(batch)[0]
        distance = _capped(np.max(self._distances[place], initial=0.0))
        return float(
            max(
                min(distance, 100.0) if suspects.any() else 0.0,
                2.0 * carried,
                classes / _UNUSUAL,
                3.0 if len(self._reference.shifted_columns(batch)) else 0.0,
            )
        )

    def _find_suspects(self) -> list[Bools]:
        """Rows of each batch that no ordinary row is like: by their inputs, or by their loss before the spike."""
        suspects = []
        for batch, losses, distances in zip(self._kept.batches, self._losses, self._distances, strict=True):
            with np.errstate(invalid="ignore"):
                # Of a model that knows its rows by heart any other row is high: those count that raise their batch.
                high = self._reference.high_losses(batch, losses) & ~(losses < 0.5 * _mean(losses))
            odd = (distances > 1.0) | high | (~np.isfinite(losses) & np.isfinite(_mean(self._reference.losses)))
            if self._reference.surplus_class(batch)[0] >= _UNUSUAL:
                # Many rows of a class that was hardly there before: the class is what is unusual, not its rows.
                odd &= ~self._reference.unknown_classes(batch)
            suspects.append(odd)
        return suspects

    def data_changes(self) -> list[Change]:
        """Faults of the data that are worth a replay."""
        kept, reference, seed = self._kept, self._reference, self._kept.peak
        batches = kept.batches
        found: list[Change | None] = []
        if len(self.shifted):
            found.append(rescaled(batches, reference))
        elif self.off_share <= MOST_ROWS:
            found.append(without_rows(batches, self.suspects, self.culprit, reference, seed))
        if len(self.raw):
            found.append(standardized(batches, reference, kept.state_step == 0))
        if self.surplus[0] >= _UNUSUAL or self.rare_share >= 0.5:
            found.append(with_usual_classes(batches, reference, seed))
        return [change for change in found if change is not None]

    def setting_changes(self, over_limit: float, is_explained: bool) -> list[Change]:
        """Settings of the training that are worth a replay: at least one.

        Args:
          over_limit: largest curvature over what the learning rate bears; 0 where unknown.
          is_explained: whether a fault of the data explains the spike.
        """
        batches, reference, seed = self._kept.batches, self._reference, self._kept.peak
        found: list[Change | None] = [slower(self._rate_factor(over_limit))]
        usual = float(np.median([len(batch) for batch in batches]))
        is_short = len(self._batch) < 0.75 * usual
        if not is_explained and (usual <= 64 or is_short):
            # What stands out is tried first: the time may not do for both.
            found.insert(0 if is_short else 1, enlarged(batches, reference, seed))
        return [change for change in found if change is not None]

    def _rate_factor(self, over_limit: float) -> float:
        """What undoes a rise of the learning rate, and makes it half of what the curvature bears; a tenth at most."""
        rates, factor = self._kept.rates, _CUT
        if np.all(rates > 0):
            factor = min(factor, float(rates[0] / rates.max()))
        if over_limit > 0:
            factor = min(factor, 0.5 / over_limit)
        return max(factor, _LEAST_CUT)

    def findings(self) -> dict[str, Any]:
        """Figures, unusual inputs and rows of the culprit."""
        kept, reference, place = self._kept, self._reference, self.culprit
        losses, distances = self._losses[place], self._distances[place]
        suspects = self.suspects[place]
        finite = np.where(np.isfinite(losses), losses, 0.0)
        order = np.argsort(-np.where(suspects, np.inf, finite), kind="stable")
        figures = {
            "batch_size": len(self._batch),
            "usual_batch_size": float(np.median([len(batch) for batch in kept.batches])),
            "suspicious_rows": int(suspects.sum()),
            "suspicious_share_of_loss": self._share_of_loss(suspects),
            "share_of_rows_beyond_fences": self.off_share,
            "largest_distance": float(_capped(np.max(distances, initial=0.0))),
            "shifted_columns": len(self.shifted),
            "raw_columns": len(self.raw),
            "columns": len(reference.names),
            "steady_share": self.steady,
            "amounts": self.amounts,
            "log10_chance_of_classes": -self.surplus[0],
            "surplus_class": self.surplus[1],
            "rows_of_surplus_class": self.surplus[2],
            "expected_rows_of_surplus_class": self.surplus[3],
            "rare_share_of_loss": self.rare_share,
            "reference_rows": len(reference.rows),
            "sampling_chance": self._sampling_chance(),
        }
        return {
            "batch_effect": self.batch_effect,
            "weight_effect": self.weight_effect,
            "culprit_step": kept.state_step + place + 1,
            "figures": figures,
            "features": [self._feature(int(column)) for column in [*self.shifted[:5], *self.raw[:5]]],
            "rows": [self._row(place, int(row)) for row in order[: min(_MOST_ROWS_TOLD, int(suspects.sum()))]],
        }

    def _sampling_chance(self) -> float:
        """Share of batches of as many ordinary rows, drawn at random, whose mean loss is as high as the last batch's."""
        losses = self._reference.losses[np.isfinite(self._reference.losses)]
        own = _mean(self._losses[-1])
        if len(losses) < 32 or not np.isfinite(own):
            return float("nan")
        count = len(self._kept.batches[-1])
        drawn = np.random.default_rng(0).choice(losses, (2000, min(count, 64))).mean(axis=1)
        if count > 64:
            drawn = losses.mean() + (drawn - losses.mean()) * np.sqrt(64 / count)
        return float(np.mean(drawn >= own))

    def _feature(self, column: int) -> dict[str, Any]:
        reference = self._reference
        values = reference.layout.matrix(self._batch)[:, column]
        return {
            "feature": reference.names[column],
            "median": float(np.median(values)),
            "usual_median": float(reference.median[column]),
            "spread": float(np.std(values)),
            "usual_spread": float(reference.spread[column]),
            "largest": float(np.max(np.abs(values))),
        }

    def _row(self, place: int, row: int) -> dict[str, Any]:
        reference, batch = self._reference, self._kept.batches[place]
        column = int(self._columns[place][row])
        named = int(batch.ids[row])
        is_beyond = self._distances[place][row] > 1.0
        return {
            "example_id": named if named >= 0 else None,
            "step": self._kept.state_step + place + 1,
            "loss": float(self._losses[place][row]),
            "feature": reference.names[column] if is_beyond else None,
            "value": float(reference.layout.matrix(batch)[row, column]) if is_beyond else None,
            "lower": float(reference.lower[column]) if is_beyond else None,
            "upper": float(reference.upper[column]) if is_beyond else None,
        }


def _reference(kept: Kept, replayed: Replayed, layout: Layout, first_place: int) -> Reference:
    """Ordinary rows: those drawn from calm steps before, and those of the replayed steps before the first high one.

    The last two of these are left out: one of them may be what led to the spike.
    """
    rows = joined([kept.reference, *kept.batches[: max(0, first_place - 2)]])
    if len(rows) > 1024:
        rows = rows.take(np.sort(np.random.default_rng(0).choice(len(rows), 1024, replace=False)))
    losses = replayed.losses_at_state(rows)
    return Reference(layout, rows, np.full(len(rows), np.nan) if losses is None else losses)


def _mean(losses: Floats | None) -> float:
    return float(np.mean(losses)) if losses is not None and len(losses) else float("nan")


def _ranked(losses: npt.NDArray[Any]) -> Floats:
    return np.where(np.isfinite(losses), losses, np.inf)


def _capped(value: Any) -> float:
    return float(np.clip(np.nan_to_num(value, nan=_HUGE, posinf=_HUGE), -_HUGE, _HUGE))
