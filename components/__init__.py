"""The TFX components, one folder each, and the contracts that they share."""
