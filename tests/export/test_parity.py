import numpy as np
import pytest

from dhvt.errors import ParityError
from dhvt.evaluation.agreement import FP32, TOLERANCES, Comparison, Tolerance, compare
from export.parity import compare_outputs, describe

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)


def predict(images):
    return images.reshape(len(images), -1)[:, :3].astype(np.float32)


@pytest.mark.parametrize("largest", [64, 200])
def test_each_batch_size_is_run_in_full_even_of_few_images(largest):
    seen = []

    def candidate(images):
        seen.append(len(images))
        return predict(images)

    found = compare_outputs("it", predict, candidate, IMAGES, FP32, batch_sizes=(1, 2, 7, largest))
    assert set(found.batch_sizes) <= set(seen)
    assert (found.images, found.max_abs_error, found.top1_agreement) == (20, 0, 1)


def test_a_runtime_that_fails_in_its_largest_batch_alone_is_found():
    def candidate(images):
        return predict(images) + (len(images) == 128)

    compare_outputs("it", predict, candidate, IMAGES, FP32)
    with pytest.raises(ParityError, match=r"largest logit error 1 \(at most 0\.001\)"):
        compare_outputs("it", predict, candidate, IMAGES, FP32, batch_sizes=(1, 128))


def test_two_classes_that_float32_hardly_tells_apart_may_change_places():
    expected = np.array([[1.0, 1.0 - 1e-6, 0.0], [2.0, 1.9, 0.0]], dtype=np.float32)
    images = np.arange(2, dtype=np.uint8).reshape(2, 1, 1, 1)

    def candidate(images):
        shift = np.array([[0, 2e-6, 0], [0, 0, 0]], dtype=np.float32)
        return (expected + shift)[images.ravel()]

    assert compare("it", expected, candidate, images, batch_sizes=(1, 2)).top1_agreement == 1
    swapped = compare("it", expected, lambda images: candidate(images)[:, [1, 0, 2]], images, batch_sizes=(1, 2))
    assert swapped.top1_agreement == 0.5  # in the second image they are told apart


def test_accuracy_of_both_where_there_are_labels():
    labels = predict(IMAGES).argmax(1)
    labels[:5] = (labels[:5] + 1) % 3  # where the reference is wrong

    def swapped(images):
        return predict(images)[:, [1, 0, 2]]

    found = compare("it", predict(IMAGES), swapped, IMAGES, batch_sizes=(1, 64), labels=labels)
    assert found.top1_reference == 75
    assert found.top1 == 100 * float((swapped(IMAGES).argmax(1) == labels).mean()) != 75
    assert f"top-1 {found.top1:.2f} % (PyTorch 75.00 %)" in describe(found.to_dict())


def test_what_earlier_versions_recorded_is_still_described():
    old = {"runtime": "openvino", "images": 128, "max_abs_error": 3.1e-06, "mean_abs_error": 1e-7, "top1_agreement": 1.0}
    assert describe(old) == "largest logit error 3.1e-06, same top-1 for 100.0% of 128 images"


def test_a_share_of_few_images_may_scatter():
    assert TOLERANCES["bf16"].on_sample(60).top1_agreement < 59 / 60
    assert TOLERANCES["fp16"].on_sample(10_000).top1_agreement > 0.998
    assert TOLERANCES["fp32"].on_sample(60).top1_agreement > 59 / 60


def test_a_mean_error_is_judged_whatever_the_largest_is():
    found = Comparison(
        runtime="int8", images=5000, batch_sizes=(64,), max_abs_error=9, mean_abs_error=0.03, top1_agreement=0.99
    )
    assert Tolerance(top1_agreement=0.98, mean_error=0.04).fault(found) is None
    fault = Tolerance(top1_agreement=0.98, mean_error=0.02).fault(found)
    assert fault == "mean logit error 0.03 (at most 0.02), same top-1 for 99.00% (at least 98.00%)"
