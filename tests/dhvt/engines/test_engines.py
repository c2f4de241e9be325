import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from dhvt.artifact import load_artifact, write_card
from dhvt.data.preprocess import preprocess_image
from dhvt.engines import ENGINES, open_engine
from dhvt.engines.selftest import self_test
from dhvt.errors import EngineError, SelfTestError

CPU_ENGINES = ["openvino", "onnxruntime"]


@pytest.fixture
def artifact(artifact_path):
    return load_artifact(artifact_path)


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_an_engine_gives_pytorchs_logits(artifact, name):
    engine = open_engine(artifact, name, threads=1).engine
    inputs = np.stack([preprocess_image(image, artifact.card.preprocess) for image in artifact.card.golden.encoded()])
    atol = 1e-3 if engine.precision == "fp32" else 0.1
    for batch in (1, 2, 3, 4):
        assert np.allclose(engine.predict(inputs[:batch]), artifact.card.golden.expected()[:batch], atol=atol)


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_the_caller_may_keep_the_logits(artifact, name):
    engine = open_engine(artifact, name, threads=1).engine
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 3), dtype=np.uint8)
    first = engine.predict(images[0])
    kept = first.copy()
    engine.predict(images[1])
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", CPU_ENGINES)
def test_a_batch_of_any_size_gives_each_image_its_own_logits(artifact, name, threads):
    engine = open_engine(artifact, f"{name}:fp32", threads=threads).engine
    images = np.random.default_rng(0).integers(0, 256, (33, 32, 32, 3), dtype=np.uint8)
    alone = np.concatenate([engine.predict(image[None]) for image in images])
    for count in (*range(2, 15), 33):
        assert np.allclose(engine.predict(images[:count]), alone[:count], atol=1e-3), count


@pytest.mark.parametrize("name", CPU_ENGINES)
def test_concurrent_calls_get_their_own_logits(artifact, name):
    engine = open_engine(artifact, name, threads=2).engine
    batches = np.random.default_rng(0).integers(0, 256, (40, 5, 32, 32, 3), dtype=np.uint8)
    expected = [engine.predict(batch) for batch in batches]
    with ThreadPoolExecutor(engine.concurrency) as pool:
        for got, wanted in zip(pool.map(engine.predict, batches), expected, strict=True):
            assert np.allclose(got, wanted, atol=1e-3)


@pytest.mark.parametrize("name", ["auto", *CPU_ENGINES])
def test_an_engine_that_computes_something_else_does_not_serve(artifact_copy, name):
    card = load_artifact(artifact_copy).card
    write_card(artifact_copy, replace(card, golden=replace(card.golden, logits=(card.golden.expected() + 0.5).tolist())))
    with pytest.raises(EngineError, match=r"self-test at batch 1 is off by 0\.5"):
        open_engine(load_artifact(artifact_copy), name, threads=1)


def test_an_engine_that_is_not_there_is_named(artifact, monkeypatch):
    with pytest.raises(EngineError, match="choose auto or one of tensorrt"):
        open_engine(artifact, "warp", threads=1)
    monkeypatch.setattr("dhvt.engines.registry.find_spec", lambda package: None if package == "openvino" else object())
    with pytest.raises(EngineError, match="pip install openvino"):
        open_engine(artifact, "openvino", threads=1)
    assert open_engine(artifact, threads=1).engine.name == "onnxruntime"


def test_a_runtime_that_cannot_be_imported_does_not_serve(artifact, monkeypatch, tmp_path):
    """As one that lacks a library of the system."""
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("raise ImportError('libtbb.so.12 is missing')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino" or name.endswith("engines.openvino")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    choice = open_engine(artifact, "auto", threads=1)
    assert choice.engine.name == "onnxruntime"
    assert any("cannot be imported (ImportError: libtbb.so.12 is missing)" in reason for reason in choice.rejected)
    with pytest.raises(EngineError, match="cannot be imported"):
        open_engine(artifact, "openvino", threads=1)


def test_a_batch_in_chunks_gives_the_same_logits(artifact):
    images = np.random.default_rng(0).integers(0, 256, (13, 32, 32, 3), dtype=np.uint8)
    engine = open_engine(artifact, "openvino:fp32", threads=3).engine
    whole = engine.predict(images)
    for size in (1, 2, 3, 12):
        parts = [engine.predict(images[start : start + size]) for start in range(0, 13, size)]
        assert np.allclose(np.concatenate(parts), whole, atol=1e-4)


def test_an_invalid_precision(artifact):
    for name in ("auto:fp32", "openvino16"):
        with pytest.raises(EngineError, match="no engine"):
            open_engine(artifact, name, threads=1)
    with pytest.raises(EngineError, match="fp32 only"):
        open_engine(artifact, "onnxruntime:fp8", threads=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("golden", [0.0, np.inf])
def test_logits_that_are_not_finite_fail_the_self_test(artifact, value, golden):
    """Even where the exported ones are not finite either."""

    class Broken:
        name, precision, concurrency, preferred_batch_size = "broken", "fp32", 1, None

        def predict(self, images):
            return np.full((len(images), 3), value, np.float32)

    expected = replace(artifact.card.golden, logits=np.full((4, 3), golden).tolist())
    other = replace(artifact, card=replace(artifact.card, golden=expected))
    with pytest.raises(SelfTestError, match="broken in fp32: self-test at batch 1 gives logits that are not finite numbers"):
        self_test(Broken(), other, (1, 2))


def test_the_help_names_every_engine():
    from click.testing import CliRunner

    from dhvt.cli.main import main

    words = re.findall(r"[\w-]+", CliRunner().invoke(main, ["classify", "--help"]).output)
    assert set(ENGINES) <= set(words)
