import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dhvt.data.exclusion import ExcludeList, keep
from dhvt.data.groups import shared_groups
from dhvt.data.inspection.inspection import inspect
from dhvt.data.record import record_training_data
from dhvt.data.reopen import reopen_training_data, reopen_validation
from dhvt.data.sources import open_dataset
from dhvt.data.sources.base import FileSource
from dhvt.data.splits import open_training_data, split_source
from dhvt.data.statistics import class_counts
from dhvt.errors import ConfigError, DataError
from tests.conftest import CLASSES, draw, encode

BY = r"(p\d+)_"


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Ten people with three images of each class."""
    root = tmp_path_factory.mktemp("people")
    for label, name in enumerate(CLASSES):
        (root / name).mkdir()
        for number in range(30):
            draw(label, number, (12, 12)).save(root / name / f"p{number // 3}_{number}.png")
    return root


def groups_of(source):
    return set(source.groups(BY))


def test_a_group_is_held_out_whole_and_every_class_has_its_share(people):
    source = open_dataset(people)
    train, val = split_source(source, 0.2, 3, BY)
    assert len(groups_of(val)) == 2
    assert not shared_groups(train, val, BY)
    assert class_counts(val) == dict.fromkeys(CLASSES, 6)
    again, other = (split_source(source, 0.2, seed, BY)[1] for seed in (3, 4))
    assert groups_of(again) == groups_of(val) != groups_of(other)
    assert shared_groups(*split_source(source, 0.2, 3), BY)  # without groups


def test_uneven_groups_come_near_the_fraction_of_each_class(tmp_path):
    rng = np.random.default_rng(0)
    people = rng.integers(0, 60, 600) ** 2 // 60  # a few with many images
    labels = (people + rng.integers(0, 2, 600)) % 3  # of two classes each
    paths = [tmp_path / f"p{person}_{number}.png" for number, person in enumerate(people)]
    source = FileSource(tmp_path, tmp_path, paths, labels.tolist(), CLASSES)
    for seed in range(5):
        train, val = split_source(source, 0.2, seed, BY)
        assert not shared_groups(train, val, BY)
        shares = np.bincount(val.labels, minlength=3) / np.bincount(labels)
        assert np.abs(shares - 0.2).max() < 0.08


def test_classes_of_few_groups(tmp_path, caplog):
    """Two groups of circles, one of squares, and two large ones of stripes."""
    owners = ["p0"] * 4 + ["p1"] * 4 + ["p2"] * 5 + ["p3"] * 9 + ["p4"] * 9
    paths = [tmp_path / f"{owner}_{number}.png" for number, owner in enumerate(owners)]
    source = FileSource(tmp_path, tmp_path, paths, [0] * 8 + [1] * 5 + [2] * 18, CLASSES)
    _, val = split_source(source, 0.1, 0, BY)
    assert class_counts(val) == dict(zip(CLASSES, (4, 0, 9), strict=True))
    assert caplog.messages == ["no image of square is held out, because all are of one group"]
    with pytest.raises(DataError, match=r"31 images cannot be split .*'p' may find one group only"):
        split_source(source, 0.1, 0, "p")


@pytest.mark.parametrize(
    ("by", "error", "message"),
    [
        (r"(p[0-8])_", DataError, r"no group in the names of 9 of 90 images in .*, such as circle/p9_27\.png; it must"),
        (r"q*", DataError, r"no group in the names of 90 of 90 images"),
        (r"(q)?p", DataError, r"no group in the names of 90 of 90 images"),
        ("(", ConfigError, r"--group-by '\(' is no regular expression"),
    ],
)
def test_a_name_without_a_group_is_an_error(people, by, error, message):
    with pytest.raises(error, match=message):
        open_training_data(people, group_by=by)


def test_the_whole_match_or_the_first_group(people):
    source = open_dataset(people)
    assert {*source.groups(r"p\d")} == {f"p{number}" for number in range(10)}
    assert {*source.groups(r"p(\d)_(\d+)")} == {str(number) for number in range(10)}


def test_a_column_of_parquet(tmp_path):
    def write(name, owners):
        images = [encode(draw(index % 3, index, (8, 8))) for index in range(len(owners))]
        columns = {"image": images, "label": [index % 3 for index in range(len(owners))], "owner": owners}
        pq.write_table(pa.table(columns), tmp_path / name)

    write("train-0.parquet", [1] * 6 + [2] * 6)
    write("train-1.parquet", [3] * 6)
    source = open_dataset(tmp_path, "train")
    _, val = split_source(source, 0.3, 0, "owner")
    assert len(val) == 6
    assert len({*val.groups("owner")}) == 1
    with pytest.raises(DataError, match=r"--group-by plant: .*has no column of that name; it has image, label, owner"):
        source.groups("plant")
    write("train-1.parquet", [3] * 5 + [None])
    with pytest.raises(DataError, match=r"--group-by owner: .*train-1\.parquet row 5 has no value in that column"):
        open_dataset(tmp_path, "train").groups("owner")


def test_images_without_a_group_can_be_left_out(people, tmp_path):
    """A subset asked all images of its source for their groups."""
    data = shutil.copytree(people, tmp_path / "data")
    shutil.copy(data / "circle" / "p0_0.png", data / "circle" / "stray.png")
    (tmp_path / "bad.txt").write_text("circle/stray.png\n")
    exclude = ExcludeList(tmp_path / "bad.txt")
    parts = open_training_data(data, select=lambda source: exclude.leave_out(source)[0], group_by=BY, calibration_fraction=0.2)
    groups = [groups_of(part) for part in (parts.train, parts.val, parts.reference)]
    assert sorted(set().union(*groups)) == sorted(f"p{number}" for number in range(10))
    assert sum(map(len, groups)) == 10  # each on one side only
    assert len(inspect(str(data), group_by=BY, exclude=exclude).images) == 90
    with pytest.raises(DataError, match=r"names of 1 of 91 images in .*, such as circle/stray\.png; .* with --exclude"):
        inspect(str(data), group_by=BY)


def test_rows_of_parquet_without_a_group_can_be_left_out(tmp_path):
    images = [encode(draw(index % 3, index, (8, 8))) for index in range(6)]
    for number, owners in enumerate(([None, 1, 2], [3, None, 4])):
        columns = {"image": images[:3], "label": [0, 1, 2], "owner": owners}
        pq.write_table(pa.table(columns), tmp_path / f"train-{number}.parquet")
    source = open_dataset(tmp_path, "train")
    some = keep(source, [5, 4, 3, 1])
    assert keep(some, [0, 3]).groups("owner") == ["4", "1"]
    assert source.groups("owner", np.array([2, 3])) == ["2", "3"]
    with pytest.raises(DataError, match=r"train-1\.parquet row 1 has no value in that column; .* --exclude"):
        some.groups("owner")


def test_validation_images_of_groups_that_are_trained_on_are_refused(people, tmp_path):
    for person, message in (("p9", "1 groups of --group-by"), ("p10", None)):
        val = tmp_path / person
        for label, name in enumerate(CLASSES):
            (val / name).mkdir(parents=True)
            draw(label, 99).save(val / name / f"{person}_99.png")
        if message is None:
            assert open_training_data(people, val, group_by=BY).group_by == BY
        else:
            with pytest.raises(DataError, match=rf"{message} .* are in both .*: p9; what is measured on them"):
                open_training_data(people, val, group_by=BY)


def test_an_export_splits_as_the_training_did(people, tmp_path, caplog):
    images = open_training_data(people, val_fraction=0.3, seed=3, group_by=BY)
    assert images.measured_on == "0.3 of each class, held out in 3 whole groups"
    record = record_training_data(images)
    assert record["validation"]["group_by"] == BY
    train, val = reopen_validation(people, CLASSES, record, 3)
    assert (groups_of(train), groups_of(val)) == (groups_of(images.train), groups_of(images.val))
    for data in ("val", "others"):  # the validation images alone, and other people's: halves without a common group
        for label, name in enumerate(CLASSES):
            (tmp_path / data / name).mkdir(parents=True)
            for number in range(20, 30):
                draw(label, number, (9, 9)).save(tmp_path / data / name / f"p{number // 3}_{number}.png")
        calibration, comparison, _ = reopen_training_data(tmp_path / data, CLASSES, record, 0)
        assert not shared_groups(calibration, comparison, BY)
    (tmp_path / "others" / "circle" / "photo.png").write_bytes(b"no")
    assert not caplog.messages
    reopen_training_data(tmp_path / "others", CLASSES, record, 0)
    assert "is split without the groups of the training: --group-by" in caplog.text
