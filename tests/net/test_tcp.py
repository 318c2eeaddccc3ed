"""TCP streams and listeners on real loopback sockets."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import assert_checkpoints, check_half_closeable_stream

from swarm.endpoint import Endpoint
from swarm.net.network import ReceivesInto, SendsFile, SendsVectored
from swarm.net.real import RealNetwork
from swarm.net.tcp import IOV_MAX, TcpStream
from tests.net.namespace import run_in_namespace

ANY4 = Endpoint("127.0.0.1", 0)
ANY6 = Endpoint("::1", 0)


async def make_pair(local: Endpoint = ANY4) -> tuple[TcpStream, TcpStream]:
    network = RealNetwork()
    listener = await network.listen_tcp(local)
    dialled = await network.dial_tcp(listener.local)
    accepted = await listener.accept()
    listener.close()
    return dialled, accepted


@asynccontextmanager
async def pair(local: Endpoint = ANY4) -> AsyncIterator[tuple[TcpStream, TcpStream]]:
    dialled, accepted = await make_pair(local)
    try:
        yield dialled, accepted
    finally:
        dialled.abort()
        accepted.abort()


async def receive_exactly(stream: TcpStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await stream.receive_some()
        assert part, "the stream ended early"
        data += part
    return data


async def make_clogged_pair() -> tuple[TcpStream, TcpStream]:
    """A pair whose kernel buffers are full both ways and, being of fixed size, stay so."""
    streams = await make_pair()
    for stream in streams:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            stream._sock.setsockopt(socket.SOL_SOCKET, option, 64 << 10)
    for stream in streams:
        with trio.move_on_after(0.05):
            await stream.send_all(bytes(4 << 20))
    return streams


async def test_it_is_a_half_closeable_stream_as_trio_defines_it() -> None:
    await check_half_closeable_stream(make_pair, make_clogged_pair)


@pytest.mark.parametrize("local", [ANY4, ANY6])
async def test_both_ends_name_the_same_two_endpoints(local: Endpoint) -> None:
    async with pair(local) as (dialled, accepted):
        assert dialled.local == accepted.remote
        assert dialled.remote == accepted.local
        assert dialled.local.host == local.host


async def test_all_three_capabilities_are_offered() -> None:
    async with pair() as (stream, _):
        assert isinstance(stream, ReceivesInto)
        assert isinstance(stream, SendsVectored)
        assert isinstance(stream, SendsFile)


async def test_receive_into_fills_the_front_of_the_buffer_and_ends_with_zero() -> None:
    async with pair() as (left, right):
        buffer = bytearray(b"........")
        await left.send_all(b"abc")
        with assert_checkpoints():
            assert await right.receive_into(memoryview(buffer)) == 3
        assert buffer == b"abc....."
        await left.send_eof()
        assert await right.receive_into(memoryview(buffer)) == 0
        with pytest.raises(ValueError, match="end of the stream"):
            await right.receive_into(memoryview(b""))


async def test_a_vector_longer_than_the_kernel_takes_at_once_arrives_in_order() -> None:
    buffers = [bytes([i % 251]) * (i % 7) for i in range(3 * IOV_MAX + 5)] + [memoryview(bytes(range(256)) * 20_000)]
    expected = b"".join(bytes(buffer) for buffer in buffers)
    async with pair() as (left, right), trio.open_nursery() as nursery:
        nursery.start_soon(left.send_vectored, buffers)
        assert await receive_exactly(right, len(expected)) == expected


async def test_an_empty_vector_is_a_checkpoint_and_sends_nothing() -> None:
    async with pair() as (left, _):
        with assert_checkpoints():
            await left.send_vectored([b"", b""])
    with pytest.raises(trio.ClosedResourceError):
        await left.send_vectored([])


async def test_a_part_of_a_file_is_sent_by_the_kernel(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "file").write_bytes(content)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        async with pair() as (left, right), trio.open_nursery() as nursery:
            nursery.start_soon(left.send_file, fd, 1000, 2 << 20)
            assert await receive_exactly(right, 2 << 20) == content[1000 : 1000 + (2 << 20)]
    finally:
        os.close(fd)


async def test_a_file_that_ends_early_is_an_input_output_error_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"short")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    async with pair() as (left, right):
        with pytest.raises(OSError) as caught:
            await left.send_file(fd, 0, 6)
        assert caught.value.errno == errno.EIO
        assert await receive_exactly(right, 5) == b"short"
        os.close(fd)
        with pytest.raises(OSError) as caught:
            await left.send_file(fd, 0, 6)
        assert caught.value.errno == errno.EBADF


async def test_a_reset_of_the_other_end_breaks_every_direction(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    async with pair() as (left, right):
        right.abort()
        with pytest.raises(trio.BrokenResourceError):
            await left.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await left.send_all(b"x")
        with (tmp_path / "file").open("rb") as file, pytest.raises(trio.BrokenResourceError):
            await left.send_file(file.fileno(), 0, 1)


async def test_abort_resets_and_may_be_called_twice() -> None:
    async with pair() as (left, right):
        left.abort()
        left.abort()
        with pytest.raises(trio.BrokenResourceError):
            await right.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await left.receive_some()


async def test_closing_delivers_what_was_sent() -> None:
    async with pair() as (left, right):
        await left.send_all(b"last words")
        await left.aclose()
        assert await right.receive_some() == b"last words"
        assert await right.receive_some() == b""


async def test_two_tasks_in_one_direction_are_refused() -> None:
    async with pair() as (left, right), trio.open_nursery() as nursery:
        nursery.start_soon(left.receive_some)
        nursery.start_soon(right.send_all, bytes(64 << 20))
        await trio.testing.wait_all_tasks_blocked(0.01)
        with pytest.raises(trio.BusyResourceError):
            await right.send_vectored([b"x"])
        nursery.cancel_scope.cancel()


async def test_a_reader_is_told_when_another_task_closes() -> None:
    async def read(stream: TcpStream) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_into(memoryview(bytearray(1)))

    async with pair() as (left, _), trio.open_nursery() as nursery:
        nursery.start_soon(read, left)
        await trio.testing.wait_all_tasks_blocked(0.01)
        left.abort()


async def test_one_port_listens_and_dials() -> None:
    network = RealNetwork()
    ours, theirs = await network.listen_tcp(ANY4), await network.listen_tcp(ANY4)
    dialled = await network.dial_tcp(theirs.local, local=ours.local)
    accepted = await theirs.accept()
    assert accepted.remote == ours.local
    with pytest.raises(OSError) as caught:  # exactly this pair of endpoints is in use
        await network.dial_tcp(theirs.local, local=ours.local)
    assert caught.value.errno == errno.EADDRNOTAVAIL
    # After a reset no TIME_WAIT stands in the way.
    dialled.abort()
    accepted.abort()
    again = await network.dial_tcp(theirs.local, local=ours.local)
    again.abort()
    ours.close()
    theirs.close()


async def test_nobody_listening_is_a_refusal_and_not_a_connection_with_oneself() -> None:
    network = RealNetwork()
    listener = await network.listen_tcp(ANY4)
    gone = listener.local
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        await network.dial_tcp(gone)
    with pytest.raises(ConnectionRefusedError):
        await network.dial_tcp(gone, local=gone)


async def test_a_name_is_never_looked_up_by_a_dial() -> None:
    with pytest.raises(ValueError, match="literal"):
        await RealNetwork().dial_tcp(Endpoint("localhost", 1))


async def test_a_cancelled_dial_leaves_no_socket_behind() -> None:
    network = RealNetwork()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    full = Endpoint(*listener.getsockname())
    waiting = [await network.dial_tcp(full)]
    before = set(os.listdir("/proc/self/fd"))
    with trio.move_on_after(0.05) as scope:  # the backlog is full: the SYN is dropped
        while True:
            waiting.append(await network.dial_tcp(full))
            before = set(os.listdir("/proc/self/fd"))
    assert scope.cancelled_caught
    assert set(os.listdir("/proc/self/fd")) == before
    for stream in waiting:
        stream.abort()
    listener.close()


@contextmanager
def no_more_handles() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(highest, soft), hard))
    spare = []
    try:
        while True:
            spare.append(os.dup(0))
    except OSError:
        pass
    try:
        yield
    finally:
        for fd in spare:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_accept_waits_out_a_lack_of_file_handles() -> None:
    network = RealNetwork()
    listener = await network.listen_tcp(ANY4)
    dialled = await network.dial_tcp(listener.local)
    with no_more_handles(), trio.move_on_after(0.15) as scope:
        await listener.accept()
    assert scope.cancelled_caught
    accepted = await listener.accept()
    assert accepted.remote == dialled.local
    accepted.abort()
    dialled.abort()
    listener.close()


async def test_a_closed_listener_tells_the_acceptor() -> None:
    async def accept() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    listener = await RealNetwork().listen_tcp(ANY6)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked(0.01)
        listener.close()
    listener.close()
    await accept()


async def test_a_reader_that_takes_its_time_answers_and_no_kernel_ends_the_connection() -> None:
    """TCP_USER_TIMEOUT would: measured, 10.7 s after the window closed, although every probe is answered."""
    with trio.fail_after(10):
        sender, reader = await make_clogged_pair()
        try:
            while sender.unanswered():
                await trio.sleep(0.01)
            assert not sender._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        finally:
            sender.abort()
            reader.abort()
    assert sender.unanswered() == 0.0


def test_what_nobody_acknowledges_is_told_in_seconds() -> None:
    run_in_namespace(
        [],
        """
        import subprocess, trio
        from tests.net.test_tcp import pair

        async def main():
            async with pair() as (sender, reader):
                await sender.send_all(b"x")
                await reader.receive_some()
                await trio.sleep(0.3)  # in which nothing was to be acknowledged: it does not count
                assert sender.unanswered() == 0
                subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
                started = trio.current_time()
                await sender.send_all(b"x")
                sender.unanswered()
                with trio.fail_after(5):
                    while (told := sender.unanswered()) < 0.5:
                        await trio.sleep(0.05)
                    assert trio.current_time() - started < 0.8
                    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
                    while sender.unanswered():
                        await trio.sleep(0.05)

        trio.run(main)
        """,
    )
