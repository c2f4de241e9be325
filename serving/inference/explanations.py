"""``POST /explain``: one explanation at a time, its masked images in small chunks between the images of other requests."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dhvt.data.preprocess import preprocess_image
from dhvt.errors import ConfigError, EngineError, ImageError
from dhvt.explanation.explainer import Question, Steps
from dhvt.explanation.explanation import MASKING, Explanation
from dhvt.explanation.masking import DEFAULT_MASKS
from serving.errors import BadRequest, EngineFailed, NotFound, Overloaded, from_image_error
from serving.inference.model import ServedModel
from serving.settings import Settings

CHUNK = 8
"""Masked images in one engine call: what an image that is classified meanwhile waits for, at most."""

MOST_WAITING = 8


class ExplanationQueue:
    """Explains images of one worker, one after the other.

    Args:
        settings: of this process.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._turn, self._waiting = asyncio.Semaphore(1), 0

    async def explain(self, model: ServedModel, image: bytes, question: Question) -> Explanation:
        """The explanation of an encoded image, for a caller that holds the model's scheduler.

        Raises:
            NotFound: explanations are off.
            BadRequest: the model cannot answer the question, or it costs too much.
            Overloaded: too many wait already.
            EngineFailed: the engine failed on the image, or the attention cannot be computed.
            InvalidImage, TooLarge, UnsupportedMedia: the image cannot be decoded.
        """
        question = self.require(model, question)
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            return await self._run(model, image, question)
        finally:
            self._turn.release()

    def require(self, model: ServedModel, question: Question) -> Question:
        """The question with its number of masks; for the errors that need no image, also before there is one.

        Raises:
            NotFound, BadRequest, Overloaded: see :meth:`explain`.
        """
        most = self._settings.explain_masks
        if not most:
            raise NotFound("explanations are off: DHVT_EXPLAIN_MASKS is 0")
        if question.masks is not None and question.masks > most:
            raise BadRequest(f"masks is {question.masks}; this server's DHVT_EXPLAIN_MASKS allows {most}")
        try:
            model.explainer.require(question)
        except ConfigError as error:
            raise BadRequest(str(error)) from None
        if self._waiting >= MOST_WAITING:
            raise Overloaded(f"{self._waiting} requests wait for an explanation already; try again", retry_after_s=5)
        if question.method == MASKING and question.masks is None:
            return replace(question, masks=min(DEFAULT_MASKS, most))
        return question

    async def _run(self, model: ServedModel, image: bytes, question: Question) -> Explanation:
        preprocess, max_pixels = model.artifact.card.preprocess, self._settings.max_pixels
        try:
            pixels = await asyncio.to_thread(preprocess_image, image, preprocess, max_pixels=max_pixels)
            steps = model.explainer.steps(pixels, question, min(CHUNK, model.scheduler.max_batch_size))
            images: NDArray[np.uint8] | Explanation = next(steps)
            while not isinstance(images, Explanation):
                images = await asyncio.to_thread(_take_step, steps, await model.scheduler.run(images))
            return images
        except ImageError as error:
            raise from_image_error(error) from error
        except ConfigError as error:
            raise BadRequest(str(error)) from None
        except EngineError as error:
            raise EngineFailed(str(error)) from error


def _take_step(steps: Steps, logits: NDArray[np.float32]) -> NDArray[np.uint8] | Explanation:
    """The next images, or the explanation."""
    try:
        return steps.send(logits)
    except StopIteration as end:
        explanation: Explanation = end.value
        return explanation
