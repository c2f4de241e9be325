"""What a training is told: :class:`Recipe`, how a model learns, and :class:`RunOptions`, everything else.

The options of ``dhvt train``, the keys of its TOML files and each run's ``config.toml`` come from these fields.
"""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self

from dhvt.configuration import from_dict, require
from dhvt.data.preprocess import ResizeMode
from dhvt.model.config import VARIANTS
from dhvt.naming import check_name, name_of_data
from dhvt.training.fields import AUTO, REQUIRED, UNCHOSEN, convert_fields, option


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


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """One run: its images, its model, where it starts, where it goes and on what it runs.

    Raises:
        ConfigError: a value is out of range, or two of them exclude each other.
    """

    data: str = option(
        REQUIRED,
        "Parquet file, or folder of <class>/<image>, or of train/ and val/ with these; a *_train.txt list of DomainNet; "
        "the folder of torchvision's CIFAR files.",
    )
    val: str | None = option(
        None,
        "Images to measure on after each epoch, laid out alike: their val split, else their test split. Default: the val "
        "split of --data, else --val-fraction of the images to train on. A test split is left for dhvt evaluate.",
    )
    val_fraction: float | None = option(
        None,
        "Fraction of each class that is held out to measure on, where there is no val split. Default: 0.1.",
        minimum=0,
        maximum=1,
        exclusive=True,
    )
    group_by: str | None = option(
        None,
        "Keeps images together that are of one person, plant or module, so that validation and calibration see others than "
        "training: a regular expression over each file's path below --data, whose first group or else whole match names the "
        "group, as '(student\\d+)_'; of Parquet files the name of a column.",
        metavar="PATTERN",
    )
    out: Path = option(
        REQUIRED,
        "Folder for ckpt.pt (the last epoch), best.pt (that of the lowest validation loss), config.toml, metrics.jsonl and "
        "report/.",
    )
    name: str | None = option(
        None,
        "Name of the model, as hands: what a server answers with, and its bento's name. Default: made of --data's.",
    )
    variant: str = option(
        AUTO,
        f"One of {', '.join(VARIANTS)}; or any classifier of timm, such as resnet18, to compare with. auto is a tiny DHVT with "
        "the patch size for --img-size.",
        metavar="NAME",
    )
    img_size: int = option(
        UNCHOSEN,
        "Pixels of a side, a multiple of the patch size. auto is the smallest of 32, 48, 64, 96, 128, 160 and 224 that keeps "
        "the images' median shorter side, fits the variant, and can be trained within --auto-minutes.",
        minimum=1,
        auto=True,
    )
    auto_minutes: float = option(
        120.0,
        "The time budget of --img-size auto: where a training is calculated to take longer, its images are smaller.",
        minimum=0,
    )
    resize_mode: ResizeMode = option(
        "crop", "How an image of another shape becomes square: cut the middle out, distort, or add borders."
    )
    white: float | None = option(
        None,
        "The value that is white in grey images of more than 8 bits and of floats. Default: by the largest in the training "
        "images, 255, 1023, 4095, 16383 or 65535, of floats 1 or 255 too. Recorded for serving; what is beyond is an error.",
        minimum=0,
        exclusive=True,
    )
    model_options: dict[str, Any] = option(
        dict,
        "Change the architecture, as depth=6 or attention=mhsa: a field of DHVTConfig, or an argument of timm's model. "
        "May be given several times.",
        metavar="FIELD=VALUE",
    )
    recipe: str = option("short", f"Preset that the recipe's options change: {', '.join(preset_names())}.", metavar="NAME")
    init: Path | None = option(
        None,
        "Start from the weights of a ckpt.pt, of an authors' .pth or of a .safetensors file; with --pretrained, timm's.",
    )
    pretrained: bool = option(
        False,
        "Start from the weights that timm publishes for --variant, with their normalisation and by default their image size; "
        "downloaded once from the Hugging Face Hub. For photographs usually far better than training from scratch.",
    )
    freeze: bool = option(False, "With --init or --pretrained: train the last layer alone.")
    resume: bool = option(False, "Go on from OUT/ckpt.pt, with the same options otherwise.", saved=False)
    change_recipe: bool = option(
        False,
        "Resume with another recipe, such as more --epochs, but the same optimizer, batch size, seed, repeats and drop path; "
        "is recorded.",
        saved=False,
    )
    on_broken: Literal["stop", "skip"] = option("stop", "What to do with images that cannot be read.")
    exclude: Path | None = option(
        None, "Leave out the images that this file names, one a line, as dhvt check --fix-list writes it.", metavar="FILE"
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1 or mps.")
    amp: Literal["auto", "bf16", "fp16", "off"] = option(
        "auto", "Precision of the arithmetic; auto is bf16 where the processor multiplies it natively, else off."
    )
    accumulate: int = option(
        1, "Split each batch into so many micro-batches, which need less memory; the batch size stays.", minimum=1
    )
    num_workers: int = option(
        UNCHOSEN,
        "Processes that decode; 0 decodes in this one. auto goes by the number of images, the time to decode one, the cores "
        "and the device; it is 0 for few or small images.",
        minimum=0,
        auto=True,
    )
    cache: bool | None = option(
        None,
        "Decode the training images once and keep them on the device, at the training size; --no-cache decodes them in each "
        "epoch. Default: kept where they fit into a quarter of the free memory, with crop = pad.",
    )
    compile: bool | None = option(
        None, "Compile the model with torch.compile, once for each image size, which takes minutes. Default: on CUDA alone."
    )
    tracker: str = option("", "Send metrics to tensorboard (into OUT/tracker), wandb, mlflow, …")
    checkpoint_minutes: float = option(5.0, "Also save in mid-epoch this often.", minimum=0)
    val_every: int = option(1, "Validate after so many epochs, and at the end.", minimum=1)

    def __post_init__(self) -> None:
        convert_fields(self)
        if self.name is not None:
            check_name(self.name)
        require(
            not self.freeze or self.init is not None or self.pretrained or self.resume,
            "--freeze would train the last layer of a network with random weights; give the weights to keep with --init or "
            "--pretrained",
        )

    @property
    def model_name(self) -> str:
        """``name``, or what :func:`dhvt.naming.name_of_data` makes of the images' folder or file."""
        return self.name or name_of_data(self.data)
