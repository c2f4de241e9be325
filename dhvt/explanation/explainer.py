"""Explains a model's answers: checks what is asked, and makes the maps in steps that any engine can run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dhvt.artifact import EXPLAIN, Artifact
from dhvt.data.text import encodable
from dhvt.errors import ConfigError
from dhvt.explanation.attention import Attention, AttentionGraph
from dhvt.explanation.explanation import DEFAULT_METHOD, HEAD_TOKENS, MASKING, METHODS, Explanation, Map
from dhvt.explanation.masking import DEFAULT_MASKS, LEAST_MASKS, MaskingMap
from dhvt.ranking import Ranking, rank

LARGEST_SIDE = 64
"""Of a masking map: more would show no more, as cells are larger."""

Steps = Generator[NDArray[np.uint8], NDArray[np.float32], Explanation]
"""Yields images ``(B, H, W, 3)``, is sent their logits, and returns the explanation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be explained, and how.

    Args:
        label: a class of the model; None for the most likely one.
        method: one of :data:`~dhvt.explanation.explanation.METHODS`.
        layer: whose attention, from 1; None for the last. With ``masking`` there is none.
        masks: masked images to classify, with ``masking``; None for :data:`~dhvt.explanation.masking.DEFAULT_MASKS`.
        seed: of the masks.
    """

    label: str | None = None
    method: str = DEFAULT_METHOD
    layer: int | None = None
    masks: int | None = None
    seed: int = 0


class Explainer:
    """Makes maps for one model. It may be used from several threads.

    Args:
        artifact: of the model.
        threads: of the processor, for the graph with the attention; 0 takes all.
    """

    def __init__(self, artifact: Artifact, threads: int = 0) -> None:
        self._artifact, self._threads = artifact, threads
        self._classes = [encodable(name) for name in artifact.card.classes]  # as answers have them
        self._lock = threading.Lock()
        self._graph: AttentionGraph | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """Those that this model has."""
        return METHODS if self._artifact.find_variant(format=EXPLAIN) is not None else (MASKING,)

    def require(self, question: Question) -> None:
        """Raises ConfigError, with how to fix it, where the model cannot answer this.

        The number of a layer is checked when the attention is there.
        """
        card = self._artifact.card
        if question.label is not None and encodable(question.label) not in self._classes:
            raise ConfigError(f"label is {question.label[:100]!r}; the model's classes are {', '.join(self._classes)[:500]}")
        if question.method not in METHODS:
            raise ConfigError(f"method is {question.method[:100]!r}; choose one of {', '.join(METHODS)}")
        if question.method not in self.methods:
            raise ConfigError(
                f"method {question.method} needs the graph with the attention, which {card.name} does not have: dhvt export "
                f"MODEL --target explain adds it to a DHVT, and masking explains every model"
            )
        masks, layer = question.masks, question.layer
        if masks is not None and (question.method != MASKING or masks < LEAST_MASKS):
            raise ConfigError(f"masks is {masks}; method masking takes at least {LEAST_MASKS}, and the others none")
        if layer is not None and (question.method == MASKING or layer < 1):
            raise ConfigError(f"layer is {layer}; head-tokens and rollout take one from 1, and masking takes none")

    def explain(
        self,
        pixels: NDArray[np.uint8],
        question: Question,
        predict: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
        *,
        batch_size: int = 32,
    ) -> Explanation:
        """The explanation of an image.

        Args:
            pixels: the network's input, ``(H, W, 3)`` uint8.
            predict: images to logits.
            batch_size: images in one call of ``predict``.

        Raises:
            ConfigError: see :meth:`require`.
            EngineError: the attention cannot be computed here.
        """
        steps = self.steps(pixels, question, batch_size)
        images = next(steps)
        while True:
            try:
                images = steps.send(predict(images))
            except StopIteration as end:
                explanation: Explanation = end.value
                return explanation

    def steps(self, pixels: NDArray[np.uint8], question: Question, batch_size: int) -> Steps:
        """The same, for a caller that runs the engine itself."""
        self.require(question)
        card = self._artifact.card
        ranking = rank((yield pixels[None]), card)[0]
        index = int(ranking.indices[0]) if question.label is None else self._classes.index(encodable(question.label))
        explanation = Explanation(question.method, card.classes[index], _score(ranking, index), pixels, ())
        if question.method == MASKING:
            masks = DEFAULT_MASKS if question.masks is None else question.masks
            fill = 255 * np.array(card.preprocess.mean, np.float32)
            masking = MaskingMap(pixels, fill, masks=masks, seed=question.seed)
            for images in masking.batches(batch_size):
                logits = yield images
                masking.add(np.array([_score(found, index) for found in rank(logits, card)]))
            return replace(explanation, maps=(Map(MASKING, _shrink(masking.map())),), masks=masks)
        attention = self._run_graph(pixels)
        layer = attention.layers if question.layer is None else question.layer
        if layer > attention.layers:
            raise ConfigError(f"layer is {layer}; the model has {attention.layers}")
        return replace(explanation, maps=_attention_maps(attention, question.method, layer - 1), layer=layer)

    def _run_graph(self, pixels: NDArray[np.uint8]) -> Attention:
        with self._lock:  # loaded once, when it is first asked for
            if self._graph is None:
                self._graph = AttentionGraph(self._artifact, self._threads)
        return self._graph.run(pixels)


def _attention_maps(attention: Attention, method: str, layer: int) -> tuple[Map, ...]:
    if method != HEAD_TOKENS:
        return (Map(method, _relate(attention.rollout[layer])),)
    named = {"mean of the head tokens": attention.head_tokens[layer].mean(axis=0)}
    named |= {f"head token {number}": values for number, values in enumerate(attention.head_tokens[layer], start=1)}
    named["class token"] = attention.class_token[layer]
    return tuple(Map(name, _relate(values)) for name, values in named.items())


def _relate(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Attention in multiples of what each patch had if all had the same."""
    related: NDArray[np.float32] = values / values.mean()
    return related


def _score(ranking: Ranking, index: int) -> float:
    return float(ranking.scores[np.flatnonzero(ranking.indices == index)[0]])


def _shrink(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over squares, so that no side is longer than :data:`LARGEST_SIDE`."""
    step = -(-max(values.shape) // LARGEST_SIDE)
    height, width = (-(-side // step) for side in values.shape)
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BOX))
