"""Exemption certificates: a state or province does not tax a buyer that holds one.

It takes the certificate as the seller gives it; whether it is genuine, and of the right kind for
what is sold, is the seller's to check. One that does not hold on the day changes nothing but the
reason.
"""

from dataclasses import replace

from services.tax.model import ZERO, ExemptionCertificate, Ruling, Treatment
from services.tax.rules.case import Case

_SOURCES = {
    "US": "the state's law on exemption certificates, as printed on the certificate",
    "CA": "the law of Canada or the province on exemption certificates, as printed on it",
}
_FEDERAL_TAXES = frozenset({"GST", "HST"})
COUNTRIES = tuple(_SOURCES)
"""Where certificates are known."""


def apply_certificate(case: Case, ruling: Ruling) -> Ruling:
    """Free a taxed ruling of its tax where the buyer holds a certificate for its jurisdiction."""
    if ruling.treatment is not Treatment.TAXED:
        return ruling
    covering = [each for each in case.buyer.certificates if _covers(each, ruling)]
    valid = next((each for each in covering if case.day in each.valid), None)
    if valid is None:
        remarks = (
            f" The certificate {each.number} does not hold on {case.day}." for each in covering
        )
        return replace(ruling, reason=ruling.reason + "".join(remarks))
    return replace(
        ruling,
        treatment=Treatment.NOT_TAXABLE,
        rule_id=f"{ruling.rule_id.partition('.')[0]}.exemption_certificate",
        reason=f"The buyer holds the certificate {valid.number} for {ruling.jurisdiction}.",
        source=_SOURCES[valid.country],
        rate_percent=ZERO,
        invoice_note=case.note("certificate", ruling.name).replace("{number}", valid.number),
        rate_valid=None,
    )


def _covers(certificate: ExemptionCertificate, ruling: Ruling) -> bool:
    """Tell whether a certificate is for a tax; GST and HST are Canada's, others a province's."""
    if ruling.name in _FEDERAL_TAXES:
        return (certificate.country, certificate.region) == ("CA", "")
    return ruling.jurisdiction == f"{certificate.country}-{certificate.region}"
