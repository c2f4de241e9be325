"""Every command of the documentation against what it calls: options, routes, settings, extras and files exist."""

from __future__ import annotations

import re
import tomllib
from urllib.parse import parse_qs, urlsplit

import click
import pytest
from click.testing import CliRunner
from torch.distributed.run import get_args_parser

from dhvt.cli.main import COMMANDS, main
from serving.http.auth import HEALTH_ROUTES
from serving.http.openapi import openapi_document
from serving.http.page import PAGE_ROUTES
from serving.settings import PREFIX, Settings
from tests.documentation.pages import PAGES, ROOT, read_lines, split_line

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VARIABLES = {PREFIX + name.upper() for name in Settings.__dataclass_fields__} | {"DHVT_IMAGE"}  # the last: of deploy/
PLAIN_ROUTES = HEALTH_ROUTES | PAGE_ROUTES | {"/metrics", "/docs.json"}
OTHER_SOFTWARE = {
    ".", "apt", "base64", "cd", "cosign", "docker", "echo", "eval", "export", "hf", "jq", "kubectl", "kustomize",
    "lint-imports", "mkdocs", "mypy", "openssl", "ruff", "source", "tar", "tritonserver", "umask",
}  # fmt: skip
"""Programs that are not this project's; their options are not looked at."""


def find_command(name: str) -> click.Command:
    assert name in COMMANDS, f"there is no dhvt {name}"
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return command


def check_dhvt(words: list[str]) -> None:
    find_command(words[1]).make_context(words[1], words[2:]).close()


def check_bentoml(words: list[str]) -> None:
    from bentoml_cli.cli import create_bentoml_cli

    command: click.Command = create_bentoml_cli()
    names = words[1:]
    while isinstance(command, click.Group):
        command = command.commands[names.pop(0)]
    options = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
    assert {name.partition("=")[0] for name in names if name.startswith("-")} <= options


def check_curl(words: list[str]) -> None:
    (url,) = (word for word in words if word.startswith(("localhost:", "http://localhost:")))
    parts = urlsplit(url if "//" in url else f"http://{url}")
    paths = openapi_document()["paths"]
    assert parts.path in paths or (parts.path or "/") in PLAIN_ROUTES
    if parts.query:
        (operation,) = paths[parts.path].values()
        assert parse_qs(parts.query).keys() <= {parameter["name"] for parameter in operation["parameters"]}


def check_pip(words: list[str]) -> None:
    for extras in re.findall(r"^(?:\.|dhvt-serve)\[(.*)\]$", "\n".join(words), re.MULTILINE):
        assert set(extras.split(",")) <= PYPROJECT["project"]["optional-dependencies"].keys()


def check_script(words: list[str]) -> None:
    """A script of this project: it is there, and knows the options."""
    path = next((word for word in words if word.endswith((".py", ".sh"))), None)
    if path is None:
        assert words[1] in ("-c", "-m"), words
        return
    text = (ROOT / path).read_text()
    assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z][a-z-]+", text))


def check_torchrun(words: list[str]) -> None:
    arguments = get_args_parser().parse_args(words[1:])
    assert arguments.module
    assert arguments.training_script == "dhvt.cli"
    check_dhvt(["dhvt", *arguments.training_script_args])


def check_sbatch(words: list[str]) -> None:
    assert (ROOT / words[1]).exists()
    check_dhvt(["dhvt", "train", *words[2:]])


def check_pytest(words: list[str]) -> None:
    assert all((ROOT / word).exists() for word in words if "/" in word)


CHECKS = {
    "bentoml": check_bentoml,
    "curl": check_curl,
    "deploy/roll.sh": check_script,
    "dhvt": check_dhvt,
    "pip": check_pip,
    "pytest": check_pytest,
    "python": check_script,
    "python3": check_script,
    "sbatch": check_sbatch,
    "torchrun": check_torchrun,
    "uv": check_pip,
}


def check_line(line: str) -> None:
    for variables, words in split_line(line):
        unknown = {name for name in variables if name.startswith(PREFIX)} - VARIABLES
        assert not unknown, f"there is no setting {unknown}"
        if words and words[0] not in OTHER_SOFTWARE and "_DHVT_COMPLETE" not in variables:
            CHECKS[words[0]](words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in read_lines(page):
        try:
            check_line(line)
        except (AssertionError, KeyError, ValueError, OSError, click.ClickException) as error:
            pytest.fail(f"{page.name}: {line}\n{error!r}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_options_in_the_text(page):
    """``dhvt NAME … --option`` between backticks, which may be half of a command."""
    for text in re.findall(r"(?<!`)`(dhvt [a-z][^`]*)`", page.read_text(encoding="utf-8")):
        name, *words = text.split()[1:]
        if name == "NAME":
            continue
        command = find_command(name)
        options = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)} | {"--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, text


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_the_help(name):
    """What stands in the paragraphs of examples of ``--help``."""
    for block in re.findall(r"\x08\n((?:.*\S.*\n?)+)", find_command(name).help or ""):
        for line in block.splitlines():
            if line.strip().startswith("dhvt "):
                for _, words in split_line(line.strip()):
                    check_dhvt(words)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dhvt train --data images --out runs/mine --epoch-count 3", "epoch-count"),
        ("dhvt classify", "images"),
        ("dhvt clasify cat.jpg", "clasify"),
        ("DHVT_ENGIN=openvino bentoml serve", "DHVT_ENGIN"),
        ("bentoml serve --prt 3000", "--prt"),
        ("curl localhost:3000/clasify", "clasify"),
        ("curl 'localhost:3000/classify?topk=3'", "topk"),
        ('pip install -e ".[cpus]"', "cpus"),
        ("python examples/retry.py cat.jpg", "retry.py"),
        ("python benchmarks/servers.py --clients-in-all 3", "clients-in-all"),
        ("rm -r images", "rm"),
    ],
)
def test_wrong_commands_are_found(line, message):
    with pytest.raises((AssertionError, KeyError, ValueError, OSError, click.ClickException), match=message):
        check_line(line)


@pytest.mark.parametrize(("words", "completed"), [("dhvt cla", "classify"), ("dhvt train --pat", "--patience")])
def test_the_shell_completes(words, completed, monkeypatch, capsys):
    """``_DHVT_COMPLETE=bash_source dhvt`` names a function that calls ``dhvt`` in this way."""
    for instruction, output in (("bash_source", "_DHVT_COMPLETE=bash_complete"), ("bash_complete", f"plain,{completed}")):
        monkeypatch.setenv("_DHVT_COMPLETE", instruction)
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        with pytest.raises(SystemExit):
            main.main([], prog_name="dhvt")
        assert output in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--version"], 0),
        (["evaluate", "--model", "nowhere", "--data", "nowhere"], 1),
        (["classify"], 2),
        (["train", "--data", "images", "--out", "run", "--epochs", "0"], 2),
    ],
)
def test_exit_codes(words, code, tmp_path, monkeypatch):
    """Those of docs/cli.md; 130 and the 1 of ``check``, ``classify`` and ``verify`` are tested with these commands."""
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, words).exit_code == code
    assert f"\n| {code} | " in (ROOT / "docs" / "cli.md").read_text()
