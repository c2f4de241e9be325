"""What a training is told: :class:`RunOptions`, and :class:`Recipe`, how a model learns, which is in ``recipe.py``.

The options of ``dhvt train``, the keys of its TOML files and each run's ``config.toml`` come from their fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dhvt.configuration import require
from dhvt.data.preprocess import ResizeMode
from dhvt.model.config import VARIANTS
from dhvt.naming import check_name, name_of_data
from dhvt.training.fields import AUTO, REQUIRED, UNCHOSEN, convert_fields, option
from dhvt.training.recipe import Recipe, preset_names, preset_values

__all__ = ["Recipe", "RunOptions", "preset_names", "preset_values"]


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
    calibration_fraction: float | None = option(
        None,
        "Fraction of each class that is held out for nothing but reference images, which dhvt export then keeps in the model: "
        "for prediction sets and to tell unknown images. Give 0.1 where that are some hundred images; where all are needed to "
        "learn from, use dhvt calibrate with others later. Default: none.",
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
        "Start from the weights of a ckpt.pt, with its normalisation and, unless given, its model and image size; of an "
        "authors' .pth or of a .safetensors file; with --pretrained, timm's.",
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
        "auto",
        "Precision of the arithmetic; auto is bf16 where the processor multiplies it natively, else off; under accelerate "
        "launch it is what that was told.",
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
    wait_minutes: float = option(
        10.0,
        "Of several processes: how long one waits for another before it stops with an error, as after a cut cable. One that "
        "has ended is usually noticed at once.",
        minimum=0,
        exclusive=True,
    )
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
