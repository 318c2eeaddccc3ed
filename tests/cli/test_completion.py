"""Completion scripts, in the shells themselves."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from swarm.cli.commands import COMMANDS
from swarm.cli.completion import bash_script, fish_script, zsh_script
from tests.needs import need_program


def shell(*arguments: str, **options: object) -> str:
    done = subprocess.run(list(arguments), capture_output=True, text=True, timeout=10, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return str(done.stdout)


def complete(tmp_path: Path, *words: str) -> list[str]:
    """What bash offers for the last of ``words``."""
    script = tmp_path / "completion.bash"
    script.write_text(bash_script())
    quoted = " ".join(f"'{word}'" for word in words)
    program = (
        f"source {script}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _swarm 2>/dev/null; "
        'for each in "${COMPREPLY[@]}"; do echo "$each"; done'
    )
    return shell("bash", "--norc", "-c", program, cwd=tmp_path).splitlines()


def test_bash_completes_commands(tmp_path: Path) -> None:
    assert complete(tmp_path, "swarm", "dow") == ["download"]
    assert set(complete(tmp_path, "swarm", "")) == {command.name for command in COMMANDS} | {"--help", "--version"}


def test_bash_completes_options_of_the_command(tmp_path: Path) -> None:
    assert complete(tmp_path, "swarm", "download", "--seed-") == ["--seed-ratio", "--seed-time"]
    assert complete(tmp_path, "swarm", "create", "--seed-") == []
    assert complete(tmp_path, "swarm", "download", "--tur") == ["--turn"]


def test_bash_completes_values(tmp_path: Path) -> None:
    (tmp_path / "my torrents").mkdir()
    (tmp_path / "my.torrent").touch()
    assert complete(tmp_path, "swarm", "download", "my") == ["my torrents", "my.torrent"]
    assert complete(tmp_path, "swarm", "download", "-o", "my") == ["my torrents"]
    assert complete(tmp_path, "swarm", "download", "--encryption", "") == ["prefer", "require", "off"]
    assert complete(tmp_path, "swarm", "completion", "") == ["bash", "zsh", "fish"]
    assert complete(tmp_path, "swarm", "seed", "x", "--port", "") == []


def test_zsh_reads_the_script(tmp_path: Path) -> None:
    need_program("zsh")
    (tmp_path / "_swarm").write_text(zsh_script())
    program = f"fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -d {tmp_path}/dump; print $_comps[swarm]"
    assert shell("zsh", "-f", "-c", program).strip() == "_swarm"
    shell("zsh", "-n", str(tmp_path / "_swarm"))


@pytest.mark.parametrize(
    "line,offered",
    [
        ("swarm dow", {"download"}),
        ("swarm create --tr", {"--tracker"}),
        ("swarm completion ", {"bash", "zsh", "fish"}),
        ("swarm download --encryption ", {"prefer", "require", "off"}),
        ("swarm download --no-tr", {"--no-trackers"}),
    ],
)
def test_fish_completes(line: str, offered: set[str], tmp_path: Path) -> None:
    need_program("fish")
    script = tmp_path / "swarm.fish"
    script.write_text(fish_script())
    program = f"source {script}; complete -C '{line}'"
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    shown = shell("fish", "--no-config", "-c", program, cwd=tmp_path, env=environment)
    assert {row.split("\t")[0] for row in shown.splitlines()} == offered
