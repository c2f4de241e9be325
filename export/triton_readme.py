"""``README.md`` of a model in Triton's repository: what a client sends, and what it gets."""

from __future__ import annotations

from dhvt.artifact import INPUT_NAME, OUTPUT_NAME, ModelCard
from dhvt.data.preprocess import Preprocess

RESIZING = {
    "crop": "scale the shorter side to the input's and cut out the middle (crop_pct {crop_pct:g})",
    "squash": "scale both sides independently to the input's",
    "pad": "scale the longer side to the input's, and fill the rest with the mean colour",
}

_TEXT = """\
# {name}

`{architecture}`, version {version}, digest `{digest}`, written by DHVT Serve. Serve the folder around this one:

    tritonserver --model-repository=FOLDER
    docker run --rm -p 8000-8002:8000-8002 -v FOLDER:/models nvcr.io/nvidia/tritonserver:XX.YY-py3 \\
        tritonserver --model-repository=/models

## What a client sends

`{input}`, uint8 `[batch, {height}, {width}, 3]`, RGB. Triton does not decode images, so the client does:

1. Decode, turn by the EXIF orientation, convert to RGB.
2. To {width}×{height} (width × height) pixels, {interpolation}: {resizing}.
3. Leave the values at 0 to 255: the model has mean and standard deviation inside.

In Python, with this package, exactly as in training:

    import numpy as np
    import tritonclient.http as triton
    from dhvt.data.preprocess import Preprocess, preprocess_image

    preprocess = Preprocess({arguments})
    images = np.stack([preprocess_image(open("image.jpg", "rb").read(), preprocess)])
    tensor = triton.InferInput("{input}", images.shape, "UINT8")
    tensor.set_data_from_numpy(images)
    client = triton.InferenceServerClient("localhost:8000")
    wanted = triton.InferRequestedOutput("{output}", class_count=1)  # leave class_count out for all logits
    print(client.infer("{name}", [tensor], outputs=[wanted]).as_numpy("{output}"))

## What it gets

`{output}`, float32 `[batch, {classes}]`, in the order of `labels.txt`. Scores are `softmax(logits / {temperature!r})`. With
`class_count` Triton sends the highest logits with their labels in place of the array.

Where clients cannot prepare images: DHVT Serve's own server takes encoded ones, at `/v2/models/NAME/infer` too, as BYTES.
"""


def write_readme(card: ModelCard, name: str) -> str:
    """The text.

    Args:
        name: of the model in Triton.
    """
    preprocess = card.preprocess
    height, width = preprocess.size
    return _TEXT.format(
        name=name,
        architecture=card.architecture,
        version=card.version,
        digest=card.digest,
        input=INPUT_NAME,
        output=OUTPUT_NAME,
        height=height,
        width=width,
        interpolation=preprocess.interpolation,
        resizing=RESIZING[preprocess.resize_mode].format(crop_pct=preprocess.crop_pct),
        arguments=_describe_arguments(preprocess),
        classes=len(card.classes),
        temperature=card.temperature,
    )


def _describe_arguments(preprocess: Preprocess) -> str:
    """Arguments for :class:`Preprocess`; mean and standard deviation too, because padding has the mean colour."""
    return ", ".join(f"{key}={value!r}" for key, value in preprocess.to_dict().items())
