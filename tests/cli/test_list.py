"""What ``swarm list`` shows of the daemon's torrents."""

from __future__ import annotations

from typing import Any

from swarm.cli.list import table


def torrent(number: int, name: str, **more: object) -> dict[str, Any]:
    plain = {"percentDone": 1.0, "sizeWhenDone": 30_000_000, "rateDownload": 0, "rateUpload": 0, "peersConnected": 0}
    return {"id": number, "name": name, "status": 6, "errorString": "", "trackerStats": []} | plain | more


def test_a_line_each_and_what_is_wrong_below_it() -> None:
    refused = "tracker.example:80: refused: Connection refused"
    lines = table(
        [
            torrent(9, "debian.iso", rateUpload=215_000, peersConnected=3),
            torrent(10, "broken", errorString=refused, status=0, percentDone=0.9999, sizeWhenDone=500_003),
        ]
    )
    assert lines == [
        "ID   DONE     SIZE  DOWN        UP  PEERS  STATUS   NAME",
        " 9   100%  30.0 MB     -  215 kB/s      3  seeding  debian.iso",
        "10  99.9%   500 kB     -         -      0  stopped  broken",
        f"    {refused}",
    ]


def test_trackers_are_told_of_where_none_has_answered() -> None:
    silent = {"host": "a.example:80", "hasAnnounced": True, "lastAnnounceSucceeded": False}
    silent["lastAnnounceResult"] = "timed-out: no answer"
    good = {"host": "b.example:80", "hasAnnounced": True, "lastAnnounceSucceeded": True, "lastAnnounceResult": ""}
    fresh = {"host": "c.example:80", "hasAnnounced": False, "lastAnnounceSucceeded": False, "lastAnnounceResult": ""}
    assert table([torrent(1, "x", trackerStats=[fresh, silent])])[2:] == ["    a.example:80: timed-out: no answer"]
    for trackers in ([], [fresh], [silent, good]):
        assert not table([torrent(1, "x", trackerStats=trackers)])[2:]


def test_a_terminal_is_given_nothing_to_obey() -> None:
    lines = table([torrent(1, "a\x1b[2Jb", errorString="c\x9b31m\r\nd\u202e")])
    assert all(line.isprintable() for line in lines)
    assert lines[1].endswith("a\\x1b[2Jb")
