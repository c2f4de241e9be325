"""``dhvt bulk`` on Ray: what it writes, and that it goes on wherever it was stopped."""

import errno
import json
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from dhvt import Classifier
from dhvt.answers import answer_schema
from dhvt.artifact import load_artifact
from dhvt.bulk.job import BulkJob
from dhvt.bulk.summary import summarise
from dhvt.cli.main import main
from dhvt.confidence.reference import Measured, Reference, write_reference
from dhvt.errors import ConfigError
from tests.conftest import draw, encode

IMAGES = [encode(draw(seed % 3, 50 + seed)) for seed in range(36)]
ENGINE = "openvino:fp32"


@pytest.fixture(scope="module")
def model(artifact_path, tmp_path_factory):
    """The small model with 30 reference images."""
    import shutil

    path = shutil.copytree(artifact_path, tmp_path_factory.mktemp("bulk") / "artifact")
    labels = np.arange(30, dtype=np.int32) % 3
    probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], 30)
    measured = {"fp32": Measured.of(probabilities, labels)}
    write_reference(load_artifact(path), Reference(labels=labels, hashes=np.zeros(30, np.uint64), measured=measured), {})
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Images in six row groups, and one that is none in a seventh."""
    path = tmp_path_factory.mktemp("source") / "images.parquet"
    rows = [*IMAGES, b"broken"]
    pq.write_table(pa.table({"image": rows, "key": [f"k{number}" for number in range(37)]}), path, row_group_size=6)
    return path


def command(model, source, out, *more):
    return ["bulk", "--model", str(model), "--engine", ENGINE, "--out", str(out), "--coverage", "0.9", *more, str(source)]


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def read(out):
    return {row["file"]: row for row in pq.read_table(out).to_pylist()}


@pytest.fixture(scope="module")
def finished(model, source, tmp_path_factory):
    """A job whose driver was killed after its first file, and that was gone on with."""
    out = tmp_path_factory.mktemp("finished") / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "dhvt.cli", *command(model, source, out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    try:
        while process.poll() is None and not list(out.glob("part-*.parquet")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert list(out.glob("part-*.parquet"))
    for path in sorted(out.glob("part-*.parquet"))[3:]:  # where it was faster than we
        path.unlink()
    result = run(*command(model, source, out))
    assert result.exit_code == 0, result.output
    return out, result


def test_each_image_is_in_the_output_once_though_the_driver_was_killed(finished, model):
    out, _ = finished
    assert pq.read_table(out).num_rows == 37
    assert len(list(out.glob("part-*.parquet"))) == 7
    rows = read(out)
    classifier = Classifier.load(model, ENGINE, threads=1)
    for number, data in enumerate(IMAGES):
        expected, row = classifier.classify(data, coverage=0.9), rows[f"k{number}"]
        assert row["labels"] == [entry["label"] for entry in expected]
        assert row["scores"] == pytest.approx([entry["score"] for entry in expected], abs=1e-5)
        assert (row["label"], row["error"]) == (expected[0]["label"], None)
        assert row["prediction_set"] == expected.prediction_set
    assert rows["k36"]["label"] is None
    assert "not an image in a known format" in rows["k36"]["error"]


def test_the_summary(finished):
    out, result = finished
    assert "37 images, 1 of them could not be read" in result.stdout
    summary = json.loads((out / "_job" / "summary.json").read_text())
    labels = [row["label"] for row in read(out).values() if row["label"]]
    counted = {name: found["images"] for name, found in summary["classes"].items()}
    assert counted == {name: labels.count(name) for name in set(labels)}
    assert (summary["images"], summary["classified"], summary["engines"]) == (37, 36, [ENGINE])
    assert list(summary["errors"].values()) == [1]
    assert 1 <= summary["labels_in_a_set"] <= 3
    assert (summary["drift"]["images"], summary["drift"]["changed"]) == (32, False)


def test_a_finished_job_has_nothing_to_do(finished, model, source):
    out, _ = finished
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    result = run(*command(model, source, out))
    assert result.exit_code == 0
    assert "7 of 7 files are there" in result.output
    assert {path: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")} == before


def test_another_job_is_not_mixed_in(finished, model, source, tmp_path):
    out, _ = finished
    for result, what in (
        (run(*command(model, source, out, "--top-k", "1")), "asked"),
        (run(*command(model, source.parent, out)), "source"),
    ):
        assert result.exit_code == 1
        assert f"has a job with another {what}" in result.output
    (tmp_path / "mine.txt").write_text("x")
    result = run(*command(model, source, tmp_path))
    assert "has other files and no bulk job" in result.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--coverage", "0.9", "--reject", "0.01"], "has no novelty scores"),
        (["--by-class"], "--by-class needs --coverage"),
        (["--threads", "-1"], "Invalid value for '--threads'"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_anything_begins(model, source, tmp_path, more, message):
    result = run("bulk", "--model", model, "--out", tmp_path / "out", *more, source)
    assert result.exit_code != 0
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_is_not_there(model, source, tmp_path):
    result = run(*command(model, source, tmp_path / "out", "--address", "127.0.0.1:1"))
    assert result.exit_code == 1
    assert "no Ray cluster answers at 127.0.0.1:1" in result.output


def test_a_full_disk_is_one_line_and_loses_nothing(source, tmp_path, monkeypatch):
    job = BulkJob(tmp_path / "out", {"model": "m", "version": "1", "digest": "d", "source": str(source), "asked": {}})
    job.write(0, pa.table({"file": ["a"]}))
    with monkeypatch.context() as patch:
        patch.setattr("dhvt.bulk.job.pq.write_table", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(ConfigError, match="No space left; make room, and the same command goes on"):
            job.write(1, pa.table({"file": ["b"]}))
    assert job.missing() == [1, 2, 3, 4, 5, 6]


def test_errors_are_counted_by_kind_whatever_the_keys_are(tmp_path, model):
    """A key such as 1, which is no path, made a kind of its own of each message that has a 1."""
    rows = {"image": [b"broken"] * 12, "id": [str(number) for number in range(12)]}
    pq.write_table(pa.table(rows), tmp_path / "images.parquet")
    identity = {"model": "m", "version": "1", "digest": "d", "source": str(tmp_path / "images.parquet"), "asked": {}}
    job, artifact = BulkJob(tmp_path / "out", identity), load_artifact(model)
    answers = [{"file": str(number), "error": f"image of {number} bytes at 1 of 12"} for number in range(12)]
    schema = answer_schema({"engine": ENGINE})
    job.write(0, pa.Table.from_pylist(answers, schema=schema))
    assert summarise(job, artifact)["errors"] == {"image of N bytes at N of N": 12}
