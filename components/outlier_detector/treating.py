"""What becomes of each judged row, and the columns that it gets."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from spikeguard.components.columns import EXAMPLE_ID, OUTLIER_FLAG, OUTLIER_SCORE
from spikeguard.components.outlier_detector.config import DetectorConfig
from spikeguard.components.outlier_detector.scoring import Verdict


@dataclasses.dataclass(frozen=True)
class Treated:
    """The rows of a batch after the treatment; every row is kept as it is, treated or dropped."""

    is_dropped: npt.NDArray[np.bool_]
    """Shape (rows,)."""
    is_treated: npt.NDArray[np.bool_]
    """Written, but counts for less or is clipped in the transform graph. Shape (rows,)."""
    columns: dict[str, npt.NDArray[Any]]
    """What every row gets, by name. Shape (rows,) each."""


def treat(
    verdict: Verdict, ids: npt.NDArray[np.int64] | None, config: DetectorConfig, is_training_split: bool
) -> Treated:
    """Applies the treatment to a batch.

    Args:
      verdict: of the batch.
      ids: of its rows; None where they carry ids, or get none.
      config: names the treatment.
      is_training_split: rows of other splits are scored and flagged, and that is all: what is not trained on needs no
        treatment, and dropped there it would embellish the evaluation.
    """
    is_outlier = verdict.is_outlier
    nothing = np.zeros(len(is_outlier), bool)
    columns: dict[str, npt.NDArray[Any]] = {
        OUTLIER_SCORE: verdict.score.astype(np.float32),
        OUTLIER_FLAG: is_outlier.astype(np.int64),
    }
    if ids is not None:
        columns[EXAMPLE_ID] = ids
    is_dropped = is_treated = nothing
    if config.treatment == "drop" and is_training_split:
        is_dropped = is_outlier
    elif config.treatment == "downweight":
        is_treated = is_outlier if is_training_split else nothing
        columns[config.weight] = np.where(is_treated, config.outlier_weight, 1.0).astype(np.float32)
    elif config.treatment == "winsorize":
        # The transform graph clips all splits, and serving.
        is_treated = verdict.is_clipped
    return Treated(is_dropped, is_treated, columns)
