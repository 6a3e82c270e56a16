"""A real Prometheus scrapes a real cupbearer whose issuer refuses one credential: the alert must fire, and only that one's.
Then every query of the dashboard runs on the same Prometheus, and the scrape is held against the promised list.

    alerts.py BINARY        takes about a minute; needs prometheus (Debian)
"""

import http.server
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from common import DEPLOY, ROOT, Verdict, need, run

CONFIG = """
[proxy]
listen = ["127.0.0.1:{proxy}"]
drain = "2s"
[admin]
listen = "127.0.0.1:{admin}"

[credentials.good]
settings = {{ token_url = "http://127.0.0.1:{vendor}/good/token" }}
secrets  = {{ client_id = "good", client_secret = {{ file = "secret" }} }}

[credentials.bad]
settings = {{ token_url = "http://127.0.0.1:{vendor}/bad/token" }}
secrets  = {{ client_id = "bad", client_secret = {{ file = "secret" }} }}
guard    = {{ max_rejections = 1 }}

[upstreams.good]
url        = "http://127.0.0.1:{vendor}/api"
credential = "good"
[upstreams.bad]
url        = "http://127.0.0.1:{vendor}/other"
credential = "bad"
"""


class Vendor(http.server.BaseHTTPRequestHandler):
    """Issuer and API in one: /good/token issues, /bad/token refuses, anything else is the API."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        status, body = 200, {"fine": True}
        if self.path == "/good/token":
            body = {"access_token": "issued-for-a-test", "token_type": "Bearer", "expires_in": 600}
        elif self.path == "/bad/token":
            status, body = 401, {"error": "invalid_client"}
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


def free_ports(n):
    held = [socket.socket() for _ in range(n)]
    for s in held:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


def get(address):
    """(status, body); (0, "") where nobody answers."""
    try:
        with urllib.request.urlopen(address, timeout=20) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()
    except OSError:
        return 0, ""


def until(what, seconds):
    """What `what` returns as soon as it is true, asked four times a second; its last answer when the time is over."""
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.25)
    return found


def main():
    binary, verdict = sys.argv[1], Verdict("alerts")
    vendor = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Vendor)
    threading.Thread(target=vendor.serve_forever, daemon=True).start()
    proxy, admin, prometheus = free_ports(3)
    started = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        (folder / "config.toml").write_text(CONFIG.format(proxy=proxy, admin=admin, vendor=vendor.server_port))
        (folder / "secret").write_text("not-a-real-secret")
        (folder / "secret").chmod(0o600)
        # The shipped rules, unchanged, evaluated every second.
        scrape = {"job_name": "cupbearer", "static_configs": [{"targets": [f"127.0.0.1:{admin}"]}]}
        settings = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(DEPLOY / "prometheus" / "rules.yaml")],
            "scrape_configs": [scrape],
        }
        (folder / "prometheus.yaml").write_text(json.dumps(settings))
        try:
            with (folder / "log").open("w") as log:
                started.append(subprocess.Popen([binary, "run", "--config", str(folder / "config.toml")], stderr=log))
            flags = [f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{prometheus}"]
            started.append(subprocess.Popen([need("prometheus"), *flags], stderr=subprocess.DEVNULL))
            here = f"http://127.0.0.1:{prometheus}"
            if not verdict.check(until(lambda: get(f"http://127.0.0.1:{admin}/livez")[0] == 200, 20), "cupbearer is up", (folder / "log").read_text()[-2000:]):
                verdict.end()
            verdict.check(until(lambda: get(f"{here}/-/ready")[0] == 200, 30), "Prometheus is up")

            stop = threading.Event()

            def traffic():
                while not stop.wait(0.5):
                    for upstream in ("good", "bad"):
                        seen.setdefault(upstream, set()).add(get(f"http://127.0.0.1:{proxy}/{upstream}/x")[0])

            seen = {}
            threading.Thread(target=traffic, daemon=True).start()

            def alerts(name):
                status, body = get(f"{here}/api/v1/alerts")
                found = json.loads(body)["data"]["alerts"] if status == 200 else []
                return [a for a in found if a["labels"]["alertname"] == name]

            def firing():
                return [a for a in alerts("CupbearerCredentialLatched") if a["state"] == "firing"]

            fired = until(firing, 60)
            verdict.check([a["labels"]["credential"] for a in fired] == ["bad"], "the alert fires for the refused credential and for no other", fired)
            missing = until(lambda: alerts("CupbearerTokenMissing"), 30)
            verdict.check([a["labels"]["credential"] for a in missing] == ["bad"], "so does the missing token, from now on pending", missing)
            # Rates need a few scrapes of series that exist from first use only.
            samples = urllib.parse.quote('count_over_time(cupbearer_refusals_total{upstream="bad"}[1m]) > 10')
            verdict.check(until(lambda: '"value"' in get(f"{here}/api/v1/query?query={samples}")[1], 60), "refusals are counted")
            stop.set()
            verdict.check(seen.get("good") == {200} and 200 not in seen.get("bad", {200}), "one upstream works and the other is refused", seen)
            status, said = run(sys.executable, str(ROOT / "tests" / "deploy" / "dashboard.py"), "--prometheus", here)
            verdict.check(status == 0, "every query of the dashboard returns series", said)
            (folder / "scrape").write_text(get(f"http://127.0.0.1:{admin}/metrics")[1])
            status, said = run(sys.executable, str(ROOT / "tests" / "deploy" / "metrics.py"), "--scrape", str(folder / "scrape"))
            verdict.check(status == 0, "the scrape is what is promised", said)
            status, said = run(need("promtool"), "check", "metrics", stdin=(folder / "scrape").read_text())
            verdict.check(status == 0 and not said.strip(), "promtool check metrics has nothing to say", said)
        finally:
            for process in started:
                process.terminate()
            for process in started:
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            vendor.shutdown()
    verdict.end()


if __name__ == "__main__":
    main()
