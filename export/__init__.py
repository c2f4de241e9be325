"""A checkpoint to an artifact."""

from dhvt.telemetry import disable_telemetry

disable_telemetry()
