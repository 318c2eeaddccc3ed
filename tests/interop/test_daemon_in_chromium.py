"""A running daemon that really downloads, watched in a browser; and other web pages in it that are after the daemon."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from swarm.cli.remote import Remote
from swarm.config import Config
from swarm.daemon.http import Request, Response, serve
from swarm.daemon.listen import Address
from swarm.endpoint import Endpoint
from swarm.errors import DaemonUnreachableError
from swarm.net.http import fetch
from swarm.net.real import RealNetwork
from swarm.node import open_node
from swarm.torrent.create import create
from swarm.torrent.magnet import Magnet, format_magnet
from swarm.torrent.metainfo import Metainfo, parse_torrent_untrusted
from swarm.wire.extended import ExtendedHandshake
from swarm.wire.messages import Extended
from tests.daemon.client_calls import SESSIONS, STATISTICS, TORRENTS, fits
from tests.daemon.test_metrics import check_exposition
from tests.interop.chromium import Browser, open_browser
from tests.interop.clients import free_port, swarm_command
from tests.needs import need_program
from tests.nodes import Sample
from tests.rawpeer import RawPeer

pytestmark = pytest.mark.interop

SIZE = 4_000_000
RATE = 1_500_000  # bytes per second: slow enough to be watched
NAME = "<img src=x onerror=\"document.title='owned'\">.bin"
CLIENT = "</td><script>document.title='owned'</script>"
CLOSED = Endpoint("127.0.0.1", 1)
LIMIT = 40.0

# Which parts of the download the page has shown, and the titles it has had; noted as they change, by the browser.
NOTE = """
window.shown = new Set();
const note = () => document.querySelectorAll('.torrents .part').forEach(part => window.shown.add(part.textContent));
new MutationObserver(note).observe(document.querySelector('#torrent-list'),
    {childList: true, characterData: true, subtree: true});
true
"""


@dataclass(frozen=True)
class Running:
    """``page`` is where the daemon answers a browser; ``port`` where peers find it."""

    page: Address
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://{self.page}/"

    async def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        remote = Remote([self.page], None, None)
        return await trio.to_thread.run_sync(lambda: remote.call(method, **arguments))


@contextmanager
def daemon(directory: Path, page: Address | None = None) -> Iterator[Running]:
    page, port = page or Address("127.0.0.1", free_port()), free_port()
    network = ("--bind", "127.0.0.1", "-p", port, "--no-dht", "--no-lsd", "--no-mapping", "--no-trackers")
    arguments = ("-o", directory / "downloads", "--rpc", page, *network)
    with swarm_command(directory / "state", "daemon", *arguments) as process:
        yield Running(page, port, process)


async def answers(running: Running) -> None:
    """Block until it does."""
    with trio.fail_after(LIMIT):
        while True:
            try:
                await running.call("session-get", fields=["version"])
            except DaemonUnreachableError:
                assert running.process.poll() is None
                await trio.sleep(0.1)
            else:
                return


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    content = bytes(range(251)) * (SIZE // 251 + 1)
    path = tmp_path / "seed" / NAME
    path.parent.mkdir()
    path.write_bytes(content[:SIZE])
    return Sample(parse_torrent_untrusted(create(path, piece_length=64 << 10)), path.parent, content[:SIZE])


@asynccontextmanager
async def seed(sample: Sample) -> AsyncIterator[Endpoint]:
    config = Config(port=0, bind="127.0.0.1", dht=False, lsd=False, mapping=False, trackers=False, upload_rate=RATE)
    async with open_node(config) as node:
        await node.add(sample.metainfo, sample.directory).wait_complete()
        assert node.port is not None
        yield Endpoint("127.0.0.1", node.port)


def link(metainfo: Metainfo, peers: Sequence[Endpoint]) -> str:
    return format_magnet(Magnet(info_hash=metainfo.info_hash, peers=tuple(peers)))


@asynccontextmanager
async def hostile_peer(running: Running, sample: Sample) -> AsyncIterator[None]:
    peer = await RawPeer.connect(RealNetwork(), Endpoint("127.0.0.1", running.port), sample)
    async with aclosing(peer.stream):
        await peer.say(Extended(0, ExtendedHandshake(v=CLIENT).encode()).encode())
        yield


async def test_a_download_is_watched_as_it_goes_on(tmp_path: Path, sample: Sample) -> None:
    chromium = need_program("chromium")
    with trio.fail_after(LIMIT), daemon(tmp_path) as running:
        await answers(running)
        async with open_browser(chromium, tmp_path / "profile") as browser, seed(sample) as endpoint:
            await browser.open(running.url, width=1280)
            await browser.wait_for("document.querySelector('#live')?.textContent === 'live'")
            await browser.value(NOTE)
            await running.call("torrent-add", filename=link(sample.metainfo, [endpoint, CLOSED]))
            await browser.wait_for("document.querySelectorAll('#torrent-list .name').length === 1")
            async with hostile_peer(running, sample):
                await browser.wait_for("document.querySelectorAll('#peer-list tr').length === 2")
                await _check_clients_see_the_transfer(running)
                await browser.wait_for("window.shown.has('100.0 %')")
                shown = await browser.value("[...window.shown]")
                assert len(shown) >= 4, shown  # live, that is: beginning and end, and some in between
                await _check_what_is_seen(browser)
            for width, dark in ((1280, True), (360, True), (360, False), (1280, False)):
                await browser.dress(dark=dark)
                await browser.resize(width, 900)
                assert await browser.value("document.documentElement.scrollWidth") <= width
                shot = tmp_path / f"{width}-{'dark' if dark else 'light'}.png"
                await browser.screenshot(shot, whole=True)
                assert shot.stat().st_size > 20_000
            assert not browser.complaints
        assert sample.is_whole_in(tmp_path / "downloads")


async def _check_clients_see_the_transfer(running: Running) -> None:
    """With peers connected, and a part of the data."""
    for shape in TORRENTS.values():
        (torrent,) = (await running.call("torrent-get", fields=list(shape)))["torrents"]
        for name in shape:
            assert fits(torrent[name], shape[name]), (name, torrent[name])
    told = await running.call("session-get")
    for shape in SESSIONS.values():
        assert fits(told, shape)
    assert fits(await running.call("session-stats"), STATISTICS)
    answer = await fetch(RealNetwork(), f"{running.url}metrics")
    series = check_exposition(answer.body.decode())
    assert series["swarm_torrent_received_bytes_total"] == 1


async def _check_what_is_seen(browser: Browser) -> None:
    """The torrent's name and the client's are text; the ways are drawn; who was not reached stands there, and why."""
    await browser.wait_for("!document.querySelector('#histogram').hidden")
    assert await browser.value("document.querySelector('#torrent-list .name').textContent") == NAME
    assert CLIENT in await browser.value("document.querySelector('#peer-list').textContent")
    assert await browser.value("document.querySelectorAll('main img, main script').length") == 0
    assert "owned" not in await browser.value("document.title")
    assert await browser.value("document.querySelectorAll('#ways-out .met').length") >= 1
    assert await browser.value("document.querySelectorAll('#ways-in .met').length") >= 1
    await browser.value("for (const each of document.querySelectorAll('details')) each.open = true")
    await browser.wait_for("document.querySelectorAll('.unreached li').length === 1")
    missed = await browser.value("document.querySelector('#missed').innerText")
    assert str(CLOSED) in missed
    assert "nothing listens on that port" in missed


async def test_the_page_finds_a_daemon_that_was_started_again(tmp_path: Path, sample: Sample) -> None:
    chromium = need_program("chromium")
    state, names = "document.body?.dataset.state", "document.querySelector('#torrent-list')?.textContent"
    with trio.fail_after(LIMIT):
        async with open_browser(chromium, tmp_path / "profile") as browser:
            with daemon(tmp_path) as running:
                await answers(running)
                await running.call("torrent-add", filename=link(sample.metainfo, []), paused=True)
                await browser.open(running.url, width=900)
                await browser.wait_for(f"{state} === 'live' && {names}.includes('Stopped')")
            await browser.wait_for(f"{state} === 'lost'")
            assert "trying again" in await browser.value("document.querySelector('#live').textContent")
            with daemon(tmp_path, running.page) as again:
                await answers(again)
                await again.call("torrent-remove")
                await browser.wait_for(f"{state} === 'live' && {names} === ''")
                assert await browser.value("document.querySelector('#torrents-empty').offsetHeight > 0")
        assert not [each for each in browser.complaints if "ERR_" not in each]


EVIL = """<!doctype html><title>waiting</title><script>
const target = %r, heard = [];
const attempt = (name, promise) => promise.then(told => heard.push(name + ": " + told), () => {});
const body = JSON.stringify({method: "torrent-remove", arguments: {"delete-local-data": true}});
const rpc = target + "transmission/rpc";
const framed = url => new Promise((resolve, reject) => {
  const frame = document.createElement("iframe");
  frame.onload = () => { try { resolve(frame.contentDocument.body.innerText) } catch (error) { reject(error) } };
  frame.src = url;
  document.body.append(frame);
});
const listened = url => new Promise((resolve, reject) => {
  const feed = new EventSource(url);
  feed.onmessage = event => resolve(event.data);
  feed.onerror = () => { feed.close(); reject() };
});
const read = async answer => answer.type === "opaque" ? Promise.reject() : await answer.text();
addEventListener("load", async () => {
  await Promise.all([
    attempt("told", fetch(rpc).then(read)),
    attempt("blind", fetch(rpc, {method: "POST", body, mode: "no-cors"}).then(read)),
    attempt("json", fetch(rpc, {method: "POST", body, headers: {"Content-Type": "application/json"}}).then(read)),
    attempt("id", fetch(rpc, {method: "POST", body, headers: {"X-Transmission-Session-Id": "x"}}).then(read)),
    attempt("page", fetch(target).then(read)),
    attempt("metrics", fetch(target + "metrics").then(read)),
    attempt("feed", listened(target + "events")),
    attempt("frame", framed(target)),
  ]);
  document.title = JSON.stringify(heard);
});
</script><body>
"""


class Everybody:
    def refusal(self, request: Request) -> Response | None:
        return None


async def test_other_pages_of_the_browser_learn_and_change_nothing(tmp_path: Path, sample: Sample) -> None:
    """One of another origin on this machine, and one whose name was made to resolve to it (DNS rebinding)."""
    chromium = need_program("chromium")
    with trio.fail_after(LIMIT), daemon(tmp_path) as running:
        await answers(running)
        await running.call("torrent-add", filename=link(sample.metainfo, []), paused=True)
        async with _site(EVIL % running.url) as evil, open_browser(chromium, tmp_path / "profile") as browser:
            await browser.open(evil, width=1280)
            await browser.wait_for("document.title.startsWith('[')")
            assert json.loads(await browser.value("document.title")) == []
            # Whatever is below .localhost a browser takes for this machine, and the daemon for somebody else's name.
            for name in ("rebound.localhost", "127.0.0.1.rebound.localhost"):
                await browser.open(f"http://{name}:{running.page.port}/", width=1280)
                await browser.wait_for(f"location.hostname === '{name}' && document.readyState === 'complete'")
                assert "not known here" in await browser.value("document.body.innerText")
                status = "fetch('/transmission/rpc', {method: 'POST', body: '{}'}).then(answer => answer.status)"
                assert await browser.value(status) == 421
        assert len((await running.call("torrent-get", fields=["id"]))["torrents"]) == 1


@asynccontextmanager
async def _site(page: str) -> AsyncIterator[str]:
    """A web site of somebody else's, of one page."""

    async def answer(request: Request) -> Response:
        return Response(200, [("Content-Type", "text/html; charset=utf-8")], page.encode())

    routes: Mapping[str, Any] = {"/": answer}
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, listeners, routes, Everybody())
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/"
        nursery.cancel_scope.cancel()
