"""How a model is trained, as data: presets are ``recipes/*.toml``, read into a frozen :class:`TrainRecipe`."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Literal, get_args

from dhvt.configuration import from_dict
from dhvt.errors import ConfigError

Optimizer = Literal["muon", "adamw"]
Crop = Literal["pad", "resized"]
Padding = Literal["reflect", "constant"]
Schedule = Literal["cosine", "linear"]


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """Everything that decides the trained weights, besides the data and the model.

    Args:
        epochs: passes over the training images.
        batch_size: images per optimizer step; all of them where there are fewer.
        optimizer: ``muon`` (for weight matrices; AdamW for the rest) or ``adamw``.
        lr: peak learning rate.
        lr_batch_size: ``lr`` is multiplied by the step's images / ``lr_batch_size``; 0 takes it as it is.
        min_lr: learning rate at the end.
        warmup_lr: learning rate at the start.
        warmup_epochs: over which the learning rate rises linearly to its peak.
        schedule: how it falls afterwards.
        weight_decay: of weights of two or more dimensions; biases, norms, class token and position embeddings have none.
        clip_grad: largest gradient norm; 0 does not clip.
        crop: ``pad`` preprocesses as for evaluation, then shifts by up to an eighth of the size;
            ``resized`` cuts out a random part and aspect ratio of the full image.
        padding_mode: what ``pad`` shifts in: ``reflect`` mirrors the image, ``constant`` is black, as in the paper's recipe.
        resized_min_area: the smallest part that ``resized`` cuts out, of 1.
        flip: probability of a horizontal flip.
        color_jitter: strength of random brightness, contrast and saturation, 0 for none.
        auto_augment: timm's name of a RandAugment policy, as ``rand-m9-mstd0.5-inc1``; empty for none.
        random_erasing: probability that a rectangle of an image is replaced by noise.
        repeats: repeated augmentation; each image is taken so many times, differently, and the epoch has that much
            fewer images (Hoffer et al. 2020).
        mixup, cutmix: alpha of their Beta distributions, 0 for none.
        mix_prob: probability that a batch is mixed at all.
        switch_prob: probability of cutmix rather than mixup where both are on.
        label_smoothing: probability mass given to the other classes.
        drop_path_rate: probability that an image skips the last block's branches; it grows linearly from 0.
        ema_decay: of the exponential moving average of the weights, per step; 0 for none. In step s it is
            1 - s^(-2/3) if that is less, lest the first weights outweigh a short run's: 0.995 takes 2,800 steps to
            reach and 0.998 11,000, but 0.99996 4 million, so that the paper's presets stay below it unless trained for so long.
        crop_pct: for evaluation: the side of the centre crop, of the resized image's shorter side.
        resolutions: ``(until, scale)`` pairs: until that fraction of the steps, training images are scaled by
            ``scale`` (rounded to whole patches). Fewer patches train faster; the last pair should be ``(1, 1)``.
        seed: of weights, order and augmentation. Every draw is a function of it and the step, so a resumed run
            repeats what an unbroken one does.

    Raises:
        ConfigError: a value is out of range.
    """

    epochs: int = 20
    batch_size: int = 128
    optimizer: Optimizer = "muon"
    lr: float = 3e-3
    lr_batch_size: int = 0
    min_lr: float = 1e-5
    warmup_lr: float = 1e-6
    warmup_epochs: float = 0.5
    schedule: Schedule = "cosine"
    weight_decay: float = 0.05
    clip_grad: float = 0.0
    crop: Crop = "pad"
    padding_mode: Padding = "reflect"
    resized_min_area: float = 0.35
    flip: float = 0.5
    color_jitter: float = 0.0
    auto_augment: str = ""
    random_erasing: float = 0.0
    repeats: int = 1
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 0.0
    switch_prob: float = 0.5
    label_smoothing: float = 0.1
    drop_path_rate: float = 0.1
    ema_decay: float = 0.998
    crop_pct: float = 1.0
    resolutions: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolutions", tuple((float(u), float(s)) for u, s in self.resolutions))
        for name, kind in (
            ("optimizer", Optimizer),
            ("crop", Crop),
            ("padding_mode", Padding),
            ("schedule", Schedule),
        ):
            if getattr(self, name) not in get_args(kind):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(get_args(kind))}")
        for name in ("epochs", "batch_size", "repeats"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("color_jitter", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.lr <= 0:
            raise ConfigError(f"lr is {self.lr}; it must be positive")
        for name in ("flip", "random_erasing", "mix_prob", "switch_prob", "label_smoothing", "drop_path_rate", "ema_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        if self.auto_augment and not self.auto_augment.startswith("rand-"):
            raise ConfigError(f"auto_augment is {self.auto_augment!r}; give a RandAugment policy such as rand-m9-mstd0.5-inc1")
        untils = [until for until, _ in self.resolutions]
        if untils != sorted(untils) or not untils or untils[-1] != 1.0:
            raise ConfigError(f"resolutions end at {untils}; the fractions must rise, and the last be 1")

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
        """The image scale on average over what is left when ``progress`` of the training is done."""
        total, start = 0.0, progress
        for until, scale in self.resolutions:
            total += max(until - start, 0.0) * scale
            start = max(until, start)
        return total / (1 - progress) if progress < 1 else self.scale_at(1.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for a checkpoint or JSON."""
        return asdict(self)


def recipe_names() -> list[str]:
    """The presets that come with the package."""
    return sorted(entry.name[:-5] for entry in (files("dhvt.training") / "recipes").iterdir() if entry.name.endswith(".toml"))


def load_recipe(name: str, **overrides: Any) -> TrainRecipe:
    """A preset with some fields changed.

    Raises:
        ConfigError: no such preset, an unknown field, or a value out of range.
    """
    if name not in recipe_names():
        raise ConfigError(f"no recipe {name!r}; there are {', '.join(recipe_names())}")
    values = tomllib.loads((files("dhvt.training") / "recipes" / f"{name}.toml").read_text(encoding="utf-8"))
    return from_dict(TrainRecipe, values | overrides)
