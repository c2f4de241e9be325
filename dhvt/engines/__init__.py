"""What runs the graph: one file per runtime, one protocol, and the choice between them."""

from dhvt.engines.base import Engine
from dhvt.engines.registry import ENGINES, Choice, all_candidates, check_engine, open_engine
from dhvt.engines.verify import Verification, verify_engines
from dhvt.telemetry import disable_telemetry

disable_telemetry()  # before a runtime is imported

__all__ = ["ENGINES", "Choice", "Engine", "Verification", "all_candidates", "check_engine", "open_engine", "verify_engines"]
