"""Command line over environment over configuration file over defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.cli.settings import SETTINGS
from swarm.cli.settle import config_path, settle, state_directory
from swarm.config import Config, RelayLimits
from swarm.errors import UsageError


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "swarm").mkdir()
    return {"XDG_CONFIG_HOME": str(tmp_path), "HOME": "/nowhere"}


def write(environment: dict[str, str], text: str) -> None:
    config_path(environment).write_text(text, encoding="utf-8")


def test_without_anything_the_defaults_are_those_of_the_node(environment: dict[str, str]) -> None:
    assert settle({}, environment).config(None) == Config()


def test_each_layer_covers_the_one_below(environment: dict[str, str]) -> None:
    write(environment, 'port = 1000\nupload-rate = "1M"\ndownload_rate = 5\nlsd = false\n')
    environment |= {"SWARM_PORT": "2000", "SWARM_UPLOAD_RATE": "2M", "SWARM_DHT": "no"}
    config = settle({"port": 3000, "upload_rate": None}, environment).config(None)
    assert (config.port, config.upload_rate, config.download_rate) == (3000, 2_000_000, 5)
    assert (config.lsd, config.dht, config.pex) == (False, False, True)


def test_what_relaying_may_cost_is_said_in_part_or_in_whole(environment: dict[str, str]) -> None:
    write(environment, 'relay-serve = true\nrelay-limits = "circuits=5"\n')
    assert settle({}, environment).config(None).relay_limits == RelayLimits(circuits=5)
    environment["SWARM_RELAY_LIMITS"] = "circuits=16, per-client=2,rate=500k,total-rate=0,bytes=5G,time=30m"
    assert settle({}, environment).config(None).relay_limits == RelayLimits(
        circuits=16,
        circuits_per_client=2,
        circuit_rate=500_000,
        total_rate=0,
        circuit_bytes=5_000_000_000,
        circuit_seconds=1800.0,
    )


def test_the_limits_of_relaying_are_those_that_are_promised() -> None:
    limits = Config().relay_limits
    assert (limits.circuits, limits.circuits_per_client) == (64, 4)
    assert (limits.circuit_rate, limits.total_rate) == (1 << 20, 8 << 20)
    assert (limits.circuit_bytes, limits.circuit_seconds) == (1 << 30, 7200)


@pytest.mark.parametrize(
    "text", ["", "5", "circuits", "circuits=0", "circuits=x", "circle=5", "rate=fast", "time=0", ","]
)
def test_limits_of_relaying_that_are_none_are_named(environment: dict[str, str], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        settle({}, environment | {"SWARM_RELAY_LIMITS": text or " "})
    assert "SWARM_RELAY_LIMITS" in str(caught.value)


def test_an_empty_variable_is_unset(environment: dict[str, str]) -> None:
    assert settle({}, environment | {"SWARM_PORT": ""}).config(None).port is None


@pytest.mark.parametrize(
    "text,sentence",
    [
        ('uplod-rate = "1M"', "did you mean 'upload-rate'"),
        ("[network]\nport = 5", "unknown key 'network'"),
        ('upload-rate = "fast"', "not a rate"),
        ("port = true", "PORT"),
        ("port = 70000", "65535"),
        ('lsd = "maybe"', "true or false"),
        ("port = [1]", "PORT"),
        ('dht-bootstrap = "a:1"', "list"),
        ("port = ", "not TOML"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place(environment: dict[str, str], text: str, sentence: str) -> None:
    write(environment, text)
    with pytest.raises(UsageError) as caught:
        settle({}, environment)
    assert sentence in str(caught.value)
    assert str(config_path(environment)) in str(caught.value)


@pytest.mark.parametrize(
    "variable,value,sentence",
    [
        ("SWARM_PORT", "x", "SWARM_PORT: 'x' is not a port"),
        ("SWARM_TCP", "perhaps", "SWARM_TCP"),
        ("SWARM_ENCRYPTION", "hard", "prefer, require, off"),
        ("SWARM_RPC_HOST_NAMES", "nas.lan:9091", "'nas.lan:9091' is no host name"),
        ("SWARM_RPC_HOST_NAMES", "nas.*", "'nas.*' is no host name"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    environment: dict[str, str], variable: str, value: str, sentence: str
) -> None:
    with pytest.raises(UsageError) as caught:
        settle({}, environment | {variable: value})
    assert sentence in str(caught.value)


def test_turn_servers_reach_the_node_and_need_utp(environment: dict[str, str]) -> None:
    given = environment | {"SWARM_TURN": "turn:u:p@host:1, turns:u:p%2C@[::1]"}
    config = settle({}, given).config(None)
    assert config.turn == ("turn:u:p@host:1", "turns:u:p%2C@[::1]")
    assert "u:p" not in repr(config)
    with pytest.raises(UsageError, match="--no-utp"):
        settle({"utp": False}, given).config(None)


@pytest.mark.parametrize("line", ['turn = "turn:alice:hunter2@h"', 'turn = ["turn:alice:hunter2"]', "turn = 5"])
def test_a_mistake_about_a_turn_server_does_not_repeat_its_credentials(environment: dict[str, str], line: str) -> None:
    path = config_path(environment)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line)
    with pytest.raises(UsageError) as caught:
        settle({}, environment)
    assert "hunter2" not in str(caught.value)
    assert "turn in" in str(caught.value)


def test_host_names_are_names_and_patterns_of_names(environment: dict[str, str]) -> None:
    names = settle({}, environment | {"SWARM_RPC_HOST_NAMES": "nas.lan *.home.example,* nas-2"}).values[
        "rpc-host-names"
    ]
    assert names == ("nas.lan", "*.home.example", "*", "nas-2")


@pytest.mark.parametrize("policy", ["prefer", "require", "off"])
def test_the_encryption_policy_reaches_the_node(environment: dict[str, str], policy: str) -> None:
    assert settle({"encryption": policy}, environment).config(None).encryption == policy


def test_relative_base_directories_do_not_count() -> None:
    assert state_directory({"XDG_STATE_HOME": "relative", "HOME": "/home/a"}) == Path("/home/a/.local/state/swarm")
    assert state_directory({"XDG_STATE_HOME": "/s", "HOME": "/home/a"}) == Path("/s/swarm")


def test_every_network_setting_is_a_field_of_the_configuration() -> None:
    assert {setting.attribute for setting in SETTINGS if setting.network} <= set(Config.__dataclass_fields__)
