"""coturn on a public machine of the laboratory: the TURN server of pairs that no packet can cross directly."""

from __future__ import annotations

import subprocess
import time

from tests.needs import need_program
from tests.netlab.lab import Lab, end

ADDRESS = "13.0.0.1"
"""In a network of its own, as a hosted server is."""

PORT = 3478
USER, PASSWORD = "swarm", "p@ss:word"
URI = f"turn:{USER}:p%40ss%3Aword@{ADDRESS}:{PORT}"

STARTS_WITHIN = 10.0


class Coturn:
    """A running server; the machine is there at once."""

    def __init__(self, lab: Lab) -> None:
        self._program = need_program("turnserver")
        self._directory = lab.directory
        self.machine = lab.public("turn")
        lab.move(self.machine, ADDRESS)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when it listens."""
        log = self._directory / "coturn.log"
        self._process = self.machine.start(
            self._program,
            *("-n", "--no-cli", "--no-tls", "--no-dtls", "--no-stdout-log", "--simple-log", "--log-file", str(log)),
            *("--pidfile", str(self._directory / "coturn.pid"), "--db", str(self._directory / "coturn.db")),
            *("--lt-cred-mech", "--user", f"{USER}:{PASSWORD}", "--realm", "lab.example", "-L", ADDRESS),
            *("--listening-port", str(PORT)),
            log=self._directory / "coturn.out.log",
        )
        deadline = time.monotonic() + STARTS_WITHIN
        while f":{PORT} " not in self.machine.run("ss", "-ltn"):
            assert time.monotonic() < deadline, "coturn does not start"
            time.sleep(0.1)

    def kill(self) -> None:
        """Without a word to anybody."""
        assert self._process is not None
        self._process.kill()
        end(self._process)
