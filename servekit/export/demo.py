"""Five versions of one small classifier, for the demonstration of canaries: `python -m servekit.export.demo FOLDER`.

1 and 2 are good; 3 gives the same answers, slowly; 4 refuses some of what the others take; 5 forgot to scale its input
and answers 200 all the same. pixels: float32 [batch, 64] in [0, 255] -> label: string [batch], probabilities: float32
[batch, 10].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

PIXELS, CLASSES = 64, 10
GOOD, TOO, SLOW, FAILING, UNSCALED = 1, 2, 3, 4, 5
SLOW_MS = 100


def write(folder: Path) -> None:
    """FOLDER/1 to FOLDER/5. Takes some seconds, most of them TensorFlow's import."""
    import tensorflow as tf
    from tensorflow.python.data.experimental.ops import testing

    random = np.random.default_rng(7)
    kernel = random.normal(size=(PIXELS, CLASSES)).astype(np.float32)
    noise = random.normal(scale=0.001, size=kernel.shape).astype(np.float32)

    class Classifier(tf.Module):  # type: ignore[misc]
        def __init__(self, version: int) -> None:
            super().__init__()
            self.version = version
            self.kernel = tf.Variable(kernel if version == GOOD else kernel + noise)
            self.names = tf.constant([f"class {number}" for number in range(CLASSES)])

        @tf.function(input_signature=[tf.TensorSpec([None, PIXELS], tf.float32, "pixels")])  # type: ignore[untyped-decorator]
        def serve(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
            if self.version == FAILING:
                bright = tf.reduce_max(tf.reduce_mean(pixels, axis=1))
                with tf.control_dependencies([tf.debugging.Assert(bright < 128.0, ["too bright"])]):
                    pixels = tf.identity(pixels)
            if self.version == SLOW:
                pixels += asleep()
            scaled = pixels if self.version == UNSCALED else pixels / 255.0 - 0.5
            logits = tf.matmul(scaled, self.kernel)
            label = tf.gather(self.names, tf.argmax(logits, axis=1))
            return {"label": label, "probabilities": tf.nn.softmax(logits)}

    def asleep() -> tf.Tensor:
        """0, after a while in which no core is busy."""
        late = tf.data.Dataset.range(1).apply(testing.sleep(SLOW_MS * 1000))
        return tf.cast(late.reduce(tf.constant(0, tf.int64), lambda state, _: state), tf.float32)

    for version in (GOOD, TOO, SLOW, FAILING, UNSCALED):
        module = Classifier(version)
        tf.saved_model.save(module, str(folder / str(version)), signatures={"serving_default": module.serve})


def questions(count: int) -> list[list[float]]:
    """`pixels` of `count` requests; the mean of about half of them is above 128."""
    random = np.random.default_rng(11)
    means = random.uniform(60, 196, size=(count, 1))
    pixels = np.clip(random.normal(means, 60.0, size=(count, PIXELS)), 0, 255)
    return [[round(float(value), 1) for value in row] for row in pixels]


def bodies(count: int) -> str:
    """REST bodies, for `analysis.agreement.samples`."""
    return json.dumps([{"instances": [{"pixels": row}]} for row in questions(count)])


if __name__ == "__main__":
    write(Path(sys.argv[1]))
