"""swarm.torrent.names: one name below one directory, whatever a torrent says."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import MetainfoError
from swarm.torrent.names import MAX_COMPONENT, safe_component
from tests.fuzzing import fuzz_count, fuzz_seed, random_bytes_cases


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "file.txt",
        ".hidden",
        "...",
        "a..b",
        " leading",
        "trailing. ",
        "~",
        "-rf",
        "ä/".strip("/"),
        "日本語",
        "🐝",
        "a:b",
    ],
)
def test_ordinary_names_are_kept(name: str) -> None:
    assert safe_component(name.encode(), windows=False) == name


@pytest.mark.parametrize(
    "raw, message", [(b"", "empty"), (b".", "leave"), (b"..", "leave"), (b"a\0b", "NUL"), (b"\0", "NUL")]
)
@pytest.mark.parametrize("windows", [False, True])
def test_what_no_honest_tool_writes_is_refused(raw: bytes, message: str, windows: bool) -> None:
    with pytest.raises(MetainfoError, match=message):
        safe_component(raw, windows=windows)


@pytest.mark.parametrize(
    "raw, safe",
    [
        (b"/etc/passwd", "_etc_passwd"),
        (b"../../x", ".._.._x"),
        (b"..\\..\\x", ".._.._x"),
        (b"C:\\x", "C:_x"),
        (b"a\nb\x7f\x1b[31m", "a_b__[31m"),
        ("a\u202etxt.exe".encode(), "a_txt.exe"),
        ("a\u0085b".encode(), "a_b"),
        (b"caf\xe9", "café"),  # Latin-1
        (b"\xff\xfe\x80", "ÿþ_"),
        (b"\xed\xa0\x80", "í\u00a0_"),  # a surrogate is not UTF-8
    ],
)
def test_separators_and_unprintable_characters_are_replaced(raw: bytes, safe: str) -> None:
    assert safe_component(raw, windows=False) == safe


@pytest.mark.parametrize(
    "name, safe",
    [
        ("aux", "_aux"),
        ("AUX.c", "_AUX.c"),
        ("con .txt", "_con .txt"),
        ("com1", "_com1"),
        ("LPT9.log", "_LPT9.log"),
        ("console", "console"),
        ("com10", "com10"),
        ("a. .", "a_"),
        ("...", "_"),
        ('a:b*c?"<>|', "a_b_c_____"),
    ],
)
def test_names_that_only_windows_gives_a_meaning_are_replaced_there_and_kept_elsewhere(name: str, safe: str) -> None:
    assert safe_component(name.encode(), windows=True) == safe
    assert safe_component(name.encode(), windows=False) == name


def test_a_long_name_is_cut_before_its_extension_and_stays_distinct() -> None:
    first, second = (safe_component(b"x" * 400 + tail, windows=False) for tail in (b"1.tar.gz", b"2.tar.gz"))
    assert first.startswith("xxx") and first.endswith(".gz") and first != second
    assert len(first) == len(second) == MAX_COMPONENT
    wide = safe_component(("é" * 200).encode(), windows=False)
    assert len(wide.encode()) in (MAX_COMPONENT - 1, MAX_COMPONENT) and "~" in wide
    assert len(safe_component(b"x." + b"y" * 300, windows=False)) == MAX_COMPONENT
    assert safe_component(b"x" * 255, windows=False) == "x" * 255


def check(raw: bytes) -> None:
    for windows in (False, True):
        try:
            name = safe_component(raw, windows=windows)
        except MetainfoError:
            continue
        assert name not in ("", ".", "..") and len(name.encode()) <= MAX_COMPONENT
        assert not set(name) & set("/\\\0") and not any(ord(char) < 32 for char in name)
        assert safe_component(name.encode(), windows=windows) == name, "a safe name is left alone"


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=300) | st.sampled_from(["con", "a. ", "....", "nul .", "lpt1.x"]))
def test_safe_names_are_one_component_and_stay_as_they_are(name: str) -> None:
    check(name.encode(errors="surrogatepass"))


def test_fuzz_random_bytes_become_one_component_or_are_refused() -> None:
    seed = fuzz_seed()
    print("SWARM_FUZZ_SEED", seed)
    for raw in random_bytes_cases(random.Random(seed), 400, fuzz_count()):
        check(raw)
