import numpy as np
import pytest

from dhvt.evaluation.metrics import Outputs, balanced_accuracy, confusion_matrix, evaluate, macro_f1


def outputs_of(labels, predicted, classes):
    logits = np.eye(classes, dtype=np.float32)[predicted]
    return Outputs(logits=logits, labels=np.array(labels), indices=np.arange(len(labels)), skipped=0)


def test_each_class_counts_alike_however_many_images_it_has():
    """90 of one class and 10 of another, all taken for the first: top-1 is 90 %."""
    result = evaluate(outputs_of([0] * 90 + [1] * 10, [0] * 100, 2))
    assert result.top1 == 90
    assert result.balanced_accuracy == 50
    assert result.macro_f1 == pytest.approx(100 * (2 * 90 / 190) / 2)


def test_rows_are_true_classes_and_columns_predicted_ones():
    outputs = outputs_of([0, 0, 0, 1], [0, 1, 1, 1], 3)
    matrix = confusion_matrix(outputs.logits, outputs.labels)
    assert matrix.tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 0]]
    # The third class, which has no image and was not predicted, counts for nothing.
    assert balanced_accuracy(matrix) == pytest.approx(100 * (1 / 3 + 1) / 2)
    assert macro_f1(matrix) == pytest.approx(100 * (2 / 4 + 2 / 4) / 2)


def test_a_class_that_is_predicted_without_an_image_lowers_f1_alone():
    outputs = outputs_of([0, 0], [0, 2], 3)
    matrix = confusion_matrix(outputs.logits, outputs.labels)
    assert balanced_accuracy(matrix) == 50
    assert macro_f1(matrix) == pytest.approx(100 * (2 / 3) / 2)
