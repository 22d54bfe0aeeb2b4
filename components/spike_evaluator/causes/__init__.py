"""Why a loss spiked: one small file per cause, each with the same interface."""
