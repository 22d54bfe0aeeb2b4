"""TrainingStatistics: TFDV statistics of the train split alone, with robust ones beside them."""
