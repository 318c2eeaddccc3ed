"""XML as UPnP devices send it, read strictly and within bounds.

Elements, their local names and their text; no attributes, no processing.  A DOCTYPE is refused, and with it every
entity declaration: nothing expands, nothing is fetched.  Namespaces are dropped: devices get them wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from swarm.errors import RemoteProtocolError

MAX_BYTES = 256 << 10
MAX_DEPTH = 32
MAX_ELEMENTS = 4096


@dataclass(slots=True)
class Element:
    """An element by its local name.  ``text`` is its own character data, stripped."""

    name: str
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def child(self, name: str) -> Element | None:
        """The first child of that name."""
        return next((child for child in self.children if child.name == name), None)

    def text_of(self, name: str) -> str:
        """The text of the first child of that name, "" without one."""
        child = self.child(name)
        return child.text if child is not None else ""

    def descendants(self, name: str) -> Iterator[Element]:
        """All elements of that name below this one, in document order."""
        for child in self.children:
            if child.name == name:
                yield child
            yield from child.descendants(name)


def parse_xml_untrusted(data: bytes) -> Element:
    """The root element of a document of at most MAX_BYTES, MAX_DEPTH and MAX_ELEMENTS.

    Raises RemoteProtocolError("bad-response") for what is not well-formed, beyond a bound, or has a DOCTYPE.
    """
    if len(data) > MAX_BYTES:
        raise _bad(f"{len(data)} bytes")
    builder = _Builder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = builder.doctype
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    try:
        # Some devices end the document with NULs or spaces from a fixed buffer.
        parser.Parse(data.rstrip(b"\0 \r\n\t"), True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # LookupError and ValueError: the encoding it names
        raise _bad(str(error)) from None
    return builder.root.children[0]


class _Builder:
    """What expat calls.  ``root`` stands above the document's root element."""

    def __init__(self) -> None:
        self.root = Element("")
        self._open = [self.root]
        self._elements = 0

    def doctype(self, *_: object) -> None:
        raise _bad("it has a DOCTYPE")

    def start(self, name: str, _attributes: object) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS or len(self._open) > MAX_DEPTH:
            raise _bad("too many elements")
        element = Element(name.rpartition(":")[2])
        self._open[-1].children.append(element)
        self._open.append(element)

    def end(self, _name: str) -> None:
        element = self._open.pop()
        element.text = element.text.strip()

    def text(self, text: str) -> None:
        self._open[-1].text += text


def _bad(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError("bad-response", f"XML: {detail}")
