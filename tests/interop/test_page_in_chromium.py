"""The daemon's page in a real browser: it complains of nothing, shows hostile names as text, and fits a phone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from swarm.daemon.http import serve
from swarm.daemon.page import routes
from tests.daemon.busy import BusySession, Everybody
from tests.interop.chromium import Browser, open_browser
from tests.needs import need_program

pytestmark = pytest.mark.interop

DRAWN = (
    "document.querySelectorAll('#torrent-list li').length > 0 && document.querySelectorAll('#peer-list tr').length > 0"
)
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\">.iso",
    "</li></ul><script>document.title='owned'</script>",
    "\u202egnp.elif-elbarreh",
    "{{7*7}} ${7*7} &lt;b&gt; %3Cscript%3E",
    "x" * 10_000,
    "\u0000\u0007\u2028 \ud800 \ufeff",
)


@asynccontextmanager
async def opened(session: BusySession, tmp_path: Path) -> AsyncIterator[tuple[Browser, str]]:
    chromium = need_program("chromium")
    with trio.fail_after(60):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        async with trio.open_nursery() as nursery, open_browser(chromium, tmp_path / "profile") as browser:
            await nursery.start(serve, [listener], routes(session), Everybody())
            nursery.start_soon(session.move)
            yield browser, f"http://127.0.0.1:{port}/"
            nursery.cancel_scope.cancel()


async def test_it_complains_of_nothing_and_fits_two_widths_by_day_and_night(tmp_path: Path) -> None:
    async with opened(BusySession(), tmp_path) as (browser, url):
        for width, dark in ((360, True), (1280, False)):
            await browser.open(url, width=width, dark=dark)
            await browser.wait_for(DRAWN)
            await browser.value("for (const each of document.querySelectorAll('details')) each.open = true")
            await browser.wait_for("document.querySelectorAll('.unreached li').length > 10")
            assert await browser.value("document.documentElement.scrollWidth") <= width
            shot = tmp_path / f"{width}.png"
            await browser.screenshot(shot)
            assert shot.read_bytes().startswith(b"\x89PNG")
        assert await browser.value("document.querySelector('#live').textContent") == "live"
        assert not browser.complaints


async def test_it_is_live_and_keeps_what_is_open(tmp_path: Path) -> None:
    session = BusySession()
    async with opened(session, tmp_path) as (browser, url):
        await browser.open(url, width=900)
        await browser.wait_for(DRAWN)
        await browser.value("document.querySelector('#cause-list details').open = true")
        session.shared[1].name = "called otherwise"
        del session.entries[8]
        await browser.wait_for("document.querySelector('#torrent-list').textContent.includes('called otherwise')")
        await browser.wait_for("!document.querySelector('#torrent-list').textContent.includes('Sintel')")
        assert await browser.value("document.querySelector('#cause-list details').open")
        assert not browser.complaints


async def test_hostile_names_are_text(tmp_path: Path) -> None:
    session = BusySession()
    for torrent, name in zip(session.shared, HOSTILE, strict=False):
        torrent.name = torrent.error = name
    for number, name in enumerate(HOSTILE):
        object.__setattr__(session.node.live[number], "client", name)
    async with opened(session, tmp_path) as (browser, url):
        await browser.open(url, width=360)
        await browser.wait_for(DRAWN)
        shown = await browser.value("[...document.querySelectorAll('.name')].map(name => name.textContent)")
        assert HOSTILE[0] in shown and HOSTILE[1] in shown and HOSTILE[3] in shown
        assert "\\u202egnp.elif-elbarreh" in shown
        assert max(map(len, shown)) <= 200
        assert await browser.value("document.querySelectorAll('main img, main script').length") == 0
        assert "owned" not in await browser.value("document.title")
        assert await browser.value("document.documentElement.scrollWidth") <= 360
        assert not browser.complaints


async def test_an_empty_session_says_what_will_appear(tmp_path: Path) -> None:
    session = BusySession()
    session.entries.clear()
    session.shared.clear()
    session.node.live.clear()
    async with opened(session, tmp_path) as (browser, url):
        await browser.open(url, width=1280)
        await browser.wait_for("document.querySelector('#verdict')?.textContent.startsWith('Peers reach you')")
        assert "swarm add" in await browser.value("document.querySelector('#torrents-empty').innerText")
        assert await browser.value("document.querySelector('#torrents-empty').offsetHeight > 0")
        assert not browser.complaints


async def test_the_keyboard_reaches_everything_that_opens(tmp_path: Path) -> None:
    async with opened(BusySession(), tmp_path) as (browser, url):
        await browser.open(url, width=900)
        await browser.wait_for(DRAWN)
        await browser.value("document.querySelector('#cause-list summary').focus()")
        for kind in ("keyDown", "keyUp"):
            await browser.ask(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
            )
        await browser.wait_for("document.querySelectorAll('.unreached li dd').length > 0")
        assert not browser.complaints
