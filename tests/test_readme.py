"""The README is true: its Python runs, its commands exist, its make targets are there."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import swarm
from swarm.cli.main import main
from swarm.discover.embedded_tracker import EmbeddedTracker, open_tracker
from swarm.endpoint import Endpoint
from swarm.net.real import RealNetwork
from swarm.torrent.create import create

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^    make (\w+)", README, re.MULTILINE))
    assert targets >= {"demo", "test"}
    rules = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets <= rules


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^    swarm (\w+)", README, re.MULTILINE))))
def test_the_commands_of_the_readme_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert command in capsys.readouterr().out


async def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its names, arguments and order are those of the library; endless waiting and the internet are replaced."""
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.txt").write_bytes(b"sand" * 10_000)
    monkeypatch.chdir(tmp_path)
    local = swarm.Config(bind="127.0.0.1", port=0)
    tracker = EmbeddedTracker(random.Random(1))
    async with open_tracker(RealNetwork(), Endpoint("127.0.0.1", 0), tracker) as where:
        url = f"http://{where}/announce"
        (tmp_path / "debian.torrent").write_bytes(create(tmp_path / "holiday", trackers=[url]))
        code = (
            block.replace("udp://tracker.example:6969/announce", url)
            .replace('"debian.torrent", "downloads"', '"debian.torrent", "downloads", config=LOCAL')
            .replace("swarm.Config(upload_rate=2_000_000)", "LOCAL")
            .replace("trio.run(main)", "")
        )
        scope: dict[str, object] = {"LOCAL": local}
        exec(compile(code, "README.md", "exec"), scope)
        async with swarm.open_node(local) as seed:
            await seed.add(
                swarm.Torrent.from_bytes((tmp_path / "debian.torrent").read_bytes()), tmp_path
            ).wait_checked()
            with trio.move_on_after(5):
                await scope["main"]()  # type: ignore[operator]
    assert (tmp_path / "downloads" / "holiday" / "beach.txt").read_bytes() == b"sand" * 10_000


def test_importing_swarm_loads_neither_trio_nor_sockets() -> None:
    code = "import sys, swarm; print([m for m in ('trio', 'ssl', 'h11', 'socket') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
