"""The words of an invoice in each language, and the phrasebook for the rating service's words.

Legal phrases are those of the VAT directive 2006/112/EC, article 226, in its language versions.
Refuses to translate what people wrote: names, notes and descriptions stay as they are.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from services.invoicing.model import Language, TaxTreatment


@dataclass(frozen=True, slots=True)
class Labels:
    """The words of a page; `{}` takes a value."""

    invoice: str
    number: str
    issue_date: str
    due_date: str
    period: str
    days: str
    customer_id: str
    bill_to: str
    tax_number: str
    description: str
    quantity: str
    unit_price: str
    calculation: str
    amount: str
    base_fee: str
    subtotal: str
    tax_on: str
    tax_without_charge: str
    total_due: str
    payment: str
    notes: str
    exchange_rate: str
    reported_tax: str
    page: str
    treatments: Mapping[TaxTreatment, str]
    names: Mapping[str, str]
    tax_numbers: Mapping[str, str]


_ENGLISH = Labels(
    invoice="Invoice",
    number="Invoice number",
    issue_date="Issue date",
    due_date="Due date",
    period="Billing period",
    days="{} – {}",
    customer_id="Customer",
    bill_to="Bill to",
    tax_number="{} number",
    description="Description",
    quantity="Quantity",
    unit_price="Unit price",
    calculation="Calculation",
    amount="Amount",
    base_fee="{}: base fee",
    subtotal="Subtotal, without tax",
    tax_on="{} {} on {}",
    tax_without_charge="{}: {}, on {}",
    total_due="Total due",
    payment="How to pay",
    notes="Notes",
    reported_tax="{} {} in {}: {} on {}.",
    exchange_rate="Converted at 1 {} = {} {}, {} reference rate of {}.",
    page="Page {} of {}",
    treatments=MappingProxyType(
        {
            TaxTreatment.REVERSE_CHARGE: "reverse charge",
            TaxTreatment.NOT_TAXABLE: "not taxable",
        }
    ),
    names=MappingProxyType({"ECB": "European Central Bank"}),
    tax_numbers=MappingProxyType({"VAT": "VAT ID"}),
)

_GERMAN = Labels(
    invoice="Rechnung",
    number="Rechnungsnummer",
    issue_date="Rechnungsdatum",
    due_date="Zahlbar bis",
    period="Abrechnungszeitraum",
    days="{} – {}",
    customer_id="Kunde",
    bill_to="Rechnung an",
    tax_number="{}-Nummer",
    description="Bezeichnung",
    quantity="Menge",
    unit_price="Einzelpreis",
    calculation="Berechnung",
    amount="Betrag",
    base_fee="{}: Grundgebühr",
    subtotal="Nettobetrag",
    tax_on="{} {} auf {}",
    tax_without_charge="{}: {}, auf {}",
    total_due="Gesamtbetrag",
    payment="Zahlung",
    notes="Hinweise",
    reported_tax="{} {} in {}: {} auf {}.",
    exchange_rate="Umgerechnet zu 1 {} = {} {}, Referenzkurs der {} vom {}.",
    page="Seite {} von {}",
    treatments=MappingProxyType(
        {
            TaxTreatment.REVERSE_CHARGE: "Steuerschuldnerschaft des Leistungsempfängers",
            TaxTreatment.NOT_TAXABLE: "nicht steuerbar",
        }
    ),
    names=MappingProxyType({"ECB": "Europäischen Zentralbank", "VAT": "USt."}),
    tax_numbers=MappingProxyType({"VAT": "USt-IdNr."}),
)

_FRENCH = Labels(
    invoice="Facture",
    number="Numéro de facture",
    issue_date="Date d’émission",
    due_date="À payer avant le",
    period="Période de facturation",
    days="{} – {}",
    customer_id="Client",
    bill_to="Facturé à",
    tax_number="Numéro de {}",
    description="Désignation",
    quantity="Quantité",
    unit_price="Prix unitaire",
    calculation="Calcul",
    amount="Montant",
    base_fee="{} : abonnement",
    subtotal="Total hors taxes",
    tax_on="{} {} sur {}",
    tax_without_charge="{} : {}, sur {}",
    total_due="Total à payer",
    payment="Paiement",
    notes="Mentions",
    reported_tax="{} {} en {} : {} sur {}.",
    exchange_rate="Converti à 1 {} = {} {}, taux de référence de la {} du {}.",
    page="Page {} sur {}",
    treatments=MappingProxyType(
        {
            TaxTreatment.REVERSE_CHARGE: "autoliquidation",
            TaxTreatment.NOT_TAXABLE: "non imposable",
        }
    ),
    names=MappingProxyType(
        {
            "ECB": "Banque centrale européenne",
            "GST": "TPS",
            "HST": "TVH",
            "QST": "TVQ",
            "VAT": "TVA",
        }
    ),
    tax_numbers=MappingProxyType({"VAT": "N° TVA"}),
)

_JAPANESE = Labels(
    invoice="請求書",
    number="請求書番号",
    issue_date="発行日",
    due_date="お支払期限",
    period="対象期間",
    days="{}〜{}",
    customer_id="お客様番号",
    bill_to="請求先",
    tax_number="{}登録番号",
    description="品目",
    quantity="数量",
    unit_price="単価",
    calculation="計算",
    amount="金額",
    base_fee="{}：基本料金",
    subtotal="小計（税抜）",
    tax_on="{} {}（対象額 {}）",
    tax_without_charge="{}：{}（対象額 {}）",
    total_due="ご請求金額",
    payment="お支払方法",
    notes="備考",
    reported_tax="{} {}（{}建て）：{}（対象額 {}）",
    exchange_rate="換算レート 1 {} = {} {}（{} 参照レート、{}）",
    page="{} / {} ページ",
    treatments=MappingProxyType(
        {
            TaxTreatment.REVERSE_CHARGE: "リバースチャージ方式",
            TaxTreatment.NOT_TAXABLE: "非課税",
        }
    ),
    names=MappingProxyType(
        {
            "Consumption tax": "消費税",
            "ECB": "欧州中央銀行",
            "JCT": "消費税",
        }
    ),
    tax_numbers=MappingProxyType({}),
)

LABELS: Mapping[Language, Labels] = MappingProxyType(
    {
        Language.ENGLISH: _ENGLISH,
        Language.GERMAN: _GERMAN,
        Language.FRENCH: _FRENCH,
        Language.JAPANESE: _JAPANESE,
    }
)

_NUMBER = r"(\d+(?:\.\d+)?)"
_PHRASES: tuple[tuple[str, Mapping[Language, str]], ...] = tuple(
    (
        pattern,
        MappingProxyType(dict(zip(Language, (english, german, french, japanese), strict=True))),
    )
    for pattern, english, german, french, japanese in (
        ("each", "each", "je Einheit", "par unité", "単位ごと"),
        ("base fee", "base fee", "Grundgebühr", "abonnement", "基本料金"),
        (
            f"base fee: {_NUMBER} of {_NUMBER} days",
            "{} of {} days",
            "{} von {} Tagen",
            "{} jours sur {}",
            "{} / {} 日分",
        ),
        (
            f"included: up to {_NUMBER}",
            "included, up to {}",
            "inklusive, bis {}",
            "inclus, jusqu’à {}",
            "{} まで無料",
        ),
        (f"{_NUMBER} per {_NUMBER}", "{} per {}", "{} je {}", "{} par {}", "{} / {}"),
        (f"tier {_NUMBER}", "tier {}", "Stufe {}", "palier {}", "第 {} 段階"),
        (
            f"tier {_NUMBER}: flat",
            "tier {}, flat fee",
            "Stufe {}, Pauschale",
            "palier {}, forfait",
            "第 {} 段階・定額",
        ),
        (
            f"tier {_NUMBER}: up to {_NUMBER}",
            "tier {}, up to {}",
            "Stufe {}, bis {}",
            "palier {}, jusqu’à {}",
            "第 {} 段階（{} まで）",
        ),
        (
            f"tier {_NUMBER}: above {_NUMBER}",
            "tier {}, above {}",
            "Stufe {}, über {}",
            "palier {}, au-delà de {}",
            "第 {} 段階（{} 超）",
        ),
        (
            f"tier {_NUMBER}: above {_NUMBER} up to {_NUMBER}",
            "tier {}, above {} up to {}",
            "Stufe {}, über {} bis {}",
            "palier {}, de {} à {}",
            "第 {} 段階（{} 超 {} まで）",
        ),
        (
            f"packages of {_NUMBER}",
            "packages of {}",
            "Pakete zu {}",
            "lots de {}",
            "{} 単位のパッケージ",
        ),
    )
)


def translate_step(
    description: str, language: Language, format_number: Callable[[str], str]
) -> str:
    """Say in the language what a formula step is; words that are not in the phrasebook stay."""
    for pattern, phrases in _PHRASES:
        match = re.fullmatch(pattern, description)
        if match is not None:
            return phrases[language].format(*map(format_number, match.groups()))
    return description
