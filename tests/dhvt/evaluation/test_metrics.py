import numpy as np
import pytest

from dhvt.data.preprocess import Preprocess
from dhvt.data.splits import open_test_data
from dhvt.errors import EngineError
from dhvt.evaluation.metrics import Outputs, balanced_accuracy, collect_outputs, confusion_matrix, evaluate, macro_f1


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


def test_logits_that_are_not_finite_name_their_image(image_folder):
    source, _ = open_test_data(image_folder, None)

    def predict(images):
        logits = np.zeros((len(images), len(source.classes)), np.float32)
        logits[3, 1] = np.inf
        return logits

    with pytest.raises(EngineError, match="are not finite") as error:
        collect_outputs(predict, source, Preprocess(size=(32, 32)))
    assert source.locate(3) in str(error.value)
