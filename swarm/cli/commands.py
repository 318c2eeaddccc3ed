"""The commands: what each is called, does and is used for (shared interface "Commands").

Plain data, so that ``swarm --help`` loads next to nothing.  Their options are in `swarm.cli.parser`, what they do in a
module each, of the same name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from swarm import __version__
from swarm.errors import UsageError


class Command(NamedTuple):
    """A command; the module ``swarm.cli.NAME`` has its ``run(options) -> int``, the exit code."""

    name: str
    usage: str
    summary: str
    examples: tuple[tuple[str, str], ...]
    """Command lines and what each does."""

    @property
    def module(self) -> str:
        return f"swarm.cli.{self.name}"


def overview() -> str:
    """What ``swarm --help`` prints."""
    width = max(len(command.name) for command in COMMANDS)
    lines = [
        "usage: swarm COMMAND [OPTION]...",
        "",
        "A BitTorrent client that reaches the peers others cannot, and says why when it cannot.",
        "",
        "commands:",
        *(f"  {command.name:{width}}  {command.summary}" for command in COMMANDS),
        "",
        "options:",
        "  -h, --help     show this and leave; 'swarm COMMAND --help' shows what a command takes",
        "  -V, --version  show the version and leave",
        "",
        examples_text(
            (
                ("swarm download ubuntu.torrent -o ~/Downloads", "fetch it, verify it, leave"),
                ("swarm create holiday/ -o holiday.torrent", "describe a directory"),
                ("swarm seed holiday.torrent -o .", "share it until Ctrl-C"),
                ("swarm demo", "see all of it work on this machine alone"),
            )
        ),
    ]
    return "\n".join(lines)


def version() -> str:
    return f"swarm {__version__}"


def find(name: str) -> Command:
    """The command called ``name``; UsageError if this version has none."""
    for command in COMMANDS:
        if command.name == name:
            return command
    if name.startswith("-"):
        raise UsageError(f"unknown option {name!r}; options come after the command")
    raise UsageError(f"unknown command {name!r}{suggestion(name, [each.name for each in COMMANDS])}")


def examples_text(examples: tuple[tuple[str, str], ...]) -> str:
    return "\n".join(["examples:", *(f"  {line}\n      {meaning}" for line, meaning in examples)])


def suggestion(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the nearest of ``known``, or nothing."""
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


COMMANDS: tuple[Command, ...] = (
    Command(
        "download",
        "download SOURCE... [-o DIR] [OPTION]...",
        "Fetch torrents, verify them and leave; what is there already is kept.",
        (
            ("swarm download ubuntu.torrent -o ~/Downloads", "into ~/Downloads/NAME"),
            ("swarm download https://example.org/a.torrent --select 1,3-5", "four of its files"),
            ("swarm download a.torrent b.torrent -d 2M --seed-ratio 1.5", "two at once, at 2 MB/s, and give back"),
            ("swarm download a.torrent --json | jq .event", "for programs"),
        ),
    ),
    Command(
        "seed",
        "seed TORRENT... [-o DIR] [OPTION]...",
        "Verify data and share it until told to stop.",
        (
            ("swarm seed holiday.torrent -o ~/Pictures", "shares ~/Pictures/holiday"),
            ("swarm seed *.torrent -o /srv/share -p 51413 -u 5M", "several, on one port, at 5 MB/s"),
        ),
    ),
    Command(
        "create",
        "create PATH -o FILE [OPTION]...",
        "Make a .torrent file of a file or a directory.",
        (
            ("swarm create holiday/ -o holiday.torrent --tracker http://tracker.example/announce", "with a tracker"),
            ("swarm create film.mkv -o film.torrent --piece-length 1MiB", "with pieces of 1 MiB"),
        ),
    ),
    Command(
        "show",
        "show SOURCE [--json]",
        "Show what a torrent or a magnet link says.",
        (
            ("swarm show ubuntu.torrent", "name, size, trackers and numbered files"),
            ("swarm show ubuntu.torrent --json | jq -r '.files[].path'", "the paths alone"),
        ),
    ),
    Command(
        "magnet",
        "magnet SOURCE",
        "Print the magnet link of a torrent.",
        (("swarm magnet ubuntu.torrent", "magnet:?xt=urn:btih:…"),),
    ),
    Command(
        "verify",
        "verify TORRENT [-o DIR]",
        "Compare data with a torrent's hashes, file by file.",
        (("swarm verify ubuntu.torrent -o ~/Downloads && echo intact", "exit code 6 if it is not"),),
    ),
    Command(
        "stats",
        "stats [--json | --prometheus] [FILE]",
        "Show how peers were reached, and why others were not.",
        (
            ("swarm stats", "of the daemon that runs"),
            ("swarm stats run.json", "tables of what 'swarm download --stats run.json' has saved"),
            ("swarm stats --json - < run.json | jq .reachability", "for programs"),
            ("swarm stats --prometheus run.json", "for Prometheus, as its textfile collector wants it"),
        ),
    ),
    Command(
        "daemon",
        "daemon [-o DIR] [--rpc HOST:PORT|unix:PATH] [--watch DIR] [OPTION]...",
        "Share and download many torrents, unattended, until told to stop.",
        (
            ("swarm daemon -o /srv/torrents --watch /srv/watch", "adds what is put into /srv/watch"),
            ("transmission-remote --list", "programs that know Transmission know it; or use 'swarm list'"),
            ("swarm daemon --rpc 0.0.0.0:9091 --rpc-user me --rpc-password-file ~/.swarm-password", "for others, too"),
        ),
    ),
    Command(
        "add",
        "add SOURCE... [-o DIR] [--paused] [OPTION]...",
        "Give torrents to the daemon.",
        (
            ("swarm add ubuntu.torrent", "into the daemon's directory"),
            ("swarm add holiday.torrent -o ~/Pictures", "shares ~/Pictures/holiday, if it is there"),
        ),
    ),
    Command(
        "list",
        "list [--json] [OPTION]...",
        "Show the torrents of the daemon.",
        (("swarm list", "a line each, with its number"), ("swarm list --json | jq .torrents[].name", "for programs")),
    ),
    Command(
        "start",
        "start ID|HASH|all... [OPTION]...",
        "Have torrents of the daemon run.",
        (("swarm start 3", "the one that 'swarm list' numbers 3"),),
    ),
    Command(
        "stop",
        "stop ID|HASH|all... [OPTION]...",
        "Have torrents of the daemon pause.",
        (("swarm stop all", "all of them, until they are started"),),
    ),
    Command(
        "remove",
        "remove [--delete-data] ID|HASH|all... [OPTION]...",
        "Take torrents from the daemon; their files stay, unless told otherwise.",
        (("swarm remove 3", "forgets it"), ("swarm remove --delete-data 3", "and deletes its files")),
    ),
    Command(
        "doctor",
        "doctor [--json] [OPTION]...",
        "Show where this machine stands: router, NAT, outside address, and what to do.",
        (
            ("swarm doctor", "looks around for up to 8 s"),
            ("swarm doctor --stun stun.example.org:3478", "asks a STUN server too, which knows filtering"),
            ("swarm doctor --json | jq .nat.v4.external", "for programs"),
        ),
    ),
    Command(
        "demo",
        "demo",
        "Share and download a sample on this machine alone.",
        (("swarm demo", "a tracker, a seed and a download over real sockets, in seconds"),),
    ),
    Command(
        "completion",
        "completion bash|zsh|fish",
        "Print a shell's completion script.",
        (
            ("source <(swarm completion bash)", "in ~/.bashrc"),
            ("swarm completion zsh > ~/.zfunc/_swarm", "with fpath+=~/.zfunc before compinit in ~/.zshrc"),
            ("swarm completion fish > ~/.config/fish/completions/swarm.fish", "once"),
        ),
    ),
)
