"""Steps for a preprocessing_fn: what is fitted on the analysed split, inside the transform graph."""
