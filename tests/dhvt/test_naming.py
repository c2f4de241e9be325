"""Names and versions of models."""

import pytest

from dhvt.errors import ConfigError
from dhvt.naming import check_name, check_version, fit_name, is_made_version, make_version, name_of_data


@pytest.mark.parametrize(
    ("text", "name"),
    [("hands", "hands"), ("My Hands!", "my-hands"), ("_x.", "x"), ("手", "model"), ("", "model"), ("a" * 62 + "-b", "a" * 62)],
)
def test_any_text_becomes_a_name(text, name):
    assert check_name(fit_name(text)) == name


@pytest.mark.parametrize("name", ["", "Hands", "a b", "-a", "a.", "a:b", "a/b", "a" * 64, "é", None])
def test_other_names_are_refused(name):
    with pytest.raises(ConfigError, match="give up to 63 of a-z"):
        check_name(name)


def test_latest_is_no_version():
    assert check_version("1.0") == "1.0"
    with pytest.raises(ConfigError, match="newest of all versions"):
        check_version("latest")


def test_data_names_its_model(tmp_path, monkeypatch):
    for path in ("Hands v1.2/train", "cifar10"):
        (tmp_path / path).mkdir(parents=True)
    assert name_of_data(tmp_path / "Hands v1.2") == "hands-v1.2"
    assert name_of_data(tmp_path / "Hands v1.2" / "train") == "hands-v1.2"
    assert name_of_data(tmp_path / "cifar10" / "train.parquet") == "cifar10"
    assert name_of_data(tmp_path / "real_train.txt") == "real_train"
    monkeypatch.chdir(tmp_path / "cifar10")
    assert name_of_data(".") == "cifar10"


def test_a_made_version_names_the_digest():
    version = make_version("1a2b3c4d" * 8)
    assert check_version(version).endswith("-1a2b3c4d")
    assert is_made_version(version, "1a2b3c4d" * 8)
    assert not is_made_version("3", "1a2b3c4d" * 8)
    assert not is_made_version(version, "ffffffff" * 8)
