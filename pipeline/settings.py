"""How one setting is declared, read from text, checked, and shown without its secret.

The mechanism behind :mod:`pipeline.config`, which holds the settings themselves.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipeline.errors import ConfigurationError
from pipeline.units import format_duration, format_size, parse_duration, parse_size

__all__ = [
    "coerce",
    "hide_password",
    "is_secret",
    "redact",
    "setting",
    "suggest",
]

MILLISECONDS, BYTES, PROPERTIES = "milliseconds", "bytes", "properties"
_SECRET_NAME = re.compile(r"password|secret|token|credential|oauthbearer\.config|key\.pem", re.I)
_URL_PASSWORD = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^/@\s:]*:)[^/\s]*(?=@)", re.I)
_URL_QUERY = re.compile(r"(?P<head>[?&](?:password|token|secret)=)[^&\s]*", re.I)
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


def setting(
    default: Any,
    help: str,
    minimum: float | None = None,
    maximum: float | None = None,
    *,
    secret: bool = False,
) -> Any:
    """A dataclass field with its description, bounds (both included) and secrecy."""
    metadata = {"help": help, "minimum": minimum, "maximum": maximum, "secret": secret}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata, repr=False)
    return field(default=default, metadata=metadata, repr=not secret)


def coerce(name: str, f: Field[Any], value: object, owner: type[Any]) -> Any:
    """``value`` as the type that ``owner`` declares for ``f``, within its bounds.

    Text is read as it stands in the environment: ``"20"``, ``"20ms"``, ``"true"``,
    ``"a=1,b=2"``. Raises :class:`ConfigurationError` starting with ``name``.
    """
    kind = _kind(f, owner)
    try:
        converted = _convert(kind, value)
    except (TypeError, ValueError) as error:
        shown = "***" if f.metadata["secret"] else repr(value)
        wrong = str(error) or f"expected {_expected(kind)}, got {shown}"
        raise ConfigurationError(f"{name}: {wrong}") from error
    low, high = f.metadata["minimum"], f.metadata["maximum"]
    if (low is not None and converted < low) or (high is not None and converted > high):
        bounds = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise ConfigurationError(f"{name}: must be {bounds}, got {value!r}")
    return converted


def redact(f: Field[Any], value: object, owner: type[Any]) -> str:
    """``value`` as one line of text, with units, and with ``***`` for what is secret."""
    kind = _kind(f, owner)
    if isinstance(value, Mapping):
        parts = (f"{k}={'***' if is_secret(k) else hide_password(v)}" for k, v in value.items())
        return ", ".join(parts)
    if f.metadata["secret"] and "://" not in str(value):
        return "***" if value else ""
    if kind == MILLISECONDS:
        return format_duration(int(str(value)) * 1_000_000)
    if kind == BYTES:
        return format_size(int(str(value)))
    return hide_password(str(value))


def hide_password(text: str) -> str:
    """``text`` with the password of every URL in it as ``***``."""
    return _URL_QUERY.sub(r"\g<head>***", _URL_PASSWORD.sub(r"\g<head>***", text))


def is_secret(name: str) -> bool:
    """Whether a property of this name (``sasl.password``) must not be shown."""
    return _SECRET_NAME.search(name) is not None


def suggest(name: str, valid: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest valid name, else the list of valid names."""
    names = list(valid)
    by_lower = {candidate.lower(): candidate for candidate in reversed(names)}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {by_lower[close[0]]!r}?"
    return f"; valid are: {', '.join(names)}" if names else ""


def _convert(kind: Any, value: object) -> Any:
    if kind == MILLISECONDS:
        return _milliseconds(value)
    if kind == BYTES:
        return parse_size(value)  # type: ignore[arg-type]  # it refuses other types itself
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError
        return value
    if kind == PROPERTIES:
        return _properties(value)
    if kind is bool:
        return _boolean(value)
    if kind is str:
        return _text(value)
    return _number(kind, value)


def _milliseconds(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise TypeError
    if value.strip().removeprefix("-").isdecimal():
        return int(value)  # a negative number gets the message about bounds
    ns = parse_duration(value)
    if ns % 1_000_000:
        raise ValueError(f"{value!r} is not a whole number of milliseconds")
    return ns // 1_000_000


def _properties(value: object) -> dict[str, str]:
    if isinstance(value, str):
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if any(not equals or not name.strip() for name, equals, _ in pairs):
            raise ValueError(f"{value!r} is not a list of properties: write name=value,name=value")
        return {name.strip(): text.strip() for name, _, text in pairs}
    if not isinstance(value, Mapping):
        raise TypeError
    return dict(_flatten("", value))


def _flatten(prefix: str, table: Mapping[str, object]) -> Iterable[tuple[str, str]]:
    """TOML reads ``linger.ms = 5`` as nested tables; librdkafka wants the dotted name back."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flatten(f"{prefix}{name}.", value)
        elif isinstance(value, bool):
            yield prefix + name, str(value).lower()
        elif isinstance(value, (str, int, float)):
            yield prefix + name, str(value)
        else:
            raise TypeError(f"{prefix}{name} must be a single value")


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _BOOLEANS:
        return _BOOLEANS[value.strip().lower()]
    raise TypeError


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _number(kind: type[int] | type[float], value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError
    if kind is int and isinstance(value, float):
        raise TypeError
    try:
        return kind(value)
    except ValueError:
        raise ValueError from None  # what was expected is said once, by coerce


def _expected(kind: Any) -> str:
    if kind == MILLISECONDS:
        return "a duration in milliseconds or text such as '500ms'"
    if kind == BYTES:
        return "a size in bytes or text such as '256MiB'"
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(kind))
    if kind == PROPERTIES:
        return "a table of names and values"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]


def _kind(f: Field[Any], owner: type[Any]) -> Any:
    """The declared type, or the unit that the name of an int ends in."""
    hint = get_type_hints(owner)[f.name]
    if get_origin(hint) is Mapping:
        return PROPERTIES
    if hint is int and f.name.endswith("_ms"):
        return MILLISECONDS
    return BYTES if hint is int and f.name.endswith("_bytes") else hint
