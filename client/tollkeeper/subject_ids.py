"""Ids of subjects out of whatever text names somebody elsewhere."""

from __future__ import annotations

import hashlib
import re

ID_CHARACTERS_MAX = 64

_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,64}")
_FOREIGN = re.compile(r"[^A-Za-z0-9_.:@-]")
_DIGEST_CHARACTERS = 16


def subject_id(text: str) -> str:
    """Return text as an id of a subject: itself where it can be one.

    Otherwise its foreign characters become `_` and the start of its SHA-256 follows, so that two
    texts never share an id.
    """
    if _ID.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]
    readable = _FOREIGN.sub("_", text)[: ID_CHARACTERS_MAX - _DIGEST_CHARACTERS - 1]
    return f"{readable}-{digest}"
