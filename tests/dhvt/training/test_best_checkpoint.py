"""``best.pt``, and stopping where the validation loss no longer falls."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from dhvt.model.checkpoint import load_checkpoint
from dhvt.training import checkpoints, trainer
from dhvt.training.checkpoints import RunRecord
from dhvt.training.config import Recipe
from dhvt.training.validation import Validation
from tests.dhvt.training.commands import SMALL, run

LOSSES = {1: 1.0, 2: 0.5, 3: 0.7, 4: 0.5, 5: 0.1}
OPTIONS = [*SMALL, "--epochs", "5", "--patience", "2"]


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def stopped(image_folder, tmp_path_factory):
    """A run whose validation losses are :data:`LOSSES`: the best is the second, the fourth ends it."""
    with pytest.MonkeyPatch.context() as patch:
        pretend_losses(patch)
        out = tmp_path_factory.mktemp("stopped")
        result = run(image_folder, out, *OPTIONS)
    assert result.exit_code == 0, result.output
    return result, out


def pretend_losses(patch):
    original = trainer.validate

    def validate(run, *arguments):
        epoch = load_checkpoint(run.options.out / "ckpt.pt").step // 3

        class Pretended(Validation):
            loss = LOSSES[epoch]

        return Pretended(**vars(original(run, *arguments)) | {"temperature": 20.0})

    patch.setattr(trainer, "validate", validate)


def test_a_run_stops_where_the_validation_loss_no_longer_falls_and_keeps_the_best(stopped):
    result, out = stopped
    last, best = load_checkpoint(out / "ckpt.pt"), load_checkpoint(out / "best.pt")
    assert (last.step, best.step) == (12, 6)
    assert last.best == best.best == {"epoch": 2, "val_loss": 0.5}
    assert (best.metrics["epoch"], best.metrics["val_loss"]) == (2, 0.5)
    assert best.metrics["val_chose_weights"]
    assert last.metrics["val_chose_weights"]
    assert (best.ema, best.optimizers) == (None, [])
    assert "has not fallen since epoch 2" in result.output
    assert "validation after 4 epochs" in (out / "report" / "report.md").read_text()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["val_loss"] for row in rows] == [1.0, 0.5, 0.7, 0.5]
    assert {row["val_weights"] for row in rows} == {"averaged"}
    assert "validation of the averaged weights: loss 0.500" in result.output
    assert result.output.count("the temperature is 20, the limit of what is fitted") == 1


def test_a_stopped_run_is_finished_until_it_has_more_patience(image_folder, stopped, tmp_path, monkeypatch):
    out = tmp_path / "run"
    out.mkdir()
    for path in stopped[1].glob("*.*"):
        (out / path.name).write_bytes(path.read_bytes())
    assert run(image_folder, out, *OPTIONS, "--resume").exit_code == 0
    assert load_checkpoint(out / "ckpt.pt").step == 12
    pretend_losses(monkeypatch)
    more = [*SMALL, "--epochs", "5", "--patience", "3", "--resume", "--change-recipe"]
    assert run(image_folder, out, *more).exit_code == 0
    assert (load_checkpoint(out / "ckpt.pt").step, load_checkpoint(out / "best.pt").step) == (15, 15)
    assert "val_chose_weights" not in load_checkpoint(out / "ckpt.pt").metrics


@pytest.mark.parametrize("epoch", [2, 4])
def test_a_kill_before_or_after_the_best_is_written_changes_nothing(image_folder, stopped, tmp_path, monkeypatch, epoch):
    """And neither the file of ``--init`` nor the name must be given again; what was half written is deleted."""
    pretend_losses(monkeypatch)
    original = checkpoints.save_checkpoint

    def killed(checkpoint, path):
        if checkpoint.metrics.get("epoch") == epoch and path.name == ("best.pt" if epoch == 2 else "ckpt.pt"):
            (tmp_path / f".{path.name}.12345.tmp").write_bytes(b"half of it")
            raise Killed
        original(checkpoint, path)

    init = tmp_path / "init.pth"
    torch.save(load_checkpoint(stopped[1] / "best.pt").build_model().state_dict(), init)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_checkpoint", killed)
        with pytest.raises(Killed):
            run(image_folder, tmp_path, *OPTIONS, "--init", str(init), "--name", "shapes")
    init.unlink()
    result = run(image_folder, tmp_path, *OPTIONS, "--init", str(init), "--resume")
    assert result.exit_code == 0, result.output
    last, best = load_checkpoint(tmp_path / "ckpt.pt"), load_checkpoint(tmp_path / "best.pt")
    assert (last.step, best.step, last.best) == (12, 6, {"epoch": 2, "val_loss": 0.5})
    assert (last.model_name, best.model_name) == ("shapes", "shapes")
    assert 'name = "shapes"' in (tmp_path / "config.toml").read_text()
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_folder_of_a_run_exports_its_best_epoch_and_its_card_says_what_chose_it(stopped, tmp_path, capsys):
    from export.command import find_checkpoint
    from export.model_card import CHOSEN, write_model_card
    from export.source import CheckpointSource

    chosen = find_checkpoint(stopped[1])
    assert chosen == stopped[1] / "best.pt"
    assert "exporting best.pt" in capsys.readouterr().out
    card = CheckpointSource(load_checkpoint(chosen)).card
    assert (card.metrics["epoch"], card.metrics["val_chose_weights"]) == (2, True)
    assert CHOSEN in write_model_card(card, 1, registered=True)
    (tmp_path / "ckpt.pt").touch()
    assert find_checkpoint(tmp_path) == tmp_path / "ckpt.pt"
    (tmp_path / "model.json").touch()
    assert find_checkpoint(tmp_path) == tmp_path


def test_a_best_that_was_deleted_starts_again(image_folder, stopped, tmp_path):
    (tmp_path / "ckpt.pt").write_bytes((stopped[1] / "ckpt.pt").read_bytes())
    changed = [*SMALL, "--epochs", "5", "--resume", "--change-recipe"]
    result = run(image_folder, tmp_path, *changed)
    assert "best.pt is no longer beside" in result.output
    assert load_checkpoint(tmp_path / "best.pt").metrics["epoch"] == 5


def test_a_loss_that_is_weighted_otherwise_is_not_compared(image_folder, stopped, tmp_path):
    for name in ("ckpt.pt", "best.pt"):
        (tmp_path / name).write_bytes((stopped[1] / name).read_bytes())
    changed = [*SMALL, "--epochs", "5", "--resume", "--change-recipe", "--class-weights", "balanced"]
    result = run(image_folder, tmp_path, *changed)
    assert "the best epoch so far, 2, is not compared with it" in result.output
    assert load_checkpoint(tmp_path / "best.pt").metrics["epoch"] == 5


@pytest.mark.parametrize("resumes", [False, True])
def test_a_best_without_its_checkpoint_is_not_overwritten(image_folder, stopped, tmp_path, resumes):
    best = (stopped[1] / "best.pt").read_bytes()
    (tmp_path / "best.pt").write_bytes(best)
    result = run(image_folder, tmp_path, *SMALL, "--epochs", "1", *(["--resume"] if resumes else []))
    assert result.exit_code == 1
    assert f"start from its weights with --init {tmp_path / 'best.pt'} and another --out" in result.output
    assert (tmp_path / "best.pt").read_bytes() == best


def test_a_best_in_place_of_the_last_says_why_it_cannot_be_resumed(image_folder, stopped, tmp_path):
    shutil.copy(stopped[1] / "best.pt", tmp_path / "ckpt.pt")
    result = run(image_folder, tmp_path, *OPTIONS, "--resume")
    assert (result.exit_code, "the checkpoint has weights alone" in result.output) == (1, True)


def test_the_first_checkpoint_is_there_before_a_best_one(image_folder, tmp_path, monkeypatch):
    """A scheduler starts a killed run again with --resume, which a best one alone would prevent."""
    original = checkpoints.save_checkpoint

    def killed(checkpoint, path):
        original(checkpoint, path)
        if path.name == "best.pt":
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_checkpoint", killed)
        patch.setattr(checkpoints.CheckpointWriter, "is_due_after_epoch", False)
        with pytest.raises(Killed):
            run(image_folder, tmp_path, *SMALL, "--epochs", "1")
    assert run(image_folder, tmp_path, *SMALL, "--epochs", "1", "--resume").exit_code == 0


@pytest.mark.parametrize(("others_are_out_of_patience", "is_finished"), [(1, True), (0, False)])
def test_a_process_stops_where_another_is_out_of_patience(others_are_out_of_patience, is_finished):
    accelerator = SimpleNamespace(num_processes=2, device="cpu", reduce=lambda own: own + others_are_out_of_patience)
    mine = trainer.Trainer.__new__(trainer.Trainer)
    mine.run = SimpleNamespace(accelerator=accelerator, recipe=Recipe(patience=2))
    mine.state = SimpleNamespace(is_finished=False)
    mine.record = RunRecord([], "shapes", metrics={"epoch": 4}, best={"epoch": 3, "val_loss": 0.5})
    assert mine.is_finished is is_finished
