"""A DHVT-T with patches of 4 on CIFAR-100, from scratch: training, export, and its accuracy on the test images.

    python benchmarks/cifar100.py --data cifar100/ --out runs/cifar100

``--data`` is as for ``dhvt train``, with a part ``train`` and a part ``test``. One in fifty of the training images is held out
to watch the training and to calibrate the scores; the test images are looked at once, at the end. Some hours on two processor
cores; one that was stopped goes on. ``--train-option=--init=FILE`` with another ``--out`` goes on from the weights of one that
is finished, with the same images held out. Appends a JSON line to ``results/cifar100.jsonl``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from runs import Measurements, export_and_test, learning_curve, train_once

MEASURED = Measurements("cifar100")
VARIANT = "dhvt_tiny_cifar_patch4"
OPTIONS = ["--variant", VARIANT, "--name", "dhvt_tiny_cifar100", "--val-fraction", "0.02"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class>/ and test/<class>/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the run; a second start goes on where one stopped")
    parser.add_argument("--recipe", default="short")
    parser.add_argument("--epochs", type=int, default=75)
    parser.add_argument("--train-option", action="append", default=[], metavar="--NAME=VALUE", help="more for dhvt train")
    args = parser.parse_args()
    metrics = train_once(args.out, ["--data", str(args.data / "train")], args, 0, OPTIONS)
    test = export_and_test(args.out, ["--data", args.data / "train"], args.data / "test")
    key = {"variant": VARIANT, "recipe": args.recipe, "epochs": args.epochs, "options": args.train_option}
    measured = {name: round(metrics[name], 2) for name in ("val_top1", "train_seconds")}
    line = {**key, **measured, "parameters": metrics["parameters"], "test": test, "curve": learning_curve(args.out)}
    MEASURED.record(line)


if __name__ == "__main__":
    main()
