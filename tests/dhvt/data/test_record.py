import shutil

import pytest

from dhvt.data.fingerprint import fingerprint, overlap
from dhvt.data.record import find_overlaps, record_source, record_training_data, require_unseen
from dhvt.data.reopen import reopen_training_data, reopen_validation
from dhvt.data.sources import open_dataset
from dhvt.data.splits import open_training_data
from dhvt.errors import DataError
from tests.conftest import CLASSES, draw
from tests.dhvt.data.test_fingerprint import Bytes


@pytest.fixture
def other_folder(tmp_path):
    """Images that are not in ``image_folder``."""
    for label, name in enumerate(CLASSES):
        (tmp_path / "other" / name).mkdir(parents=True)
        for seed in range(100, 110):
            draw(label, seed).save(tmp_path / "other" / name / f"{seed}.png")
    return tmp_path / "other"


def test_the_record_tells_what_was_trained_and_validated_on(image_folder):
    data = open_training_data(image_folder, val_fraction=0.2, seed=3)
    found = record_training_data(data)
    assert found["training"] == fingerprint(data.train).to_dict() | {"source": str(image_folder)}
    assert found["validation"]["images"] == 12
    assert found["validation"]["held_out_fraction"] == 0.2


def test_the_same_images_as_training_and_validation_are_refused(image_folder, other_folder, tmp_path):
    copy = shutil.copytree(image_folder, tmp_path / "copy")
    with pytest.raises(DataError, match=r"of the validation images \(.*copy\), 100\.0 % were used for training"):
        record_training_data(open_training_data(image_folder, val=copy))
    assert record_training_data(open_training_data(image_folder, val=other_folder))["validation"]["images"] == 30


def test_unseen_images_are_told_from_those_that_were_learned_from(image_folder, other_folder):
    whole, data = open_dataset(image_folder), open_training_data(image_folder, val_fraction=0.2)
    known = record_training_data(data) | {"test": record_source(open_dataset(other_folder))}
    assert find_overlaps(fingerprint(whole), known) == {"training": 1.0, "validation": 1.0}
    with pytest.raises(DataError, match=r"of my images, 100\.0 % were used for validation; .*: give new ones"):
        require_unseen(fingerprint(data.val), known, what="my images", hint="give new ones")
    assert require_unseen(fingerprint(open_dataset(other_folder)), known) == {}
    assert require_unseen(fingerprint(data.val), known, kinds=["training", "calibration"]) == {}


def test_a_few_shared_images_are_tolerated_and_told(tmp_path):
    """One of 200 is."""
    for folder, seeds in (("one", range(200)), ("other", range(199, 399))):
        (tmp_path / folder / "circle").mkdir(parents=True)
        for seed in seeds:
            (tmp_path / folder / "circle" / f"{seed}.png").write_bytes(b"%d" % seed)
    known = {"training": record_source(open_dataset(tmp_path / "one"))}
    assert require_unseen(fingerprint(open_dataset(tmp_path / "other")), known) == {"training": 0.005}


def test_copies_in_what_is_held_out_are_named(image_folder, tmp_path, caplog):
    data = shutil.copytree(image_folder, tmp_path / "data")
    record_training_data(open_training_data(data, val_fraction=0.2))
    assert not caplog.messages
    for path in list(data.rglob("*.png")):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    assert record_training_data(open_training_data(data, val_fraction=0.2))["validation"]["images"] == 24
    (message,) = caplog.messages
    assert "% were used for training: they are copies" in message


class Numbers(Bytes):
    """Images of four bytes each."""

    def __init__(self, *numbers):
        super().__init__([number.to_bytes(4, "little") for number in numbers])


def test_an_estimate_of_few_images_warns_and_of_more_refuses(caplog):
    """Of 50,000 images the sketch has 1,024: of 100 shared ones about 2."""
    whole = fingerprint(Numbers(*range(50_000)))
    known = {"training": whole.to_dict()}
    in_sketch = [number for number in range(5_000) if overlap(whole, fingerprint(Numbers(number)))]
    others = range(60_000, 60_010)
    assert require_unseen(fingerprint(Numbers(*in_sketch[:2], *others)), known)["training"] > 0.1
    assert "estimated from fewer than 3" in caplog.text
    with pytest.raises(DataError):
        require_unseen(fingerprint(Numbers(*in_sketch[:3], *others)), known)
    with pytest.raises(DataError):
        require_unseen(fingerprint(Numbers(*in_sketch[:1])), known)  # all of one
    caplog.clear()
    require_unseen(fingerprint(Numbers(*range(60_000, 60_100))), known)
    assert "of the images are compared with the training images" in caplog.text


def test_what_was_held_out_is_found_again_elsewhere(image_folder, tmp_path):
    data = open_training_data(image_folder, val_fraction=0.2, seed=3)
    copy = shutil.copytree(image_folder, tmp_path / "copy")
    train, val = reopen_validation(copy, CLASSES, record_training_data(data), 3)
    assert (fingerprint(train), fingerprint(val)) == (fingerprint(data.train), fingerprint(data.val))
    assert reopen_validation(copy, CLASSES, record_training_data(data), 4) is None
    assert reopen_validation(copy, CLASSES, {}, 3) is None


def test_calibration_and_check_share_no_image(image_folder, other_folder):
    known = record_training_data(open_training_data(image_folder, val=other_folder))
    cases = {image_folder: False, other_folder: True}  # all of the first was trained on
    for data, held_out in cases.items():
        train, val, found = reopen_training_data(data, CLASSES, known, 0)
        assert found is held_out
        names = [{part.name(index) for index in range(len(part))} for part in (train, val)]
        assert not names[0] & names[1]


def test_validation_images_given_alone_are_recognised(image_folder, other_folder):
    known = record_training_data(open_training_data(image_folder, val=other_folder))
    train, val = reopen_validation(other_folder, CLASSES, known, 0)
    assert train is None
    assert len(val) == 30
