"""Path components of a torrent made safe for the file system (BEP 3 ``path`` and ``name``).

A component that comes out of here is one name below one directory: not empty, not ``.`` or ``..``, without separators,
NUL, control characters or characters that turn the direction of writing (they disguise "exe.txt"), and at most 255
bytes long.  What no honest tool writes is refused; what old or foreign tools do write is replaced, always in the same
way, so that a torrent's files have the same names on every run.

Names that only Windows gives a meaning ("aux", "a:b", a trailing dot) are replaced on Windows alone: elsewhere they are
ordinary names, and source trees that hold an ``aux.c`` have to be found again when they are seeded.
"""

from __future__ import annotations

import os
import re
from hashlib import sha1

from swarm.errors import MetainfoError

MAX_COMPONENT = 255  # bytes of UTF-8: NAME_MAX of every common file system
MAX_PATH = 4000  # bytes of a whole path below the target directory; Linux takes 4096 with the target
MAX_EXTENSION = 16  # bytes after the last dot that survive the cutting of a long name

_SEPARATORS = r"/\\"
_UNPRINTABLE = "\x01-\x1f\x7f-\x9f"
_TURNING = "\u200e\u200f\u202a-\u202e\u2066-\u2069"
_REPLACED = re.compile(f"[{_SEPARATORS}{_UNPRINTABLE}{_TURNING}]")
_REPLACED_ON_WINDOWS = re.compile(f'[{_SEPARATORS}{_UNPRINTABLE}{_TURNING}<>:"|?*]')
_PLAIN = re.compile(rb"[0-9A-Za-z_][ -.0-\[\]-~]{0,254}").fullmatch  # nearly every name: nothing to replace in it
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$) *(\.|$)", re.IGNORECASE)


def safe_component(raw: bytes, *, windows: bool = os.name == "nt") -> str:
    """One file or directory name.

    Bytes that are not UTF-8 are read as Latin-1 (a name in another encoding comes out odd, but always the same).
    Separators and unprintable characters become ``_``; a name beyond 255 bytes is cut before its extension and marked
    with eight digits of its hash, so that two long names stay two.  With ``windows``, device names get a leading ``_``,
    trailing dots and spaces and the characters ``<>:"|?*`` become ``_``.

    Raises MetainfoError for an empty name, ``.``, ``..`` and a NUL.
    """
    if not windows and _PLAIN(raw):
        return raw.decode()
    text = decode_text(raw)
    if not text:
        raise MetainfoError("the torrent has an empty file name")
    if text in (".", ".."):
        raise MetainfoError(f"the torrent has a path with {text!r} in it, which could leave the download directory")
    if "\0" in text:
        raise MetainfoError(f"the torrent has a NUL byte in the file name {text!r}")
    text = (_REPLACED_ON_WINDOWS if windows else _REPLACED).sub("_", text)
    if windows:
        text = _for_windows(text)
    if len(text.encode()) > MAX_COMPONENT:
        text = _cut(text, raw)
    return text


def decode_text(raw: bytes) -> str:
    """``raw`` as UTF-8, as BEP 3 demands, or else as Latin-1, which never fails."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _for_windows(text: str) -> str:
    bare = text.rstrip(" .")
    if bare != text:
        text = bare + "_"
    return f"_{text}" if _DEVICES.match(text) else text


def _cut(text: str, raw: bytes) -> str:
    stem, dot, extension = text.rpartition(".")
    if not stem or len(extension.encode()) > MAX_EXTENSION:
        stem, dot, extension = text, "", ""
    tail = f"~{sha1(raw).hexdigest()[:8]}{dot}{extension}"
    return stem.encode()[: MAX_COMPONENT - len(tail.encode())].decode(errors="ignore") + tail
