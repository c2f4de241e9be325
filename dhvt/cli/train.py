"""``dhvt train``: from a folder of images to a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from dhvt.cli.options import on_broken_option, parse_field, recipe_options
from dhvt.model.config import VARIANTS
from dhvt.training.allocator import is_main_process
from dhvt.training.recipe import load_recipe


@click.command()
@click.option(
    "--data",
    required=True,
    help="Parquet file, or folder of <class>/<image>, or of train/ and val/ with these; a *_train.txt list of DomainNet; "
    "the folder of torchvision's CIFAR files.",
)
@click.option(
    "--val",
    help="Images to measure on after each epoch, laid out alike: their val part, else their test part. "
    "Default: the val part of --data, else --val-fraction of the images to train on. A test part is left for dhvt evaluate.",
)
@click.option(
    "--val-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Part of each class that is held out to measure on, where there is no val part.  [default: 0.1]",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for ckpt.pt and metrics.jsonl.")
@click.option(
    "--variant",
    default="dhvt_tiny_cifar_patch4",
    show_default=True,
    metavar="NAME",
    help=f"One of {', '.join(VARIANTS)}; or any classifier of timm, such as resnet18, to compare with.",
)
@click.option(
    "--img-size", type=int, help="Pixels of a side, a multiple of the patch size. Default: the variant's, 32 for timm's."
)
@click.option(
    "--resize-mode",
    type=click.Choice(["crop", "squash", "pad"]),
    default="crop",
    show_default=True,
    help="How an image of another shape becomes square: cut the middle out, distort, or add borders.",
)
@click.option(
    "--model-option",
    "model_options",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Change the architecture, as depth=6 or attention=mhsa: a field of DHVTConfig, or an argument of timm's model.",
)
@click.option("--recipe", default="short", show_default=True, help="Preset of the fields below.")
@recipe_options
@click.option("--init", type=click.Path(path_type=Path), help="Start from the weights of a ckpt.pt or of an authors' .pth.")
@click.option("--freeze", is_flag=True, help="With --init: train the last layer alone.")
@click.option("--resume", is_flag=True, help="Go on from OUT/ckpt.pt with the same command.")
@click.option(
    "--change-recipe",
    is_flag=True,
    help="Resume with another recipe, such as more --epochs, but the same optimizer, batch size, seed, repeats and drop path; "
    "is recorded.",
)
@on_broken_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
@click.option("--amp", default="auto", show_default=True, help="auto, bf16, fp16 or off.")
@click.option(
    "--accumulate",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Cut each batch into so many parts, for want of memory.",
)
@click.option(
    "--num-workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that decode; 0 decodes in this one."
)
@click.option("--cache", is_flag=True, help="Keep decoded images in memory after the first epoch, at the training size.")
@click.option("--tracker", default="", help="Send metrics to tensorboard (into OUT/tracker), wandb, mlflow, …")
@click.option("--checkpoint-minutes", default=5.0, show_default=True, help="Also save in mid-epoch this often.")
@click.option(
    "--val-every", type=click.IntRange(1), default=1, show_default=True, help="Validate after so many epochs, and at the end."
)
def train(
    data: str,
    val: str | None,
    val_fraction: float | None,
    out: Path,
    variant: str,
    img_size: int | None,
    resize_mode: Any,
    model_options: tuple[str, ...],
    recipe: str,
    init: Path | None,
    freeze: bool,
    resume: bool,
    change_recipe: bool,
    on_broken: str,
    device: str,
    amp: str,
    accumulate: int,
    num_workers: int,
    cache: bool,
    tracker: str,
    checkpoint_minutes: float,
    val_every: int,
    **overrides: Any,
) -> None:
    """Train a DHVT from scratch.

    Saves after every epoch and every few minutes; Ctrl-C saves too; --resume goes on exactly where it stopped.

    On a CPU it restarts itself with jemalloc or tcmalloc preloaded where one is installed, which is a fifth faster;
    set LD_PRELOAD, if only to nothing, to prevent that.

    On several GPUs or machines: torchrun --nproc-per-node 4 -m dhvt.cli train …, or accelerate launch; the recipe's
    batch size is that of all of them together.
    """
    from dhvt.data.preprocess import Preprocess
    from dhvt.data.splits import open_training_data
    from dhvt.data.statistics import describe_balance
    from dhvt.model.factory import DEFAULT_IMG_SIZE
    from dhvt.training.run_options import RunOptions
    from dhvt.training.trainer import train as run_training

    chosen = load_recipe(recipe, **{name: value for name, value in overrides.items() if value is not None})
    source, val_source, held_out, measured_on = open_training_data(data, val, val_fraction, chosen.seed)
    say = click.echo if is_main_process() else lambda message: None
    say(f"{len(source)} images to train on, {len(val_source)} to measure on ({measured_on}), {describe_balance(source)}")
    default_size = VARIANTS[variant].img_size if variant in VARIANTS else (DEFAULT_IMG_SIZE, DEFAULT_IMG_SIZE)
    size = (img_size, img_size) if img_size else default_size
    options = RunOptions(
        out=out,
        device=device,
        amp=amp,
        accumulate=accumulate,
        num_workers=num_workers,
        cache=cache,
        tracker=tracker,
        checkpoint_minutes=checkpoint_minutes,
        val_every=val_every,
        stop_on_broken=on_broken == "stop",
        resume=resume,
        init=init,
        freeze=freeze,
        change_recipe=change_recipe,
        val_fraction=held_out,
        command=click.get_current_context().find_root().obj,
    )
    preprocess = Preprocess(size=size, resize_mode=resize_mode, crop_pct=chosen.crop_pct)
    try:
        architecture = dict(map(parse_field, model_options))
        checkpoint = run_training(
            variant, source, val_source, chosen, options, preprocess=preprocess, model_options=architecture
        )
    except KeyboardInterrupt:
        say(f"stopped; go on with the same command and --resume ({out / 'ckpt.pt'})")
        sys.exit(130)
    say(f"validation top-1 {checkpoint.metrics['val_top1']:.2f} %; saved {out / 'ckpt.pt'}")
    say(f"next: python export/to_onnx.py {out / 'ckpt.pt'} --data {data}")
