"""Reference images: held out before all else, and found again where a model is exported."""

import pytest

from dhvt.data.fingerprint import fingerprint
from dhvt.data.groups import shared_groups
from dhvt.data.record import record_training_data
from dhvt.data.reopen import open_training_split, reopen_reference, reopen_validation
from dhvt.data.splits import open_training_data
from tests.conftest import CLASSES

BY = r"(\d)\.png"


def names(source):
    return {source.name(index) for index in range(len(source))}


def test_the_reference_shares_no_image_with_the_others_and_is_found_again(image_folder, tmp_path):
    data = open_training_data(image_folder, val_fraction=0.25, seed=3, calibration_fraction=0.2)
    assert [len(part) for part in (data.train, data.val, data.reference)] == [36, 12, 12]
    assert not names(data.train) & names(data.reference)
    assert not names(data.val) & names(data.reference)
    record = record_training_data(data)
    assert record["reference"].items() >= {"images": 12, "held_out_fraction": 0.2}.items()
    assert names(reopen_reference(image_folder, CLASSES, record, 3)) == names(data.reference)
    train, val = reopen_validation(image_folder, CLASSES, record, 3)
    assert (names(train), names(val)) == (names(data.train), names(data.val))
    assert len(open_training_split(image_folder, CLASSES, record, 3)) == 48
    assert reopen_reference(image_folder, CLASSES, record, 4) is None
    assert reopen_reference(image_folder, CLASSES, record_training_data(open_training_data(image_folder)), 3) is None


def test_the_reference_beside_a_val_split_of_its_own(image_folder):
    data = open_training_data(image_folder, val=image_folder, calibration_fraction=0.2)
    assert (len(data.train), len(data.val), len(data.reference)) == (48, 60, 12)
    record = {"training": fingerprint(data.train).to_dict(), "validation": {"images": 60}}
    record["reference"] = fingerprint(data.reference).to_dict() | {"held_out_fraction": 0.2}
    assert names(reopen_reference(image_folder, CLASSES, record, 0)) == names(data.reference)
    assert names(open_training_split(image_folder, CLASSES, record, 0)) == names(data.train)


@pytest.mark.parametrize("seed", [0, 1])
def test_groups_are_whole(image_folder, seed):
    data = open_training_data(image_folder, seed=seed, group_by=BY, calibration_fraction=0.2)
    for part in (data.train, data.val):
        assert not shared_groups(part, data.reference, BY)
    record = record_training_data(data)
    assert names(reopen_reference(image_folder, CLASSES, record, seed)) == names(data.reference)
