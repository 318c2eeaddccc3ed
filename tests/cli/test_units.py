"""What people type and read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.cli import units


@pytest.mark.parametrize(
    "text,rate",
    [("0", 0), ("500", 500), ("500k", 500_000), ("1.5M", 1_500_000), ("2G", 2_000_000_000), ("10K", 10_000)],
)
def test_a_rate_has_suffixes_of_powers_of_1000(text: str, rate: int) -> None:
    assert units.parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "-1", "1T", "1kB", "k", "nan", "1e9", "0.5", "0.0001k", "9999999G", "1 M x", "１"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        units.parse_rate(text)


@pytest.mark.parametrize(
    "text,seconds", [("30", 30), ("90s", 90), ("5m", 300), ("2h", 7200), ("0.5", 0.5), ("1d", 86400)]
)
def test_a_time_has_units(text: str, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5", "5 minutes", "5ms", "1h30m", "99999999d"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        units.parse_duration(text)


@pytest.mark.parametrize("text,size", [("16384", 16384), ("256KiB", 1 << 18), ("1MiB", 1 << 20), ("0.5MiB", 1 << 19)])
def test_a_piece_length_has_binary_units(text: str, size: int) -> None:
    assert units.parse_size(text) == size


def test_a_selection_is_numbers_and_ranges_counted_from_one() -> None:
    assert units.parse_selection("1,3-5") == ((1, 1), (3, 5))
    assert units.parse_selection(" 7 , 2-2") == ((7, 7), (2, 2))


@pytest.mark.parametrize("text", ["", "0", "5-3", "1,,2", "a", "1-", "-1", "1-2-3", "0-4"])
def test_what_is_no_selection_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        units.parse_selection(text)


@given(st.text(max_size=20))
def test_parsers_raise_nothing_but_value_errors(text: str) -> None:
    for parse in (
        units.parse_rate,
        units.parse_duration,
        units.parse_size,
        units.parse_ratio,
        units.parse_port,
        units.parse_outside_port,
        units.parse_selection,
        units.parse_boolean,
    ):
        try:
            parse(text)
        except ValueError as error:
            assert str(error)


def test_sizes_keep_three_digits() -> None:
    shown = [units.format_bytes(count) for count in (0, 999, 1000, 9994, 9995, 99_950, 999_499, 999_500, 1_048_576)]
    assert shown == ["0 B", "999 B", "1.00 kB", "9.99 kB", "10.0 kB", "100 kB", "999 kB", "1.00 MB", "1.05 MB"]


def test_a_part_is_shown_in_the_unit_of_the_whole() -> None:
    assert units.format_part(420_000, 1_050_000) == "0.42 of 1.05 MB"
    assert units.format_part(0, 300_000_000) == "0 of 300 MB"
    assert units.format_part(3, 10) == "3 of 10 B"


def test_durations_have_two_parts_at_most() -> None:
    shown = [units.format_duration(seconds) for seconds in (0.025, 0.3, 42, 59.6, 200, 7500, 100_000)]
    assert shown == ["25 ms", "0.3 s", "42 s", "1 min", "3 min 20 s", "2 h 5 min", "1 d 3 h"]


def test_only_the_whole_is_a_hundred_percent() -> None:
    assert units.format_percent(999_999, 1_000_000) == "99.9 %"
    assert units.format_percent(5, 5) == units.format_percent(0, 0) == "100.0 %"


def test_nothing_printed_moves_the_cursor() -> None:
    assert units.printable("a\x1b[2Jb\nc\u202ed\x9b") == "a\\x1b[2Jb\\nc\\u202ed\\x9b"
    assert units.printable("žluťoučký 漢字") == "žluťoučký 漢字"


@given(st.text(max_size=80), st.integers(0, 60))
def test_a_shortened_text_fits(text: str, width: int) -> None:
    shown = units.printable(text)
    short = units.shortened(shown, width)
    assert units.columns(short) <= width
    if units.columns(shown) <= width:
        assert short == shown
