import pytest

from dhvt.errors import ConfigError
from serving.settings import Settings


def test_settings():
    assert Settings.from_environ({"PATH": "/bin"}) == Settings()
    settings = Settings.from_environ({"DHVT_MODEL": "a/b", "DHVT_MAX_BATCH_SIZE": "8"})
    assert (settings.model_path().name, settings.max_batch_size) == ("b", 8)
    for name, value in (("DHVT_MAX_BATCH_SIZE", "0"), ("DHVT_THREADS", "-1"), ("DHVT_MAX_PIXELS", "1e6")):
        with pytest.raises(ConfigError, match=name):
            Settings.from_environ({name: value})
    assert Settings.from_environ({"DHVT_TOKEN": " secret\n"}).token == "secret"
    for name, value in (("DHVT_TOKEN", "a\nb"), ("DHVT_REQUEST_TIMEOUT_S", "9" * 5000)):
        with pytest.raises(ConfigError, match=name):
            Settings.from_environ({name: value})
    for name in ("DHVT_TOKEN", "DHVT_TOKEN_FILE", "DHVT_REQUIRE_SIGNATURE"):
        for value in ("", " \n"):
            with pytest.raises(ConfigError, match=f"{name} is blank, which would protect nothing"):
                Settings.from_environ({name: value})
    with pytest.raises(ConfigError, match="unknown setting DHVT_MODL; there are DHVT_MODEL"):
        Settings.from_environ({"DHVT_MODL": "x"})
    with pytest.raises(ConfigError, match="DHVT_EXPLAIN_MASKS is 1"):
        Settings.from_environ({"DHVT_EXPLAIN_MASKS": "1"})


def test_origins_are_as_browsers_send_them():
    assert Settings.from_environ({"DHVT_CORS_ORIGINS": "https://a.example, http://b:80"}).origins() == [
        "https://a.example",
        "http://b:80",
    ]
    assert Settings.from_environ({"DHVT_CORS_ORIGINS": "*"}).origins() == ["*"]
    for origin in ("https://a.example/", "a.example", "https://a.example/page"):
        with pytest.raises(ConfigError, match=f"DHVT_CORS_ORIGINS has '{origin}'"):
            Settings.from_environ({"DHVT_CORS_ORIGINS": origin})
