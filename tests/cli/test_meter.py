"""Progress lines, rates and when a stall is explained."""

from __future__ import annotations

import io

import pytest

from swarm.cli.meter import WINDOW, Rate, Standing, progress_line, together
from swarm.cli.screen import CLEAR, Screen
from swarm.cli.units import columns
from swarm.cli.watch import REPEAT, SILENCE, StallWatch

HALFWAY = Standing(
    done=1_400_000_000,
    total=2_800_000_000,
    down_rate=12_300_000,
    up_rate=300_000,
    peers_by_path={"tcp": 3, "utp-punched": 2},
)


def test_the_progress_line_says_everything_where_there_is_room() -> None:
    assert progress_line(HALFWAY, 200) == (
        "50.0 %  1.40 of 2.80 GB  ↓ 12.3 MB/s  ↑ 300 kB/s  1 min 54 s left  5 peers (3 tcp, 2 utp-punched)"
    )


@pytest.mark.parametrize("width", range(20, 120))
def test_the_progress_line_fits_the_terminal(width: int) -> None:
    line = progress_line(HALFWAY, width)
    assert columns(line) <= width
    assert line.startswith("50.0 %")
    assert "12.3 MB/s" in line


def test_a_rate_is_of_the_last_seconds() -> None:
    rate = Rate()
    assert rate(0.0, 0) == 0
    for second in range(1, 20):
        latest = rate(float(second), 100 * second)
    assert latest == 100
    for second in range(20, 20 + int(WINDOW) + 1):
        latest = rate(float(second), 1900)
    assert latest == 0


def test_several_torrents_are_shown_as_one() -> None:
    both = together([HALFWAY, HALFWAY])
    assert (both.done, both.total, both.peers) == (2_800_000_000, 5_600_000_000, 10)
    assert both.eta == HALFWAY.eta


def test_torrents_without_metadata_are_not_shared() -> None:
    """Two magnet links that nobody had metadata for were "sharing"."""
    lacking, complete = Standing(0, 0, 0, 0, {}, metadata="no peer to ask"), Standing(9, 9, 0, 0, {"tcp": 1})
    assert not lacking.complete
    assert progress_line(together([lacking, lacking]), 79) == "metadata: missing of 2 torrents"
    assert progress_line(together([lacking, complete]), 79) == "metadata: no peer to ask"
    assert progress_line(together([lacking, HALFWAY]), 79).startswith("50.0 %")
    assert progress_line(together([complete, complete]), 79).startswith("sharing")


def test_checking_is_shown_in_pieces() -> None:
    checking = Standing(0, 100, 0, 0, {}, checking=(250, 1000))
    assert progress_line(checking, 79) == "checking  25.0 %  250 of 1,000 pieces"
    assert progress_line(Standing(0, 100, 0, 0, {}, checking=(0, 0)), 79) == "looking for what is there"


def test_a_stall_is_explained_after_ten_seconds_and_then_only_when_the_reasons_change() -> None:
    watch = StallWatch(0.0)
    said = []
    for now in range(120):
        watch.look(float(now), 0)
        reasons = ["nobody is known"] if now < 50 else ["all choke us"]
        if watch.is_due(float(now)) and watch.worth_saying(float(now), reasons):
            said.append((now, reasons[0]))
    assert said == [(int(SILENCE), "nobody is known"), (50, "all choke us")]


def test_changing_reasons_are_told_twice_a_minute_at_most() -> None:
    watch = StallWatch(0.0)
    said = []
    for now in range(100):
        watch.look(float(now), 0)
        if watch.is_due(float(now)) and watch.worth_saying(float(now), [f"again in {100 - now} s"]):
            said.append(now)
    assert said == [10, 10 + REPEAT, 10 + 2 * REPEAT]


def test_data_ends_a_stall() -> None:
    watch = StallWatch(0.0)
    assert watch.look(9.0, 0) == 0  # the first look sees something new
    assert watch.look(18.0, 0) == 9
    assert watch.look(18.5, 1) == 0
    assert not watch.is_due(28.0)
    assert watch.is_due(28.5)


def test_the_status_is_rewritten_below_the_lines_and_cleared_at_the_end() -> None:
    stream = io.StringIO()
    screen = Screen(stream=stream, terminal=True)
    screen.status("50 %")
    screen.line("a line")
    screen.clear()
    screen.clear()
    assert stream.getvalue() == f"{CLEAR}50 %{CLEAR}a line\n50 %{CLEAR}"


def test_there_is_no_status_without_a_terminal_and_nothing_when_quiet() -> None:
    stream = io.StringIO()
    screen = Screen(stream=stream, terminal=False)
    screen.status("50 %")
    screen.line("a line")
    quiet = Screen(stream=stream, terminal=True, quiet=True)
    quiet.status("50 %")
    quiet.line("another")
    quiet.clear()
    assert stream.getvalue() == "a line\n"
