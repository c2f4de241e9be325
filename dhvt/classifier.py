"""Classification in Python: a model folder, an engine, decoding and ranking, without a server."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dhvt.artifact import Artifact, load_artifact
from dhvt.assessment import Asked, Assessor
from dhvt.data.batches import split
from dhvt.data.decode import read_file, to_upright_rgb
from dhvt.data.preprocess import preprocess_image, resize
from dhvt.data.sources import ImageSource
from dhvt.engines import Engine, open_engine
from dhvt.engines.settings import BUNDLED_MODEL, PREFERENCES, find_model
from dhvt.errors import DataError, EngineError, ImageError
from dhvt.evaluation.metrics import Evaluation, collect_outputs
from dhvt.evaluation.metrics import evaluate as measure
from dhvt.explanation.explainer import Explainer, Question
from dhvt.explanation.explanation import DEFAULT_METHOD, Explanation
from dhvt.hardware.cpus import available_cpus
from dhvt.ranking import Prediction, Ranking, rank

ImageInput = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""An image file's path, its bytes, a Pillow image, or an RGB array ``(H, W, 3)`` uint8 of any size."""

DEFAULT_MAX_BATCH_SIZE = 32

T = TypeVar("T")
R = TypeVar("R")


class Predictions(list[Prediction]):
    """The most likely classes of an image, best first, and what was asked for beside them.

    Attributes:
        prediction_set: the labels that contain the right one as often as ``coverage`` asks; None unless it is given.
        note: what that is short of, where the reference has too few images, of all classes or of one; else None.
        p_known: the share of known images that are as strange or stranger; None unless ``reject`` is given.
        known: whether that is more than ``reject``; None unless that is given.
    """

    prediction_set: list[str] | None = None
    note: str | None = None
    p_known: float | None = None
    known: bool | None = None


class Classifier:
    """A model and the engine that runs it::

        from dhvt import Classifier

        classifier = Classifier.load("runs/mine/artifact")
        for prediction in classifier.classify("cat.jpg", top_k=3):
            print(prediction["label"], prediction["score"])

    It may be used from several threads. Scores are the calibrated probabilities that the server gives.

    Args:
        artifact: the model folder, as :func:`dhvt.load_artifact` opens it.
        engine: an engine of that model that has passed its self-test, as :func:`dhvt.engines.open_engine` returns it.
        max_batch_size: images in one engine call of :meth:`classify_many`.
    """

    def __init__(self, artifact: Artifact, engine: Engine, *, max_batch_size: int = DEFAULT_MAX_BATCH_SIZE) -> None:
        self.artifact = artifact
        self.engine = engine
        self.max_batch_size = min(max_batch_size, engine.preferred_batch_size or max_batch_size)
        self.assessor = Assessor(artifact, engine.precision)
        self.explainer = Explainer(artifact)
        self._calls = BoundedSemaphore(engine.concurrency)

    @classmethod
    def load(
        cls,
        model: str | Path | Artifact = BUNDLED_MODEL,
        engine: str = "auto",
        *,
        threads: int = 0,
        max_batch_size: int = DEFAULT_MAX_BATCH_SIZE,
        device: int = 0,
        prefer: str = PREFERENCES[0],
    ) -> Classifier:
        """Opens a model, and the best engine that passes its self-test on this machine.

        Args:
            model: a model folder from export, or a tag of BentoML's model store, or what :func:`dhvt.load_artifact` gave; by
                default the bundled CIFAR-10 model.
            engine: a key of :data:`dhvt.engines.ENGINES`, one with a precision such as ``openvino:fp32``, or ``auto``.
            threads: processor threads of the engine; 0 takes all.
            max_batch_size: images in one engine call.
            device: index of the GPU among the visible ones; engines on the processor ignore it.
            prefer: ``throughput`` or ``latency``, by which ``auto`` chooses.

        Raises:
            ArtifactError: there is no model folder, or a file of it was changed.
            ConfigError: the model store has no model of this tag.
            EngineError: the engine asked for, or with ``auto`` every engine, is missing or fails.
        """
        artifact = model if isinstance(model, Artifact) else load_artifact(find_model(model))
        choice = open_engine(
            artifact,
            engine,
            threads=threads or available_cpus(),
            max_batch_size=max_batch_size,
            device=device,
            prefer=prefer,
        )
        return cls(artifact, choice.engine, max_batch_size=max_batch_size)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the logits."""
        return tuple(self.artifact.card.classes)

    def classify(
        self,
        image: ImageInput,
        top_k: int = 5,
        *,
        coverage: float | None = None,
        by_class: bool = False,
        reject: float | None = None,
    ) -> Predictions:
        """The ``top_k`` most likely classes of an image, best first.

        Args:
            coverage: the share of images, between 0 and 1, whose right label is to be in the result's ``prediction_set``::

                classifier.classify("cat.jpg", coverage=0.95).prediction_set

            by_class: whether that shall hold within each class, and not only on average over all.
            reject: the share of known images, between 0 and 1, that may be called unknown; the result then has ``known`` and
                ``p_known``.

        Raises:
            ConfigError: one of them is given, and the model has too few reference images; see ``dhvt calibrate``. Or
                ``by_class`` is given without ``coverage``.
            ImageError: the image cannot be read.
            EngineError: the engine fails.
            TypeError: ``image`` is not an :data:`ImageInput`.
        """
        asked = self._ask(coverage, by_class, reject)
        return self._answer(self._rank([self._preprocess(image)])[0], top_k, asked)

    def classify_many(
        self,
        images: Iterable[ImageInput],
        top_k: int = 5,
        *,
        coverage: float | None = None,
        by_class: bool = False,
        reject: float | None = None,
    ) -> Iterator[Predictions | ImageError]:
        """Classifies a stream of images in batches, and yields one result per image, in order.

        Threads decode the next images while the engine runs. A bounded number of images is taken ahead of the results, so
        that memory does not grow with the stream's length. An image that cannot be read does not end the stream: its
        :class:`~dhvt.errors.ImageError` is yielded, not raised, in its place::

            for path, result in zip(paths, classifier.classify_many(paths)):
                print(path, result if isinstance(result, ImageError) else result[0]["label"])

        Args:
            coverage: as for :meth:`classify`.
            by_class: as for :meth:`classify`.
            reject: as for :meth:`classify`.

        Raises:
            ConfigError: as for :meth:`classify`.
            EngineError: the engine fails.
            TypeError: an image is not an :data:`ImageInput`.
        """
        asked = self._ask(coverage, by_class, reject)
        decoders = ThreadPoolExecutor(available_cpus(), thread_name_prefix="decode")
        callers = ThreadPoolExecutor(self.engine.concurrency, thread_name_prefix="engine")
        try:
            decoded = _map_ahead(decoders, self._try_preprocess, images, ahead=self.max_batch_size + available_cpus())
            batches = split(decoded, self.max_batch_size)
            for results in _map_ahead(callers, self._rank_readable, batches, ahead=self.engine.concurrency):
                for found in results:
                    yield found if isinstance(found, ImageError) else self._answer(found, top_k, asked)
        finally:  # also where the caller does not read on
            for pool in (decoders, callers):
                pool.shutdown(cancel_futures=True)

    def explain(
        self,
        image: ImageInput,
        *,
        label: str | None = None,
        method: str = DEFAULT_METHOD,
        layer: int | None = None,
        masks: int | None = None,
        seed: int = 0,
    ) -> Explanation:
        """Maps of what in an image the answer depends on::

            classifier.explain("cat.jpg").draw().save("why.png")

        Args:
            label: the class to explain; by default the most likely one.
            method: ``masking`` (for this class, of any model), ``head-tokens`` or ``rollout`` (a DHVT's attention, the same for
                every class); see docs/explanations.md for how faithful each is.
            layer: whose attention, from 1; by default the last. Not with ``masking``.
            masks: masked images that ``masking`` classifies; more give a map with less noise.
            seed: of the masks.

        Raises:
            ConfigError: the model has no such class, method or layer.
            ImageError: the image cannot be read.
            EngineError: the engine fails.
        """
        question = Question(label=label, method=method, layer=layer, masks=masks, seed=seed)
        self.explainer.require(question)
        return self.explainer.explain(self._preprocess(image), question, self.predict, batch_size=self.max_batch_size)

    def _ask(self, coverage: float | None, by_class: bool, reject: float | None) -> Asked:
        asked = Asked(coverage=coverage, by_class=by_class, reject=reject)
        self.assessor.require(asked)
        return asked

    def _answer(self, ranking: Ranking, top_k: int, asked: Asked) -> Predictions:
        predictions = Predictions(ranking.top(self.artifact.card, top_k))
        if asked:
            found = self.assessor.assess(ranking, asked)
            predictions.prediction_set, predictions.note = found.get("prediction_set"), found.get("prediction_set_note")
            predictions.p_known, predictions.known = found.get("p_known"), found.get("known")
        return predictions

    def _preprocess(self, image: ImageInput) -> NDArray[np.uint8]:
        """The network's input ``(H, W, 3)`` uint8 RGB."""
        preprocess = self.artifact.card.preprocess
        if isinstance(image, (str, os.PathLike)):
            return preprocess_image(read_file(Path(image)), preprocess)
        if isinstance(image, bytes):
            return preprocess_image(image, preprocess)
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise ImageError(
                    f"the array is {image.dtype} {image.shape}; an image is uint8 (height, width, 3) in RGB, 0 "
                    "to 255; values of another type are scaled to that by whoever knows what is white in them"
                )
            image = Image.fromarray(image)
        if not isinstance(image, Image.Image):
            raise TypeError(f"an image is a path, bytes, a Pillow image or an array, not {type(image).__name__}")
        return np.asarray(resize(to_upright_rgb(image, preprocess.white), preprocess))

    def _try_preprocess(self, image: ImageInput) -> NDArray[np.uint8] | ImageError:
        try:
            return self._preprocess(image)
        except ImageError as error:
            return error

    def predict(self, inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The logits ``(B, classes)`` of preprocessed images ``(B, H, W, 3)`` uint8; waits while the engine is busy."""
        with self._calls:
            return self.engine.predict(inputs)

    def classify_inputs(
        self,
        inputs: NDArray[np.uint8],
        top_k: int = 5,
        *,
        coverage: float | None = None,
        by_class: bool = False,
        reject: float | None = None,
    ) -> list[Predictions]:
        """The classes of preprocessed images ``(B, H, W, 3)`` uint8, otherwise as :meth:`classify`."""
        asked = self._ask(coverage, by_class, reject)
        return [self._answer(ranking, top_k, asked) for ranking in self._rank(list(inputs))] if len(inputs) else []

    def _rank(self, inputs: Sequence[NDArray[np.uint8]]) -> list[Ranking]:
        logits = self.predict(np.stack(inputs))
        if not np.isfinite(logits).all():
            raise EngineError(f"{self.engine.name} in {self.engine.precision} gave logits that are not finite numbers")
        return rank(logits, self.artifact.card)

    def _rank_readable(self, batch: Sequence[NDArray[np.uint8] | ImageError]) -> list[Ranking | ImageError]:
        """A ranking for each input, and each error in its place."""
        inputs = [entry for entry in batch if not isinstance(entry, ImageError)]
        rankings = iter(self._rank(inputs) if inputs else [])
        return [entry if isinstance(entry, ImageError) else next(rankings) for entry in batch]


def evaluate(
    classifier: Classifier,
    source: ImageSource,
    *,
    batch_size: int = 64,
    on_error: Callable[[str], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Measures accuracy and calibration on labelled images::

        from dhvt import Classifier, evaluate, open_dataset

        classifier = Classifier.load("runs/mine/artifact")
        print(evaluate(classifier, open_dataset("images/", "test", classifier.classes)).top1)

    Args:
        source: labelled images of the model's classes, as :func:`dhvt.open_dataset` opens them.
        batch_size: images in one engine call.
        on_error: called with a message for each broken image, which is left out and counted; None raises instead.
        on_progress: called with the number of images in each batch done.

    Raises:
        DataError: a broken image without ``on_error``, none of them can be read, or the classes are not the model's.
    """
    if tuple(source.classes) != tuple(classifier.classes):
        raise DataError(
            f"{source.origin} has the classes {', '.join(source.classes)}, in this order, and the model "
            f"{', '.join(classifier.classes)}; open it with open_dataset(…, classifier.classes)"
        )
    outputs = collect_outputs(
        classifier.predict,
        source,
        classifier.artifact.card.preprocess,
        batch_size=batch_size,
        on_error=on_error,
        on_progress=on_progress,
    )
    return measure(outputs, classifier.artifact.card.temperature)


def _map_ahead(pool: Executor, function: Callable[[T], R], items: Iterable[T], *, ahead: int) -> Iterator[R]:
    """The function's results in the items' order, while at most ``ahead`` further items are in work."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
