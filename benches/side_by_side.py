#!/usr/bin/env python3
"""CPU per request of cupbearer beside nginx (and Envoy, where it is installed), in one run, taking turns.

    benches/side_by_side.py BINARY [--rounds 5] [--envoy PATH]

Needs nginx and h2load (nghttp2-client). One worker each, pinned to the last core; load generator and upstream on the first. Peers carry a
fixed token; cupbearer fetches its own. All on loopback, bounded in requests. CPU = utime + stime of the proxy's processes, from /proc; compare
ratios of medians, never microseconds across runs.
"""
import argparse, http.server, json, os, pathlib, shutil, signal, socket, statistics, subprocess, sys, tempfile, threading, time

TOKEN = "x" * 1000


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_port(port, what):
    for _ in range(400):
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"{what} did not open port {port}")


class Issuer(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.dumps({"access_token": TOKEN, "token_type": "Bearer", "expires_in": 86400}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def children(pid):
    found = [pid]
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) == pid:
                found += children(int(entry.parent.name))
        except (OSError, IndexError):
            pass
    return found


def cpu_seconds(pid):
    """On-CPU time of all threads, in seconds (schedstat, nanoseconds)."""
    total = 0
    for p in children(pid):
        for t in pathlib.Path(f"/proc/{p}/task").glob("*/schedstat"):
            total += int(t.read_text().split()[0])
    return total / 1e9


def rss_mib(pid):
    pages = sum(int(pathlib.Path(f"/proc/{p}/statm").read_text().split()[1]) for p in children(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


NGINX = """
daemon off; worker_processes 1; pid {dir}/{name}.pid; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;
  fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  {body} }}
"""

ENVOY = """
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          route_config: {{ virtual_hosts: [ {{ name: v, domains: ["*"], routes: [ {{ match: {{ prefix: "/" }}, route: {{ cluster: up }},
            request_headers_to_add: [ {{ header: {{ key: authorization, value: "Bearer {token}" }}, append_action: OVERWRITE_IF_EXISTS_OR_ADD }} ] }} ] }} ] }}
          http_filters: [ {{ name: envoy.filters.http.router, typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }} ]
  clusters:
  - name: up
    connect_timeout: 2s
    load_assignment: {{ cluster_name: up, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {up} }} }} }} }} ] }} ] }}
"""


def main():
    args = argparse.ArgumentParser()
    args.add_argument("binary")
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--requests", type=int, default=60000)
    args.add_argument("--envoy", default=shutil.which("envoy"))
    args = args.parse_args()
    for tool in ("nginx", "h2load"):
        if not shutil.which(tool):
            sys.exit(f"SKIP {tool} is not installed")
    last = os.cpu_count() - 1
    tmp = tempfile.mkdtemp(prefix="cupbearer-bench-")
    os.chmod(tmp, 0o755)
    started = []

    def start(cmd, core, **kw):
        p = subprocess.Popen(["taskset", "-c", str(core), *cmd], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **kw)
        started.append(p)
        return p

    try:
        up = free_port()
        small, big = "a" * 200, pathlib.Path(tmp, "big")
        big.write_bytes(b"b" * 65536)
        body = f'server {{ listen 127.0.0.1:{up}; location / {{ return 200 "{small}"; }} location /big {{ root {tmp}; }} }}'
        pathlib.Path(tmp, "up.conf").write_text(NGINX.format(dir=tmp, name="up", body=body))
        start(["nginx", "-c", f"{tmp}/up.conf"], 0)
        wait_port(up, "upstream")
        issuer = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Issuer)
        threading.Thread(target=issuer.serve_forever, daemon=True).start()

        subjects = {}
        port = free_port()
        body = f"""upstream u {{ server 127.0.0.1:{up}; keepalive 64; }}
          server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection "";
          proxy_set_header Authorization "Bearer {TOKEN}"; }} }}"""
        pathlib.Path(tmp, "px.conf").write_text(NGINX.format(dir=tmp, name="px", body=body))
        subjects["nginx"] = (start(["nginx", "-c", f"{tmp}/px.conf"], last), port, "")
        if args.envoy:
            port = free_port()
            pathlib.Path(tmp, "envoy.yaml").write_text(ENVOY.format(port=port, up=up, token=TOKEN))
            cmd = [args.envoy, "-c", f"{tmp}/envoy.yaml", "--concurrency", "1", "--log-level", "off", "--disable-hot-restart"]
            subjects["envoy"] = (start(cmd, last), port, "")
        port, admin = free_port(), free_port()
        pathlib.Path(tmp, "c.toml").write_text(f"""
[proxy]
listen = ["127.0.0.1:{port}"]
workers = 1
[admin]
listen = "127.0.0.1:{admin}"
[credentials.v]
settings = {{ token_url = "http://127.0.0.1:{issuer.server_port}/token" }}
secrets = {{ client_id = "a", client_secret = "b" }}
[upstreams.v]
url = "http://127.0.0.1:{up}"
credential = "v"
""")
        subjects["cupbearer"] = (start([args.binary, "run", "--config", f"{tmp}/c.toml"], last), port, "/v")
        for name, (_, port, _) in subjects.items():
            wait_port(port, name)

        def load(port, path, n, clients=32):
            cmd = ["taskset", "-c", "0", "h2load", "--h1", "-n", str(n), "-c", str(clients), "-t", "1", f"http://127.0.0.1:{port}{path}"]
            out = subprocess.run(cmd, capture_output=True, text=True, timeout=300).stdout
            done = next((l for l in out.splitlines() if l.startswith("requests:")), "")
            if f"{n} succeeded" not in done:
                sys.exit(f"not all succeeded: {done}")
            rate = next(l for l in out.splitlines() if l.startswith("finished in"))
            return float(rate.split(",")[1].split()[0])

        idle = {name: rss_mib(p.pid) for name, (p, _, _) in subjects.items()}
        for name, (_, port, prefix) in subjects.items():
            load(port, f"{prefix}/x", 5000)
        rows = {}
        for case, path, n, clients in [("GET 200 B", "/x", args.requests, 32), ("GET 64 KiB", "/big", args.requests // 6, 32)]:
            for turn in range(args.rounds):
                names = list(subjects)
                for name in names[turn % len(names):] + names[:turn % len(names)]:
                    p, port, prefix = subjects[name]
                    before = cpu_seconds(p.pid)
                    rate = load(port, prefix + path, n, clients)
                    rows.setdefault((case, name), []).append(((cpu_seconds(p.pid) - before) / n * 1e6, rate))
        print(f"{'case':12} {'subject':10} {'us CPU/request (min-max)':>28} {'requests/s':>11}  ÷ nginx" + ("  ÷ envoy" if args.envoy else ""))
        for (case, name), values in rows.items():
            cpu = [v[0] for v in values]
            med = statistics.median(cpu)
            ratio = lambda other: med / statistics.median([v[0] for v in rows[(case, other)]])
            print(f"{case:12} {name:10} {med:10.1f} ({min(cpu):6.1f} - {max(cpu):6.1f}) {statistics.median([v[1] for v in values]):11.0f}"
                  f"  {ratio('nginx'):7.2f}" + (f"  {ratio('envoy'):7.2f}" if args.envoy else ""))
        for p, port, prefix in [subjects[n] for n in subjects]:
            load(port, f"{prefix}/x", 10000, 256)
        after = {name: rss_mib(p.pid) for name, (p, _, _) in subjects.items()}
        for name in subjects:
            print(f"RSS {name:10} idle {idle[name]:6.1f} MiB, after load at 256 connections {after[name]:6.1f} MiB")
    finally:
        for p in started:
            p.send_signal(signal.SIGTERM)
        for p in started:
            try:
                p.wait(5)
            except subprocess.TimeoutExpired:
                p.kill()
        shutil.rmtree(tmp, ignore_errors=True)


main()
