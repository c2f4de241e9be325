"""``report/`` of a run: how good the model is, and how it came about."""

from __future__ import annotations

from pathlib import Path

from dhvt.errors import TrainError
from dhvt.model.checkpoint import Checkpoint
from dhvt.training.metrics_log import read_history
from dhvt.training.progress import log
from dhvt.training.run import CHECKPOINT_NAME, LOG_NAME, Run
from dhvt.training.validation import Validation


def report_is_due(out: Path) -> bool:
    """Whether the last checkpoint has no report, as after a crash between the two."""
    report, checkpoint = out / "report" / "report.md", out / CHECKPOINT_NAME
    return not report.exists() or report.stat().st_mtime < checkpoint.stat().st_mtime


def write_run_report(run: Run, checkpoint: Checkpoint, validation: Validation) -> None:
    """Writes the report of the checkpoint's validation.

    Raises:
        TrainError: it cannot be written.
    """
    from dhvt.evaluation.report import write_report  # loads matplotlib

    try:
        path = write_report(
            run.options.out / "report",
            title=f"{checkpoint.name}: validation after {checkpoint.metrics['epoch']} epochs",
            source=run.images.val,
            preprocess=run.preprocess,
            outputs=validation.outputs,
            evaluation=validation.evaluation,
            temperature=validation.temperature,
            facts=_facts(checkpoint),
            note=_note(checkpoint),
            history=read_history(run.options.out / LOG_NAME),
        )
    except OSError as error:
        raise TrainError(
            f"cannot write the report: {error}; {CHECKPOINT_NAME} is complete, and the same command with --resume "
            "writes the report alone"
        ) from error
    log(f"report: {path}")


def _note(checkpoint: Checkpoint) -> str:
    """What else the validation images were used for; what they chose, they cannot measure."""
    chosen = " and chose the epoch" if checkpoint.metrics.get("val_chose_weights") else ""
    return (
        f"These validation images also fitted the temperature{chosen}, and may show the same people, plants or places as the "
        "training images (--group-by prevents that), so that the figures may be too good. Log loss and calibration error are "
        "of temperatures fitted on other images. For figures on new images: dhvt evaluate on a test split."
    )


def _facts(checkpoint: Checkpoint) -> dict[str, str]:
    provenance = dict(checkpoint.provenance)
    facts = {f"command from step {entry['from_step']}": str(entry["command"]) for entry in provenance.pop("commands")}
    facts |= {name.replace("_", " "): str(value) for name, value in provenance.items()}
    if "images_per_s" in checkpoint.metrics:
        facts["training images/s"] = f"{checkpoint.metrics['images_per_s']:.0f}"
    return facts
