"""Enclosed: a text that is shown to a model as data, between marks that it cannot close."""

from gristmill.pipeline.records.schema import digest


def enclosed(text: str, name: str = "document") -> str:
    """Text between two marks that it does not contain, whatever it contains.

    The mark holds a hash of the text, so no text can be written that closes its own mark.
    """
    mark = digest([name, text])[:12]
    assert mark not in text, "a text that contains its own hash"
    return f"<{name} {mark}>\n{text}\n</{name} {mark}>"
