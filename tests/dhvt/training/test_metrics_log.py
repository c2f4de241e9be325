"""What a training writes besides its checkpoint, when it is killed or the disk is full."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from dhvt.model.checkpoint import load_checkpoint
from dhvt.training.metrics_log import append_metrics, read_history
from tests.conftest import CLASSES, draw
from tests.dhvt.training.commands import SMALL, run, start


@pytest.fixture(scope="module")
def finished(image_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    assert run(image_folder, out, *SMALL, "--epochs", "2").exit_code == 0
    return out


@pytest.fixture
def killed(finished, tmp_path):
    """A copy of the run as it is when it is killed after the last checkpoint and while it writes its log."""
    out = Path(shutil.copytree(finished, tmp_path / "killed", ignore=shutil.ignore_patterns("report")))
    with (out / "metrics.jsonl").open("a") as log:
        log.write('{"epoch": 3, "lr"')
    return out


def test_a_finished_run_without_a_report_writes_it(image_folder, finished, killed):
    result = run(image_folder, killed, *SMALL, "--epochs", "2", "--resume")
    assert result.exit_code == 0, result.output
    assert "finished, but for its report" in result.output
    assert (killed / "report" / "curves.png").stat().st_size
    rows = [
        [line for line in (out / "report" / "report.md").read_text().splitlines() if "top-1" in line]
        for out in (finished, killed)
    ]
    assert rows[0] == rows[1]
    assert "nothing to do" in run(image_folder, killed, *SMALL, "--epochs", "2", "--resume").output


def test_what_a_run_before_it_wrote_into_the_same_log_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for epoch in (1, 2, 3, 1, 2, 2):
        append_metrics(path, {"epoch": epoch, "line": len(read_history(path))})
    assert [row["epoch"] for row in read_history(path)] == [1, 2]


def test_a_torn_line_costs_no_other(image_folder, killed):
    assert run(image_folder, killed, *SMALL, "--epochs", "3", "--resume", "--change-recipe").exit_code == 0
    lines = (killed / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines if line.endswith("}")] == [1, 2, 3]
    assert (killed / "report" / "curves.png").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_under_the_log_is_one_line(image_folder, tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    result = run(image_folder, tmp_path, *SMALL, "--epochs", "1")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "metrics.jsonl: [Errno 28]" in result.output
    assert "--resume" in result.output


def test_a_report_that_cannot_be_written_is_one_line_and_comes_later(image_folder, killed):
    (killed / "report").write_text("in the way")
    result = run(image_folder, killed, *SMALL, "--epochs", "2", "--resume")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "cannot write the report" in result.output
    (killed / "report").unlink()
    assert run(image_folder, killed, *SMALL, "--epochs", "2", "--resume").exit_code == 0
    assert (killed / "report" / "report.md").exists()


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="needs names that are no UTF-8")
def test_classes_may_have_any_name(image_folder, tmp_path):
    data = tmp_path / "data"
    for name, new in zip(sorted(os.listdir(image_folder)), (b"$5", b"a|b$^$", b"caf\xe9"), strict=True):
        shutil.copytree(image_folder / name, data / os.fsdecode(new))
    result = run(data, tmp_path / "out", *SMALL, "--epochs", "1")
    assert result.exit_code == 0, result.output
    report = (tmp_path / "out" / "report" / "report.md").read_text()
    assert all(f"\n| {name} |" in report for name in ("$5", "a\\|b$^$", r"caf\\udce9"))  # as Markdown escapes it
    assert (tmp_path / "out" / "report" / "mistakes.png").stat().st_size


def test_processes_that_decode_validation_images_change_nothing(image_folder, finished, tmp_path):
    """In a process of its own, for what PyTorch's loader leaves behind. A broken image is left out all the same."""
    val = tmp_path / "val"
    for label, name in enumerate(CLASSES):
        (val / name).mkdir(parents=True)
        for seed in range(100, 120):
            draw(label, seed).save(val / name / f"{seed}.png")
    (val / "circle" / "103.png").write_bytes(b"no image")
    measured = []
    for workers in ("0", "2"):
        out = tmp_path / workers
        options = [*SMALL, "--epochs", "1", "--num-workers", workers, "--on-broken", "skip", "--val", str(val)]
        assert start(image_folder, out, *options).wait(timeout=200) == 0
        metrics = load_checkpoint(out / "ckpt.pt").metrics
        measured.append([metrics[name] for name in ("val_top1", "val_images", "temperature", "broken_images")])
    assert measured[0] == measured[1]
    assert measured[0][1] == 59
