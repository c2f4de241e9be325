"""What runs the graph: one file per runtime, one protocol, and the choice between them."""

from serving.engines.base import Engine
from serving.engines.choose import ENGINES, Choice, all_candidates, check_engine, open_engine
from serving.engines.verify import Verification, verify_engines

__all__ = ["ENGINES", "Choice", "Engine", "Verification", "all_candidates", "check_engine", "open_engine", "verify_engines"]
