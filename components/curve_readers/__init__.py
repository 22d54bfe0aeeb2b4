"""Reads training curves out of the logs of other tools: TensorBoard, CSV, JSON lines, Keras, Hugging Face."""
