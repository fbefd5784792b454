"""`tollkeeper tax`: a case explained without any service, and files that are refused."""

import json
from pathlib import Path

import pytest

from cli.errors import CommandError
from cli.tax_files import TAX_RATE_COLUMNS, is_exchange_rates, read_tax_rates
from tests.command_line import Tollkeeper

HEADER = ",".join(TAX_RATE_COLUMNS)


def test_a_case_is_explained_from_the_terminal(tollkeeper: Tollkeeper) -> None:
    """Rate, rule, law, dates and words, without a service or a network."""
    outcome = tollkeeper(
        "tax", "check", "--seller", "US-CA", "--registration", "IE:non-union-oss",
        "--buyer", "FR", "--date", "2026-10-31", "--language", "fr",
    )  # fmt: skip

    assert (outcome.status, outcome.errors) == (0, "")
    assert outcome.output.splitlines() == [
        "tax                  on     amount",
        "FR VAT 20 %  100.00 EUR  20.00 EUR",
        "net 100.00 EUR, tax 20.00 EUR",
        "",
        "== FR VAT 20 %",
        "rule         eu.b2c.non_union_oss",
        (
            "reason       A consumer in France buys an electronic service from abroad: the rate of"
            " France applies, declared under the One Stop Shop in IE."
        ),
        "source       Directive 2006/112/EC Art. 58; Code général des impôts Art. 278",
        "rate holds   from 2014-01-01 on",
        (
            "for buyer    La TVA du pays du consommateur s'applique, déclarée par le guichet unique"
            " (article 58 de la directive 2006/112/CE)."
        ),
        "declared as  IE:non-union-oss",
    ]


def test_a_case_is_given_as_json(tollkeeper: Tollkeeper) -> None:
    """The whole determination, as the service would answer it."""
    outcome = tollkeeper(
        "tax", "check", "--seller", "DE", "--buyer", "DE", "--tax-id", "DE136695976",
        "--amount", "119", "--inclusive", "--date", "2020-12-31", "--json",
    )  # fmt: skip

    answer = json.loads(outcome.output)
    (total,) = answer["totals"]
    assert (
        total["rate_percent"]["value"],
        total["rate_end_date"],
        answer["net_total"]["units"],
        answer["buyer_tax_id"]["number"],
    ) == ("16", {"year": 2021, "month": 1, "day": 1}, "102", "DE136695976")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--buyer XX --seller DE", "buyer.address.country: must be a country's code"),
        ("--buyer FR --seller XX", "XX: must be a country's code of ISO 3166-1 alpha-2"),
        ("--buyer FR --seller DE", "the tax on a supply to FR cannot be determined: missing a UN"),
        ("--buyer FR --seller DE:oss", "'DE:oss' names no scheme; write it as IE:non-union-oss"),
        ("--buyer FR --registration IE", "--registration needs --seller: a seller to try"),
        ("--buyer FR --seller DE --date soon", "--date 'soon' is no day; write it as 2026-01-31"),
        ("--buyer FR --seller DE --amount x", "--amount: must be a decimal number such as 12.5"),
        ("--buyer FR --seller DE --currency X", "currency: must be a currency of ISO 4217"),
        ("--buyer FR --seller DE --category tea", "--category 'tea' is none of electronic-serv"),
        ("--buyer FR --seller DE --date 2015-01-01", "the tax on a supply to FR cannot be determ"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence(
    tollkeeper: Tollkeeper, arguments: str, message: str
) -> None:
    """On standard error, with exit status 1."""
    outcome = tollkeeper("tax", "check", *arguments.split())

    assert (outcome.status, outcome.output) == (1, "")
    assert outcome.errors.startswith(f"tollkeeper: {message}")


def test_a_file_of_tax_rates_is_read(tmp_path: Path) -> None:
    """Postal codes are separated by blanks; an end may be left out."""
    file = tmp_path / "rates.csv"
    file.write_text(f"{HEADER}\nUS-NY,City tax,4.5,100 101,2026-01-01,,Publication 718\n")

    (rate,) = read_tax_rates(file)

    assert not is_exchange_rates(file)
    assert (rate.jurisdiction, rate.rate_percent.value, list(rate.postal_codes)) == (
        "US-NY",
        "4.5",
        ["100", "101"],
    )
    assert not rate.HasField("end_date")


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("US-NY,City tax,4.5", "line 2: must hold 7 cells"),
        ("US-NY,City tax,4.5,,2026-13-01,,source", "line 2: '2026-13-01' is no day"),
        ("US-NY,City tax,4.5,,2026-01-01,,source,more", "line 2: must hold 7 cells"),
    ],
)
def test_a_bad_line_of_tax_rates_is_named(tmp_path: Path, row: str, fault: str) -> None:
    """With the file and the line."""
    file = tmp_path / "rates.csv"
    file.write_text(f"{HEADER}\n{row}\n")

    with pytest.raises(CommandError) as caught:
        read_tax_rates(file)

    assert str(caught.value).startswith(f"{file}, {fault}")


@pytest.mark.parametrize("content", ["country,rate\n", ""])
def test_a_file_that_is_neither_is_refused(
    tollkeeper: Tollkeeper, tmp_path: Path, content: str
) -> None:
    """The sentence says how files begin."""
    file = tmp_path / "other.csv"
    file.write_text(content)

    outcome = tollkeeper("tax", "import", file)

    assert outcome.status == 1
    assert outcome.errors == (
        f"tollkeeper: {file} begins neither with Date, as exchange rates do, nor with the columns"
        f" {HEADER}\n"
    )
