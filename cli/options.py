"""Options that several commands share, so that they look alike everywhere."""

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar="TOLLKEEPER_DATA_DIR",
        help="Where servers, keys and logs of this machine live.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object, for programs instead of people.")
]
GivenDatabase = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar="DATABASE_URL",
        show_envvar=True,
        help="A PostgreSQL 15 or newer to use instead of an embedded one.",
    ),
]
GivenRedis = Annotated[
    str | None,
    typer.Option(
        "--redis-url",
        envvar="REDIS_URL",
        show_envvar=True,
        help="A Redis 6.2 or newer, or a cluster, to use instead of an embedded one.",
    ),
]
