"""NormalizationValidator: proves or refutes that constants of a transform graph come from the train split alone."""
