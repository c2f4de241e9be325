"""Which engine serves, from figures that a probe is said to have measured."""

import json
from dataclasses import replace

import pytest

from dhvt.artifact import OPENVINO, Variant, load_artifact
from dhvt.engines import EngineOptions, EngineSettings, check_engine, measure_engines, open_engine
from dhvt.engines.cache import cache_folder
from dhvt.engines.probe import recall
from dhvt.engines.probe_cache import ProbeResult
from dhvt.engines.speed import Speed
from dhvt.errors import ConfigError, EngineError

OPTIONS = {"threads": 1, "max_batch_size": 4}


@pytest.fixture
def artifact(artifact_path, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("dhvt.engines.openvino.processor_flags", lambda: {"avx512_bf16", "avx512_vnni"})
    return load_artifact(artifact_path)


def with_int8(artifact, *, lost, images=5000, bound=None):
    """The artifact with an int8 variant that costs so many points of top-1."""
    comparison = {"runtime": "openvino", "images": images, "top1": 90 - lost, "top1_reference": 90.0, "top1_agreement": 0.98}
    tolerance = {} if bound is None else {"tolerance": {"top1_loss": bound}}
    parity = {"comparisons": [comparison]} | tolerance
    files = ("model.int8.xml", "model.int8.bin")
    card = artifact.card.with_variant(Variant(format=OPENVINO, precision="int8", files=files, parity=parity))
    return replace(artifact, card=card)


@pytest.fixture
def measured(monkeypatch):
    """Sets what is remembered: images/s, ms and perhaps "busy" by candidate, or a failure; None of what has not been probed."""

    def remember(**figures):
        results = {name.replace("_", ":"): value for name, value in figures.items()}

        def result(name):
            value = results.get(name)
            if value is None:
                return None
            if isinstance(value, str):
                return ProbeResult(failure=value)
            return ProbeResult(speed=Speed(images_per_s=value[0], latency_ms=value[1], busy="busy" in value))

        def probe(artifact, name, options, *, use_cache=True, measure=False):
            found = result(name)
            probed.append(name)
            if found is not None and found.failure is not None:
                raise EngineError(found.failure)
            return None if found is None else found.speed

        probed = []
        monkeypatch.setattr("dhvt.engines.selection.recall", lambda artifact, name, options: result(name))
        monkeypatch.setattr("dhvt.engines.selection.probe", probe)
        return probed

    return remember


def chosen(candidates):
    (found,) = (candidate.name for candidate in candidates if candidate.chosen)
    return found


FIGURES = {"openvino_int8": (555, 3.0), "openvino_bf16": (412, 2.0), "openvino_fp32": (200, 6.0), "onnxruntime_fp32": (90, 9.0)}


@pytest.mark.parametrize(("prefer", "name"), [("throughput", "openvino:int8"), ("latency", "openvino:bf16")])
def test_auto_takes_the_fastest(artifact, measured, prefer, name):
    measured(**FIGURES)
    assert chosen(check_engine(with_int8(artifact, lost=0.1), "auto", **OPTIONS, prefer=prefer)) == name


@pytest.mark.parametrize("busy", FIGURES)
def test_figures_of_a_busy_machine_choose_nothing(artifact, measured, busy):
    measured(**FIGURES | {"openvino_bf16": (700, 1.0), busy: (8, 400.0, "busy")})
    candidates = check_engine(with_int8(artifact, lost=0.1), "auto", **OPTIONS)
    assert chosen(candidates) == "openvino:int8"
    reasons = {candidate.name: candidate.reason for candidate in candidates if candidate.speed}
    assert reasons.pop("openvino:int8") == "expected to be the fastest"
    assert set(reasons.values()) == {"expected to be slower"}
    assert [entry.name.replace(":", "_") for entry in candidates if "measured on a busy machine" in entry.describe()] == [busy]


@pytest.mark.parametrize(
    ("cost", "name"),
    [
        ({"lost": 0.3}, "openvino:bf16"),
        ({"lost": 0.3, "bound": 0.5}, "openvino:int8"),
        ({"lost": 0.1, "bound": 0.05}, "openvino:bf16"),
        ({"lost": 0.9, "images": 100}, "openvino:int8"),  # one of a hundred
        ({"lost": -0.4}, "openvino:int8"),
    ],
)
def test_what_costs_more_accuracy_than_the_bound_is_not_chosen(artifact, measured, cost, name):
    measured(**FIGURES)
    candidates = check_engine(with_int8(artifact, **cost), "auto", **OPTIONS)
    assert chosen(candidates) == name
    (int8,) = (candidate for candidate in candidates if candidate.precision == "int8")
    assert int8.chosen or "points of top-1, more than the" in int8.reason


def test_a_named_precision_is_an_order(artifact, measured):
    measured(**FIGURES)
    costly = with_int8(artifact, lost=5)
    assert chosen(check_engine(costly, "openvino:int8", **OPTIONS)) == "openvino:int8"
    assert chosen(check_engine(costly, "onnxruntime", **OPTIONS)) == "onnxruntime:fp32"
    assert chosen(check_engine(costly, "openvino", **OPTIONS)) == "openvino:bf16"


@pytest.mark.parametrize(("fp32", "name"), [(393, "openvino:fp32"), (390, "openvino:bf16")])
def test_of_engines_as_fast_as_each_other_the_more_exact_one_serves(artifact, measured, fp32, name):
    measured(openvino_bf16=(412, 2.0), openvino_fp32=(fp32, 2.0), onnxruntime_fp32=(90, 9.0))
    assert chosen(check_engine(artifact, "auto", **OPTIONS)) == name


def test_one_that_fails_does_not_serve_however_fast(artifact, measured):
    measured(**FIGURES | {"openvino_int8": "its process died of SIGFPE"})
    candidates = check_engine(with_int8(artifact, lost=0), "auto", **OPTIONS)
    assert chosen(candidates) == "openvino:bf16"
    assert (
        "openvino:int8; costs 0.00 points of top-1 (at most 0.2), same class for 98.0%; does not serve: its process died "
        in ("\n".join(candidate.describe() for candidate in candidates))
    )


def test_a_first_start_probes_no_more_than_one_that_passes(artifact, measured):
    probed = measured(openvino_int8="self-test at batch 1 is off by 3")
    candidates = check_engine(with_int8(artifact, lost=0), "auto", **OPTIONS)
    assert probed == ["openvino:int8", "openvino:bf16"]
    assert chosen(candidates) == "openvino:bf16"
    reasons = {candidate.name: candidate.reason for candidate in candidates}
    assert reasons["openvino:bf16"] == "expected to be the fastest"
    assert reasons["openvino:fp32"] == reasons["onnxruntime:fp32"] == "not measured yet"


def test_measured_engines_are_in_the_table_and_the_choice_is_final(artifact):
    first = open_engine(artifact, "auto", **OPTIONS)
    assert not first.is_final
    measure_engines(artifact, "auto", **OPTIONS)
    second = open_engine(artifact, "auto", **OPTIONS)
    assert second.is_final
    could = [candidate for candidate in second.candidates if candidate.precision]
    assert [candidate.name for candidate in could] == ["openvino:bf16", "openvino:fp32", "onnxruntime:fp32"]
    passed = [candidate.to_dict() for candidate in could if candidate.speed]
    assert passed
    assert all(entry["images_per_s"] > 0 and entry["latency_ms"] > 0 for entry in passed)
    assert [entry for entry in passed if entry["chosen"]]


def test_the_figures_are_remembered(artifact):
    measure_engines(artifact, "onnxruntime", **OPTIONS)
    options = EngineOptions(**OPTIONS)
    first = recall(artifact, "onnxruntime:fp32", options)
    measure_engines(artifact, "onnxruntime", **OPTIONS)
    assert recall(artifact, "onnxruntime:fp32", options) == first
    (file,) = cache_folder("engines").iterdir()
    file.write_text(json.dumps({"failure": None, "speed": {"images_per_s": 1}}))  # half a result is none
    assert recall(artifact, "onnxruntime:fp32", options) is None


def test_an_unknown_preference_is_refused():
    assert EngineSettings.from_environ({"DHVT_PREFER": "latency"}).prefer == "latency"
    with pytest.raises(ConfigError, match="DHVT_PREFER is 'speed'; it must be throughput or latency"):
        EngineSettings.from_environ({"DHVT_PREFER": "speed"})
