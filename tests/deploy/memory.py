"""Measures the memory of a release build, for the figures in the manifests; decides nothing.

    cargo build --release && python3 tests/deploy/memory.py target/release/cupbearer

Prints resident memory (VmRSS, of which about 16 MiB are the program's own file) at rest with one credential, after 10 240 requests on 256 connections,
and the most while they ran (VmHWM).
"""

import http.server
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time

CONFIG = """
[proxy]
listen = ["127.0.0.1:0"]
workers = 2
[admin]
listen = "unix:{folder}/admin.sock"
[metrics]
listen = "127.0.0.1:0"
[log]
format = "json"
[state]
dir = "{folder}/state"
[credentials.acme]
settings = {{ token_url = "http://127.0.0.1:{port}/token" }}
secrets = {{ client_id = "a", client_secret = "b" }}
[upstreams.acme]
url = "http://127.0.0.1:{port}"
credential = "acme"
"""


class Vendor(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(b'{"access_token":"t","token_type":"Bearer","expires_in":3600}')

    def do_GET(self):
        self.answer(b"{}")


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True


def main():
    vendor = Server(("127.0.0.1", 0), Vendor)
    threading.Thread(target=vendor.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        (folder / "config.toml").write_text(CONFIG.format(folder=folder, port=vendor.server_port))
        ready = folder / "ready.json"
        ours = subprocess.Popen([sys.argv[1], "run", "--config", folder / "config.toml", "--ready-file", ready], stderr=subprocess.DEVNULL)

        def mib(field):
            return int(re.search(field + r":\s+(\d+)", pathlib.Path(f"/proc/{ours.pid}/status").read_text())[1]) // 1024

        def calls():
            with socket.create_connection(proxy) as s:
                for _ in range(40):
                    s.sendall(b"GET /acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    s.recv(4096)

        try:
            while not ready.exists():
                time.sleep(0.05)
            host, port = json.loads(ready.read_text())["proxy"][0].rsplit(":", 1)
            proxy = (host, int(port))
            time.sleep(3)
            idle = mib("VmRSS")
            clients = [threading.Thread(target=calls) for _ in range(256)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            print(f"{idle} MiB idle, {mib('VmRSS')} MiB after 10 240 requests on 256 connections, {mib('VmHWM')} MiB at most")
        finally:
            ours.terminate()
            ours.wait()


if __name__ == "__main__":
    main()
