"""``dhvt evaluate``: an exported model measured on labelled images."""

from __future__ import annotations

from pathlib import Path

import click

from dhvt.cli.options import engine_options, on_broken_option, open_model
from dhvt.errors import ConfigError


@click.command()
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
    model: Path | None, engine: str | None, data: str, batch_size: int, on_broken: str, report: Path | None, record: bool
) -> None:
    """Measure an exported model, in the engine that serves it, on labelled images. Only CIFAR's own files need torch."""
    from dataclasses import replace

    from tqdm import tqdm

    from dhvt.artifact import write_card
    from dhvt.data.sources import open_dataset
    from dhvt.evaluation.metrics import collect_outputs
    from dhvt.evaluation.metrics import evaluate as measure

    artifact, running = open_model(model, engine)
    source = open_dataset(data, "test", artifact.card.classes)
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
