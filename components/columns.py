"""Names of the columns that spikeguard adds to the rows of others."""

from __future__ import annotations

# Names an example. It is recorded, and no input of the model.
EXAMPLE_ID = "example_id"
# What OutlierDetector says of a row: how easily it is isolated, in (0, 1], and whether it is an outlier, 0 or 1.
OUTLIER_SCORE, OUTLIER_FLAG = "outlier_score", "outlier_flag"
# Weight of a row in the loss, >= 0.
SAMPLE_WEIGHT = "sample_weight"
