"""``dhvt verify``: every engine and precision tested on this machine."""

from __future__ import annotations

import sys

import click

from dhvt.cli.options import model_option, omit_broken, on_broken_option


@click.command()
@model_option
@click.option("--data", help="Labelled images, laid out as for dhvt train, to compare accuracy on too.")
@on_broken_option
def verify(model: str | None, data: str | None, on_broken: str) -> None:
    """Test the model on this machine, in every engine and precision that runs here.

    \b
    That each engine gives the exported logits:
      dhvt verify --model runs/mine/artifact
    And that it agrees with fp32 on a test set, with its accuracy and speed:
      dhvt verify --model runs/mine/artifact --data images/

    Each engine is tested in a process of its own first, and must give PyTorch's logits for the model's own images, in
    batches of 1, 7 and DHVT_MAX_BATCH_SIZE. What is not here (a package, a GPU, an engine file) is left out, with the
    reason. The speed of each is measured and remembered, and the engine that a server takes here is shown. The exit code
    is 1 if an engine that is here fails or is further off than its precision explains, and if none passes. With --data, of a
    model with reference images, it is also 1 if, by more than chance, the right label is in the prediction set less often than
    promised, more images are called unknown than may be, or the calibration error is above that of the reference images.
    """
    from dhvt.data.fingerprint import fingerprint
    from dhvt.data.record import describe_overlaps, find_overlaps
    from dhvt.data.splits import open_test_data
    from dhvt.engines import EngineSettings, check_engine, verify_engines
    from dhvt.hardware.cpus import processor_name

    settings = EngineSettings.from_environ()
    artifact = settings.load_artifact(model)
    source = open_test_data(data, classes=artifact.card.classes).source if data else None
    on_error = omit_broken(on_broken)
    if source is not None and (overlaps := find_overlaps(fingerprint(source), artifact.card.data)):
        click.echo(f"{describe_overlaps(overlaps)}: the accuracy below is too good", err=True)
    click.echo(f"{artifact.card.name} {artifact.card.version} ({artifact.path}) on {processor_name()}")
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
    if passed:
        size, threads = settings.max_batch_size, settings.engine_threads()
        click.echo(f"with DHVT_ENGINE={settings.engine} and DHVT_PREFER={settings.prefer}:")
        for candidate in check_engine(artifact, settings.engine, threads=threads, max_batch_size=size, prefer=settings.prefer):
            click.echo(f"  {candidate.describe()}")
    sys.exit(0 if passed and not failed else 1)
