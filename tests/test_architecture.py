"""The floors of the design, held as data: imports go down, never up; cores do no I/O, read no clock, roll no dice."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dht.datagram
import swarm.net.network
import utp.path

ROOT = Path(__file__).resolve().parent.parent

# The longest matching prefix decides.  A module without a floor fails the test: give it one here, on purpose.
FLOORS: dict[str, int] = {
    "utp": 0,
    "dht": 0,
    "utp.stream": 2,
    "utp.service": 2,
    "dht.service": 2,
    "swarm": 1,  # swarm/__init__.py: lazy names only
    "swarm.endpoint": 1,
    "swarm.errors": 1,
    "swarm.events": 1,
    "swarm.config": 1,
    "swarm.stats": 1,
    "swarm.knownpeer": 1,
    "swarm.peerlist": 1,
    "swarm.identity": 1,
    "swarm.bitfield": 1,
    "swarm.ratelimit": 1,
    "swarm.wire": 1,
    "swarm.ext": 1,
    "swarm.torrent": 1,
    "swarm.torrent.disk": 3,
    "swarm.torrent.keeping": 3,
    "swarm.torrent.exchange": 3,
    "swarm.torrent.duplicates": 3,
    "swarm.torrent.connections": 3,
    "swarm.torrent.room": 3,
    "swarm.torrent.carried": 3,
    "swarm.torrent.seedlinks": 3,
    "swarm.torrent.lent": 4,
    "swarm.torrent.beginning": 4,
    "swarm.torrent.content": 4,
    "swarm.torrent.examine": 4,
    "swarm.torrent.extensions": 4,
    "swarm.torrent.greeting": 4,
    "swarm.torrent.gossip": 4,
    "swarm.torrent.meetings": 4,
    "swarm.torrent.metasource": 4,
    "swarm.torrent.presence": 4,
    "swarm.torrent.sources": 4,
    "swarm.torrent.telling": 4,
    "swarm.torrent.turned": 4,
    "swarm.torrent.ways": 4,
    "swarm.torrent.acquaintance": 4,
    "swarm.torrent.admission": 4,
    "swarm.torrent.torrent": 4,
    "swarm.net": 2,
    "swarm.source": 3,
    "swarm.simnet": 2,
    "swarm.peer": 3,
    "swarm.peerwriter": 3,
    "swarm.connect": 3,
    "swarm.connect.relay_report": 1,
    "swarm.connect.report": 1,
    "swarm.connect.turn_report": 1,
    "swarm.connect.predict": 1,
    "swarm.connect.knock": 2,
    "swarm.connect.votes": 1,
    "swarm.connect.natprobe": 1,
    "swarm.connect.natverdict": 1,
    "swarm.connect.sent_to": 1,
    "swarm.connect.reachability": 1,
    "swarm.gateway": 1,
    "swarm.gateway.clients": 3,
    "swarm.gateway.keeper": 3,
    "swarm.gateway.lans": 3,
    "swarm.gateway.mapper": 3,
    "swarm.gateway.session": 3,
    "swarm.gateway.suspend": 3,
    "swarm.discover": 4,
    "swarm.eventbus": 3,
    "swarm.state": 5,
    "swarm.snapshot": 5,
    "swarm.node": 5,
    "swarm.online": 5,
    "swarm.ownport": 5,
    "swarm.api": 5,
    "swarm.cli": 6,
    "swarm.daemon": 6,
    "swarm.__main__": 6,
}

# Modules on floors 0 and 1 import these and our packages, nothing else: a list of what is forbidden has gaps.
PURE = {
    "__future__", "abc", "array", "base64", "bencode", "binascii", "bisect", "collections", "contextlib", "copy",
    "cryptography", "dataclasses", "enum", "errno", "functools", "hashlib", "heapq", "hmac", "ipaddress", "itertools",
    "math", "operator", "os", "random", "re", "stat", "string", "struct", "sys", "types", "typing", "unicodedata",
    "urllib.parse", "xml", "zlib",
}  # fmt: skip
# Of some of them only what neither reads the world nor rolls dice; a generator is handed to the constructor.
PURE_NAMES = {
    "os": {"name", "fsencode", "fsdecode", "PathLike"},
    "random": {"Random"},
    "sys": {"platform", "byteorder", "maxsize", "version_info"},
}
CALLS_OF_THE_WORLD = {"open", "print", "input", "__import__", "exec", "eval"}
# Files are opened by storage, resume and create only.
TOUCHES_FILES = {"swarm.torrent.storage", "swarm.torrent.openfile", "swarm.torrent.resume", "swarm.torrent.create"}
NAMES_PATHS = TOUCHES_FILES | {"swarm.config"}  # pathlib, there as a type
IMPORTS_LAZILY = {"swarm", "dht"}  # by importlib: the public names of a package
PACKAGES = ("utp", "dht", "swarm")


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def floor_of(module: str) -> int:
    name = module
    while name:
        if name in FLOORS:
            return FLOORS[name]
        name = name.rpartition(".")[0]
    raise AssertionError(f"{module} stands on no floor")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module a file imports at any depth, also inside functions; not under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            assert isinstance(node, ast.If)
            yield from imports(ast.Module(node.orelse, []))
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                yield dotted if dotted in MODULES else node.module
        yield from imports(node)


def parse(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def upward_imports(module: str, tree: ast.Module) -> list[str]:
    floor = floor_of(module)
    return [
        f"{module} (floor {floor}) imports {imported} (floor {floor_of(imported)})"
        for imported in imports(tree)
        if imported.split(".")[0] in PACKAGES and floor_of(imported) > floor
    ]


def lazy_names(tree: ast.Module) -> Iterator[str]:
    """Public names taken from a package itself: they are loaded from any floor, so the product names their modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in PACKAGES)
        elif isinstance(node, ast.ImportFrom) and node.module in PACKAGES:
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in dotted if name not in MODULES and not name.endswith(".__version__"))


def impurities(module: str, tree: ast.Module) -> Iterator[str]:
    """I/O, clocks and dice in a core, as far as its text shows them."""
    touches_files = module in TOUCHES_FILES
    for name in imports(tree):
        allowed = PURE | ({"pathlib"} if module in NAMES_PATHS else set())
        allowed |= {"importlib"} if module in IMPORTS_LAZILY else set()
        parts = name.split(".")
        if parts[0] not in {*PACKAGES, *allowed} and name not in allowed:
            yield f"imports {name}"
    restricted = {owner: names for owner, names in PURE_NAMES.items() if not (owner == "os" and touches_files)}
    worldly = CALLS_OF_THE_WORLD - ({"open"} if touches_files else set())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in restricted:
            taken = {alias.name for alias in node.names} - restricted[node.module]
            yield from (f"imports {node.module}.{name}" for name in taken)
        elif isinstance(node, ast.Import):
            yield from (f"renames {each.name}" for each in node.names if each.asname and each.name in PURE_NAMES)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in restricted:
            if node.attr not in restricted[node.value.id]:
                yield f"uses {node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"random.Random", "Random", "os.urandom"}:
            yield f"calls {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in worldly:
            yield f"calls {node.func.id}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    assert not upward_imports(module, parse(module))


@pytest.mark.parametrize("module", [name for name in MODULES if floor_of(name) < 6])
def test_inside_nobody_goes_through_the_lazy_names(module: str) -> None:
    assert not list(lazy_names(parse(module)))


@pytest.mark.parametrize("leaf,others", [("utp", ("swarm", "dht")), ("dht", ("swarm", "utp"))])
def test_leaf_packages_stand_alone(leaf: str, others: tuple[str, ...]) -> None:
    for module in MODULES:
        if module.split(".")[0] == leaf:
            strangers = [name for name in imports(parse(module)) if name.split(".")[0] in others]
            assert not strangers, f"{module} imports {strangers}"


@pytest.mark.parametrize("module", [name for name in MODULES if floor_of(name) <= 1])
def test_cores_do_no_io_read_no_clock_and_roll_no_dice(module: str) -> None:
    assert not list(impurities(module, parse(module)))


SMUGGLED = (
    "import time", "from time import time", "import datetime", "from datetime import datetime", "import trio",
    "import asyncio.events", "import socket", "import _socket", "import http.client", "import urllib.request",
    "import logging", "import concurrent.futures", "import secrets", "from secrets import token_bytes", "import uuid",
    "import os\nos.open('x', 0)", "import os\nos.urandom(1)", "import os as o\no.urandom(1)", "from os import urandom",
    "from os import open as o", "open('x')", "from pathlib import Path", "import importlib", "__import__('trio')",
    "import random\nrandom.uniform(1, 2)", "import random\nf = random.random", "import random\nrandom.Random()",
    "import random\nrandom.SystemRandom()", "from random import randrange", "import sys\nsys.stdout.write('x')",
)  # fmt: skip


@pytest.mark.parametrize("source", SMUGGLED)
def test_what_is_smuggled_into_a_core_is_found(source: str) -> None:
    indented = "\n".join(f"    {line}" for line in source.splitlines())
    for text in (source, f"def f():\n{indented}"):
        assert list(impurities("swarm.torrent.picker", ast.parse(text))), text


@pytest.mark.parametrize(
    "source",
    [
        "import swarm.node",
        "from swarm import node",
        "def f():\n    from swarm.net import tcp",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import swarm.node",
    ],
)
def test_an_upward_import_is_found(source: str) -> None:
    assert upward_imports("swarm.torrent.picker", ast.parse(source))


@pytest.mark.parametrize("source", ["import swarm", "from swarm import download", "from dht import DhtService"])
def test_a_lazy_name_is_found(source: str) -> None:
    assert list(lazy_names(ast.parse(source)))


def test_the_simulated_internet_is_imported_by_nothing_but_the_demo() -> None:
    for module in MODULES:
        if module.startswith("swarm.simnet") or module == "swarm.cli.demo":
            continue
        assert not [name for name in imports(parse(module)) if name.startswith("swarm.simnet")], module


def test_libtorrent_is_no_part_of_the_product() -> None:
    for module in MODULES:
        assert "libtorrent" not in {name.split(".")[0] for name in imports(parse(module))}, module


def test_printing_lives_in_the_command_line_only() -> None:
    for module in MODULES:
        if module.startswith("swarm.cli"):
            continue
        for node in ast.walk(parse(module)):
            assert not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"), (
                f"{module} prints"
            )


def test_the_leaves_speak_of_datagrams_as_the_network_seam_does() -> None:
    """Each leaf has shapes of its own, because it stands alone; the mux takes them for ours (swarm/net/udp_port.py)."""
    for leaf in (utp.path, dht.datagram):
        for name in ("Path", "Outgoing"):
            theirs, ours = getattr(leaf, name), getattr(swarm.net.network, name)
            assert theirs._fields == ours._fields
            assert theirs._field_defaults == ours._field_defaults
