"""What is served and exported here is nobody else's business, so no library reports home from it."""

from __future__ import annotations

import os
import sys


def disable_telemetry() -> None:
    """Turns off what would report to its maker; to be called before they are imported. The environment may say otherwise.

    ONNX Runtime does so since 1.29 (hashes of the model and its file's name among it), BentoML's commands and servers do.
    OpenVINO and NNCF have no such variable; where the package that reports for them cannot be imported, they do without.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # Python's way to forbid an import
