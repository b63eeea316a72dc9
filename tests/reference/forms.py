"""Uuids and base64 by Python's own libraries; None where the text is neither."""

from __future__ import annotations

import base64
import re

_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def lower_uuid(text: bytes) -> bytes | None:
    """36 lower-case characters."""
    return text.lower() if _UUID.fullmatch(text) else None


def base64_bytes(text: bytes) -> bytes | None:
    """The bytes that padded base64 stands for."""
    good = len(text) % 4 == 0 and _BASE64.fullmatch(text)
    return base64.b64decode(text) if good else None
