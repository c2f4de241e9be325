"""The committed splits of real sets, and the page of results."""

import gzip

import pytest
from PIL import Image

import real_sets
import real_splits
import results_page
from dhvt.data.inspection.inspection import inspect
from dhvt.data.sources import open_dataset


@pytest.mark.parametrize("name", ["plankton", "blood_cells"])
def test_committed_splits_do_not_leak_and_have_every_class(name):
    entries = real_splits.read_splits(real_splits.FOLDER / f"{name}.csv.gz")
    classes = {split: {entry.label for entry in entries if entry.split == split} for split in real_splits.SPLITS}
    assert classes["train"] == classes["val"] == classes["test"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("train,7,a/1.png\ntest,7,a/2.png\n", "group 7 is in train and, by a/2.png, in test"),
        ("train,,a/1.png\ntest,,a/1.png\n", "a/1.png is listed twice"),
        ("all,,a/1.png\n", "a/1.png is in split 'all'"),
    ],
)
def test_a_list_that_leaks_is_refused(tmp_path, rows, message):
    path = tmp_path / "set.csv.gz"
    path.write_bytes(gzip.compress(f"split,group,path\n{rows}".encode()))
    with pytest.raises(ValueError, match=message):
        real_splits.read_splits(path)


def test_images_that_look_the_same_are_on_one_side_and_conflicting_labels_on_none(tmp_path):
    for label in range(2):
        (tmp_path / f"class{label}").mkdir()
        for number in range(10):
            image = Image.effect_noise((32, 32), 90 + 50 * label).resize((64, 64))
            image.save(tmp_path / f"class{label}" / f"{number}.png")
            image.save(tmp_path / f"class{label}" / f"{number}-again.jpg", quality=90)
    (tmp_path / "class1" / "copy.png").write_bytes((tmp_path / "class0" / "0.png").read_bytes())

    paths, groups = real_splits.without_conflicts(inspect(str(tmp_path)))
    entries = real_splits.divide(paths, groups)

    real_splits.require_no_leak(entries)
    splits = {entry.path: entry.split for entry in entries}
    assert len(splits) == 39
    assert not {"class0/0.png", "class1/copy.png"} & splits.keys()
    assert all(splits[path] == splits[path.replace("-again.jpg", ".png")] for path in splits if path != "class0/0-again.jpg")
    assert {entry.split for entry in entries} == {"train", "val", "test"}


def test_lists_are_what_a_training_reads(tmp_path):
    entries = [
        real_splits.Entry(split, "", f"{label}/{split}.png") for split in real_splits.SPLITS for label in ("a cell", "b")
    ]
    lists = real_splits.write_lists(entries, tmp_path, "cells", "clone/images")
    source = open_dataset(lists["train"], "train")
    assert source.classes == ("a cell", "b")
    assert source.name(0) == "clone/images/a cell/train.png"
    assert open_dataset(lists["test"], None, source.classes).labels.tolist() == [0, 1]


def test_groceries_keep_their_own_splits(tmp_path):
    images = tmp_path / "source" / "dataset"
    for split in real_splits.SPLITS:
        folder = images / split / "Fruit" / "Kiwi"
        folder.mkdir(parents=True)
        (folder / "1.jpg").touch()
        (images / f"{split}.txt").write_text(f"{split}/Fruit/Kiwi/1.jpg, 11, 7\n")
    lists = real_sets.fetch("groceries", tmp_path / "out", tmp_path / "source")
    assert lists["val"].read_text() == "clone/dataset/val/Fruit/Kiwi/1.jpg 0\n"


def test_the_page_and_the_readme_are_what_the_script_writes():
    readme = results_page.README.read_text(encoding="utf-8")
    hint = "run benchmarks/results_page.py"
    assert results_page.PAGE.read_text(encoding="utf-8") == results_page.write_page(), hint
    assert readme == results_page.fill(readme), hint


def result(model, top1, macro_f1):
    test = {"top1": top1, "balanced_accuracy": top1, "macro_f1": macro_f1, "ece": 1.0, "images": 6071, "engine": "E"}
    run = {"seed": 0, "lr": 0.003, "epochs": 9, "parameters": 6_000_000, "train_images": 21232, "test": test}
    return {"kind": "result", "set": "plankton", "model": model, "processor": "P", "date": "2026-01-01", **run}


def rate(model, images_per_s):
    return {"kind": "rate", "set": "plankton", "model": model, "images_per_processor_s": images_per_s}


def give_lines(monkeypatch, **lines):
    """Has the page written from these measurements in place of the committed ones."""
    committed = results_page.load_lines
    monkeypatch.setattr(
        results_page, "load_lines", lambda name="real_models": lines[name] if name in lines else committed(name)
    )


@pytest.mark.parametrize(
    ("macro_f1", "sentence"),
    [
        (60.0, "loses to ResNet-18, in points: top-1 -1.5, balanced accuracy -1.5, macro-F1 -10.0."),
        (50.0, "loses to ResNet-18 in something, in points: top-1 -1.5, balanced accuracy -1.5, macro-F1 +0.0."),
        (40.0, "loses to ResNet-18 in something, in points: top-1 -1.5, balanced accuracy -1.5, macro-F1 +10.0."),
    ],
)
def test_the_page_says_where_dhvt_loses(monkeypatch, macro_f1, sentence):
    lines = [result("DHVT-T", 70.0, 50.0), result("ResNet-18", 71.5, macro_f1), rate("DHVT-T", 40), rate("ResNet-18", 40)]
    give_lines(monkeypatch, real_models=lines)
    page = results_page.write_page()
    assert f"| ResNet-18 | 6.0 | 0.003 | 9 | 80 | 1 | 71.50 | 71.50 | {macro_f1:.2f} | 1.00 | not measured |" in page
    assert f"DHVT-T {sentence}" in page
    assert "Still to be trained: DeiT-T." in page


def test_trainings_of_unequal_time_are_not_compared(monkeypatch):
    results = [result("DHVT-T", 70.0, 50.0), result("ResNet-18", 71.5, 50.0), result("DeiT-T", 60.0, 50.0)]
    lines = [*results, rate("DHVT-T", 60), rate("ResNet-18", 40), rate("DeiT-T", 40)]
    give_lines(monkeypatch, real_models=lines)
    page = results_page.write_page()
    assert "DHVT-T had another budget than 80 minutes and must be trained again." in page
    assert "in points" not in page
    assert "plankton" not in results_page.write_readme_table()


def ablation_line(row, seed, top1):
    budget = {"recipe": "short", "epochs": 3, "processor": "P", "date": "2026-01-01"}
    return {"row": row, "seed": seed, "val_top1": top1, **budget}


def test_the_ablation_has_error_bars_from_the_rows_with_two_seeds(monkeypatch):
    lines = [ablation_line("DHVT-T: all three", seed, top1) for seed, top1 in ((0, 41.0), (1, 43.0))]
    give_lines(monkeypatch, ablation=[ablation_line("DeiT-T, 4 heads", 0, 30.0), *lines])
    page = "\n".join(results_page.ablation())
    assert "| DeiT-T, 4 heads | 30.00 ± 1.41 | 30.00 | 67.59 |" in page
    assert "| DHVT-T: all three | 42.00 ± 1.00 | 41.00, 43.00 | 80.85 |" in page
    assert "Still to be trained: without position embedding, + SOPE, + HI-MHSA, + DAFF, + SOPE + DAFF." in page
