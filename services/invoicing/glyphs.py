"""Which characters the fonts of a document can show.

Latin, Greek, Cyrillic, Japanese, Chinese and Korean. What they cannot show is refused where names
and addresses are put, and written as its code point where other text holds it; a box that stands
for a character never reaches a page. The ranges follow the fonts in `templates/fonts` and Noto
Sans CJK JP; a test sets every character of them.
"""

import unicodedata

_RANGES = """
0020-007e 00a0-00ac 00ae-017e 0192 01a0-01a1 01af-01b0 01cd-01dc 01e6-01e7 01ea-01eb
0218-021b 02c6-02c7 02d8-02dd 0384-038a 038c 038e-03a1 03a3-03ce 0400-045f 0462-0463
0472-0475 0490-0493 0496-049b 04a0-04a3 04ae-04b3 04ba-04bb 04d8-04d9 04e8-04e9 1e24-1e25
1e9e 1ea0-1ef9 2010-2015 2018-201a 201c-201e 2020-2022 2026 202f-2030 2032-2033 2039-203b
20a1 20a4 20a6-20a7 20a9 20ab-20ac 20ae 20b1-20b2 20b4-20b5 20b8-20ba 20bd 2103 2109 2113
2116 2122 2126 2190-2193 2460-2473 3000-303f 3041-3096 3099-30ff 3105-312f 3131-318e
31f0-31ff 3220-3229 3231-3232 4e00-9fef ac00-d7a3 ff01-ffbe ffe0-ffe6
"""
SHOWN = frozenset(
    code
    for first, _, last in (text.partition("-") for text in _RANGES.split())
    for code in range(int(first, 16), int(last or first, 16) + 1)
)


def unshown(text: str) -> str:
    """Answer the characters of a text that no font can show, each once, in order."""
    composed = unicodedata.normalize("NFC", text)
    return "".join(
        dict.fromkeys(character for character in composed if ord(character) not in SHOWN)
    )


def replace_unshown(text: str) -> str:
    """Write a text with code points such as [U+1F680] in place of what no font can show."""
    composed = unicodedata.normalize("NFC", text)
    return "".join(
        character if ord(character) in SHOWN else f"[U+{ord(character):04X}]"
        for character in composed
    )
