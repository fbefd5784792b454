"""Sets the page of an invoice as PDF, with typst and the fonts that travel with the suite.

The same page gives the same bytes on every machine: no system fonts, and the document's date is
the invoice's. PDF/A-3 is asked for, as it refuses characters that no font can show, instead of
printing boxes. Refuses to decide what stands on the page.
"""

import asyncio
import json
import threading
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import typst

from services.invoicing.document import Page

_TEMPLATES = Path(__file__).parent / "templates"


class Typesetter:
    """Turns pages into PDF; a page takes milliseconds once the fonts are read."""

    def __init__(self) -> None:
        fonts = typst.Fonts(
            include_system_fonts=False,
            include_embedded_fonts=False,
            font_paths=[_TEMPLATES / "fonts", Path(str(files("noto_cjk_sans_jp_regular")))],
        )
        self._compiler = typst.Compiler(
            _TEMPLATES / "invoice.typ", root=_TEMPLATES, font_paths=fonts
        )
        self._one_at_a_time = threading.Lock()

    async def typeset(self, page: Page, issued: datetime) -> bytes:
        """Answer the PDF of a page, in a thread, since setting it takes the processor."""
        return await asyncio.to_thread(self._compile, page, issued)

    def _compile(self, page: Page, issued: datetime) -> bytes:
        with self._one_at_a_time:
            content = self._compiler.compile(
                format="pdf",
                sys_inputs={"data": json.dumps(page, ensure_ascii=False)},
                pdf_standards="a-3a",
                # PDF dates are whole seconds, and typst refuses finer ones.
                timestamp=issued.astimezone(UTC).replace(microsecond=0),
            )
        assert isinstance(content, bytes), "without a file to write to, typst answers the bytes"
        return content
