"""The registers of tax ids of the authorities: VIES of the EU, HMRC of the United Kingdom.

Each answers in our own values within a time limit. A register that does not answer, or says that
it cannot, raises `RegisterUnavailable`: what it does not say is never taken for a no.
"""

import json
import urllib.parse
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Protocol

from kit.clock import Clock
from services.tax.clients.web import NoAnswer, send
from services.tax.model import Confirmation
from services.tax.tax_ids import MEMBER_STATES

_PREFIX_LENGTH = 2
_REFUSALS_THAT_MEAN_NO = (HTTPStatus.NOT_FOUND,)


class RegisterUnavailable(Exception):
    """The register gave no answer; the message says why, in a few words."""


class Register(Protocol):
    """A register that can be asked about tax ids of some countries."""

    @property
    def name(self) -> str:
        """What it is called in proofs."""
        ...

    def covers(self, country: str) -> bool:
        """Tell whether it knows the ids of a country."""
        ...

    async def ask(self, number: str, requester: str) -> Confirmation:
        """Ask about an id in its canonical form, on behalf of a seller's own id, if it has one.

        Raises:
            RegisterUnavailable: there was no answer.
        """
        ...


class Vies:
    """VIES: `POST <url>/check-vat-number` with and answering JSON.

    The European Commission documents it at https://ec.europa.eu/taxation_customs/vies/.
    """

    name = "VIES"

    def __init__(self, url: str, timeout_s: float, clock: Clock) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._clock = clock

    def covers(self, country: str) -> bool:
        """Tell whether a country is a member state."""
        return country in MEMBER_STATES

    async def ask(self, number: str, requester: str) -> Confirmation:
        """Ask about the id of a member state."""
        asked = {"countryCode": number[:_PREFIX_LENGTH], "vatNumber": number[_PREFIX_LENGTH:]}
        if requester[:_PREFIX_LENGTH].isalpha() and requester[:_PREFIX_LENGTH] != "GB":
            asked["requesterMemberStateCode"] = requester[:_PREFIX_LENGTH]
            asked["requesterNumber"] = requester[_PREFIX_LENGTH:]
        status, answer = await _ask(
            f"{self._url}/check-vat-number",
            timeout_s=self._timeout_s,
            headers={"Content-Type": "application/json"},
            body=json.dumps(asked).encode(),
        )
        if status != HTTPStatus.OK or not isinstance(answer.get("valid"), bool):
            faults = answer.get("errorWrappers") or [{}]
            fault = faults[0].get("error") if isinstance(faults[0], dict) else None
            raise RegisterUnavailable(f"VIES says {fault or status}")
        name = answer.get("name")
        return Confirmation(
            register=self.name,
            is_valid=answer["valid"],
            name=name if isinstance(name, str) and name != "---" else "",
            consultation_number=str(answer.get("requestIdentifier") or ""),
            check_time=self._clock.now(),
        )


class Hmrc:
    """HMRC: `GET <url>/organisations/vat/check-vat-number/lookup/<number>[/<requester>]`, 2.0.

    HMRC documents it at https://developer.service.hmrc.gov.uk; it asks for a token of the
    application, which is fetched from `<url>/oauth/token` for each call.
    """

    name = "HMRC"

    def __init__(
        self, url: str, client_id: str, client_secret: str, timeout_s: float, clock: Clock
    ) -> None:
        self._url = url.rstrip("/")
        self._credentials = {"client_id": client_id, "client_secret": client_secret}
        self._timeout_s = timeout_s
        self._clock = clock

    def covers(self, country: str) -> bool:
        """Tell whether a country is the United Kingdom."""
        return country == "GB"

    async def ask(self, number: str, requester: str) -> Confirmation:
        """Ask about an id of the United Kingdom."""
        token = await self._token()
        path = number.removeprefix("GB")
        if requester.startswith("GB"):
            path += "/" + requester.removeprefix("GB")
        status, answer = await _ask(
            f"{self._url}/organisations/vat/check-vat-number/lookup/{path}",
            timeout_s=self._timeout_s,
            headers={
                "Accept": "application/vnd.hmrc.2.0+json",
                "Authorization": f"Bearer {token}",
            },
        )
        target = answer.get("target")
        if status not in {HTTPStatus.OK, *_REFUSALS_THAT_MEAN_NO}:
            raise RegisterUnavailable(f"HMRC says {answer.get('code') or status}")
        name = target.get("name") if isinstance(target, dict) else None
        return Confirmation(
            register=self.name,
            is_valid=status == HTTPStatus.OK,
            name=name if isinstance(name, str) else "",
            consultation_number=str(answer.get("consultationNumber") or ""),
            check_time=self._clock.now(),
        )

    async def _token(self) -> str:
        asked = urllib.parse.urlencode({**self._credentials, "grant_type": "client_credentials"})
        status, answer = await _ask(
            f"{self._url}/oauth/token", timeout_s=self._timeout_s, headers={}, body=asked.encode()
        )
        token = answer.get("access_token")
        if status != HTTPStatus.OK or not isinstance(token, str):
            raise RegisterUnavailable(f"HMRC gives no token: {answer.get('error') or status}")
        return token


async def _ask(
    url: str, *, timeout_s: float, headers: Mapping[str, str], body: bytes | None = None
) -> tuple[int, dict[str, Any]]:
    try:
        return await send(url, timeout_s=timeout_s, headers=headers, body=body)
    except NoAnswer as error:
        raise RegisterUnavailable(str(error)) from error
