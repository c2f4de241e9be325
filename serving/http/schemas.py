"""The bodies of responses, as the OpenAPI document describes them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field


class ScoredLabel(BaseModel):
    """One class and its probability."""

    label: str
    score: float = Field(ge=0, le=1)


class ErrorDetail(BaseModel):
    """What went wrong: a code for programs, a message for people."""

    code: str
    message: str


class Error(BaseModel):
    """The body of every response that is not 200."""

    error: ErrorDetail


class Assessment(BaseModel):
    """What is answered on request."""

    prediction_set: list[str] | None = Field(
        default=None,
        description="With `coverage`: labels that contain the right one for this share of images, likeliest first.",
    )
    prediction_set_note: str | None = Field(
        default=None,
        description="Why it has every label, or which classes it does not hold within: the reference images are too few.",
    )
    p_known: float | None = Field(
        default=None, gt=0, le=1, description="With `reject`: the share of reference images that are as strange or stranger."
    )
    known: bool | None = Field(default=None, description="With `reject`: whether `p_known` is more than that share.")


class ClassifyOutput(Assessment):
    """The most likely classes, best first."""

    model: str = Field(description="The name of the model that answered.")
    version: str = Field(description="Its version.")
    predictions: list[ScoredLabel]


class BatchResult(Assessment):
    """One image's classes, or its error."""

    name: str = Field(description="The file's name, as it was sent.")
    predictions: list[ScoredLabel] | None = None
    error: ErrorDetail | None = None


class BatchLine(BatchResult):
    """One image's classes, or its error, and which model answered."""

    model: str
    version: str


class BatchOutput(BaseModel):
    """A result for each image, in their order."""

    model: str
    version: str
    results: list[BatchResult]


class ExplanationMap(BaseModel):
    """One map over the whole image as the network gets it."""

    name: str = Field(description="`masking`, `rollout`, `head token 1`, `mean of the head tokens` or `class token`.")
    values: list[list[float]] = Field(
        description="Rows. Of masking: by how much the class is more likely where the place is shown. Else attention in "
        "multiples of an even spread."
    )


class ExplainOutput(BaseModel):
    """Maps of what in an image an answer depends on."""

    model: str
    version: str
    method: str
    label: str = Field(description="The class that is explained; attention is the same for every class.")
    score: float = Field(ge=0, le=1, description="Its calibrated probability.")
    size: tuple[int, int] = Field(description="Height and width of the network's input, which each map is spread over.")
    masks: int | None = Field(default=None, description="Masked images that were classified.")
    layer: int | None = Field(default=None, description="Whose attention it is, from 1.")
    maps: list[ExplanationMap]


class DriftAlarm(BaseModel):
    """When the evidence reached the level, and when what it is about began."""

    at: datetime
    after_images: int = Field(description="Images that the worker with the alarm had tested.")
    began_about: datetime = Field(description="Since when: an estimate, not before the worker began.")
    began_after_images: int
    of: str = Field(description="What changed most: classes, scores, or classes and scores.")


class ClassChange(BaseModel):
    """A class whose share of the answers has changed."""

    label: str
    share: float = Field(description="Of the window.")
    reference_share: float
    change: tuple[float, float] = Field(description="Interval of the difference; all intervals together hold in 95 % of looks.")


class DriftWindow(BaseModel):
    """The last 1,000 tested answers of each worker, against the reference."""

    images: int
    grew: list[ClassChange]
    shrank: list[ClassChange]


class Drift(BaseModel):
    """Whether the images are still of the kind that the model was measured on."""

    model: str
    version: str
    precision: str = Field(description="Of the engine; the reference was measured in the same.")
    reference_images: int
    images: int = Field(description="That all workers have tested.")
    evidence: float = Field(description="An e-value: of W workers the largest martingale, divided by W; 1 or less is none.")
    alarm_at: float = Field(description="The evidence that is an alarm.")
    meaning: str = Field(description="What that says, and the bound on false alarms, in words.")
    alarm: DriftAlarm | None = Field(description="The first one; it stays until another model serves.")
    window: DriftWindow


class Info(BaseModel):
    """The model card, the engine and the limits."""

    model: str
    version: str
    architecture: str
    classes: list[str]
    digest: str = Field(description="A hash of everything that decides an answer; also each response's X-Model-Digest.")
    files: dict[str, str] = Field(description="SHA-256 by file name.")
    metrics: dict[str, Any] = Field(description="Measured in training, and under test what dhvt evaluate recorded.")
    preprocess: dict[str, Any]
    temperature: float = Field(description="What logits are divided by before they become scores.")
    reference: dict[str, Any] | None = Field(
        description="The images that `coverage` and `reject` are measured by: how many, the largest coverage and the smallest "
        "rejected share that they allow, and in which precision they were measured; null where the model has none."
    )
    engine: dict[str, Any] = Field(
        description="What runs the graph, and each engine's speed, accuracy and why it does or does not."
    )
    explanations: list[str] = Field(description="The methods of `/explain` that this model has; none where it is off.")
    limits: dict[str, int] = Field(description="The settings of these names.")
