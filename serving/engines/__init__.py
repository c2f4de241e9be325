"""What runs the graph: one file per runtime, one protocol, and the choice between them."""

from serving.engines.base import Engine
from serving.engines.choose import ENGINES, check_engine, open_engine

__all__ = ["ENGINES", "Engine", "check_engine", "open_engine"]
