"""Training over two nodes: the same loss curve, a lost node, and resuming, on two network namespaces with a processor each.

    python benchmarks/train_nodes.py --data images/ --out runs/nodes

Needs root, iproute2 and util-linux. The nodes have no common folder: each has its own copy of the images and its own --out.
Prints one JSON object a line: ``curve`` (one process and two nodes with the same batch), ``lost`` (for each way to lose a node:
seconds until the other prints its error and until its ``torchrun`` has stopped, exit code and error) and ``resumed`` (on one
node and on two).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dhvt.model.checkpoint import load_checkpoint
from two_nodes import Node, two_nodes

PORT = 29400
MODEL = ["--img-size", "32", "--model-option", "depth=2", "--model-option", "embed_dim=32"]
RECIPE = ["--optimizer", "adamw", "--lr", "1e-3", "--drop-path-rate", "0", "--batch-size", "64"]
ALL = ["--device", "cpu", "--amp", "off", "--num-workers", "0"]
ENVIRONMENT = {"GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Setting:
    """What all trainings share.

    Args:
        out: a folder, with a copy of the images for each node.
        wait_s: of ``--wait-minutes``.
        limit_s: seconds after which a training counts as stuck.
    """

    out: Path
    epochs: int
    wait_s: float
    limit_s: float

    def options(self, rank: int, out: Path) -> list[str]:
        """Of ``dhvt train`` on a node."""
        own = ["--data", str(self.out / f"images{rank}"), "--out", str(out), "--epochs", str(self.epochs)]
        return ["train", *own, *MODEL, *RECIPE, *ALL, "--wait-minutes", str(self.wait_s / 60)]

    def start(self, nodes: Sequence[Node], name: str, *more: str) -> list[subprocess.Popen[Any]]:
        """The training on one node, or on several by ``torchrun``; node N writes into OUT/NAME-N and OUT/NAME-N.log."""
        started = []
        for rank, node in enumerate(nodes):
            out = self.out / f"{name}-{rank}"
            program = ["-m", "dhvt.cli", *self.options(rank, out), *more]
            if len(nodes) > 1:
                rendezvous = ["--master-addr", nodes[0].address, "--master-port", str(PORT)]
                torchrun = ["--nnodes", str(len(nodes)), "--nproc-per-node", "1", "--node-rank", str(rank), *rendezvous]
                program = ["-m", "torch.distributed.run", *torchrun, *program]
            with out.with_suffix(".log").open("w") as log:
                process = node.start([sys.executable, *program], ENVIRONMENT, stdout=log, stderr=log)
            started.append(process)
        return started

    def finish(self, processes: Sequence[subprocess.Popen[Any]], name: str) -> list[dict[str, Any]]:
        """Waits for a training; returns its epochs' metrics."""
        for rank, process in enumerate(processes):
            if process.wait(self.limit_s):
                raise SystemExit(f"{name} failed:\n{(self.out / f'{name}-{rank}.log').read_text()[-2000:]}")
        return [json.loads(line) for line in (self.out / f"{name}-0" / "metrics.jsonl").read_text().splitlines()]


def compare(expected: list[dict[str, Any]], got: list[dict[str, Any]], partial: int | None = None) -> dict[str, Any]:
    """The losses of both by epoch, and their largest difference.

    Args:
        partial: the epoch in which a run was resumed, whose training loss is the mean of its last steps alone.
    """
    figures: dict[str, Any] = {}
    losses = {row["epoch"]: row for row in expected}
    for name in ("train_loss", "val_loss"):
        rows = [row for row in got if row["epoch"] != partial or name == "val_loss"]
        pairs = {row["epoch"]: [losses[row["epoch"]][name], row[name]] for row in rows}
        figures[name] = {epoch: [round(value, 5) for value in pair] for epoch, pair in pairs.items()}
        figures[f"largest_difference_of_{name}"] = max(abs(first - second) for first, second in pairs.values())
    return figures


def wait_for_mid_epoch(path: Path, steps: int, limit_s: float) -> int:
    """The step of the first checkpoint in the second epoch, which is not at its beginning."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if path.exists() and steps < (step := load_checkpoint(path).step) < 2 * steps:
            return step
        time.sleep(0.02)
    raise SystemExit(f"no checkpoint in mid-epoch at {path}")


def error_lines(log: Path) -> list[str]:
    """The lines of ``dhvt train``, which ``torchrun``'s report follows."""
    return re.findall(r"^Error: .*", log.read_text(), re.MULTILINE)


def kill_programs(node: Node) -> None:
    """As when memory runs out: the programs end, the network stays."""
    for number in node.processes():
        os.kill(number, 9)


def lose(setting: Setting, how: str, lost: int, steps: int) -> tuple[dict[str, Any], Path]:
    """Loses a node in mid-epoch; returns figures of the other, and its folder."""
    name = f"lost-{how}-{lost}"
    with two_nodes() as nodes:
        processes = setting.start(nodes, name, "--checkpoint-minutes", "0")
        other = 1 - lost
        step = wait_for_mid_epoch(setting.out / f"{name}-{other}" / "ckpt.pt", steps, setting.limit_s)
        started = time.monotonic()
        nodes[lost].kill() if how == "cable" else kill_programs(nodes[lost])
        folder = setting.out / f"{name}-{other}"
        while not error_lines(folder.with_suffix(".log")) and processes[other].poll() is None:
            time.sleep(0.05)
        error_after = time.monotonic() - started
        code = processes[other].wait(setting.limit_s)
        stopped_after = time.monotonic() - started
    figures = {
        "figure": "lost",
        "how": how,
        "lost_node": lost,
        "wait_s": setting.wait_s,
        "lost_at_step": step,
        "seconds_until_error": round(error_after, 1),
        "seconds_until_torchrun_stopped": round(stopped_after, 1),
        "exit_code": code,
        "error": error_lines(folder.with_suffix(".log"))[-1:],
        "checkpoint_step": load_checkpoint(folder / "ckpt.pt").step,
    }
    return figures, folder


def resume(setting: Setting, folder: Path, count: int, steps: int, expected: list[dict[str, Any]]) -> dict[str, Any]:
    """Goes on from the folder of the last node, on so many nodes; the others' are empty.

    Args:
        steps: of an epoch.
    """
    name = f"resumed-on-{count}"
    shutil.copytree(folder, setting.out / f"{name}-{count - 1}")
    from_step = load_checkpoint(folder / "ckpt.pt").step
    with two_nodes() as nodes:
        setting.finish(setting.start(nodes[:count], name, "--resume"), name)
    paths = [setting.out / f"{name}-{number}" for number in range(count)]
    rows = [json.loads(line) for line in (paths[-1] / "metrics.jsonl").read_text().splitlines()]
    figures = {"figure": "resumed", "nodes": count, "from_step": from_step}
    figures["steps"] = [load_checkpoint(path / "ckpt.pt").step for path in paths]
    return figures | compare(expected, rows, from_step // steps + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of class folders")
    parser.add_argument("--per-class", type=int, default=60, help="images of each class that are used")
    parser.add_argument("--out", type=Path, required=True, help="an empty folder")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--wait-s", type=float, default=20, help="of --wait-minutes")
    parser.add_argument("--limit-s", type=float, default=280, help="after which a training counts as stuck")
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    setting = Setting(args.out, args.epochs, args.wait_s, args.limit_s)
    for rank in range(2):
        for folder in sorted(path for path in args.data.iterdir() if path.is_dir()):
            copy = args.out / f"images{rank}" / folder.name
            copy.mkdir(parents=True)
            for path in sorted(folder.iterdir())[: args.per_class]:
                shutil.copy(path, copy)
    with two_nodes() as nodes:
        one = setting.finish(setting.start(nodes[:1], "one"), "one")
        two = setting.finish(setting.start(nodes, "two"), "two")
    print(json.dumps({"figure": "curve"} | compare(one, two)), flush=True)
    steps = load_checkpoint(args.out / "one-0" / "ckpt.pt").step // args.epochs
    for how, lost in (("programs", 0), ("cable", 1), ("cable", 0)):
        figures, folder = lose(setting, how, lost, steps)
        print(json.dumps(figures), flush=True)
    for count in (1, 2):
        print(json.dumps(resume(setting, folder, count, steps, one)), flush=True)


if __name__ == "__main__":
    main()
