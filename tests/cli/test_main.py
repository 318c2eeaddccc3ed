"""The program as such: help, mistakes, exit codes, and what it loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from swarm.cli.commands import COMMANDS
from swarm.cli.main import main, unwrapped
from swarm.errors import MetainfoError, StorageError, SwarmError
from tests.cli.programs import SAMPLE, environment, running, swarm

HEAVY = {"trio", "ssl", "h11", "socket", "asyncio", "hashlib", "json", "inspect", "dataclasses"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["download", "--help"], ["seed", "-h"], ["demon"]])
def test_help_and_mistakes_load_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    program = (
        "import sys; from swarm.cli.main import main; main(sys.argv[1:]); print(*sys.modules, sep=',', file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment(tmp_path)
    )
    loaded = set(done.stderr.splitlines()[-1].split(","))
    assert "swarm.cli.main" in loaded
    assert not loaded & HEAVY


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        assert main([command.name, "--help"]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"usage: swarm {command.name}")
        assert command.summary in shown
        assert "examples:" in shown
        assert "SUPPRESS" not in shown


def test_the_overview_names_what_there_is_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert {command.name for command in COMMANDS} <= listed


def test_without_a_command_help_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: swarm")


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    import swarm

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"swarm {swarm.__version__}\n"


@pytest.mark.parametrize(
    "arguments,sentence",
    [
        (["downlod", "x"], "did you mean 'download'?"),
        (["download", "x", "--sed"], "did you mean '--seed'?"),
        (["download", "x", "--no-dth"], "did you mean '--no-dht'?"),
        (["download"], "SOURCE"),
        (["show", "x", "y"], "unknown"),
        (["--quiet"], "options come after the command"),
        (["download", "x", "-d", "fast"], "not a rate"),
        (["download", "x", "-p", "70000"], "65535"),
        (["download", "x", "--select", "0"], "numbered from 1"),
        (["download", "x", "--timeout", "0"], "not a time"),
        (["download", "x", "--peer", "host"], "HOST:PORT"),
        (["download", "x", "--seed", "--seed-time", "5m"], "not allowed with"),
        (["download", "x", "--encryption", "hard"], "prefer, require, off"),
        (["completion", "tcsh"], "zsh"),
        (["download", "x", "--turn", "turn:u:p"], "turn:USER:PASSWORD@HOST:PORT"),
        (["seed", "magnet:?xt=urn:btih:" + "a" * 40], "magnet"),
        (["verify", "b" * 40], "magnet"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], isolated: None
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("swarm: error: ")
    assert captured.err.count("\n") == 1
    assert sentence in captured.err


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def test_options_and_sources_mix_freely(capsys: pytest.CaptureFixture[str], isolated: None) -> None:
    assert main(["show", "--json", str(SAMPLE)]) == main(["show", str(SAMPLE), "--json"]) == 0
    assert main(["download", "a", "--no-utp", "b", "--select", "1", "--no-dht"]) == 2
    assert "single SOURCE" in capsys.readouterr().err


def test_a_traceback_is_shown_with_v_only(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    plain, verbose = swarm(tmp_path, "show", missing), swarm(tmp_path, "show", missing, "-v")
    assert plain.returncode == verbose.returncode == 4
    assert "Traceback" not in plain.stderr
    assert "Traceback" in verbose.stderr
    assert verbose.stderr.endswith(plain.stderr)


def test_a_bug_is_one_sentence_too(tmp_path: Path) -> None:
    program = (
        "import sys, swarm.cli.show as show\n"
        "from swarm.cli.main import main\n"
        "def run(options): raise KeyError('oh')\n"
        "show.run = run\n"
        "main()"
    )
    for words, shown in (([], False), (["-v"], True)):
        done = subprocess.run(
            [sys.executable, "-c", program, "show", "x", *words],
            capture_output=True,
            text=True,
            env=environment(tmp_path),
        )
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) is shown
        assert "KeyError" in done.stderr


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    with running(tmp_path, "completion", "bash") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(10) in (0, 1)


def test_groups_of_our_errors_stand_for_the_first() -> None:
    storage, other = StorageError("full"), ValueError("bug")
    assert unwrapped(storage) is storage
    assert unwrapped(ExceptionGroup("", [ExceptionGroup("", [storage])])) is storage
    assert unwrapped(ExceptionGroup("", [ExceptionGroup("", [storage]), MetainfoError("x")])) is storage
    mixed = ExceptionGroup("", [storage, other])
    assert unwrapped(mixed) is mixed
    assert unwrapped(BaseExceptionGroup("", [KeyboardInterrupt(), storage])).__class__ is KeyboardInterrupt


def test_every_error_has_a_code_of_the_interface() -> None:
    assert {kind.code for kind in SwarmError.__subclasses__()} <= set(range(1, 8))
