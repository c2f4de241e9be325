"""``dhvt export --target timm``: what is written loads again in timm, and reaches a stand-in for the Hugging Face Hub."""

import base64
import io
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from huggingface_hub import ModelCard
from PIL import Image

from dhvt.artifact import load_artifact, write_card
from dhvt.cli.main import main
from dhvt.data.preprocess import Preprocess, preprocess_image
from dhvt.errors import ConfigError, ExportError, ParityError
from dhvt.model.checkpoint import Checkpoint, save_checkpoint
from dhvt.model.factory import build, configure
from export.golden import draw_images
from export.layouts import export_layouts
from export.model_card import find_results
from export.pipeline import export_model
from export.settings import ExportOptions, TimmSettings
from tests.conftest import CLASSES, draw

NAME = "dhvt_tiny_cifar_patch4"
FILES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture
def variant(checkpoint):
    """The small model under a name that timm knows, with metrics."""
    data = {"validation": {"images": 6, "source": "/home/me/photos/val"}}
    return replace(checkpoint, name=NAME, metrics={"val_top1": 33.3, "val_top5": 100.0}, recipe={"epochs": 3}, data=data)


def make_checkpoint(name, img_size, resize_mode="crop", **options):
    """An untrained model whose BatchNorms have seen something."""
    torch.manual_seed(0)
    config = configure(name, num_classes=3, img_size=img_size, options=options)
    model = build(name, config).train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(4, 3, *img_size))
    preprocess = Preprocess(size=img_size, resize_mode=resize_mode, mean=(0.4, 0.5, 0.6))
    return Checkpoint(name=name, config=config, weights=model.state_dict(), classes=CLASSES, preprocess=preprocess.to_dict())


def export_timm(checkpoint, folder, log=print, **settings):
    export_layouts(checkpoint, folder / "artifact", ["timm"], settings={"timm": TimmSettings(**settings)}, log=log)
    return folder / "timm"


def logits_of(model, size):
    images = torch.randn(5, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model.eval()(images).numpy()


def assert_loads_again(checkpoint, folder):
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
    size = checkpoint.preprocess["size"]
    assert np.allclose(logits_of(loaded, size), logits_of(checkpoint.build_model(), size), atol=1e-5)
    return loaded


def test_timm_loads_it_again_with_equal_logits(variant, tmp_path):
    folder = export_timm(variant, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["timm"]  # no artifact is needed for it
    loaded = assert_loads_again(variant, folder)
    assert list(loaded.pretrained_cfg["label_names"]) == CLASSES
    config = json.loads((folder / "config.json").read_text())
    assert (config["architecture"], config["num_classes"]) == (NAME, 3)
    assert (config["model_args"]["depth"], config["model_args"]["embed_dim"]) == (2, 32)


def test_the_moving_average_is_exported_where_there_is_one(variant, tmp_path):
    ema = {key: value * 1.1 if value.is_floating_point() else value for key, value in variant.weights.items()}
    averaged = replace(variant, ema=ema)
    loaded = assert_loads_again(averaged, export_timm(averaged, tmp_path))
    assert torch.equal(loaded.head.weight, ema["head.weight"])


@pytest.mark.parametrize(
    ("name", "img_size", "options"),
    [
        (NAME, (32, 48), {"patch_embed": "plain", "attention": "mhsa", "feed_forward": "mlp", "pos_embed": True}),
        (NAME, (32, 32), {"global_pool": "avg", "mlp_ratio": 2.0, "qkv_bias": False}),
        ("vit_tiny_patch16_224", (32, 32), {"depth": 1}),
        ("resnet10t", (32, 32), {}),  # with a stem for small images
    ],
)
def test_every_kind_of_model_loads_again(name, img_size, options, tmp_path):
    small = {"depth": 2, "embed_dim": 32} if name == NAME else {}
    checkpoint = make_checkpoint(name, img_size, **small, **options)
    folder = export_timm(checkpoint, tmp_path)
    assert_loads_again(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    assert (config["input_size"], config["mean"]) == ([3, *img_size], [0.4, 0.5, 0.6])
    assert not {"license", "tag", "hf_hub_id", "origin_url"} & config.keys()  # those of timm's own weights


@pytest.mark.parametrize("resize_mode", ["crop", "squash", "pad"])
def test_timms_transforms_prepare_an_image_as_the_server_does(variant, resize_mode, tmp_path):
    preprocess = Preprocess(size=(32, 32), resize_mode=resize_mode)
    folder = export_timm(replace(variant, preprocess=preprocess.to_dict()), tmp_path)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(loaded), is_training=False)
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    for encoded in draw_images():
        got = transform(Image.open(io.BytesIO(encoded)).convert("RGB")).permute(1, 2, 0).numpy() * std + mean
        expected = preprocess_image(encoded, preprocess) / 255
        assert got.shape == expected.shape
        assert abs(got - expected).mean() < 0.05  # padding may be a row apart


def test_a_folder_that_gives_other_logits_is_refused(variant, tmp_path, monkeypatch):
    before = (export_timm(variant, tmp_path) / "config.json").read_bytes()
    monkeypatch.setattr("export.targets.timm.describe_preprocessing", lambda preprocess: {"mean": (0.9, 0.9, 0.9)})
    with pytest.raises(ParityError, match="timm disagrees with PyTorch"):
        export_timm(variant, tmp_path)
    assert (tmp_path / "timm" / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["timm"]


def test_what_is_no_checkpoint_of_timms_is_refused(checkpoint, variant, artifact_copy, tmp_path):
    with pytest.raises(ConfigError, match="timm has no model 'dhvt_test'"):
        export_timm(checkpoint, tmp_path / "new")
    both = CliRunner().invoke(main, ["export", str(artifact_copy), "--target", "int8", "--target", "timm", "--data", "none"])
    assert (both.exit_code, "has no weights for timm; give its checkpoint" in both.output) == (1, True)
    with pytest.raises(ExportError, match="has no weights for timm; give its checkpoint"):
        export_layouts(load_artifact(artifact_copy), artifact_copy, ["timm"], log=print)
    other = replace(variant, weights={key: value + 1 for key, value in variant.weights.items()})
    with pytest.raises(ExportError, match="was exported from another checkpoint"):
        export_timm(other, tmp_path)
    assert not (tmp_path / "timm").exists()


def test_the_model_card_has_the_metrics_in_its_header(variant, tmp_path):
    artifact = export_model(variant, tmp_path / "artifact", options=ExportOptions(name="hands", version="3"))
    preprocess = replace(artifact.card.preprocess, integer_white=4095, float_white=1.0)
    metrics = artifact.card.metrics | {"test": {"top1": 50.0, "macro_f1": 40.0}}
    card = replace(artifact.card, metrics=metrics, preprocess=preprocess)
    write_card(artifact.path, card)
    files = dict(artifact.card.files)
    folder = export_timm(variant, tmp_path)
    assert load_artifact(artifact.path).card.files == files
    model_card = ModelCard.load(folder / "README.md")
    assert model_card.data.model_name == "hands"
    results = {(row.dataset_split, row.metric_name): row.metric_value for row in model_card.data.eval_results}
    assert results == {
        ("validation", "Top-1 accuracy"): 0.333,
        ("test", "Top-1 accuracy"): 0.5,
        ("test", "Macro F1"): 0.4,
    }
    seen = {"test": {"top1": 90.0, "overlap": {"training": 0.5}}}
    assert find_results(replace(card, metrics=seen)) == []
    assert (model_card.data.license, model_card.data.library_name) == (None, "timm")
    assert "version 3" in model_card.text
    assert "In grey images of 16 bits 4095 is white, in those of floats 1." in model_card.text
    assert "photos/val" in model_card.text
    assert "/home/me" not in model_card.content


def test_the_model_cards_example_runs(variant, tmp_path, monkeypatch, capsys):
    folder = export_timm(variant, tmp_path)
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    draw(1, 0).save(folder / "image.jpg")
    monkeypatch.chdir(folder)
    exec(code, {})
    assert capsys.readouterr().out.strip().splitlines()[-1] in CLASSES


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face Hub's API as an upload of small files needs."""

    def log_message(self, *arguments):
        """Prints nothing."""

    def _answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self):
        has_card = self.path.endswith("/resolve/main/README.md") and "README.md" in self.server.files
        self.send_response(200 if has_card else 404)
        for key, value in (("X-Repo-Commit", "0" * 40), ("ETag", '"x"')) if has_card else (("X-Error-Code", "EntryNotFound"),):
            self.send_header(key, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        url = f"http://{self.headers['Host']}/me/hands"
        if self.headers.get("Authorization") != "Bearer hf_right":
            self._answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self._answer({"url": url, "name": "me/hands"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            self._answer({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]})
        else:
            entries = [json.loads(line) for line in body.decode().splitlines()]
            files = [entry["value"] for entry in entries if entry["key"] == "file"]
            self.server.files |= {file["path"]: base64.b64decode(file["content"]) for file in files}
            self._answer({"commitUrl": f"{url}/commit/{'0' * 40}", "commitOid": "0" * 40})


def use_endpoint(monkeypatch, url):
    """Does what HF_ENDPOINT does when huggingface_hub is imported."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the Hub at a free port, to which huggingface_hub is pointed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.created = {}, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    use_endpoint(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_push_uploads_the_folder(variant, tmp_path, hub):
    lines = []
    folder = export_timm(variant, tmp_path, push="me/hands", log=lambda line, err=False: lines.append(line))
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert [request["visibility"] for request in hub.created] == ["private"]
    assert lines[-1].startswith("pushed to http://127.0.0.1:")
    assert 'create_model("hf-hub:me/hands"' in (folder / "README.md").read_text()
    hub.files["README.md"] = b"edited by its owner"
    export_timm(replace(variant, metrics={}), tmp_path, push="me/hands", public=True)
    assert hub.files["README.md"] == b"edited by its owner"
    assert hub.created[-1]["visibility"] == "public"


def test_only_its_own_files_are_pushed_and_a_stated_licence_stays(variant, tmp_path, hub):
    folder = export_timm(variant, tmp_path)
    (folder / "notes.txt").write_text("secret")
    (folder / ".git").mkdir()
    text = (folder / "README.md").read_text().replace("---\n", "---\nlicense: mit\n", 1)
    (folder / "README.md").write_text(text)
    lines = []
    export_timm(variant, tmp_path, push="me/hands", log=lambda line, err=False: lines.append(line))
    assert [*hub.files] == ["config.json", "model.safetensors", "README.md"]
    assert hub.files["README.md"].decode() == (folder / "README.md").read_text() == text
    assert any("which states a licence, is kept as it is" in line for line in lines)
    assert (folder / "notes.txt").read_text() == "secret"


def test_a_push_that_fails_is_one_line_and_leaves_the_folder(variant, tmp_path, hub, monkeypatch):
    save_checkpoint(variant, tmp_path / "ckpt.pt")
    push = ["export", str(tmp_path / "ckpt.pt"), "--target", "timm", "--push", "me/hands"]
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused = CliRunner().invoke(main, push)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1), refused.output
    assert "cannot be pushed to me/hands" in refused.stderr
    assert "401" in refused.stderr
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    offline = CliRunner().invoke(main, push)
    assert (offline.exit_code, offline.stderr.count("\n")) == (1, 1), offline.output
    assert "at http://127.0.0.1:9: " in offline.stderr
    assert "check the network" in offline.stderr
    assert sorted(path.name for path in (tmp_path / "timm").iterdir()) == FILES


def test_a_repository_that_cannot_be_is_refused_first(tmp_path):
    for options, message in ((["--push", "hands"], "give a repository as user/name"), (["--public"], "--public needs --push")):
        result = CliRunner().invoke(main, ["export", str(tmp_path / "absent.pt"), "--target", "timm", *options])
        assert result.exit_code == 1
        assert message in result.stderr
