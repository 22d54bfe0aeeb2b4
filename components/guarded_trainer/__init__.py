"""GuardedTrainer: trains a Keras model by a typed recipe and records the true loss of every step."""
