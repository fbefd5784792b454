"""`tollkeeper keys`: give out API keys, list them, and revoke them."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.embedded.data_directory import DEFAULT, DataDirectory
from cli.errors import CommandError
from cli.keys import ApiKey, ApiKeys, parse_lifetime
from cli.options import AsJson, DataDir
from cli.running import Running
from cli.signing_keys import SigningKeys

app = typer.Typer(no_args_is_help=True, help="Give out, list and revoke API keys.")


@app.command()
def create(
    *,
    tenant: Annotated[str, typer.Option(help="Whom the key speaks for.")],
    scope: Annotated[
        list[str], typer.Option(help="What the key may do, for example quota.decide; repeatable.")
    ],
    expires: Annotated[
        str, typer.Option(help="How long it lives, for example 90d or 12h.")
    ] = "90d",
    name: Annotated[str, typer.Option(help="What people call it.")] = "",
    data_dir: DataDir = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Make a key and print its token, once."""
    folder = DataDirectory.open(data_dir).path / "keys"
    key, token = ApiKeys(folder, SigningKeys.load_or_make(folder).issuer_key()).create(
        tenant=tenant, scopes=scope, lifetime=parse_lifetime(expires), name=name
    )
    if as_json:
        print(json.dumps({**_facts(key), "token": token}))
    else:
        print(
            f"key {key.key_id} of tenant {key.tenant}, until {key.expire_time:%Y-%m-%d %H:%M} UTC"
        )
        print(token)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The key, as `create` and `list` name it.")],
    *,
    data_dir: DataDir = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Revoke a key for ever."""
    key = _given_out_in(data_dir).revoke(key_id, _redis_url(data_dir))
    if as_json:
        print(json.dumps(_facts(key)))
    else:
        print(f"key {key.key_id} of tenant {key.tenant} is revoked")


@app.command("list")
def list_keys(*, data_dir: DataDir = DEFAULT, as_json: AsJson = False) -> None:
    """List every key that was given out; tokens are not kept."""
    keys = _given_out_in(data_dir).given_out()
    console = Console()
    if as_json:
        print(json.dumps({"keys": [_facts(key) for key in keys]}))
    elif console.is_terminal:
        table = Table("key", "name", "tenant", "state", "until", "scopes")
        for key in keys:
            table.add_row(*_cells(key))
        console.print(table)
    else:
        for key in keys:
            print("\t".join(_cells(key)))


def _given_out_in(data_dir: Path) -> ApiKeys:
    if not (data_dir / "keys" / "issuer.json").exists():
        raise CommandError(f"no keys were given out in {data_dir.resolve()}")
    folder = DataDirectory.open(data_dir).path / "keys"
    return ApiKeys(folder, SigningKeys.load_or_make(folder).issuer_key())


def _redis_url(data_dir: Path) -> str | None:
    given = os.environ.get("REDIS_URL")
    if given:
        return given
    try:
        return Running.load(data_dir).redis_url
    except CommandError:
        # Nothing runs here: the next start reads the ledger.
        return None


def _cells(key: ApiKey) -> tuple[str, ...]:
    state = key.state(datetime.now(UTC))
    until = f"{key.expire_time:%Y-%m-%d %H:%M}"
    return key.key_id, key.name, key.tenant, state, until, " ".join(key.scopes)


def _facts(key: ApiKey) -> dict[str, object]:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "tenant": key.tenant,
        "scopes": list(key.scopes),
        "state": key.state(datetime.now(UTC)),
        "create_time": key.create_time.isoformat(),
        "expire_time": key.expire_time.isoformat(),
    }
