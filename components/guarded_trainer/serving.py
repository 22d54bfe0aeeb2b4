"""Exports a model that takes raw examples, so that serving does exactly what training did."""

from __future__ import annotations

import keras
import tensorflow as tf
import tensorflow_transform as tft

from spikeguard.components.columns import EXAMPLE_ID

SERVING_SIGNATURE = "serving_default"
TRANSFORM_SIGNATURE = "transform_features"


def export(
    model: keras.Model, transform_output: tft.TFTransformOutput, label: str, model_dir: str, weight: str | None = None
) -> None:
    """Writes a SavedModel with two signatures, both from serialized raw tf.Examples of shape (batch,).

    - `serving_default`: input `examples`, output `predictions` of the model's output shape; neither label nor weight is
      needed.
    - `transform_features`: input `examples`, outputs the transformed features, label included: what Evaluator compares with.
    """
    module = tf.Module()
    module.model = model
    module.transform = transform_output.transform_features_layer()
    raw_spec = transform_output.raw_feature_spec()
    unlabelled_spec = {name: spec for name, spec in raw_spec.items() if name != label}
    examples = tf.TensorSpec([None], tf.string, name="examples")

    @tf.function(input_signature=[examples], autograph=False)  # type: ignore[untyped-decorator]
    def serve(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        features = dict(module.transform(tf.io.parse_example(examples, unlabelled_spec)))
        for name in (label, EXAMPLE_ID, weight):
            features.pop(name, None)
        return {"predictions": model(features, training=False)}

    @tf.function(input_signature=[examples], autograph=False)  # type: ignore[untyped-decorator]
    def transform_features(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(module.transform(tf.io.parse_example(examples, raw_spec)))

    tf.saved_model.save(
        module, model_dir, signatures={SERVING_SIGNATURE: serve, TRANSFORM_SIGNATURE: transform_features}
    )
