"""How a model learns: :class:`Recipe`, and the presets of ``recipes/*.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Literal, Self

from dhvt.configuration import from_dict, require
from dhvt.training.fields import convert_fields, option


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the trained weights, besides the images and the model. ``Recipe.preset`` takes a preset.

    A field is an option of ``dhvt train``, a key of TOML files and of ``config.toml``. The default of a new field is what was
    done before there was the field, since older checkpoints are resumed with it; no field of :class:`RunOptions` has its name.

    Raises:
        ConfigError: a value is out of range.
    """

    epochs: int = option(
        20,
        "Passes over the training images; auto gives 300 steps, in 30 epochs at least and 300 at most.",
        minimum=1,
        auto=True,
    )
    batch_size: int = option(128, "Images per optimizer step; all of them where there are fewer.", minimum=1)
    optimizer: Literal["muon", "adamw"] = option("muon", "muon takes the weight matrices and leaves the rest to AdamW.")
    lr: float = option(3e-3, "Peak learning rate.", minimum=0, exclusive=True)
    lr_batch_size: int = option(
        0, "The peak learning rate is multiplied by the step's images / this number; 0 takes it as it is.", minimum=0
    )
    min_lr: float = option(1e-5, "Learning rate at the end.", minimum=0)
    warmup_lr: float = option(1e-6, "Learning rate at the start.", minimum=0)
    warmup_epochs: float = option(0.5, "Epochs over which the learning rate rises linearly to its peak.", minimum=0)
    schedule: Literal["cosine", "linear"] = option("cosine", "How the learning rate falls afterwards.")
    weight_decay: float = option(
        0.05,
        "Of weights of two or more dimensions; biases, norms, class token and position embeddings have none.",
        minimum=0,
    )
    clip_grad: float = option(0.0, "Largest gradient norm; 0 does not clip.", minimum=0)
    crop: Literal["pad", "resized"] = option(
        "pad",
        "pad preprocesses as for evaluation, then shifts by up to an eighth of the size; "
        "resized cuts a random area and aspect ratio out of the full image.",
    )
    padding_mode: Literal["reflect", "constant"] = option(
        "reflect", "What crop = pad shifts in: reflect mirrors the image, constant is black, as in the paper's recipe."
    )
    resized_min_area: float = option(
        0.35, "The smallest area that crop = resized cuts out, as a fraction of the image.", minimum=0.001, maximum=1
    )
    flip: float = option(0.5, "Probability of a horizontal flip.", minimum=0, maximum=1)
    color_jitter: float = option(0.0, "Strength of random brightness, contrast and saturation; 0 for none.", minimum=0)
    auto_augment: str = option("", "timm's name of a RandAugment policy, as rand-m9-mstd0.5-inc1; empty for none.")
    random_erasing: float = option(0.0, "Probability that a rectangle of an image is replaced by noise.", minimum=0, maximum=1)
    repeats: int = option(
        1,
        "Repeated augmentation: each image is taken so many times, augmented differently, and an epoch has that much fewer "
        "images (Hoffer et al. 2020).",
        minimum=1,
    )
    mixup: float = option(0.0, "Alpha of mixup's Beta distribution; 0 for none.", minimum=0)
    cutmix: float = option(0.0, "Alpha of cutmix's Beta distribution; 0 for none.", minimum=0)
    mix_prob: float = option(0.0, "Probability that a batch is mixed at all.", minimum=0, maximum=1)
    switch_prob: float = option(0.5, "Probability of cutmix rather than mixup where both are on.", minimum=0, maximum=1)
    class_weights: Literal["none", "balanced", "sqrt"] = option(
        "none",
        "Where classes are uneven: balanced weighs each image's loss with 1 / the images of its class, sqrt with the root of "
        "that. More images of rare classes are found, and more of others are taken for them.",
    )
    label_smoothing: float = option(0.1, "Probability mass given to the other classes.", minimum=0, maximum=1)
    drop_path_rate: float = option(
        0.1,
        "Probability that an image skips the last block's branches; it grows linearly from 0 over the blocks.",
        minimum=0,
        maximum=1,
    )
    ema_decay: float = option(
        0.998,
        "Of the exponential moving average of the weights, per step; 0 for none. In step s it is 1 - s^(-2/3) if that is "
        "less, so that the first weights do not outweigh a short run's: 0.998 takes 11,000 steps to reach, the paper's "
        "0.99996 4 million.",
        minimum=0,
        maximum=1,
    )
    crop_pct: float = option(
        1.0,
        "For evaluation: the side of the centre crop, as a fraction of the resized image's shorter side.",
        minimum=0.01,
        maximum=1,
    )
    resolutions: tuple[tuple[float, float], ...] = option(
        ((1.0, 1.0),),
        "Until each fraction of the steps, training images are scaled by the number beside it, rounded to whole patches. "
        "Fewer patches train faster; the last pair should be 1:1.",
        metavar="FRACTION:SCALE,…",
    )
    patience: int = option(
        0,
        "Stop after so many epochs without a lower validation loss; best.pt has the best of them. 0 never stops. The learning "
        "rate falls as --epochs says all the same, so a run that is stopped has not seen its low end: choose --epochs that "
        "you would wait for, and more than a few of patience.",
        minimum=0,
    )
    seed: int = option(
        0,
        "Of weights, order and augmentation. Every random draw is a function of it and the step, so that a resumed run "
        "repeats what an unbroken one does.",
        minimum=0,
    )

    def __post_init__(self) -> None:
        convert_fields(self)
        require(
            not self.auto_augment or self.auto_augment.startswith("rand-"),
            f"auto_augment is {self.auto_augment!r}; give a RandAugment policy such as rand-m9-mstd0.5-inc1",
        )
        untils = [until for until, _ in self.resolutions]
        require(
            bool(untils) and untils == sorted(untils) and untils[-1] == 1.0,
            f"resolutions end at {untils}; the fractions must rise, and the last be 1",
        )
        scales = [scale for _, scale in self.resolutions]
        require(all(scale > 0 for scale in scales), f"resolutions have the scales {scales}; each must be more than 0")

    @classmethod
    def preset(cls, name: str = "short", **changes: Any) -> Self:
        """One of :func:`preset_names` with some fields changed.

        Raises:
            ConfigError: no such preset, an unknown field, or a value out of range.
        """
        return from_dict(cls, preset_values(name) | changes)

    def peak_lr(self) -> float:
        """The peak learning rate for this batch size."""
        return self.lr * (self.batch_size / self.lr_batch_size if self.lr_batch_size else 1.0)

    def mixes(self) -> bool:
        """Whether images are mixed, which takes them in pairs."""
        return bool(self.mix_prob and (self.mixup or self.cutmix))

    def scale_at(self, progress: float) -> float:
        """The image scale when ``progress`` (0 to 1) of the training is done."""
        return next(scale for until, scale in self.resolutions if progress < until or until == 1.0)

    def mean_scale_after(self, progress: float) -> float:
        """The mean image scale over what is left when ``progress`` of the training is done."""
        total, start = 0.0, progress
        for until, scale in self.resolutions:
            total += max(until - start, 0.0) * scale
            start = max(until, start)
        return total / (1 - progress) if progress < 1 else self.scale_at(1.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for a checkpoint or JSON."""
        return asdict(self)


def preset_names() -> list[str]:
    """The recipes that come with the package, from ``recipes/*.toml``."""
    return sorted(entry.name[:-5] for entry in (files("dhvt.training") / "recipes").iterdir() if entry.name.endswith(".toml"))


def preset_values(name: str) -> dict[str, Any]:
    """The fields that a preset sets.

    Raises:
        ConfigError: there is none of this name.
    """
    require(name in preset_names(), f"no recipe {name!r}; there are {', '.join(preset_names())}")
    return tomllib.loads((files("dhvt.training") / "recipes" / f"{name}.toml").read_text(encoding="utf-8"))
