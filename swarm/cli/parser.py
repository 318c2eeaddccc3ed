"""The options of every command (shared interface "Commands"), and the errors of whoever mistypes them.

Loads argparse and nothing heavy: the module of a command is imported when it runs.  Each command has a parser of its
own, built when it is asked for; options and positionals mix freely that way, and `swarm.cli.completion` reads the same
parsers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from swarm.cli.commands import Command, examples_text, suggestion
from swarm.cli.settings import SETTINGS, Setting, parse_host_port
from swarm.cli.units import parse_duration, parse_ratio, parse_selection, parse_size, printable
from swarm.errors import UsageError

MAX_HELP_WIDTH = 100  # columns; wider is not read well


class Parser(argparse.ArgumentParser):
    """argparse that raises UsageError with one sentence, and suggests."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see '{self.prog} --help'")

    def flag(self, group: argparse._ActionsContainer, *names: str, help: str) -> None:
        group.add_argument(*names, action="store_true", help=help)

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The options; UsageError for what is unknown, missing or cannot be."""
        namespace, unknown = self.parse_known_intermixed_args(arguments)
        for word in unknown:
            options = [option for option in self._option_string_actions if option.startswith("--")]
            name = word.partition("=")[0]
            hint = suggestion(name, options) or f"; see '{self.prog} --help'"
            raise UsageError(f"unknown option {name!r}{hint}")
        return namespace


class _Help(argparse.RawDescriptionHelpFormatter):
    """Options in one column, with their metavar said once: ``-o, --output DIR``."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=help_width())

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {self._format_args(action, action.dest.upper())}"


def help_width() -> int:
    import shutil

    return max(40, min(MAX_HELP_WIDTH, shutil.get_terminal_size().columns) - 2)


def build(command: Command) -> Parser:
    """The parser of one command."""
    parser = Parser(
        prog=f"swarm {command.name}",
        usage=f"swarm {command.usage}",
        description=command.summary,
        epilog=examples_text(command.examples),
        formatter_class=_Help,
        allow_abbrev=False,
        add_help=False,
        argument_default=None,
    )
    _DECLARE[command.name](parser)
    general = parser.add_argument_group("general options")
    parser.flag(general, "-v", "--verbose", help="say more: events as they happen, and the traceback of an error")
    general.add_argument("-h", "--help", action="help", help="show this and leave")
    return parser


def _type(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """argparse shows the sentence of an ArgumentTypeError only."""

    def parsed(text: str) -> object:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(printable(str(error))) from None

    return parsed


def _add_setting(group: argparse._ActionsContainer, setting: Setting) -> None:
    shown = setting.help + ("; may be repeated" if setting.kind == "list" else "")
    names = [setting.short, setting.option] if setting.short else [setting.option]
    if setting.kind == "switch":
        value = setting.default is not True
        group.add_argument(*names, dest=setting.attribute, action="store_const", const=value, help=shown)
        return
    group.add_argument(
        *names,
        dest=setting.attribute,
        metavar=setting.metavar,
        type=_type(setting.parse),
        action="append" if setting.kind == "list" else "store",
        help=shown,
    )


def _setting(group: argparse._ActionsContainer, name: str) -> None:
    _add_setting(group, next(setting for setting in SETTINGS if setting.name == name))


def _network(parser: Parser, *, peers: bool = True) -> None:
    group = parser.add_argument_group("network options")
    for setting in SETTINGS:
        if setting.name == "announce-port" and peers:
            group.add_argument(
                "--peer",
                dest="peers",
                metavar="HOST:PORT",
                type=_type(parse_host_port),
                action="append",
                default=[],
                help="a peer to ask at once; may be repeated",
            )
        if setting.network:
            _add_setting(group, setting)


def _output_of_a_run(parser: Parser) -> None:
    group = parser.add_argument_group("what is shown")
    parser.flag(group, "--json", help="write events to standard output, one JSON object a line")
    parser.flag(group, "-q", "--quiet", help="show errors only")
    group.add_argument(
        "--stats",
        metavar="FILE",
        help="write how peers were reached into FILE (- is stdout) at the end and on SIGUSR1, for 'swarm stats FILE'; "
        "without this option SIGUSR1 shows it",
    )


def _download(parser: Parser) -> None:
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help=SOURCE_HELP)
    group = parser.add_argument_group("what is fetched, and until when")
    _setting(group, "output")
    group.add_argument(
        "--select",
        metavar="1,3-5",
        type=_type(parse_selection),
        help="only the files of these numbers, as 'swarm show' lists them",
    )
    parser.flag(group, "--save-torrent", help="write NAME.torrent beside the download, as for a magnet link")
    seeding = group.add_mutually_exclusive_group()
    parser.flag(seeding, "--seed", help="go on sharing when everything is there")
    seeding.add_argument(
        "--seed-ratio",
        metavar="R",
        type=_type(parse_ratio),
        help="go on until R times the size has been given back",
    )
    seeding.add_argument("--seed-time", metavar="T", type=_type(parse_duration), help="go on for so long")
    _setting(group, "timeout")
    _network(parser)
    _output_of_a_run(parser)


def _seed(parser: Parser) -> None:
    parser.add_argument("sources", metavar="TORRENT", nargs="+", help="a .torrent file, its URL, or - for stdin")
    group = parser.add_argument_group("what is shared, and until when")
    _setting(group, "output")
    _setting(group, "timeout")
    _network(parser)
    _output_of_a_run(parser)


def _create(parser: Parser) -> None:
    parser.add_argument("path", metavar="PATH", type=Path, help="the file or directory to share")
    group = parser.add_argument_group("the torrent")
    group.add_argument("-o", "--output", metavar="FILE", required=True, help="the .torrent file to write; - is stdout")
    parser.flag(group, "--force", help="overwrite FILE if it exists")
    group.add_argument(
        "--tracker",
        dest="trackers",
        metavar="URL",
        action="append",
        default=[],
        help="announce URL; may be repeated, the first is tried first",
    )
    parser.flag(group, "--private", help="peers come from the trackers and nowhere else (BEP 27)")
    group.add_argument(
        "--piece-length",
        metavar="N",
        type=_type(parse_size),
        help="a power of two, as in 262144, 256KiB or 1MiB; chosen by size without",
    )
    group.add_argument(
        "--web-seed",
        dest="web_seeds",
        metavar="URL",
        action="append",
        default=[],
        help="where the data can be had by HTTP (BEP 19); may be repeated",
    )
    group.add_argument("--comment", metavar="TEXT", help="a sentence for people")
    parser.flag(group, "-q", "--quiet", help="show errors only")


def _show(parser: Parser) -> None:
    parser.add_argument("source", metavar="SOURCE", help=SOURCE_HELP)
    parser.flag(parser, "--json", help="one JSON object instead of a table")


def _magnet(parser: Parser) -> None:
    parser.add_argument("source", metavar="SOURCE", help=SOURCE_HELP)


def _verify(parser: Parser) -> None:
    parser.add_argument("source", metavar="TORRENT", help="a .torrent file, its URL, or - for stdin")
    group = parser.add_argument_group("what is verified")
    _setting(group, "output")
    parser.flag(group, "-q", "--quiet", help="show errors only, which a damaged file is")


def _stats(parser: Parser) -> None:
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="what --stats has written, or - for stdin; without it the daemon is asked",
    )
    form = parser.add_mutually_exclusive_group()
    parser.flag(form, "--json", help="the whole document, as one JSON object")
    parser.flag(form, "--prometheus", help="the text form that Prometheus reads")
    _rpc(parser)


def _rpc(parser: Parser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("the daemon")
    for name in ("rpc", "rpc-user", "rpc-password-file"):
        _setting(group, name)
    return group


def _daemon(parser: Parser) -> None:
    group = _rpc(parser)
    _setting(group, "rpc-host-names")
    _setting(group, "watch")
    _setting(group, "output")
    group.add_argument(
        "--config",
        metavar="F",
        type=Path,
        help="read this configuration instead of the usual one; it is read again on HUP, and what programs change at "
        "run time, as rates, holds until what it says of that changes",
    )
    parser.flag(group, "--log-json", help="log one JSON object a line")
    _network(parser, peers=False)


def _add(parser: Parser) -> None:
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help=SOURCE_HELP)
    _setting(parser, "output")
    parser.flag(parser, "--paused", help="add it without starting it")
    _rpc(parser)


def _list(parser: Parser) -> None:
    parser.flag(parser, "--json", help="one JSON object instead of a table")
    _rpc(parser)


def _some(parser: Parser) -> None:
    parser.add_argument("torrents", metavar="ID|HASH|all", nargs="+", help="as 'swarm list' shows them")
    _rpc(parser)


def _remove(parser: Parser) -> None:
    parser.flag(parser, "--delete-data", help="delete the files of the torrents, too")
    _some(parser)


def _doctor(parser: Parser) -> None:
    _network(parser)
    parser.flag(parser.add_argument_group("what is shown"), "--json", help="one JSON object instead of tables")


def _demo(parser: Parser) -> None:
    pass


def _completion(parser: Parser) -> None:
    parser.add_argument("shell", metavar="bash|zsh|fish", choices=("bash", "zsh", "fish"), help="for which shell")


SOURCE_HELP = "a .torrent file, its http(s) URL, a magnet link, an info-hash in 40 hex digits, or - for stdin"

_DECLARE: dict[str, Callable[[Parser], None]] = {
    "download": _download,
    "seed": _seed,
    "create": _create,
    "show": _show,
    "magnet": _magnet,
    "verify": _verify,
    "stats": _stats,
    "daemon": _daemon,
    "add": _add,
    "list": _list,
    "start": _some,
    "stop": _some,
    "remove": _remove,
    "doctor": _doctor,
    "demo": _demo,
    "completion": _completion,
}
