"""Exporting a checkpoint to an artifact. Start reading at :mod:`export.pipeline`."""

from dhvt.telemetry import disable_telemetry

disable_telemetry()
