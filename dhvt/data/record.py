"""What is recorded of the images of a model, and how unseen images are told from those that it learned from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dhvt.data.fingerprint import LEAST_SHARED, Fingerprint, count_compared, fingerprint, is_significant, overlap
from dhvt.data.sources import ImageSource
from dhvt.data.splits import TrainingData
from dhvt.errors import DataError

SEEN = ("training", "validation", "calibration")
"""The images that a model's weights, choice and temperature come from; accuracy on them tells little of others."""

TOLERATED_OVERLAP = 0.01
"""Share of the images: data sets that were collected apart have a few in common, which change no figure much."""

_FEW_COMPARED = 10
"""Of larger sets a part is remembered, and fewer images than these that lie in it show little."""

_log = logging.getLogger(__name__)

Record = Mapping[str, Mapping[str, Any]]
"""By ``training``, ``validation``, ``reference`` (held out for it), ``calibration`` (of int8) and ``test``: a fingerprint's
fields, and ``source``, where the images came from; ``held_out_fraction`` of images that were held out of the training split,
and ``group_by`` where no group of images is in both; ``omitted``, the images that were left out, see
:func:`dhvt.data.exclusion.pack_names`."""


def record_source(
    source: ImageSource, on_progress: Callable[[int], None] | None = None, hashes: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """One entry of a :data:`Record`: the fingerprint of ``source``, and where it came from."""
    return {**fingerprint(source, on_progress, hashes).to_dict(), "source": source.origin}


def record_training_data(
    images: TrainingData, on_progress: Callable[[int], None] | None = None, hashes: Mapping[str, int] | None = None
) -> dict[str, dict[str, Any]]:
    """The :data:`Record` of a training. Each image is read once; see :func:`fingerprint` for what that costs.

    Held-out images that are copies of training images are named in a warning.

    Args:
        images: to learn from and to validate on.
        on_progress: called with the number of images done since the last call.
        hashes: of images that were read already, as for :func:`fingerprint`.

    Raises:
        DataError: the validation images were not held out, and are training images too.
    """
    training, validation = (record_source(part, on_progress, hashes) for part in (images.train, images.val))
    what, found = f"the validation images ({images.val.origin})", Fingerprint.from_dict(validation)
    if images.val_fraction is None:
        require_unseen(found, {"training": training}, what=what)
    else:
        warn_of_overlaps(found, {"training": training}, what=what)
        validation["held_out_fraction"] = images.val_fraction
    if images.group_by is not None:
        validation["group_by"] = images.group_by
    data = {"training": training, "validation": validation}
    if images.reference is not None:
        data["reference"] = record_source(images.reference, on_progress, hashes)
        data["reference"]["held_out_fraction"] = images.reference_fraction
        warn_of_overlaps(Fingerprint.from_dict(data["reference"]), data, what="the images held out as reference")
    return data


def find_overlaps(images: Fingerprint, record: Record, kinds: Sequence[str] = SEEN) -> dict[str, float]:
    """By kind of the record, the share of images that are in it too, see :func:`overlap`; kinds without any are absent."""
    shares = {kind: overlap(images, Fingerprint.from_dict(record[kind])) for kind in kinds if kind in record}
    return {kind: share for kind, share in shares.items() if share > 0}


def is_seen(measured: Mapping[str, Any]) -> bool:
    """Whether an entry of a card's ``metrics`` is of images that the model has seen, which tells nothing of others."""
    return max(measured.get("overlap", {}).values(), default=0.0) > TOLERATED_OVERLAP


def require_unseen(
    images: Fingerprint, record: Record, kinds: Sequence[str] = SEEN, *, what: str = "the images", hint: str = "give others"
) -> dict[str, float]:
    """Refuses images that a model has learned from; the one check of training, export, evaluation and benchmarks.

    Args:
        images: of the images to measure on.
        record: the ``data`` of a checkpoint or model card. What is not recorded cannot be refused.
        kinds: the kinds of the record that must not be measured on.
        what, hint: how the message names the images, and what to do.

    Returns:
        :func:`find_overlaps`, where that is within :data:`TOLERATED_OVERLAP`.

    Raises:
        DataError: more than that are in one of the kinds, and that is no chance, see :func:`is_significant`.
    """
    overlaps = find_overlaps(images, record, kinds)
    above = [kind for kind, share in overlaps.items() if share > TOLERATED_OVERLAP]
    if any(is_significant(images, Fingerprint.from_dict(record[kind])) for kind in above):
        raise DataError(f"{describe_overlaps(overlaps, what)}; what is measured on them says nothing of new images: {hint}")
    if above:
        _log.warning("%s, as estimated from fewer than %d of them", describe_overlaps(overlaps, what), LEAST_SHARED)
    for kind in kinds:
        compared = count_compared(images, Fingerprint.from_dict(record[kind])) if kind in record else images.images
        if compared < min(_FEW_COMPARED, images.images):
            _log.warning("only %d of %s are compared with the %s images: see that they are none", compared, what, kind)
    return overlaps


def warn_of_overlaps(
    images: Fingerprint, record: Record, kinds: Sequence[str] = SEEN, *, what: str = "the images"
) -> dict[str, float]:
    """Logs what :func:`require_unseen` would refuse, for images that the training itself held out of a set with copies."""
    overlaps = find_overlaps(images, record, kinds)
    if overlaps:
        _log.warning("%s: they are copies of the same files, on which accuracy is too high", describe_overlaps(overlaps, what))
    return overlaps


def describe_overlaps(overlaps: Mapping[str, float], what: str = "the images") -> str:
    """``of the images, 12.0 % were used for training and 3.0 % for calibration``."""
    return f"of {what}, " + " and ".join(f"{100 * share:.1f} % were used for {kind}" for kind, share in overlaps.items())
