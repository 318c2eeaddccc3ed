"""The floors of the design, held as data: imports go down, never up; cores do no I/O, read no clock, roll no dice."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    "swarm.peerlist": 1,
    "swarm.bitfield": 1,
    "swarm.ratelimit": 1,
    "swarm.wire": 1,
    "swarm.ext": 1,
    "swarm.torrent": 1,
    "swarm.torrent.disk": 3,
    "swarm.torrent.keeping": 3,
    "swarm.torrent.exchange": 3,
    "swarm.torrent.duplicates": 3,
    "swarm.torrent.lent": 4,
    "swarm.torrent.admission": 4,
    "swarm.torrent.torrent": 4,
    "swarm.net": 2,
    "swarm.source": 3,
    "swarm.simnet": 2,
    "swarm.peer": 3,
    "swarm.connect": 3,
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
    "swarm.node": 5,
    "swarm.api": 5,
    "swarm.cli": 6,
    "swarm.daemon": 6,
    "swarm.__main__": 6,
}

# Modules on floors 0 and 1 import none of these.  Files are opened by storage, resume, create and the saved port only.
FORBIDDEN_IN_CORES = {"trio", "socket", "ssl", "select", "asyncio", "threading", "subprocess", "time", "h11", "outcome"}
ROLLS_DICE = {"random", "randrange", "randint", "choice", "choices", "shuffle", "sample", "getrandbits", "randbytes"}
TOUCHES_FILES = {"swarm.torrent.storage", "swarm.torrent.resume", "swarm.torrent.create"}
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


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    floor = floor_of(module)
    for imported in imports(parse(module)):
        if imported.split(".")[0] not in PACKAGES:
            continue
        assert floor_of(imported) <= floor, f"{module} (floor {floor}) imports {imported} (floor {floor_of(imported)})"


@pytest.mark.parametrize("leaf,others", [("utp", ("swarm", "dht")), ("dht", ("swarm", "utp"))])
def test_leaf_packages_stand_alone(leaf: str, others: tuple[str, ...]) -> None:
    for module in MODULES:
        if module.split(".")[0] == leaf:
            strangers = [name for name in imports(parse(module)) if name.split(".")[0] in others]
            assert not strangers, f"{module} imports {strangers}"


@pytest.mark.parametrize("module", [name for name in MODULES if floor_of(name) <= 1])
def test_cores_do_no_io(module: str) -> None:
    tree = parse(module)
    bad = {name.split(".")[0] for name in imports(tree)} & FORBIDDEN_IN_CORES
    assert not bad, f"{module} imports {bad}"
    if module in TOUCHES_FILES:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"open", "print", "input"}, f"{module} calls {node.func.id}"


@pytest.mark.parametrize("module", [name for name in MODULES if floor_of(name) <= 1])
def test_cores_roll_no_dice(module: str) -> None:
    """Randomness is a random.Random handed to the constructor: the module-level functions are never called."""
    for node in ast.walk(parse(module)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            called = f"{node.func.value.id}.{node.func.attr}"
            assert not (node.func.value.id == "random" and node.func.attr in ROLLS_DICE), f"{module} calls {called}"
            assert node.func.value.id != "secrets", f"{module} calls {called}"
            assert called != "os.urandom", f"{module} calls {called}"


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
