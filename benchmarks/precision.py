"""What half precision costs in accuracy: a checkpoint's fp16 and bf16 graphs beside float32, on labelled images.

    python benchmarks/precision.py runs/mine/ckpt.pt --data test.parquet

All on the processor: ONNX Runtime runs the fp16 graph that TensorRT would be given, PyTorch the bf16 one, which ONNX
Runtime cannot. That takes minutes for 10,000 images; what is done so far is shown.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dhvt.data.batches import Predict, iterate_batches
from dhvt.data.fingerprint import fingerprint
from dhvt.data.record import require_unseen
from dhvt.data.splits import open_first_split
from dhvt.hardware.cpus import processor_name
from dhvt.model.checkpoint import load_checkpoint
from dhvt.model.inference import InferenceModel, torch_predict
from export.graph import export_graph
from export.parity import onnxruntime_predict
from export.precision import DTYPES, cast
from export.settings import OPSET_VERSION


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", required=True, help="labelled images, laid out as for dhvt train")
    parser.add_argument(
        "--precisions", nargs="+", default=["fp16", "bf16"], choices=[name for name in DTYPES if name != "fp32"]
    )
    parser.add_argument("--resize-mode", choices=["crop", "squash", "pad"], help="default: as in training")
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.checkpoint)
    if args.resize_mode:
        checkpoint.preprocess["resize_mode"] = args.resize_mode
    preprocess = checkpoint.build_preprocess()
    model = InferenceModel(checkpoint.build_model(), preprocess).eval()
    predictors: dict[str, Predict] = {"fp32": torch_predict(model)}
    with tempfile.TemporaryDirectory() as folder:
        for precision in args.precisions:
            converted = cast(model, precision)
            if precision == "bf16":
                predictors[precision] = torch_predict(converted)
            else:
                path = Path(folder) / f"{precision}.onnx"
                export_graph(converted, preprocess, path, OPSET_VERSION)
                predictors[precision] = onnxruntime_predict(path)
    source = open_first_split(args.data, ["val", "test"], checkpoint.classes).source
    require_unseen(fingerprint(source), checkpoint.data, ["training"])  # they are compared on validation images too
    logits: dict[str, list[np.ndarray]] = {name: [] for name in predictors}
    labels = []
    with tqdm(total=len(source), unit="image") as bar:
        for batch in iterate_batches(source, preprocess, 100):
            labels.append(batch.labels)
            for name, predict in predictors.items():
                logits[name].append(predict(batch.images))
            bar.update(len(batch.images))
    truth = np.concatenate(labels)
    joined = {name: np.concatenate(parts) for name, parts in logits.items()}
    answers = {name: values.argmax(1) for name, values in joined.items()}
    line = {
        "benchmark": "precision",
        "model": checkpoint.name,
        "images": len(truth),
        "top1_percent": {name: round(100 * float((answer == truth).mean()), 2) for name, answer in answers.items()},
        "same_top1_as_fp32_percent": {
            name: round(100 * float((answers[name] == answers["fp32"]).mean()), 2) for name in args.precisions
        },
        "largest_logit_error": {name: round(float(np.abs(joined[name] - joined["fp32"]).max()), 4) for name in args.precisions},
        "processor": processor_name(),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
