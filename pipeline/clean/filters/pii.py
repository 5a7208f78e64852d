"""Pii: private data that a model must not learn.

It is found by patterns of our own, each confirmed by a checksum or a rule where there is one (Luhn,
ISO 7064 for IBAN, public address ranges; phone numbers by `phonenumbers`, Google's library). Names
and street addresses have no pattern: they are not found, and no model is asked.

Whatever the text, the time is linear in its length: a pattern begins at a character that is not
looked at again by the next try, or reads a bounded number of characters from each place.
"""

import functools
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from gristmill.pipeline.records.text import Part, texts

KINDS = ("email", "phone", "card", "iban", "ip", "ssn")


@dataclass(frozen=True, kw_only=True)
class Pii:
    """Drops records with personal identifiers: `pii: email`.

    Phone numbers are looked for in the first 32,768 characters that look like some: nothing but
    tables of numbers has more.

    Attributes:
        kinds: any of email, phone, card, iban, ip (public addresses), ssn (United States).
        part: what is looked at.
        region: country of phone numbers without a country code (ISO 3166), or None to find only
            numbers with one.
    """

    kinds: tuple[str, ...] = KINDS
    part: Part = "all"
    region: str | None = None

    def __post_init__(self) -> None:
        strange = [k for k in self.kinds if k not in KINDS]
        if strange:
            raise ValueError(f"there is no kind {strange[0]!r}; there are: {', '.join(KINDS)}.")

    def reasons(self, records: pl.DataFrame) -> pl.Series:
        text = texts(records, self.part)
        why: list[str | None] = [None] * len(text)
        for kind in self.kinds:
            hint, holds = _FIND[kind]  # few texts have a hint, and it is found fast
            for row in text.str.contains(hint).arg_true():
                if why[row] is None and holds(text[row], self.region):
                    why[row] = f"pii: {kind}"
        return pl.Series("why", why, dtype=pl.String)


def luhn(digits: str) -> bool:
    """Whether the check digit of a card number holds."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def iban(text: str) -> bool:
    """Whether country, length and check digits (ISO 7064, modulo 97) of an IBAN hold."""
    plain = text.replace(" ", "")
    if _IBAN_LENGTHS.get(plain[:2]) != len(plain):
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


# What makes `user@host` the place of a file or repository: `git@host`, `user@host:path`.
_PATH = re.compile(r":(?:[\w.~-]*/[\w.~]|[\w.-]+\.git\b)")
# From the @ on; whether a letter or digit stands before it is looked up behind (64 characters are
# the most that an address may have there), for a pattern would try every beginning.
_EMAIL = re.compile(r"@(?:[A-Za-z0-9-]{1,63}\.){1,127}[A-Za-z]{2,24}\b")
_BEFORE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._%+-]*\Z")
_LOCAL = 64
# Reserved for examples (RFC 2606); what is written there belongs to no one.
_RESERVED = re.compile(
    r"@(?:[a-z0-9-]+\.)*(?:example\.(?:com|org|net)|example|test|invalid)$", re.I
)
_CARD = re.compile(
    r"(?<![\d.,$-])"
    r"(?:\d{13,19}|\d{4}(?:[ -]\d{4}){2}[ -]\d{1,7}|\d{4}[ -]\d{6}[ -]\d{5})"
    r"(?![\d.,-]*\d)"
)
_ISSUER = re.compile(r"4|5[1-5]|2[2-7]|3[4-7]|6(?:011|4[4-9]|5)")
_IBAN = re.compile(r"\b(?=([A-Z]{2})\d{2} ?[A-Z0-9])")
_IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)")
# What stands before four numbers that count versions or sections, be they one of several.
_COUNTED = re.compile(
    r"(?:(?:\b(?:versions?|ver|v|releases?|rev|build|kernel|firmware|driver|sections?|sec|chapters?"
    r"|clauses?|articles?|appendix|figures?|fig|paragraphs?|para)\b"
    r"|§)[.:]?|==|(?:^|\n)#{1,6})\s{0,3}(?:(?:no|number)\b\.?\s?)?"
    r"(?:[\d.]+\s?(?:,|and|or|to|&|-|–)\s?)*$",
    re.IGNORECASE,
)
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{1,4}(?![\w:])")
# Characters between the digits of a phone number, its digits, and what the matcher is shown.
_GAP, _FEWEST, _WINDOW, _OVERLAP, _SHOWN = 16, 7, 512, 128, 32_768
_DIGITS = re.compile(rf"\d(?:\D{{0,{_GAP - 1}}}\d)*")
_SSN = re.compile(r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\d-])")
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI NL",
        19: "SI",
        20: "AT EE LT LU XK",
        21: "CH HR LV",
        22: "BG DE GB IE RS",
        23: "AE IL",
        24: "CZ ES RO SA SE SK TN",
        25: "PT",
        26: "IS TR",
        27: "FR GR IT",
        28: "AL CY HU LB PL",
        29: "BR UA",
        31: "MT",
        33: "RU",
    }.items()
    for country in countries.split()
}


def _email(text: str, _: str | None) -> bool:
    for match in _EMAIL.finditer(text):
        local = _BEFORE.search(text[max(0, match.start() - _LOCAL) : match.start()])
        if local is None or local[0] == "git" or _PATH.match(text, match.end()):
            continue
        if not _RESERVED.match(match[0]):
            return True
    return False


def _card(text: str, _: str | None) -> bool:
    numbers = (re.sub(r"\D", "", m[0]) for m in _CARD.finditer(text))
    return any(_ISSUER.match(n) and 13 <= len(n) <= 19 and luhn(n) for n in numbers)


def _iban(text: str, _: str | None) -> bool:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[1])
        found = _iban_of(length).match(text, match.start()) if length else None
        if found is not None and iban(found[0]):
            return True
    return False


@functools.cache
def _iban_of(length: int) -> re.Pattern[str]:
    """An account of so many characters, spaces aside: the country gives the length."""
    return re.compile(rf"[A-Z]{{2}}\d{{2}}(?: ?[A-Z0-9]){{{length - 4}}}\b")


def _ip(text: str, _: str | None) -> bool:
    for match in (*_IPV4.finditer(text), *_IPV6.finditer(text)):
        if _COUNTED.search(text[max(0, match.start() - 80) : match.start()]):
            continue
        try:
            if ipaddress.ip_address(match[0]).is_global:
                return True
        except ValueError:
            continue
    return False


def _ssn(text: str, _: str | None) -> bool:
    return _SSN.search(text) is not None


def _phone(text: str, region: str | None) -> bool:
    import phonenumbers

    left = _SHOWN
    for window, inner in _dialled(text):
        if region is None and "+" not in window and "\uff0b" not in window:
            continue
        for match in phonenumbers.PhoneNumberMatcher(window, region):
            if inner.start <= match.start and match.end <= inner.stop:
                return True
        left -= len(window)
        if left < 0:
            return False
    return False


def _dialled(text: str) -> Iterator[tuple[str, slice]]:
    """Stretches of a text that may hold a phone number, and where in each it may lie.

    The matcher asks up to fifty parses of every run of digits, so it is shown no more than it
    needs: digits with less than `_GAP` other characters between them, seven at least, and what
    stands around them. Stretches that go on and on, as tables of numbers do, are shown in
    overlapping pieces; what touches a cut is seen whole in the next piece.
    """
    for match in _DIGITS.finditer(text):
        if sum(map(str.isdecimal, match[0])) < _FEWEST:
            continue
        start, end = max(0, match.start() - _GAP), min(len(text), match.end() + _GAP)
        for at in range(start, max(start + 1, end - _OVERLAP), _WINDOW - _OVERLAP):
            piece = text[at : min(end, at + _WINDOW)]
            first = 0 if at == start else _OVERLAP // 4
            last = len(piece) if at + _WINDOW >= end else len(piece) - _OVERLAP // 4
            yield piece, slice(first, last)


# Kind -> a pattern that any text with one matches, and the proof.
_FIND: Mapping[str, tuple[str, Callable[[str, str | None], bool]]] = {
    "email": (r"\w@\w", _email),
    "phone": (r"\+ ?\(?\d|\d{2,5}\)?[ ./-]?\d{2,4}[ .-]?\d{3,4}", _phone),
    "card": (r"\d{4}[ -]?\d{4}[ -]?\d{4}|\d{4}[ -]\d{6}[ -]\d{5}", _card),
    "iban": (r"[A-Z]{2}\d{2} ?[A-Z0-9]{2}", _iban),
    "ip": (r"\d\.\d{1,3}\.\d{1,3}\.\d|(?i)[0-9a-f]:[0-9a-f]{0,4}:", _ip),
    "ssn": (r"\d{3}-\d\d-\d{4}", _ssn),
}
