"""Why several torrents get nothing: each fact once."""

from __future__ import annotations

from pathlib import Path

from tests.cli.programs import events, swarm

LOOPBACK = ("--bind", "127.0.0.1", "-p", 0)


def test_what_holds_for_all_torrents_is_said_once_without_a_name(tmp_path: Path) -> None:
    """Eight lines, of which six said what three had said, each with a name in front."""
    links = [f"magnet:?xt=urn:btih:{digit * 40}&dn=name{digit}" for digit in "ab"]
    tracked = f"{links[1]}&tr=http%3A%2F%2F127.0.0.1%3A9%2Fannounce"
    done = swarm(tmp_path, "download", links[0], tracked, "-o", tmp_path, "--timeout", "0.5", "--json", *LOOPBACK)
    assert done.returncode == 5
    reasons = events(done.stdout)[-1]["message"].partition(": ")[2].split("; ")
    assert reasons[0] == "namea: the torrent names no tracker"
    assert reasons[1].startswith("nameb: ")
    assert reasons[2:4] == ["the metadata is missing: no peer to ask", "no peer is known"]
    assert reasons[-1].startswith("we listen on port ")
    assert len(reasons) == len(set(reasons))
