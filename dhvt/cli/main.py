"""``dhvt train | evaluate | verify | classify``: the front door.

Training needs torch, evaluating and classifying need a serving engine; each command imports only what it uses.
This is the one module of ``dhvt`` that reaches into ``serving``, and nothing imports it.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from dhvt.cli.options import engine_options, model_option, on_broken_option, parse_field, recipe_options
from dhvt.errors import ConfigError, DataError, DHVTError
from dhvt.model.config import VARIANTS
from dhvt.training.allocator import is_main_process, restart_with_allocator
from dhvt.training.recipe import load_recipe


class _Group(click.Group):
    """Prints this project's errors as one line, without a traceback, and remembers the command line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = shlex.join(["dhvt", *args])
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DHVTError as error:
            raise click.ClickException(str(error)) from error
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"{error.name} is not installed; training and reports need pip install -e '.[train]', "
                "evaluating and classifying '.[cpu]'"
            ) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dhvt-serve")
def main() -> None:
    """Train a DHVT on your images, measure it, prove it here, and ask it what is on a image.

    \b
    dhvt train --data images/ --out runs/mine     images/<class>/<image>
    python export/to_onnx.py runs/mine/ckpt.pt      writes runs/mine/artifact
    DHVT_MODEL=runs/mine/artifact bentoml serve
    """


@main.command()
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
    help="How a image of another shape becomes square: cut the middle out, distort, or add borders.",
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


@main.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="CKPT CKPT…")
@click.option("--data", required=True, help="As in the training: the images that it held out measure the average.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The checkpoint to write.")
@on_broken_option
def average(checkpoints: tuple[Path, ...], data: str, out: Path, on_broken: str) -> None:
    """Average the weights of several checkpoints of one run, which is often better than the best of them.

    Copy ckpt.pt away before you go on with --resume --change-recipe and more --epochs: the ends of both, averaged, gain most.
    """
    from dataclasses import replace

    from tqdm import tqdm

    from dhvt.data.splits import reopen_training_data
    from dhvt.model.checkpoint import load_checkpoint, save_checkpoint
    from dhvt.training.averaging import average_checkpoints, measure

    if out.exists():
        raise ConfigError(f"{out} exists; choose another --out")
    loaded = [load_checkpoint(path) for path in checkpoints]
    mean = average_checkpoints(loaded)
    _, source, held_out = reopen_training_data(data, mean.classes, mean.data, mean.recipe.get("seed", 0))
    if not held_out:
        raise DataError(f"{data} is not known to have the images that the training held out; give its --data or --val")
    on_error = None if on_broken == "stop" else lambda message: tqdm.write(f"left out: {message}")
    for name, checkpoint in zip([*map(str, checkpoints), "their average"], [*loaded, mean], strict=True):
        with tqdm(total=len(source), unit="image", desc=name, leave=False) as bar:
            result, temperature = measure(checkpoint, source, bar.update, on_error)
        click.echo(f"{name}: top-1 {result.top1:.2f} %, log loss {result.nll:.4f}, of {result.images} held-out images")
    command = {"from_step": mean.step, "command": click.get_current_context().find_root().obj}
    provenance = mean.provenance | {"commands": [*mean.provenance.get("commands", []), command]}
    metrics = {"val_top1": result.top1, "val_top5": result.top5, "val_ece": result.ece, "val_images": result.images}
    save_checkpoint(replace(mean, temperature=temperature, metrics=metrics, provenance=provenance), out)
    click.echo(f"next: python export/to_onnx.py {out} --data {data}")


def _open_model(model: Path | None, engine: str) -> tuple[Any, Any]:
    """The verified artifact and the engine that would serve it."""
    from dhvt.artifact import load_artifact
    from dhvt.engines import open_engine
    from dhvt.hardware.cpus import available_cpus
    from serving.settings import Settings

    artifact = load_artifact(model or Settings.from_environ().model_path())
    return artifact, open_engine(artifact, engine, threads=available_cpus()).engine


@main.command()
@engine_options
@click.option(
    "--data",
    required=True,
    help="Labelled images, laid out as for dhvt train: their test part, else their val part, else all.",
)
@click.option("--batch-size", default=64, show_default=True)
@on_broken_option
@click.option("--report", type=click.Path(path_type=Path), help="Folder for report.md with images; needs the train extra.")
@click.option("--record", is_flag=True, help="Write the result into the model folder's model.json, as metrics.test.")
def evaluate(
    model: Path | None, engine: str, data: str, batch_size: int, on_broken: str, report: Path | None, record: bool
) -> None:
    """Measure an exported model, in the engine that serves it, on labelled images. Only CIFAR's own files need torch."""
    from dataclasses import replace

    from tqdm import tqdm

    from dhvt.artifact import write_card
    from dhvt.data.splits import open_source
    from dhvt.evaluation.metrics import collect_outputs
    from dhvt.evaluation.metrics import evaluate as measure

    artifact, running = _open_model(model, engine)
    source = open_source(data, "test", artifact.card.classes)
    with tqdm(total=len(source), unit="image", desc=f"{running.name} {running.precision}") as bar:
        on_error = None if on_broken == "stop" else lambda message: tqdm.write(f"left out: {message}")
        outputs = collect_outputs(
            running.predict,
            source,
            artifact.card.preprocess,
            batch_size=batch_size,
            on_error=on_error,
            on_progress=bar.update,
        )
    result = measure(outputs, artifact.card.temperature)
    click.echo(
        f"top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} %, calibration error {result.ece:.2f} % "
        f"of {result.images} images ({result.skipped} left out)"
    )
    if report is not None:
        from dhvt.evaluation.report import write_report

        try:
            path = write_report(
                report,
                title=f"{artifact.card.name} on {Path(data).name}",
                source=source,
                preprocess=artifact.card.preprocess,
                outputs=outputs,
                evaluation=result,
                temperature=artifact.card.temperature,
                facts={"engine": f"{running.name} in {running.precision}", "model": str(artifact.path)},
            )
        except OSError as error:
            raise ConfigError(f"cannot write the report: {error}; choose another --report") from error
        click.echo(f"report: {path}")
    if record:
        measured = result.to_dict() | {"engine": running.name, "precision": running.precision, "data": Path(data).name}
        write_card(artifact.path, replace(artifact.card, metrics=artifact.card.metrics | {"test": measured}))
        click.echo(f"recorded in {artifact.path / 'model.json'}")


@main.command()
@model_option
@click.option("--data", help="Labelled images, laid out as for dhvt train, to compare accuracy on too.")
@on_broken_option
def verify(model: Path | None, data: str | None, on_broken: str) -> None:
    """Prove the model on this machine, in every engine and precision that runs here.

    Each is tried in a process of its own, and must give PyTorch's logits for the model's own images, in batches of 1, 7
    and DHVT_MAX_BATCH_SIZE. With --data each must also agree with fp32 on these, and its accuracy is measured.
    What is not there (a package, a GPU, an engine file) is left out, with the reason. The exit code is 1 when
    an engine that is there fails or is further off than its precision explains, and when none passes.
    """
    from dhvt.artifact import load_artifact
    from dhvt.data.splits import open_source
    from dhvt.engines import verify_engines
    from dhvt.hardware.cpus import processor_name
    from serving.settings import Settings

    settings = Settings.from_environ()
    artifact = load_artifact(model or settings.model_path())
    source = open_source(data, "test", artifact.card.classes) if data else None
    on_error = None if on_broken == "stop" else lambda message: click.echo(f"left out: {message}", err=True)
    click.echo(f"{artifact.path} on {processor_name()}")
    passed = failed = 0
    for result in verify_engines(
        artifact,
        source,
        threads=settings.engine_threads(),
        max_batch_size=settings.max_batch_size,
        on_error=on_error,
    ):
        for line in result.describe():
            click.echo(f"{result.candidate}: {line}")
        failed += result.fault is not None
        passed += result.fault is None and result.missing is None
    sys.exit(0 if passed and not failed else 1)


@main.command()
@engine_options
@click.option("--top-k", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="One JSON object per image, as the server answers.")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
def classify(model: Path | None, engine: str, top_k: int, as_json: bool, images: tuple[Path, ...]) -> None:
    """Say what is on PICTURES. One that cannot be read is reported, and the exit code is then 1."""
    from dhvt.data.decode import read_file
    from dhvt.data.preprocess import preprocess_image
    from dhvt.errors import ImageError
    from dhvt.ranking import rank

    artifact, running = _open_model(model, engine)
    failed = False
    for path in images:
        try:
            pixels = preprocess_image(read_file(path), artifact.card.preprocess)
        except ImageError as error:
            click.echo(f"{path}: {error}", err=True)
            failed = True
            continue
        predictions = rank(running.predict(pixels[None]), artifact.card)[0].top(artifact.card, top_k)
        if as_json:
            click.echo(json.dumps({"file": str(path), "model": artifact.card.name, "predictions": predictions}))
        else:
            click.echo(f"{path}: " + ", ".join(f"{entry['label']} {entry['score']:.1%}" for entry in predictions))
    sys.exit(1 if failed else 0)


def run() -> None:
    """The ``dhvt`` command as a process of its own."""
    if sys.argv[1:2] == ["train"]:
        restart_with_allocator()
    main()
