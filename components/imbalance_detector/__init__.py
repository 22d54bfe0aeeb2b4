"""ImbalanceDetector: what the label's classes, and their share in each batch, do to the loss."""
