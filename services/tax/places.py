"""Finds out where an address is for tax: its country's rules, and the territory it lies in.

It knows the codes of ISO 3166 and refuses any other. An address without a postal code and
region is taken to be in the main part of its country.
"""

from dataclasses import dataclass
from datetime import date

from kit.errors import InvalidInput, Violation
from services.tax.model import Address
from services.tax.rulebook import (
    Country,
    Effect,
    MatchOn,
    Regime,
    Rulebook,
    Territory,
    normalize_postal_code,
    undetermined,
)


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


# ISO 3166-1 alpha-2, the officially assigned codes, and two that customs and tax reserve: IC for
# the Canary Islands, XK for Kosovo.
_COUNTRIES = _codes(
    """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS
    BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE
    EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM
    HN HR HT HU IC ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB
    LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ
    NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU
    RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN
    TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW
    """
)
_REGIONS = {
    "CA": _codes("AB BC MB NB NL NS NT NU ON PE QC SK YT"),
    "IN": _codes(
        """
        AN AP AR AS BR CG CH DH DL GA GJ HP HR JH JK KA KL LA LD MH ML MN MP MZ NL OD PB PY RJ SK
        TG TN TR TS UK UP WB
        """
    ),
    "US": _codes(
        """
        AK AL AR AS AZ CA CO CT DC DE FL GA GU HI IA ID IL IN KS KY LA MA MD ME MI MN MO MP MS MT
        NC ND NE NH NJ NM NV NY OH OK OR PA PR RI SC SD TN TX UM UT VA VI VT WA WI WV WY
        """
    ),
}
# What VAT writes instead of ISO 3166: Greece's EL, and XI for Northern Ireland, which for
# services is the United Kingdom.
_ALIASES = {"EL": "GR", "UK": "GB", "XI": "GB"}
_REGION_LENGTH_MAX = 3


@dataclass(frozen=True, slots=True)
class Place:
    """Where somebody is for tax.

    `jurisdiction` names whose rate holds, such as `FR` or `PT-20`; `outside` is the territory
    where the country's tax is not levied at all, and `apart` one where it is levied, but outside
    the EU's area.
    """

    country: Country
    jurisdiction: str
    name: str
    region: str = ""
    outside: Territory | None = None
    apart: Territory | None = None

    @property
    def in_eu(self) -> bool:
        """Tell whether it lies where VAT of the EU is levied."""
        return self.country.regime is Regime.EU_VAT and self.outside is None


def parse_country(text: str, field: str) -> str:
    """Read a country's code.

    Raises:
        InvalidInput: UNKNOWN_COUNTRY, naming `field`.
    """
    code = _ALIASES.get(text.upper(), text.upper())
    if code in _COUNTRIES:
        return code
    raise _unknown(field, text, "must be a country's code of ISO 3166-1 alpha-2, such as DE")


def parse_region(text: str, country: str, field: str) -> str:
    """Read a region's code, with or without the country in front; empty stays empty.

    Raises:
        InvalidInput: UNKNOWN_COUNTRY, naming `field`.
    """
    code = text.upper().removeprefix(f"{country}-")
    known = _REGIONS.get(country)
    if not code or (known is not None and code in known):
        return code
    if known is None and len(code) <= _REGION_LENGTH_MAX and code.isascii() and code.isalnum():
        return code
    raise _unknown(
        field, f"{country}-{text}", f"must be a region of {country} by ISO 3166-2, without country"
    )


def locate(address: Address, day: date, book: Rulebook) -> Place:
    """Find out where an address is.

    Raises:
        Precondition: TAX_UNDETERMINED, nothing covers the country, the territory or the day.
    """
    territory = _territory(address, day, book)
    if territory is None:
        country = book.country_on(address.country, day)
        return Place(country, country.code, country.name, address.region)
    match territory.effect:
        case Effect.SAME_AS:
            country = book.country_on(territory.applies, day)
            return Place(country, country.code, territory.name)
        case Effect.OWN_RATE:
            country = book.country_on(address.country, day)
            return Place(country, territory.applies, territory.name, address.region)
        case Effect.DECLARED_APART:
            country = book.country_on(territory.code[:2], day)
            return Place(country, territory.applies, territory.name, apart=territory)
        case Effect.OUTSIDE:
            country = book.country_on(territory.code[:2], day)
            return Place(country, territory.code, territory.name, outside=territory)
        case Effect.NOT_COVERED:
            raise undetermined(
                address.country,
                f"rules for {territory.name} ({territory.own_tax})",
                "buyer.address",
            )


def _territory(address: Address, day: date, book: Rulebook) -> Territory | None:
    postal_code = normalize_postal_code(address.postal_code)
    best: tuple[int, Territory] | None = None
    for territory in book.territories.get(address.country, ()):
        if day not in territory.valid:
            continue
        match territory.match_on:
            case MatchOn.COUNTRY:
                matched = len(address.country)
            case MatchOn.REGION:
                matched = len(address.region) if address.region in territory.match_values else 0
            case MatchOn.POSTAL_CODE:
                prefixes = (code for code in territory.match_values if postal_code.startswith(code))
                matched = max(map(len, prefixes), default=0)
        if matched and (best is None or matched > best[0]):
            best = matched, territory
    return best[1] if best else None


def _unknown(field: str, code: str, description: str) -> InvalidInput:
    return InvalidInput(
        "UNKNOWN_COUNTRY",
        f"{field}: {description}",
        metadata={"country": code},
        violations=(Violation(field, description),),
    )
