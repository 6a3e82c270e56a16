"""What `cupbearer run` tells systemd: READY=1, WATCHDOG=1, RELOADING=1 around a reload, STOPPING=1, in that order.

    notify.py BINARY
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

from common import Verdict

CONFIG = """
[proxy]
listen = ["127.0.0.1:0"]
drain = "1s"
[admin]
listen = "127.0.0.1:0"
[credentials.key]
profile = "static"
inject = { headers = { X-Key = "{{ secrets.key }}" } }
secrets = { key = { file = "key" } }
[upstreams.one]
url = "http://127.0.0.1:9"
credential = "key"
"""
WATCHDOG = 2.0  # seconds


def main():
    binary = sys.argv[1]
    verdict = Verdict("notify")
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        (folder / "config.toml").write_text(CONFIG)
        (folder / "key").write_text("k")
        (folder / "key").chmod(0o600)
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(folder / "notify"))
        env = os.environ | {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": str(int(WATCHDOG * 1e6))}
        env.pop("WATCHDOG_PID", None)
        running = subprocess.Popen([binary, "run", "--config", str(folder / "config.toml")], env=env, stderr=subprocess.DEVNULL)

        def wait_for(line, seconds):
            """The datagram that contains the line, or None."""
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                notify.settimeout(left)
                try:
                    lines = notify.recv(4096).decode().split("\n")
                except TimeoutError:
                    return None
                if line in lines:
                    return lines
            return None

        try:
            verdict.check(wait_for("READY=1", 10), "READY=1 comes when the ports accept")
            verdict.check(wait_for("WATCHDOG=1", WATCHDOG), "WATCHDOG=1 comes within the interval")
            verdict.check(wait_for("WATCHDOG=1", WATCHDOG), "and again")
            (folder / "config.toml").write_text(CONFIG + "\n# changed\n[log]\nlevel = 'warn'\n")
            running.send_signal(signal.SIGHUP)
            reloading = wait_for("RELOADING=1", 5)
            verdict.check(reloading and any(f.startswith("MONOTONIC_USEC=") for f in reloading), "RELOADING=1 comes with the time, which Type=notify-reload needs", reloading)
            verdict.check(wait_for("READY=1", 5), "READY=1 ends the reload")
            (folder / "config.toml").write_text("nonsense")
            running.send_signal(signal.SIGHUP)
            verdict.check(wait_for("RELOADING=1", 5) and wait_for("READY=1", 5), "a refused reload ends, too")
            running.send_signal(signal.SIGTERM)
            verdict.check(wait_for("STOPPING=1", 5), "STOPPING=1 comes at SIGTERM")
            verdict.check(running.wait(10) == 0, "and it ends with 0")
        finally:
            running.kill()
            running.wait()
    verdict.end()


if __name__ == "__main__":
    main()
