import shutil
from pathlib import Path

import numpy as np
import pytest

from dhvt.data.fingerprint import SKETCH_SIZE, Fingerprint, fingerprint, hash_bytes, hash_file, overlap
from dhvt.data.sources import open_dataset
from dhvt.errors import ImageError


class Bytes:
    """An image source of given contents."""

    def __init__(self, contents, labels=None, names=None, folder=None):
        self.contents, self.classes = contents, ("a", "b")
        self.labels = np.array(labels or [0] * len(contents), dtype=np.int64)
        self.names, self.folder = names or list(map(str, range(len(contents)))), folder

    def __len__(self):
        return len(self.contents)

    def read(self, index):
        if self.contents[index] is None:
            raise ImageError("gone")
        return self.contents[index]

    def locate(self, index):
        return self.names[index]

    def name(self, index):
        return self.names[index]

    def path(self, index) -> Path | None:
        return None


def numbers(*ranges):
    return [number.to_bytes(4, "little") for span in ranges for number in span]


def test_the_fingerprint_is_of_contents_labels_and_names_but_not_of_order():
    first = fingerprint(Bytes([b"x", b"y"], [0, 1], ["p", "q"]))
    assert first.images == 2
    assert fingerprint(Bytes([b"y", b"x"], [1, 0], ["q", "p"])) == first
    assert Fingerprint.from_dict(first.to_dict() | {"path": "elsewhere"}) == first
    others = [
        Bytes([b"x", b"z"], [0, 1], ["p", "q"]),
        Bytes([b"x", b"y"], [1, 0], ["p", "q"]),
        Bytes([b"x", b"y"], [0, 1], ["p", "r"]),
        Bytes([b"x", None], [0, 1], ["p", "q"]),
    ]
    assert len({fingerprint(source).digest for source in others} | {first.digest}) == 5


def test_overlap_of_renamed_and_relabelled_images_is_whole():
    first = fingerprint(Bytes(numbers(range(100))))
    other = fingerprint(Bytes(numbers(range(100)), [1] * 100, [f"new {index}" for index in range(100)]))
    assert first.digest != other.digest
    assert overlap(first, other) == overlap(first, first) == 1.0


def test_overlap_of_small_sets_is_exact():
    first = fingerprint(Bytes(numbers(range(100))))
    assert overlap(first, fingerprint(Bytes(numbers(range(100, 200))))) == 0.0
    assert overlap(first, fingerprint(Bytes(numbers(range(50, 150))))) == 0.5
    few = fingerprint(Bytes(numbers(range(99, 101))))
    assert overlap(first, few) == overlap(few, first) == 0.5
    assert overlap(first, fingerprint(Bytes([]))) == 0.0


def test_unreadable_images_are_no_overlap():
    assert overlap(fingerprint(Bytes([None, b"x"])), fingerprint(Bytes([None, b"y"]))) == 0.0


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_overlap_of_100_000_images_is_estimated(share):
    start = round(100_000 * (1 - share))
    first = fingerprint(Bytes(numbers(range(100_000))))
    other = fingerprint(Bytes(numbers(range(start, start + 100_000))))
    assert len(first.sketch) <= 4 * -(-8 * SKETCH_SIZE // 3)
    assert overlap(first, other) == pytest.approx(share, abs=0.05)


def test_overlap_of_a_large_and_a_small_set():
    large = fingerprint(Bytes(numbers(range(50_000))))
    assert overlap(large, fingerprint(Bytes(numbers(range(5_000))))) == 1.0
    assert overlap(large, fingerprint(Bytes(numbers(range(50_000, 55_000))))) == 0.0
    assert overlap(large, fingerprint(Bytes(numbers(range(47_500, 52_500))))) == pytest.approx(0.5, abs=0.15)


def test_progress_is_reported():
    seen = []
    fingerprint(Bytes(numbers(range(150))), seen.append)
    assert sum(seen) == 150
    assert len(seen) > 1


@pytest.mark.parametrize("size", [0, 256 * 1024, 256 * 1024 + 1, 1_000_000])
def test_a_file_has_the_hash_of_its_bytes(tmp_path, size):
    data = np.random.default_rng(0).bytes(size)
    (tmp_path / "image").write_bytes(data)
    assert hash_file(tmp_path / "image") == hash_bytes(data)
    assert hash_bytes(data + b"x") != hash_bytes(data)


def test_large_images_are_told_apart_by_head_middle_tail_and_size():
    data = bytes(1_000_000)
    changed = {hash_bytes(data[:place] + b"\1" + data[place + 1 :]) for place in (0, 500_000, 999_999)}
    assert len(changed | {hash_bytes(data), hash_bytes(data + b"\0")}) == 5


def test_files_with_other_content_under_the_same_names_have_another_fingerprint(image_folder, tmp_path):
    copy = Path(shutil.copytree(image_folder, tmp_path / "copy"))
    first = fingerprint(open_dataset(image_folder))
    assert fingerprint(open_dataset(copy)) == first
    shutil.copy(copy / "square" / "00.png", copy / "circle" / "00.png")
    assert fingerprint(open_dataset(copy)).digest != first.digest
