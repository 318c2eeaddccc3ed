"""``swarm completion bash|zsh|fish``: a completion script made from the parsers, so that it cannot drift from them."""

from __future__ import annotations

import argparse
from argparse import Namespace
from dataclasses import dataclass

from swarm.cli.commands import COMMANDS, Command
from swarm.cli.output import say
from swarm.cli.parser import build

PATHS = {"FILE", "PATH", "SOURCE", "TORRENT"}
DIRECTORIES = {"DIR"}


def run(options: Namespace) -> int:
    say({"bash": bash_script, "zsh": zsh_script, "fish": fish_script}[options.shell](), end="")
    return 0


@dataclass(frozen=True, slots=True)
class Option:
    """One option or positional of a command as a shell needs to know it."""

    names: tuple[str, ...]
    """Empty for a positional."""
    help: str
    metavar: str
    """Empty for a flag."""
    choices: tuple[str, ...]
    repeats: bool

    @property
    def kind(self) -> str:
        """What its value is: "none", "choices", "directory", "path" or "text"."""
        if not self.metavar:
            return "none"
        if self.choices:
            return "choices"
        return "directory" if self.metavar in DIRECTORIES else "path" if self.metavar in PATHS else "text"


def options_of(command: Command) -> list[Option]:
    """The options and positionals that the help of ``command`` shows."""
    return [_option(action) for action in build(command)._actions if action.help != argparse.SUPPRESS]


def _option(action: argparse.Action) -> Option:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    choices = tuple(map(str, action.choices)) if action.choices else ()
    if not choices and metavar.count("|") and metavar.islower():
        choices = tuple(metavar.split("|"))
    return Option(
        names=tuple(action.option_strings),
        help=(action.help or "").split("; ")[0].replace("%%", "%"),
        metavar=metavar if action.nargs != 0 else "",
        choices=choices,
        repeats=(not action.option_strings and action.nargs == "+") or isinstance(action, argparse._AppendAction),
    )


def bash_script() -> str:
    """For bash 3.2 and later, without the bash-completion package."""
    cases = "\n".join(_bash_case(command) for command in COMMANDS)
    names = " ".join(command.name for command in COMMANDS)
    return f"""\
# bash completion of swarm
_swarm() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} options= positional=
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{names} --help --version" -- "$word"))
        return
    fi
    case ${{COMP_WORDS[1]}} in
{cases}
    *) return ;;
    esac
    case $word in
    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;
    *) _swarm_value "$positional" "$word" ;;
    esac
}}
_swarm_value() {{
    local IFS=$'\\n'
    case $1 in
    directory) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$2")) ;;
    path) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$2")) ;;
    text) ;;
    *) IFS=$' \\n'; COMPREPLY=($(compgen -W "$1" -- "$2")) ;;
    esac
}}
complete -F _swarm swarm
"""


def _bash_case(command: Command) -> str:
    options = options_of(command)
    names = " ".join(name for option in options for name in option.names)
    positional = next((_bash_value(option) for option in options if not option.names), "text")
    values = "\n".join(
        f'        {"|".join(option.names)}) _swarm_value "{_bash_value(option)}" "$word"; return ;;'
        for option in options
        if option.names and option.metavar
    )
    inner = f"        case $before in\n{values}\n        esac\n" if values else ""
    return f'    {command.name})\n        options="{names}" positional="{positional}"\n{inner}        ;;'


def _bash_value(option: Option) -> str:
    return " ".join(option.choices) if option.kind == "choices" else option.kind


def zsh_script() -> str:
    """For compinit: in a directory of ``fpath``, as the file ``_swarm``."""
    described = "\n".join(f"        '{command.name}:{_quoted(command.summary)}'" for command in COMMANDS)
    cases = "\n".join(_zsh_case(command) for command in COMMANDS)
    return f"""\
#compdef swarm
_swarm() {{
    local -a commands
    commands=(
{described}
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        _arguments '--help[show this and leave]' '--version[show the version and leave]'
        return
    fi
    local command=$words[2]
    shift words
    (( CURRENT-- ))
    case $command in
{cases}
    esac
}}
if [ "$funcstack[1]" = "_swarm" ]; then
    _swarm "$@"
else
    compdef _swarm swarm
fi
"""


def _zsh_case(command: Command) -> str:
    lines = " \\\n".join(
        f"            {specification}" for option in options_of(command) for specification in _zsh(option)
    )
    return f"    {command.name})\n        _arguments -s \\\n{lines}\n        ;;"


def _zsh(option: Option) -> list[str]:
    action = {
        "choices": f"({' '.join(option.choices)})",
        "directory": "_files -/",
        "path": "_files",
        "text": " ",
        "none": "",
    }[option.kind]
    value = f":{_quoted(option.metavar).replace(':', chr(92) + ':')}:{action}" if option.metavar else ""
    if not option.names:
        return [f"'{'*' if option.repeats else ''}{value}'"]
    text = _quoted(option.help).replace("[", "\\[").replace("]", "\\]")
    star = "*" if option.repeats else ""
    others = "" if option.repeats or len(option.names) == 1 else f"({' '.join(option.names)})"
    return [f"'{others}{star}{name}[{text}]{value}'" for name in option.names]


def _quoted(text: str) -> str:
    return text.replace("'", "'\\''")


def fish_script() -> str:
    names = " ".join(command.name for command in COMMANDS)
    lines = ["# fish completion of swarm", "complete -c swarm -f"]
    for command in COMMANDS:
        summary = _fish(command.summary)
        lines.append(f"complete -c swarm -n 'not __fish_seen_subcommand_from {names}' -a {command.name} -d '{summary}'")
    for command in COMMANDS:
        when = f"complete -c swarm -n '__fish_seen_subcommand_from {command.name}'"
        lines += [f"{when}{_fish_option(option)}" for option in options_of(command)]
    return "\n".join(lines) + "\n"


def _fish_option(option: Option) -> str:
    names = "".join(f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}" for name in option.names)
    value = {
        "choices": f" -x -a '{' '.join(option.choices)}'",
        "directory": " -x -a '(__fish_complete_directories)'",
        "path": " -r -F",
        "text": " -x",
        "none": "",
    }[option.kind]
    if not option.names:
        value = value.replace(" -r -F", " -F").replace(" -x", "")
    return f"{names}{value} -d '{_fish(option.help)}'"


def _fish(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
