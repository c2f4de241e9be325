"""What runs the graph: one file per runtime, one protocol, and the choice between them."""

from dhvt.engines.base import Engine
from dhvt.engines.registry import ENGINES, Choice, all_candidates, check_engine, open_engine
from dhvt.engines.settings import EngineSettings
from dhvt.engines.verify import Verification, verify_engines
from dhvt.telemetry import disable_telemetry

__all__ = [
    "ENGINES",
    "Choice",
    "Engine",
    "EngineSettings",
    "Verification",
    "all_candidates",
    "check_engine",
    "open_engine",
    "verify_engines",
]

disable_telemetry()  # before a runtime is imported, and in the processes that probe
