"""An artifact to HTTP."""

from dhvt.telemetry import disable_telemetry

disable_telemetry()
