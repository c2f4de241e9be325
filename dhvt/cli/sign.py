"""``dhvt sign``: who made a model."""

from __future__ import annotations

from pathlib import Path

import click

from dhvt.cli.options import model_option


@click.command()
@model_option
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Private key of an elliptic curve, in PEM. A password is asked for where it is encrypted.",
)
def sign(model: str | None, key: Path) -> None:
    """Sign a model, so that a server can refuse others.

    \b
    Make a pair of keys once, keep the private one away from servers:
      openssl ecparam -name prime256v1 -genkey -noout -out key.pem
      openssl ec -in key.pem -pubout -out key.pub
    Sign, and serve nothing that is not signed:
      dhvt sign --model runs/mine/artifact --key key.pem
      DHVT_REQUIRE_SIGNATURE=key.pub DHVT_MODEL=runs/mine/artifact bentoml serve

    The signature is model.json.sig in the model folder. It is of model.json, which has the hash of every file. Whatever
    rewrites model.json (dhvt calibrate, dhvt evaluate --record, another target of dhvt export) removes it: sign last.
    """
    from dhvt.artifact import load_artifact
    from dhvt.engines import EngineSettings
    from dhvt.engines.settings import find_model
    from dhvt.signature import sign_card

    folder = find_model(model, said_by="--model") if model else EngineSettings.from_environ().model_path()
    load_artifact(folder)  # a damaged model is not signed
    path = sign_card(folder, key, lambda: str(click.prompt(f"password of {key}", hide_input=True, err=True)))
    click.echo(f"signed: {path}")
