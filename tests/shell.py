"""Commands as a person types them, against the services of a world."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.command_line import Outcome
from tests.e2e.world import World

COMMAND = Path(sys.executable).with_name("tollkeeper")
MARCH = datetime(2026, 3, 1, tzinfo=UTC)
"""When the world of a shell begins."""


@dataclass
class Shell:
    """Runs commands that call the services of a world."""

    world: World
    folder: Path

    async def run(self, *arguments: object, **environment: str) -> Outcome:
        """Run a command of `tollkeeper` to its end."""
        return await self.execute(COMMAND, *arguments, **environment)

    async def execute(self, program: Path, *arguments: object, **environment: str) -> Outcome:
        """Run a program that is told where the services are."""
        addresses = {
            f"TOLLKEEPER_{service.upper()}_ADDRESS": address
            for service, address in self.world.addresses.items()
        }
        token = {"TOLLKEEPER_TOKEN": self.world.token()}
        process = await asyncio.create_subprocess_exec(
            program,
            *map(str, arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.folder,
            env={**os.environ, **addresses, **token, **environment},
        )
        output, errors = await process.communicate()
        assert process.returncode is not None
        return Outcome(process.returncode, output.decode(), errors.decode())

    async def json(self, *arguments: object) -> Any:  # noqa: ANN401 - whatever the command says.
        """Run a command that succeeds, and return the JSON object that it prints."""
        outcome = await self.run(*arguments, "--json")
        assert (outcome.status, outcome.errors) == (0, "")
        return json.loads(outcome.output)

    async def lines(self, *arguments: object) -> list[str]:
        """Run a command that succeeds, and return the lines that it prints."""
        outcome = await self.run(*arguments)
        assert (outcome.status, outcome.errors) == (0, "")
        return outcome.output.splitlines()
