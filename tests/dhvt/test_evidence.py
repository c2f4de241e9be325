"""``evidence`` in a card: what was held against a limit, in in-toto's shape."""

import hashlib
import json
from dataclasses import replace
from decimal import Decimal
from importlib.metadata import version

import numpy as np
import pytest

from dhvt.artifact import Variant, load_artifact, write_card
from dhvt.confidence.reference import Measured, Reference, write_reference
from dhvt.evidence import find_evidence
from export.pipeline import export_model
from export.settings import ExportOptions


def read_strictly(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((path / "model.json").read_text(), parse_constant=refuse)


def test_an_export_states_its_comparisons(artifact_path):
    values = read_strictly(artifact_path)
    digest = hashlib.sha256((artifact_path / "model.onnx").read_bytes()).hexdigest()
    assert len(values["evidence"]) == len(values["variants"][0]["parity"]["comparisons"])
    for statement in values["evidence"]:
        assert statement["_type"] == "https://in-toto.io/Statement/v1"
        assert statement["subject"] == [{"name": "model.onnx", "digest": {"sha256": digest}}]
        predicate = statement["predicate"]
        assert predicate["harness"] == {"name": "dhvt-serve", "version": version("dhvt-serve")}
        assert predicate["sampleSize"] > 0
        assert "commitments" not in predicate  # the images were drawn
        claims = {claim["metric"]: claim for claim in predicate["claims"]}
        assert claims.keys() == {"max_abs_logit_error", "top1_agreement"}
        assert all(claim["passed"] for claim in claims.values())
        assert Decimal(claims["max_abs_logit_error"]["value"]) <= Decimal(claims["max_abs_logit_error"]["threshold"])


def test_real_images_are_named_by_their_fingerprint(checkpoint, image_folder, tmp_path):
    export_model(checkpoint, tmp_path / "artifact", options=ExportOptions(data=str(image_folder)))
    values = read_strictly(tmp_path / "artifact")
    recorded = values["variants"][0]["parity"]["data"]["digest"]
    assert {statement["predicate"]["commitments"]["dataset"] for statement in values["evidence"]} == {recorded}


def test_a_limit_that_is_exceeded_is_not_passed(artifact_path):
    card = load_artifact(artifact_path).card
    variant = card.variants[0]
    strict = replace(variant, parity=variant.parity | {"tolerance": {"atol": 0.0, "top1_agreement": 1.0}})
    claims = find_evidence(replace(card, variants=(strict,)))[0]["predicate"]["claims"]
    assert [claim["passed"] for claim in claims] == [False, True]


@pytest.mark.parametrize("has_evidence", [True, False])
def test_it_is_made_of_the_other_fields_when_a_card_is_written(artifact_copy, has_evidence):
    before = read_strictly(artifact_copy)
    if not has_evidence:  # a card of an earlier version
        del before["evidence"], before["sha256"]
        before["sha256"] = hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()
        (artifact_copy / "model.json").write_text(json.dumps(before))
    card = load_artifact(artifact_copy).card
    write_card(artifact_copy, card)
    after = read_strictly(artifact_copy)
    assert after["evidence"] == find_evidence(card)
    assert load_artifact(artifact_copy).digest == card.digest


def test_an_export_over_a_model_says_what_of_it_is_gone(checkpoint, graphs_once, artifact_copy):
    labels = np.zeros(30, np.int64)
    measured = {"fp32": Measured.of(np.full((30, 3), 1 / 3, np.float32), labels)}
    write_reference(
        load_artifact(artifact_copy), Reference(labels=labels, hashes=labels.astype(np.uint64), measured=measured), {}
    )
    card = load_artifact(artifact_copy).card
    write_card(artifact_copy, replace(card, metrics=card.metrics | {"test": {"top1": 50.0}}))
    (artifact_copy / "model.json.sig").write_text("signature")
    lines = []
    export_model(checkpoint, artifact_copy, log=lambda message, **_: lines.append(message))
    assert "the reference images of the model that was here are gone: run dhvt calibrate again" in lines
    assert "metrics.test of the model that was here is gone: run dhvt evaluate --record again" in lines
    assert "the signature of the model that was here is gone: run dhvt sign again" in lines
    assert not (artifact_copy / "model.json.sig").exists()


def record(card, engine, precision, **more):
    promise = {"coverage": 0.95, "measured": 0.96, "least": 0.9, "images": 100}
    entry = {"engine": engine, "precision": precision, "coverage": [promise], **more}
    (*_, statement) = find_evidence(replace(card, metrics={"test": entry}))
    return statement["subject"][0]["name"], [claim["metric"] for claim in statement["predicate"]["claims"]]


@pytest.mark.parametrize(
    ("engine", "precision", "name"),
    [
        ("tensorrt", "bf16", "model.engine"),
        ("openvino", "bf16", "model.onnx"),
        ("openvino", "fp32", "model.onnx"),
        ("openvino", "int8", "model.int8.xml"),
    ],
)
def test_the_subject_is_what_was_measured(artifact_path, engine, precision, name):
    card = load_artifact(artifact_path).card
    added = [Variant(format="tensorrt", precision="bf16", files=("model.engine",))]
    added += [Variant(format="openvino", precision="int8", files=("model.int8.xml",))]
    files = card.files | {"model.engine": "0", "model.int8.xml": "1"}
    card = replace(card, variants=(*card.variants, *added), files=files)
    assert record(card, engine, precision) == (name, ["coverage@0.95"])


def test_nothing_is_stated_of_images_that_the_model_has_seen(artifact_path):
    card = load_artifact(artifact_path).card
    assert "coverage@0.95" in record(card, "onnxruntime", "fp32", overlap={"training": 0.001})[1]
    assert "coverage@0.95" not in record(card, "onnxruntime", "fp32", overlap={"training": 0.9})[1]
