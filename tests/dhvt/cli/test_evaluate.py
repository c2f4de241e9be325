import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from dhvt.artifact import load_artifact, write_card
from dhvt.cli.main import main
from dhvt.data.record import record_source, record_training_data
from dhvt.data.sources import open_dataset
from dhvt.data.splits import open_training_data
from export.model_card import find_results
from tests.conftest import CLASSES, draw, encode


def evaluate(*arguments):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def write_split(root, split, count):
    """So many new images of each class."""
    for label, name in enumerate(CLASSES):
        (root / split / name).mkdir(parents=True)
        for seed in range(count):
            draw(label, 1000 * count + seed).save(root / split / name / f"{seed}.png")


@pytest.fixture
def trained(artifact_copy, image_folder):
    """An artifact whose card says that ``image_folder`` was trained and validated on."""
    card = load_artifact(artifact_copy).card
    record = record_training_data(open_training_data(image_folder, val_fraction=0.2))
    write_card(artifact_copy, replace(card, data=record))
    return artifact_copy


def test_evaluate_and_record(artifact_copy, image_folder):
    report = artifact_copy.parent / "report"
    result = evaluate("--model", artifact_copy, "--data", image_folder, "--record", "--report", report)
    assert result.exit_code == 0, result.output
    assert "it may have seen these images" in result.stderr
    card = load_artifact(artifact_copy).card
    assert card.metrics["val_top1"] == 33.3
    measured = card.metrics["test"]
    assert (measured["images"], "all" in card.metrics) == (60, False)
    assert [row.metric_value for row in find_results(card) if row.metric_name == "Macro F1"] == [
        pytest.approx(measured["macro_f1"] / 100, abs=1e-6)
    ]
    assert card.data["test"] == record_source(open_dataset(image_folder))
    text = (report / "report.md").read_text()
    assert f"| top-1 | {measured['top1']:.2f} % |" in text
    assert f"| macro-F1 | {measured['macro_f1']:.2f} % |" in text
    assert "| circle | 20 |" in text
    assert {path.name for path in report.glob("*.png")} == {"confusion.png", "reliability.png", "mistakes.png"}
    assert f"top-1 {measured['top1']:.2f} %" in result.stdout
    assert f"balanced accuracy {measured['balanced_accuracy']:.2f} %, macro-F1 {measured['macro_f1']:.2f} %" in result.stdout


def test_a_list_of_all_images_leaves_none_to_measure(artifact_copy, tmp_path):
    write_split(tmp_path, "test", 1)
    listed = tmp_path / "all.txt"
    listed.write_text("\n".join(map(str, (tmp_path / "test").rglob("*.png"))))
    result = evaluate("--model", artifact_copy, "--data", tmp_path / "test", "--exclude", listed)
    assert result.exit_code == 1
    assert "all.txt lists all images" in result.output


def test_a_model_without_a_record_is_named_without_recording_too(artifact_copy, tmp_path):
    write_split(tmp_path, "test", 1)
    result = evaluate("--model", artifact_copy, "--data", tmp_path)
    assert result.exit_code == 0, result.output
    assert "it may have seen these images" in result.stderr
    result = evaluate("--model", artifact_copy, "--data", tmp_path, "--batch-size", "0")
    assert result.exit_code == 2
    assert "--batch-size" in result.output


def test_the_test_split_is_measured_and_no_other_unless_asked(artifact_copy, tmp_path):
    """Without a test split, the validation or training images were measured, and recorded as the test."""
    data = tmp_path / "data"
    write_split(data, "train", 3)
    write_split(data, "val", 2)
    result = evaluate("--model", artifact_copy, "--data", data, "--record")
    assert result.exit_code == 1
    assert "has no test split; it has train, val; choose one with --split" in result.output
    result = evaluate("--model", artifact_copy, "--data", data, "--split", "val", "--record")
    assert result.exit_code == 0, result.output
    assert "of 6 images" in result.output
    assert "as metrics.val" in result.output
    assert {"val", "test"} & load_artifact(artifact_copy).card.metrics.keys() == {"val"}
    write_split(data, "test", 1)
    assert "of 3 images" in evaluate("--model", artifact_copy, "--data", data).output


def test_images_that_were_learned_from_are_refused_or_named(trained, image_folder, tmp_path):
    copy = shutil.copytree(image_folder, tmp_path / "elsewhere")
    result = evaluate("--model", trained, "--data", copy, "--record")
    assert result.exit_code == 1
    assert "of the images, 100.0 % were used for training and 100.0 % were used for validation" in result.output
    assert "--allow-overlap" in result.output
    assert not {"all", "test"} & load_artifact(trained).card.metrics.keys()
    result = evaluate("--model", trained, "--data", copy, "--record", "--allow-overlap", "--report", tmp_path / "report")
    assert result.exit_code == 0, result.output
    assert "were used for training" in result.stderr
    assert "were used for training" in (tmp_path / "report" / "report.md").read_text()
    card = load_artifact(trained).card
    assert card.metrics["all"]["overlap"] == {"training": 1.0, "validation": 1.0}
    assert "test" not in card.data


def test_new_images_are_measured_and_become_the_test_images(trained, tmp_path):
    write_split(tmp_path / "data", "test", 2)
    result = evaluate("--model", trained, "--data", tmp_path / "data" / "test", "--record")
    assert result.exit_code == 0, result.output
    assert "were used for" not in result.output
    card = load_artifact(trained).card
    assert (card.metrics["test"]["images"], card.data["test"]["images"]) == (6, 6)
    assert card.data["training"]["images"] == 48


def test_verify_names_images_that_were_learned_from(trained, image_folder):
    result = CliRunner().invoke(main, ["verify", "--model", str(trained), "--data", str(image_folder)])
    assert result.exit_code == 0, result.output
    assert "of the images, 100.0 % were used for training and 100.0 % were used for validation: the acc" in result.stderr


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_measured(artifact_copy, image_folder, tmp_path):
    (tmp_path / "file").touch()
    result = evaluate("--model", artifact_copy, "--data", image_folder, "--report", tmp_path / "file")
    assert (result.exit_code, "file is a file; choose another place" in result.output) == (1, True)
    assert "top-1" not in result.output


def test_images_of_other_kinds_may_be_rows_of_a_parquet_file(artifact_copy, image_folder, tmp_path):
    pq.write_table(pa.table({"image": [encode(draw(0, 1)), encode(draw(1, 2))], "label": [0, 1]}), tmp_path / "others.parquet")
    calibrated = CliRunner().invoke(main, ["calibrate", "--model", str(artifact_copy), "--data", str(image_folder)])
    assert calibrated.exit_code == 0, calibrated.output
    write_split(tmp_path, "test", 10)
    result = evaluate("--model", artifact_copy, "--data", tmp_path / "test", "--unknown", tmp_path / "others.parquet")
    assert result.exit_code == 0, result.output
    assert "of 2 images of other kinds are called unknown" in result.output
