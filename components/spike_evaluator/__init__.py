"""SpikeEvaluator: judges a training curve and blesses or blocks the model that it belongs to."""
