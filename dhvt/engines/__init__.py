"""The engines that run the graph: one file per runtime, one interface, and the choice between them."""

from dhvt.engines.base import Engine, EngineOptions
from dhvt.engines.calibrate import measure_reference
from dhvt.engines.ranking import Candidate
from dhvt.engines.registry import ENGINES, all_candidates, build_engine
from dhvt.engines.selection import Choice, check_engine, measure_engines, open_engine
from dhvt.engines.settings import EngineSettings
from dhvt.engines.verify import Verification, verify_engines
from dhvt.telemetry import disable_telemetry

__all__ = [
    "ENGINES",
    "Candidate",
    "Choice",
    "Engine",
    "EngineOptions",
    "EngineSettings",
    "Verification",
    "all_candidates",
    "build_engine",
    "check_engine",
    "measure_engines",
    "measure_reference",
    "open_engine",
    "verify_engines",
]

disable_telemetry()  # before a runtime is imported, and in the processes that probe
