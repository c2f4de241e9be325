"""Trains on a folder of images and exports the model, as ``dhvt train`` and ``dhvt export`` do.

    python examples/train_on_a_folder.py images/ runs/mine

``images/`` has a folder for each class. ``DHVT_MODEL=runs/mine/artifact bentoml serve`` then serves the model.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dhvt import Recipe, RunOptions, load_checkpoint, train
from export.pipeline import export_model
from export.settings import ExportOptions


def main() -> None:
    """Prints how good the model is, and where it lies."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    data, out = sys.argv[1], Path(sys.argv[2])
    options = RunOptions(data=data, out=out)
    recipe = Recipe.preset("short")  # the number of epochs is chosen by the number of images
    checkpoint = train(options, recipe)
    print(f"last epoch: {checkpoint.metrics['val_top1']:.1f} % of the images that were held out")

    best = load_checkpoint(out / "best.pt")  # the epoch with the lowest validation loss
    artifact = export_model(best, out / "artifact", options=ExportOptions(data=data))
    print(f"{artifact.card.name} {artifact.card.version} in {artifact.path}, classes: {', '.join(artifact.card.classes)}")


if __name__ == "__main__":
    main()
