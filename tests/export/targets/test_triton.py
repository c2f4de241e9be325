"""``dhvt export --target triton``: the model repository, against Triton's own schema and the graph in it."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner

from dhvt.artifact import Variant, load_artifact, write_card
from dhvt.cli.main import main
from dhvt.data.preprocess import Preprocess, preprocess_image
from dhvt.errors import ArtifactError
from dhvt.model.checkpoint import save_checkpoint
from export.layouts import export_layouts
from export.settings import ExportOptions, TritonSettings
from tests.conftest import CLASSES, draw, encode

HARDWARE = {"flavour": "tensorrt", "profile": {"min_batch_size": 1, "opt_batch_size": 8, "max_batch_size": 16}}


def load_schema():
    """Triton's ``model_config.proto``, of tritonclient; without the rest of that package, which needs grpcio."""
    found = importlib.util.find_spec("tritonclient")
    if found is None:
        pytest.skip("needs pip install tritonclient, which has Triton's model_config.proto")
    path = Path(found.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse_config(folder):
    """``config.pbtxt`` as Triton reads it: an unknown field is an error."""
    schema = load_schema()
    from google.protobuf import text_format

    return text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig()), schema


def export_triton(path, log=print, options=None, **settings):
    artifact = load_artifact(path)
    export_layouts(artifact, path, ["triton"], options, {"triton": TritonSettings(**settings)}, log=log)
    return path.parent / "triton"


def with_engine(path, **hardware):
    """The artifact with an engine's variant; its file is not looked into."""
    (path / "model.engine").write_bytes(b"an engine")
    engine = Variant(format="tensorrt", precision="fp16", files=("model.engine",), hardware=HARDWARE | hardware)
    write_card(path, load_artifact(path).card.with_variant(engine))


def test_the_repository_has_the_graph_and_what_it_needs(artifact_copy):
    before = {path.name: path.read_bytes() for path in artifact_copy.iterdir()}
    lines = []
    repository = export_triton(artifact_copy, log=lambda line, err=False: lines.append(line))
    folder = repository / "dhvt_test"
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == ["1/model.onnx", "README.md", "config.pbtxt", "labels.txt"]
    assert (folder / "1" / "model.onnx").read_bytes() == before["model.onnx"]
    assert (folder / "labels.txt").read_text().splitlines() == CLASSES
    assert {path.name: path.read_bytes() for path in artifact_copy.iterdir()} == before
    assert lines == [f"wrote {folder}; serve it with tritonserver --model-repository={repository}"]


def test_the_configuration_is_tritons(artifact_copy):
    folder = export_triton(artifact_copy, triton_max_batch_size=32, max_queue_delay_ms=2.5, instances=2) / "dhvt_test"
    config, schema = parse_config(folder)
    assert (config.name, config.backend, config.default_model_filename) == ("dhvt_test", "onnxruntime", "model.onnx")
    assert config.max_batch_size == 32
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 16, 32]
    assert config.dynamic_batching.max_queue_delay_microseconds == 2500
    (group,) = config.instance_group
    assert (group.kind, group.count) == (schema.ModelInstanceGroup.KIND_AUTO, 2)
    assert config.output[0].label_filename == "labels.txt"
    card = load_artifact(artifact_copy).card
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert parameters == {"version": card.version, "digest": card.digest, "temperature": "1.7"}


def test_inputs_and_outputs_are_the_graphs_without_its_batch(artifact_copy):
    folder = export_triton(artifact_copy) / "dhvt_test"
    config, schema = parse_config(folder)
    session = onnxruntime.InferenceSession(folder / "1" / config.default_model_filename, providers=["CPUExecutionProvider"])
    for described, tensors, kind in (
        (config.input, session.get_inputs(), "uint8"),
        (config.output, session.get_outputs(), "float"),
    ):
        (ours,), (graphs,) = described, tensors
        assert (ours.name, graphs.type) == (graphs.name, f"tensor({kind})")
        assert (graphs.shape[0], list(ours.dims)) == ("batch", graphs.shape[1:])
    assert (config.input[0].data_type, config.output[0].data_type) == (schema.TYPE_UINT8, schema.TYPE_FP32)
    for warm_up in config.model_warmup:
        given = warm_up.inputs["images"]
        assert (given.data_type, given.zero_data) == (schema.TYPE_UINT8, True)
        assert session.run(None, {"images": np.zeros((warm_up.batch_size, *given.dims), np.uint8)})[0].shape[1:] == (3,)
    assert [warm_up.batch_size for warm_up in config.model_warmup] == [1, 64]


def test_the_readme_prepares_an_image_as_the_server_does(artifact_copy):
    text = (export_triton(artifact_copy) / "dhvt_test" / "README.md").read_text()
    (line,) = [line.strip() for line in text.splitlines() if line.strip().startswith("preprocess = Preprocess(")]
    names = {"Preprocess": Preprocess}
    exec(line, names)
    image, card = encode(draw(0, 1)), load_artifact(artifact_copy).card
    assert np.array_equal(preprocess_image(image, names["preprocess"]), preprocess_image(image, card.preprocess))
    assert "softmax(logits / 1.7)" in text


def test_an_engine_is_a_model_of_its_own(artifact_copy):
    with_engine(artifact_copy)
    repository = export_triton(artifact_copy)
    assert sorted(path.name for path in repository.iterdir()) == ["dhvt_test", "dhvt_test-tensorrt"]
    folder = repository / "dhvt_test-tensorrt"
    assert (folder / "1" / "model.plan").read_bytes() == b"an engine"
    config, schema = parse_config(folder)
    assert (config.name, config.backend, config.max_batch_size) == (folder.name, "tensorrt", 16)
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 16]
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU


@pytest.mark.parametrize(
    ("hardware", "reason"),
    [
        ({"flavour": "tensorrt_rtx"}, "which is of tensorrt_rtx; Triton runs those of tensorrt"),
        ({"profile": HARDWARE["profile"] | {"min_batch_size": 2}}, "whose smallest batch is 2"),
    ],
)
def test_an_engine_that_triton_cannot_run_is_left_out(artifact_copy, hardware, reason):
    with_engine(artifact_copy)
    export_triton(artifact_copy)
    with_engine(artifact_copy, **hardware)
    lines = []
    repository = export_triton(artifact_copy, log=lambda line, err=False: lines.append(line))
    assert f"left out: the engine, {reason}" in lines[0]
    assert [path.name for path in repository.iterdir()] == ["dhvt_test"]  # nor is that of the earlier export left


def test_other_models_of_the_repository_stay(artifact_copy):
    repository = export_triton(artifact_copy)
    export_triton(artifact_copy, options=ExportOptions(name="hands"))
    assert sorted(path.name for path in repository.iterdir()) == ["dhvt_test", "hands"]
    config, _ = parse_config(repository / "hands")
    assert config.name == "hands"
    (repository / "mine").mkdir()
    (repository / "mine" / "thesis.tex").write_text("years of work")
    for content in ("", 'name: "mine"', 'backend: "tensorrt"'):
        for name in ("mine", "hands-tensorrt"):
            (repository / name).mkdir(exist_ok=True)
            (repository / name / "config.pbtxt").write_text(content)
        with pytest.raises(ArtifactError, match="is no model of Triton that dhvt wrote"):
            export_triton(artifact_copy, options=ExportOptions(name="mine"))
    export_triton(artifact_copy, options=ExportOptions(name="hands"))
    assert (repository / "hands-tensorrt" / "config.pbtxt").read_text() == 'backend: "tensorrt"'
    assert (repository / "mine" / "thesis.tex").exists()


def test_what_a_killed_export_leaves_is_beside_the_repository(artifact_copy, monkeypatch):
    """Triton takes every folder in it for a model."""
    seen = []
    monkeypatch.setattr("export.targets.triton._write_model", lambda job, model, settings, folder: seen.append(folder))
    repository = export_triton(artifact_copy)
    assert [folder.parent for folder in seen] == [repository.parent]


def test_class_names_stay_on_their_lines(artifact_copy):
    card = load_artifact(artifact_copy).card
    write_card(artifact_copy, replace(card, classes=['a "b"', "c\nd", "é\\"]))
    folder = export_triton(artifact_copy) / "dhvt_test"
    assert (folder / "labels.txt").read_text(encoding="utf-8").split("\n") == ['a "b"', "c d", "é\\", ""]


def test_the_command_makes_the_artifact_first(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "ckpt.pt")
    arguments = ["export", str(tmp_path / "ckpt.pt"), "--target", "triton", "--name", "hands", "--triton-max-batch-size", "8"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert load_artifact(tmp_path / "artifact").card.name == "hands"
    assert "max_batch_size: 8\n" in (tmp_path / "triton" / "hands" / "config.pbtxt").read_text()
    again = CliRunner().invoke(main, ["export", str(tmp_path / "artifact"), "--target", "triton", "--tag", "hands"])
    assert (again.exit_code, "--tag stores a model folder" in again.output) == (1, True)
    unfit = CliRunner().invoke(main, [*arguments, "--push", "me/hands"])
    assert "--push fits none of the targets triton" in unfit.output
