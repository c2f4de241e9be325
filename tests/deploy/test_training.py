"""deploy/kubernetes/training and deploy/slurm: valid, and what they start is a training that the command line takes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import click
import pytest
import yaml
from torch.distributed.run import get_args_parser

from dhvt.cli.train import train

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SCRIPT = DEPLOY / "slurm" / "train.sbatch"
KUBERNETES_VERSIONS = ("1.27.0", None)  # the oldest that is supported, and the newest that is known


def manifest():
    return yaml.safe_load_all((DEPLOY / "kubernetes/training/job.yaml").read_text())


def parse(words):
    """Arguments of ``torchrun``, and those of ``dhvt train`` in them."""
    arguments = get_args_parser().parse_args(words)
    assert (arguments.module, arguments.training_script) == (True, "dhvt.cli")
    name, *options = arguments.training_script_args
    assert name == "train"
    with click.Context(train), train.make_context("train", options) as context:
        return arguments, context.params


def test_the_manifest_is_valid():
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    for resource in manifest():
        for version in KUBERNETES_VERSIONS:
            kubernetes_validate.validate(resource, version or kubernetes_validate.latest_version(), strict=True)


def test_the_pods_are_the_nodes_of_one_training():
    service, job = manifest()
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    arguments, options = parse([word.replace("$(JOB_COMPLETION_INDEX)", "1") for word in container["args"]])
    assert container["command"] == ["torchrun"]
    assert int(arguments.nnodes) == spec["completions"] == spec["parallelism"]
    assert arguments.node_rank == 1
    assert arguments.nproc_per_node == container["resources"]["limits"]["nvidia.com/gpu"]
    assert arguments.master_addr == f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert arguments.master_port == service["spec"]["ports"][0]["port"]
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert options["resume"]
    assert {options["data"], str(Path(options["out"]).parent)} <= mounts


def program(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("gpus", [None, 4])
def test_slurms_tasks_are_the_nodes_of_one_training(tmp_path, gpus):
    """Slurm's programs are replaced by short ones: ``srun`` runs the command once for each node."""
    program(tmp_path, "scontrol", '[ "$*" = "show hostnames node[7-8]" ] && printf "node7\\nnode8\\n"')
    program(tmp_path, "srun", 'while [[ $1 == --* ]]; do shift; done; for n in 0 1; do SLURM_NODEID=$n "$@"; done')
    program(tmp_path, "torchrun", 'printf "%s\\n" "$@" END')
    slurm = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "61234", "SLURM_CPUS_PER_TASK": "16"}
    slurm |= {} if gpus is None else {"SLURM_GPUS_ON_NODE": str(gpus)}
    environ = os.environ | slurm | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = [str(SCRIPT), "--data", "/data/my images", "--out", "/runs/mine"]
    result = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    nodes = [parse(lines.strip("\n").split("\n")) for lines in result.stdout.split("END\n")[:-1]]
    assert [arguments.node_rank for arguments, _ in nodes] == [0, 1]
    for arguments, options in nodes:
        assert (arguments.nnodes, arguments.nproc_per_node) == ("2", str(gpus or 1))
        assert (arguments.master_addr, arguments.master_port) == ("node7", 21234)
        assert (options["data"], str(options["out"]), options["resume"]) == ("/data/my images", "/runs/mine", True)


def test_shellcheck_finds_nothing_in_the_slurm_script():
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("needs shellcheck")
    result = subprocess.run([shellcheck, str(SCRIPT)], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_image_has_what_the_package_is_made_of():
    lines = (DEPLOY / "kubernetes/training/Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert {"dhvt", "export", "serving", "pyproject.toml", "README.md", "LICENSE"} == set(copied)
    assert all((DEPLOY.parent / path).exists() for path in copied)
