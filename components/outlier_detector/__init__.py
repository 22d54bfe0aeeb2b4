"""OutlierDetector: rows far from what the train split says of itself, shown and treated."""
