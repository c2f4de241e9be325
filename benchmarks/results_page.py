"""``docs/results.md`` and the README's table of results, from the JSON lines in ``results/`` and nothing else.

    python benchmarks/results_page.py            # writes both
    python benchmarks/results_page.py --plots    # and the plots in results/

A test fails where the two are not what this writes.
"""

from __future__ import annotations

import argparse
import json
from itertools import accumulate
from math import sqrt
from pathlib import Path
from statistics import mean, variance
from typing import Any

from ablation import rows as ablation_rows
from real_sets import PROCESSOR_MINUTES, SETS, has_budget

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE, README = ROOT / "docs" / "results.md", ROOT / "README.md"
BEGIN, END = "<!-- results: written by benchmarks/results_page.py -->", "<!-- end of results -->"
METRICS = {"top1": "top-1 %", "balanced_accuracy": "balanced accuracy %", "macro_f1": "macro-F1 %", "ece": "ECE %"}
MODELS = ("DHVT-T", "ResNet-18", "DeiT-T")
PLOT, CIFAR100_PLOT = "real_models.png", "cifar100.png"
CIFAR100_MODEL = "benchmarks/models/dhvt_tiny_cifar100"


def load(name: str) -> dict[str, Any]:
    """The line of ``results/<name>.json``."""
    line: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return line


def load_lines(name: str = "real_models") -> list[dict[str, Any]]:
    """The lines of ``results/<name>.jsonl``; none where nothing is measured yet."""
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def select(lines: list[dict[str, Any]], **values: Any) -> list[dict[str, Any]]:
    """The lines that have these values."""
    return [line for line in lines if values.items() <= line.items()]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def origin(line: dict[str, Any], command: str) -> str:
    """Where a figure comes from, in a sentence."""
    date = f"measured {line['date']}" if "date" in line else f"committed {line['committed']}"
    return f"`python benchmarks/{command}`, {line.get('processor', 'processor not recorded')}, {date}."


def real_set(name: str, lines: list[dict[str, Any]]) -> list[str]:
    """The section of a real set: a row for each model that is measured, and in words where DHVT loses."""
    found = {model: select(lines, kind="result", set=name, model=model) for model in MODELS}
    found = {model: results for model, results in found.items() if results}
    if not found:
        return []
    info, rows = SETS[name], []
    scores = {model: {key: mean(run["test"][key] for run in runs) for key in METRICS} for model, runs in found.items()}
    for model, runs in found.items():
        speed = select(lines, kind="serving", set=name, model=model)
        served = (
            f"{speed[-1]['serving_images_per_s']:.0f} ({runs[0]['test']['engine']} {runs[0]['test']['precision']})"
            if speed
            else "not measured"
        )
        minutes = runs[0]["epochs"] * runs[0]["train_images"] / rate_of(runs[0], lines) / 60
        size, lr = f"{runs[0]['parameters'] / 1e6:.1f}", f"{runs[0]['lr']:g}"
        fixed = [size, lr, str(runs[0]["epochs"]), f"{minutes:.0f}", str(len(runs))]
        rows.append([model, *fixed, *(f"{scores[model][key]:.2f}" for key in METRICS), served])
    fixed_head = ["model", "million parameters", "learning rate", "epochs", "processor minutes", "seeds"]
    head = [*fixed_head, *METRICS.values(), "serving images/s"]
    run = next(iter(found.values()))[0]
    text = (
        f"{run['train_images']:,} images to train on, {run['test']['images']:,} to test on, {info.img_size} pixels, from "
        f"[{info.url.removeprefix('https://github.com/')}]({info.url}) (licence: {info.licence})."
    )
    return [
        f"### {info.title}",
        text,
        table(head, rows),
        compare(scores, without_budget(select(lines, kind="result", set=name), lines)),
        f"`python benchmarks/real_models.py train … {name}`, {trained_on(list(found.values()))}.",
    ]


def trained_on(models: list[list[dict[str, Any]]]) -> str:
    """The processors and the dates of trainings, whose epochs are those that one processor's rates give."""
    models_by_place: dict[tuple[str, str], list[str]] = {}
    for runs in models:
        for run in runs:
            models_by_place.setdefault((run["processor"], run["date"]), []).append(run["model"])
    if len(models_by_place) == 1:
        ((processor, date),) = models_by_place
        return f"{processor}, measured {date}"
    places = (f"{', '.join(dict.fromkeys(names))} on {place}, {date}" for (place, date), names in models_by_place.items())
    return "measured: " + "; ".join(places)


def rate_of(run: dict[str, Any], lines: list[dict[str, Any]]) -> float:
    """The images of a second of processor time that were measured last for a training's model."""
    return float(select(lines, kind="rate", set=run["set"], model=run["model"])[-1]["images_per_processor_s"])


def without_budget(runs: list[dict[str, Any]], lines: list[dict[str, Any]]) -> list[str]:
    """The models of trainings that had more or less than the budget, which cannot be compared."""
    wrong = [run["model"] for run in runs if not has_budget(run["epochs"], run["train_images"], rate_of(run, lines))]
    return list(dict.fromkeys(wrong))


def compare(scores: dict[str, dict[str, float]], excluded: list[str]) -> str:
    """The models that DHVT-T is ahead of and those that it loses to, in points.

    Args:
        scores: of each metric, by model.
        excluded: models that did not have the budget.
    """
    if "DHVT-T" not in scores or len(scores) < 2:
        missing = ", ".join(model for model in MODELS if model not in scores)
        return f"Not finished, so nothing is compared yet; still to be trained: {missing}."
    sentences = [
        f"{model} had another budget than {PROCESSOR_MINUTES} minutes and must be trained again." for model in excluded
    ]
    for model, other in scores.items():
        if model == "DHVT-T" or {model, "DHVT-T"} & {*excluded}:
            continue
        points = {METRICS[key].removesuffix(" %"): scores["DHVT-T"][key] - other[key] for key in METRICS if key != "ece"}
        listed = ", ".join(f"{name} {value:+.1f}" for name, value in points.items())
        if all(value > 0 for value in points.values()):
            result = f"DHVT-T is ahead of {model}"
        elif all(value < 0 for value in points.values()):
            result = f"DHVT-T loses to {model}"
        else:
            result = f"DHVT-T loses to {model} in something"
        sentences.append(f"{result}, in points: {listed}.")
    missing = [model for model in MODELS if model not in scores]
    return " ".join([*sentences, *(f"Still to be trained: {model}." for model in missing)])


def small_budget() -> list[str]:
    line = load("comparison")
    rows = [
        [name, str(entry["epochs"]), f"{entry['top1']:.2f}", *(f"{entry[key]:.0f}" for key in SPEEDS)]
        for name, entry in line["models"].items()
    ]
    head = ["model", "epochs", "top-1 %", "training images/s", "serving images/s"]
    text = f"{line['train_images']:,} training images of CIFAR-10, all 10,000 test images, one seed."
    return ["## CIFAR-10, a few epochs", text, table(head, rows), origin(line, "comparison.py")]


SPEEDS = ("training_images_per_s", "serving_images_per_s")


PUBLISHED_ON_CIFAR100 = [  # as in the paper (arXiv 2210.05958), from scratch: epochs, top-1 in %
    ("DeiT-T, 4 heads", 300, 67.59),
    ("CVT-7/4", 200, 73.01),
    ("CCT-7/3x1", 200, 77.05),
    ("DHVT-T, patch 4", 300, 80.85),
]


def load_cifar100() -> list[dict[str, Any]]:
    """The last training on all of CIFAR-100 from scratch, and those that went on from its weights, in order."""
    lines = load_lines("cifar100")
    starts = [index for index, line in enumerate(lines) if not any(option.startswith("--init=") for option in line["options"])]
    return lines[starts[-1] :] if starts else []


def cifar100() -> list[str]:
    """The last training on all of CIFAR-100, with what went on from it, beside what is published."""
    lines = load_cifar100()
    if not lines:
        return []
    rows = [[f"{name}, published", str(epochs), f"{top1:.2f}", "", ""] for name, epochs, top1 in PUBLISHED_ON_CIFAR100]
    commands, minutes = [], 0.0
    for number, line in enumerate(lines, 1):
        test, minutes = line["test"], minutes + line["train_seconds"] / 60
        epochs = " + ".join(str(stage["epochs"]) for stage in lines[:number])
        ours = ["**DHVT-T, patch 4, `dhvt train`**", epochs, f"**{test['top1']:.2f}**", f"{test['ece']:.2f}"]
        rows.append([*ours, f"{minutes:.0f} minutes on {line['cores']} processor cores"])
        options = " ".join(["--recipe", line["recipe"], "--epochs", str(line["epochs"]), *line["options"]])
        commands.append(f"`{options}`, {line['processor']}, {line['date']}")
    continued = " A sum of epochs is a training that went on from the weights of the row above." if len(lines) > 1 else ""
    text = (
        f"All {test['images']:,} test images, looked at once for each row, after its training, through the served artifact "
        f"({test['engine']} {test['precision']}). One in fifty of the 50,000 training images, the same in all rows, was held "
        f"out to watch the training and to calibrate the scores.{continued} Weights of the last row, for timm and for "
        f"`--init`: `{CIFAR100_MODEL}`; to serve it, `DHVT_MODEL={CIFAR100_MODEL}/artifact bentoml serve`."
    )
    return [
        "## CIFAR-100, all training images",
        table(["model", "epochs", "top-1 %", "ECE %", "trained in"], rows),
        text,
        f"`python benchmarks/cifar100.py` with {'; then '.join(commands)}.",
        f"![learning curve](../benchmarks/results/{CIFAR100_PLOT})",
    ]


def ablation() -> list[str]:
    """Measured beside published accuracy of each row, once one has two seeds: error bars are from these."""
    lines = load_lines("ablation")
    measured = [(row, [line["val_top1"] for line in select(lines, row=row.name)]) for row in ablation_rows()]
    variances = [variance(top1) for _, top1 in measured if len(top1) > 1]
    if not variances:
        return []  # no error bars yet
    deviation, cells = sqrt(mean(variances)), []
    for row, top1 in measured:
        if top1:
            published = "" if row.published is None else f"{row.published:.2f}"
            mean_top1 = f"{mean(top1):.2f} ± {deviation / sqrt(len(top1)):.2f}"
            cells.append([row.name, mean_top1, ", ".join(f"{value:.2f}" for value in top1), published])
    missing = [row.name for row, top1 in measured if len(top1) < len(row.seeds)]
    budget = lines[-1]
    text = (
        f"CIFAR-100, {budget['epochs']} epochs of all training images at 32 pixels, recipe `{budget['recipe']}`; all "
        "test images, which choose nothing. Published: 300 epochs on GPUs. ± is one standard error; the standard deviation "
        f"between seeds, pooled over {len(variances)} rows, is {deviation:.2f}."
    )
    unfinished = f" Still to be trained: {', '.join(missing)}." if missing else ""
    head = ["model", "top-1 %", "by seed", "published top-1 %"]
    runs = [line | {"model": line["row"]} for line in lines]
    source = f"`python benchmarks/ablation.py`, {trained_on([runs])}."
    return ["## Ablation", text + unfinished, table(head, cells), source]


def ablation_of_few_images() -> list[str]:
    line = load("ablation")
    rows = [[name, f"{mean(top1):.2f}", ", ".join(f"{value:.2f}" for value in top1)] for name, top1 in line["top1"].items()]
    text = (
        f"CIFAR-100, {line['epochs']} epochs of {line['train_images']:,} images: too few to tell apart what SOPE and HI-MHSA "
        "add to DAFF. The published figures are beside these in "
        "[the table](../benchmarks/results/ablation.md)."
    )
    return ["## Ablation, few images", text, table(["model", "top-1 %", "by seed"], rows), origin(line, "ablation.py")]


def throughput() -> list[str]:
    line = load("train_throughput")
    images, ratio = line["images_per_s"], line["ratio"]
    rows = [
        ["straightforward PyTorch in fp32", f"{images['straightforward']:.0f}", "1"],
        ["`dhvt train`, images of full size", f"{images['ours']:.0f}", f"{ratio:.2f}"],
        ["`dhvt train`, whole recipe `short`", "", f"{line['ratio_over_recipe']:.2f}"],
    ]
    title = f"## Training on a CPU: {line['ratio_over_recipe']:.1f} times as fast"
    return [title, table(["", "images/s", "ratio"], rows), origin(line, "train_throughput.py")]


SERVER_RUNS = {
    "servers_light": "A DHVT-T of three blocks",
    "servers_bundled": "The bundled model",
    "servers": "The bundled model",
}


def servers() -> list[str]:
    parts = ["## Servers, 64 clients, a JPEG of 640×480 in each request"]
    for name, model in SERVER_RUNS.items():
        line = load(name)
        measured = {contender: entry["clients"]["64"] for contender, entry in line["contenders"].items()}
        ours = measured["dhvt (raw)"]["requests_per_s"]
        rows = [
            [
                contender,
                f"{at['requests_per_s']:.0f}",
                f"{at['requests_per_s'] / ours:.2f}",
                f"{at['p50_ms']:.0f}",
                f"{at['cpu_ms_per_request']:.1f}",
            ]
            for contender, at in measured.items()
        ]
        ceiling = line["fraction_of_ceiling_at_64_clients"]["dhvt (raw)"]
        parts += [
            f"{model} in {line['engine']}; `dhvt (raw)` gives {ceiling:.0%} of what decoding and the engine alone can do.",
            table(["server", "requests/s", "ratio", "median ms", "processor ms a request"], rows),
            origin(line, "servers.py"),
        ]
    return parts


def engines() -> list[str]:
    line, size = load("engines"), "32"
    speeds = {name: entry["images_per_s"] for name, entry in line["batch_sizes"][size].items()}
    plain = speeds["plain onnxruntime"]
    rows = [
        [name, f"{speed:.0f}", f"{speed / plain:.2f}", f"{line['top1_percent'][name]:.2f}"]
        for name, speed in sorted(speeds.items(), key=lambda item: item[1])
    ]
    title = f"## Engines: int8 {line['ratio_to_plain_onnxruntime']} times ONNX Runtime as it comes"
    head = ["engine", f"images/s in batches of {size}", "ratio", "top-1 %"]
    text = f"The model that was bundled on {line['committed']}; compare the rows with each other."
    return [title, text, table(head, rows), origin(line, "engines.py"), "![engines](../benchmarks/results/engines.png)"]


def operation() -> list[str]:
    over, roll = load("overload"), load("rollout")
    during = over["during"]
    text = (
        f"Offered {during['offered_per_s'] / over['before']['requests_per_s']:.0f} times what it sustains, the server answers "
        f"{over['accepted_over_sustained']:.0%} of that and refuses the rest, half of it within "
        f"{during['refused_latency']['p50_ms']:.0f} ms; afterwards it gives {over['after_over_before']:.0%} of before."
    )
    rolled = (
        f"While one of {roll['replicas']} servers is killed and then all get a new model, {roll['lost']} of {roll['sent']:,} "
        "requests are lost."
    )
    return ["## Overload and rollout", text, origin(over, "overload.py"), rolled, origin(roll, "rollout.py")]


def drift() -> list[str]:
    """False alarms of the test for drift, and how many images it takes to find each disturbance."""
    lines = load_lines("drift")
    alarms, delays = select(lines, measure="false alarms"), select(lines, measure="delay")
    cost = select(lines, measure="cost")[0]["us_per_image"]
    counted = [
        [DESIGNS[row["design"]], f"{row['reference']:,}", f"{row['streams']:,}", f"{row['images']:,}", str(row["alarms"])]
        for row in alarms
    ]
    found = [
        [
            kind.replace("_", " "),
            *(_delay(row) for size in (5000, 1000) for row in select(delays, disturbance=kind, reference=size)),
        ]
        for kind in dict.fromkeys(row["disturbance"] for row in delays)
    ]
    return [
        "## Drift",
        f"CIFAR-10's test images, the bundled model in {lines[0]['engine'].replace(':', ' ')}; streams are drawn with "
        f"replacement. At most {alarms[0]['promise'] * 100:.0f} % of undisturbed streams may have an alarm. The test costs "
        f"{cost:.0f} µs an image.",
        table(["reference and stream are of", "reference images", "streams", "images each", "with an alarm"], counted),
        "Images from the beginning of a disturbance to the alarm, where 5, 20 or 50 % of the images are disturbed: the median "
        f"of {delays[0]['streams']} streams, after 3,200 undisturbed images, and in brackets how many had no alarm within "
        f"10,000 images. Streams with an alarm before the disturbance, {max(row['early'] for row in delays)} at most, do not "
        "count. Reference and stream are two halves.",
        table(["disturbance", *(f"{share} %, reference {size:,}" for size in (5000, 1000) for share in (5, 20, 50))], found),
        "`python benchmarks/drift.py`.",
    ]


def explanations() -> list[str]:
    """How faithful each map is, and how much of it is left where the weights are shuffled."""
    lines = load_lines("explanations")
    curves, random = select(lines, measure="curves"), select(lines, measure="random")
    areas = [
        [
            row["map"],
            f"{row['deletion']:.3f}",
            f"{row['insertion']:.3f}",
            f"{row['difference']:.3f} ± {1.96 * row['standard_error']:.3f}",
        ]
        for row in sorted(curves, key=lambda row: float(row["difference"]), reverse=True)
    ]
    left = []
    for name in dict.fromkeys(row["map"] for row in random):
        found = {row["against"]: row["rank_correlation"] for row in select(random, map=name)}
        columns = (found.get(against) for against in ("classifier", "all layers", "other seed"))
        left.append([name, *("" if value is None else f"{round(value, 2) + 0.0:.2f}" for value in columns)])
    return [
        "## Explanations",
        f"{curves[0]['images']} of CIFAR-10's test images, the bundled model in {lines[0]['engine'].replace(':', ' ')}. The "
        "pixels that a map ranks highest are replaced by the mean colour first (deletion: the less probability of the model's "
        "answer is left, the better), or put into a blurred copy first (insertion: the more, the better): areas under the "
        "curve, and their difference with its 95 % interval. `noise` and `centre` know nothing of the model. Deletion hides "
        "with the colour that masking hides with; insertion does not.",
        table(["map", "deletion", "insertion", "insertion − deletion"], areas),
        "Spearman's correlation of each map with that of the model whose weights are shuffled, in the classifier alone or in "
        f"all layers, mean over {random[0]['images']} images, and for masking with other masks of the same model. A map that "
        "stays the same explains nothing that the model has learnt. Attention comes before the classifier and cannot depend on "
        "it; with a shuffled classifier another class wins, and what speaks for that speaks against the one explained.",
        table(["map", "classifier shuffled", "all layers shuffled", "other masks"], left),
        f"`python benchmarks/explanations.py`, {lines[0]['processor']}.",
    ]


DESIGNS = {"exchangeable": "the same images, which the promise is about", "other half": "two halves, which differ by chance"}


def _delay(row: dict[str, Any]) -> str:
    """The median delay, and how many streams had no alarm."""
    median = "over 10,000" if row["delay_median"] is None else f"{row['delay_median']:,.0f}"
    return f"{median} ({row['not_found']})" if row["not_found"] else median


def write_page() -> str:
    """The text of ``docs/results.md``."""
    lines = load_lines()
    real = [part for name in SETS for part in real_set(name, lines)]
    head = [
        "# Results",
        "Written by `benchmarks/results_page.py` from the JSON lines in `benchmarks/results/`. Ratios hold on other machines "
        "better than absolute figures do.",
        "## Real sets, from scratch, with the same computing time",
    ]
    if real:
        head.append(
            f"Each model has {PROCESSOR_MINUTES} minutes of processor time, 40 of a machine's two cores, converted to epochs "
            "by its own training speed on an idle machine. Its learning rate is the best on validation of three, each tried "
            "for a tenth of that. Recipe `short` for "
            "all, at the same image size; the ResNet and DeiT have stems and patches for small images. Test images choose "
            "nothing. DeiT-T cannot be trained on smaller images first, as the recipe does with the others, because its "
            "position embedding is for one size. How the splits are made: `benchmarks/real_splits.py`."
        )
        real.append(f"![validation top-1 over epochs](../benchmarks/results/{PLOT})")
    else:
        head.append("Nothing is measured yet: `benchmarks/real_models.py`.")
    sections = [*head, *real]
    for section in (
        small_budget,
        cifar100,
        ablation,
        ablation_of_few_images,
        throughput,
        servers,
        engines,
        operation,
        drift,
        explanations,
    ):
        sections += section()
    return "\n\n".join(sections) + "\n"


def write_readme_table() -> str:
    """The README's three rows, between its markers."""
    train, light = load("train_throughput"), load("servers_light")
    ratios = light["ratio_of_requests_per_s_at_64_clients"]
    lines, points = load_lines(), []
    for name in SETS:
        runs = select(lines, kind="result", set=name)
        if {run["model"] for run in runs} == set(MODELS) and not without_budget(runs, lines):
            top1 = {model: mean([run["test"]["top1"] for run in select(runs, model=model)]) for model in MODELS}
            points.append((name.replace("_", " "), top1["DHVT-T"] - top1["ResNet-18"], top1["DHVT-T"] - top1["DeiT-T"]))
    speed = f"{train['ratio']:.1f}×, and {train['ratio_over_recipe']:.1f}× with the recipe's smaller images"
    return table(
        ["", "DHVT Serve", "against"],
        [
            [
                "accuracy from scratch, in equal time",
                ", ".join(f"{name} {resnet:+.1f}" for name, resnet, _ in points) + " points",
                f"ResNet-18 (DeiT-T: {', '.join(f'{deit:+.1f}' for *_, deit in points)})",
            ],
            ["training on a CPU", speed, "straightforward PyTorch in fp32"],
            ["requests/s, three blocks", f"{ratios['mosec (plain engine)']:.2f}×", "mosec with OpenVINO as documented"],
        ],
    )


def fill(readme: str) -> str:
    """A README with the table of today between its markers."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{write_readme_table()}\n{END}{after}"


def plot(path: Path) -> None:
    """Validation top-1 over the epochs' part of the budget, a panel for each set."""
    from matplotlib.figure import Figure

    runs = [line for line in load_lines() if line["kind"] == "result"]
    names = [name for name in SETS if select(runs, set=name)]
    figure = Figure(figsize=(4.5 * max(len(names), 1), 3.5))
    panels = figure.subplots(1, max(len(names), 1), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=False):
        for run in select(runs, set=name):
            rows = run["curve"]["rows"]
            label = f"{run['model']}, seed {run['seed']}" if run["seed"] else run["model"]
            axes.plot([row[0] / run["epochs"] for row in rows], [row[3] for row in rows], label=label)
        axes.set(title=name, xlabel="part of the budget", ylabel="validation top-1, %")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, bbox_inches="tight", dpi=120)


def plot_cifar100(path: Path) -> None:
    """Losses, and validation top-1, after each epoch of the training on CIFAR-100; a dotted line where it went on."""
    from matplotlib.figure import Figure

    stages = load_cifar100()
    rows = [row for stage in stages for row in stage["curve"]["rows"]]
    _, train_loss, val_loss, top1 = zip(*rows, strict=True)
    epochs = range(1, len(rows) + 1)
    figure = Figure(figsize=(9, 3.5))
    losses, accuracy = figure.subplots(1, 2)
    losses.plot(epochs, train_loss, label="training, on mixed images")
    losses.plot(epochs, val_loss, label="validation")
    losses.set(xlabel="epoch", ylabel="loss")
    losses.legend()
    accuracy.plot(epochs, top1)
    accuracy.set(xlabel="epoch", ylabel="validation top-1, %")
    for axes in (losses, accuracy):
        axes.grid(alpha=0.3)
        for end in accumulate(stage["epochs"] for stage in stages[:-1]):
            axes.axvline(end + 0.5, color="grey", linestyle=":")
    figure.savefig(path, bbox_inches="tight", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plots", action="store_true", help="draw the plots too; needs the report extra")
    args = parser.parse_args()
    PAGE.write_text(write_page(), encoding="utf-8")
    README.write_text(fill(README.read_text(encoding="utf-8")), encoding="utf-8")
    if args.plots:
        plot(RESULTS / PLOT)
        plot_cifar100(RESULTS / CIFAR100_PLOT)


if __name__ == "__main__":
    main()
