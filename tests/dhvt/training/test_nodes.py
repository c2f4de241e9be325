"""Training over nodes without a common disk: two processes that each are the first of a node, as ``torchrun`` starts them."""

import json
import os
import shutil
import subprocess
import sys

import psutil
import pytest
import torch
from torch.distributed import DistNetworkError

from dhvt.errors import TrainError
from dhvt.model.checkpoint import load_checkpoint
from dhvt.training.nodes import lost_processes_named
from tests.dhvt.training.commands import SMALL, STARTED, arguments, run, wait_until
from tests.serving.conftest import free_port

OPTIONS = [*SMALL, "--epochs", "6", "--optimizer", "adamw", "--lr", "1e-3", "--drop-path-rate", "0", "--amp", "off"]
OPTIONS += ["--random-erasing", "0", "--checkpoint-minutes", "0"]


def start_nodes(folder, *options):
    """Node N has its images in ``dataN`` and writes into ``outN``."""
    port = str(free_port())
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LD_PRELOAD": ""}
    nodes = []
    for rank in range(2):
        torchrun = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(rank)]
        program = ["-m", "dhvt.cli", *arguments(folder / f"data{rank}", folder / f"out{rank}", *OPTIONS, *options)]
        command = [sys.executable, *torchrun, "--master-addr", "127.0.0.1", "--master-port", port, *program]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        nodes.append(subprocess.Popen(command, env=environment, text=True, **streams))
    STARTED.extend(nodes)
    return nodes


def kill(process):
    for part in (process, *psutil.Process(process.pid).children(recursive=True)):
        part.kill()
    process.communicate()


def is_in_mid_epoch(path):
    return path.exists() and load_checkpoint(path).step in (4, 5, 7, 8)


def assert_learned_the_same(expected, got):
    assert (got.step, got.metrics["epoch"], got.best["epoch"]) == (
        expected.step,
        expected.metrics["epoch"],
        expected.best["epoch"],
    )
    for name, weight in expected.weights.items():
        if name.endswith(("weight", "running_var")):
            torch.testing.assert_close(got.weights[name], weight, rtol=1e-3, atol=2e-4, msg=name)


def test_a_lost_node_is_named_and_the_run_goes_on_without_it_or_with_another(image_folder, tmp_path):
    """The node that is lost is the first one, with its disk."""
    assert run(image_folder, tmp_path / "undisturbed", *OPTIONS).exit_code == 0
    undisturbed = load_checkpoint(tmp_path / "undisturbed" / "ckpt.pt")
    for rank in range(2):
        shutil.copytree(image_folder, tmp_path / f"data{rank}")
    first, second = start_nodes(tmp_path)
    assert wait_until(lambda: is_in_mid_epoch(tmp_path / "out1" / "ckpt.pt")), "no checkpoint appeared"
    kill(first)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 1, output
    (error,) = (line for line in output.splitlines() if line.startswith("Error: "))
    assert "lost another process or its node" in error
    assert f"{tmp_path / 'out1' / 'ckpt.pt'} is kept" in error
    assert error.endswith("--checkpoint-minutes 0 --resume")
    shutil.rmtree(tmp_path / "out0")
    shutil.copytree(tmp_path / "out1", tmp_path / "alone")
    nodes = start_nodes(tmp_path, "--resume")
    assert run(image_folder, tmp_path / "alone", *OPTIONS, "--resume").exit_code == 0
    assert_learned_the_same(undisturbed, load_checkpoint(tmp_path / "alone" / "ckpt.pt"))
    outputs = [node.communicate(timeout=120)[0] for node in nodes]
    assert "the checkpoint of process 1, at step" in outputs[0]
    copies = [load_checkpoint(tmp_path / f"out{rank}" / "ckpt.pt") for rank in range(2)]
    for copy in copies:
        assert_learned_the_same(undisturbed, copy)
    assert all(torch.equal(weight, copies[1].weights[name]) for name, weight in copies[0].weights.items())
    for rank in range(2):
        rows = (tmp_path / f"out{rank}" / "metrics.jsonl").read_text().splitlines()
        assert json.loads(rows[-1])["epoch"] == 6
        assert {"best.pt", "config.toml"} <= {path.name for path in (tmp_path / f"out{rank}").iterdir()}
    assert (tmp_path / "out0" / "report" / "report.md").exists()
    assert not list(tmp_path.glob("out*/.*"))


THREE_PROCESSES = """
import json, os, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from dhvt.errors import TrainError
from dhvt.training.distributed import any_process, open_accelerator
from dhvt.training.nodes import lost_processes_named, writes_files

context = get_context("fork")
has_given_up = context.Event()

def ask(environ, folders):
    os.environ |= environ
    accelerator = open_accelerator("cpu", "off", wait_minutes=0.1)
    answers = [writes_files(accelerator, Path(folder)) for folder in folders]
    if not accelerator.is_main_process:  # and says nothing more
        has_given_up.wait(60)
        return answers
    try:
        with lost_processes_named("dhvt train", Path("ckpt.pt")):
            any_process(accelerator, False)
    except TrainError as error:
        answers.append(str(error))
    has_given_up.set()
    return answers

with ProcessPoolExecutor(3, context) as pool:
    print(json.dumps(list(pool.map(ask, *json.loads(sys.argv[1])))))
"""


def test_one_process_writes_or_one_of_each_node_and_silence_ends_in_an_error(tmp_path):
    """Of three processes the last two are on one node; the first folder is common, the other each node's own.

    In the end two of them are silent, as behind a cut cable.
    """
    everywhere = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    places = [(0, 0), (1, 0), (1, 1)]  # node and number there
    environs = [
        everywhere | {"RANK": str(rank), "LOCAL_RANK": str(number), "LOCAL_WORLD_SIZE": str(node + 1)}
        for rank, (node, number) in enumerate(places)
    ]
    for name in ("common", "node0", "node1"):
        (tmp_path / name).mkdir()
    folders = [[str(tmp_path / "common"), str(tmp_path / f"node{node}")] for node, _ in places]
    command = [sys.executable, "-c", THREE_PROCESSES, json.dumps([environs, folders])]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=120)
    (*first, error), second, third = json.loads(result.stdout)
    assert (first, second, third) == ([True, True], [False, True], [False, False])
    assert "lost another process or its node, whose own output may say why (Timed out waiting 6000ms" in error
    assert not list(tmp_path.glob("*/.*"))


@pytest.mark.parametrize("given", ["dhvt train --out runs/a", "dhvt train --out runs/a --resume"])
def test_the_error_names_the_command_that_goes_on(tmp_path, given):
    message = "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.77.0.1]:40000. Check the logs."
    expected = r"\(Connection closed by peer \[10.77.0.1\]:40000\).*dhvt train --out runs/a --resume$"
    with pytest.raises(TrainError, match=expected) as raised, lost_processes_named(given, tmp_path / "ckpt.pt"):
        raise RuntimeError(message)
    assert "the last checkpoint, if there is one, is kept" in str(raised.value)
    with pytest.raises(TrainError, match="lost another process"), lost_processes_named(given, tmp_path / "ckpt.pt"):
        raise DistNetworkError("The client socket has timed out after 600000ms")
    with pytest.raises(RuntimeError, match="mat1"), lost_processes_named(given, tmp_path / "ckpt.pt"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
