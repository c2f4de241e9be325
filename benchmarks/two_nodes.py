"""Two nodes on one machine: network namespaces with an address and a processor each, joined by a virtual cable.

Needs root, iproute2 and util-linux.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Node:
    """One of the two: a network namespace, its address, and the processor that its programs run on."""

    name: str
    address: str
    core: int

    def command(self, command: Sequence[str]) -> list[str]:
        """The command that runs there."""
        return ["ip", "netns", "exec", self.name, "taskset", "-c", str(self.core), *command]

    def start(self, command: Sequence[str], env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[Any]:
        """Starts a program there, in a process group of its own."""
        return subprocess.Popen(self.command(command), env=os.environ | dict(env or {}), start_new_session=True, **options)

    def processes(self) -> list[int]:
        """The numbers of all processes there."""
        found = subprocess.run(["ip", "netns", "pids", self.name], check=True, capture_output=True, text=True)
        return [int(number) for number in found.stdout.split()]

    def kill(self) -> None:
        """Ends the node at once, as a power cut does: all processes, and the cable."""
        _ip("-n", self.name, "link", "set", "eth0", "down")
        for number in self.processes():
            os.kill(number, 9)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
    """Both, until the block ends; whatever runs there then is killed."""
    names = [f"dhvt-{os.getpid()}-{number}" for number in (1, 2)]
    nodes = tuple(Node(name, f"10.77.0.{number}", number % (os.cpu_count() or 1)) for number, name in enumerate(names, 1))
    try:
        for node in nodes:
            _ip("netns", "add", node.name)
        _ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for node in nodes:
            _ip("-n", node.name, "addr", "add", f"{node.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", node.name, "link", "set", device, "up")
        yield nodes[0], nodes[1]
    finally:
        for node in nodes:
            subprocess.run(["sh", "-c", f"ip netns pids {node.name} | xargs -r kill -9; ip netns del {node.name}"], check=False)
