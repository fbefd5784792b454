"""Which characters a document can show."""

import pytest

from services.invoicing.glyphs import replace_unshown, unshown


@pytest.mark.parametrize(
    "text",
    [
        "Žižková & Søn, Łódź – “Ünïcøde” …",  # noqa: RUF001 - a dash
        "Αθήνα Ελλάδα",
        "ООО «Ромашка», Київ",  # noqa: RUF001 - Cyrillic
        "株式会社さくら研究所 ｶﾅ",
        "北京市朝阳区",
        "주식회사 서울",
        "Nguyễn Thị Ánh",
        "€ £ ¥ ₹ ₩ ₺ ₽ ₴ ™ № §",
    ],
)
def test_these_writings_are_shown(text: str) -> None:
    """Latin, Greek, Cyrillic, Japanese, Chinese and Korean have glyphs."""
    assert unshown(text) == ""


@pytest.mark.parametrize(
    ("text", "hidden", "replaced"),
    [
        ("plan 🚀🚀", "🚀", "plan [U+1F680][U+1F680]"),
        ("ไทย", "ไทย", "[U+0E44][U+0E17][U+0E22]"),
        ("a\tb", "\t", "a[U+0009]b"),
        ("soft\u00adhyphen", "\u00ad", "soft[U+00AD]hyphen"),
    ],
)
def test_what_cannot_be_shown_is_named_and_never_a_box(
    text: str, hidden: str, replaced: str
) -> None:
    """Each character is named once where it is refused, and written as its code elsewhere."""
    assert (unshown(text), replace_unshown(text)) == (hidden, replaced)


def test_letters_with_loose_accents_are_put_together() -> None:
    """A text from a system that stores accents apart shows as one from any other."""
    assert (unshown("Me\u0301lie"), replace_unshown("Me\u0301lie")) == ("", "Mélie")
