import sys

import pytest

from dhvt.engines.settings import BUNDLED_MODEL, EngineSettings, find_model
from dhvt.errors import ConfigError


def test_they_come_from_the_environment():
    assert EngineSettings.from_environ({"PATH": "/bin"}) == EngineSettings()
    settings = EngineSettings.from_environ({"DHVT_MODEL": "a/b", "DHVT_ENGINE": "openvino:fp32", "DHVT_THREADS": "0"})
    assert (settings.model_path().name, settings.engine, settings.threads) == ("b", "openvino:fp32", 0)
    assert EngineSettings(threads=3).engine_threads() == 3
    assert EngineSettings(workers=10_000).engine_threads() == 1


@pytest.mark.parametrize("name", ["DHVT_MAX_BATCH_SIZE", "DHVT_WORKERS"])
@pytest.mark.parametrize("value", ["0", "-1", "1e6", "9" * 5000])
def test_an_invalid_number_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} is .*; it must be a whole number of at least 1, with up to 15 digits"):
        EngineSettings.from_environ({name: value})


def test_an_unknown_variable_is_refused_and_the_servers_are_not():
    with pytest.raises(ConfigError, match="unknown setting DHVT_MODL; there are DHVT_MODEL, DHVT_ENGINE"):
        EngineSettings.from_environ({"DHVT_MODL": "x"})
    assert EngineSettings.from_environ({"DHVT_TOKEN": "x", "DHVT_SERVICE_HOST": "10.0.0.1"}) == EngineSettings()


def test_the_bundled_model_is_there():
    assert (BUNDLED_MODEL / "model.json").is_file()


def test_a_tag_needs_bentoml(monkeypatch):
    monkeypatch.setitem(sys.modules, "bentoml", None)
    assert find_model("a:b/c").name == "c"
    with pytest.raises(ConfigError, match=r"model is 'dhvt:latest', a tag .*; pip install bentoml"):
        find_model("dhvt:latest")
