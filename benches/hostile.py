#!/usr/bin/env python3
"""What hostile peers cost: CPU, memory and places, against the running program.

    benches/hostile.py BINARY [head] [admin] [files] [check] [unfinished]

Without a case all of them run. Python's standard library only; everything stays on loopback and is bounded in count and time. Each case prints
one line for each size, so that a doubled input shows whether its cost doubles too.
"""
import http.client, http.server, json, os, pathlib, resource, signal, socket, struct, subprocess, sys, tempfile, threading, time, urllib.request

TOKEN = "abcdefghijkl"  # 12 bytes, the shortest that is looked for anywhere in a head
http.client._MAXLINE = 1 << 20
PLAIN = {"content-type": "text/plain"}


class Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, body, headers=PLAIN):
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Issuer(Quiet):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.answer(json.dumps({"access_token": TOKEN, "token_type": "Bearer", "expires_in": 86400}).encode())


class Vendor(Quiet):
    """GET /repeat/N: N bytes of the token, in one header. GET /slow: headers, then a byte each second. Anything else: at once."""

    def do_GET(self):
        parts = self.path.strip("/").split("/")
        if parts[0] == "repeat":
            size = int(parts[1])
            self.answer(b"x", {"x-echo": (TOKEN * (size // len(TOKEN) + 1))[:size]})
        elif parts[0] == "slow":
            self.send_response(200)
            self.send_header("content-length", "600")
            self.end_headers()
            for _ in range(60):
                time.sleep(1)
                try:
                    self.wfile.write(b"x")
                except OSError:
                    return
        else:
            self.answer(b"ok")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 4096

    def handle_error(self, *_):
        pass


def serve(handler):
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Program:
    """The binary, running with two upstreams of one issuer: `one` and `two`."""

    def __init__(self, binary, proxy="", one="", files=None):
        self.port, self.admin, self.metrics = free_port(), free_port(), free_port()
        issuer, vendor = serve(Issuer), serve(Vendor)
        self.dir = tempfile.TemporaryDirectory(prefix="cupbearer-hostile-")
        config = pathlib.Path(self.dir.name, "c.toml")
        config.write_text(f"""
[proxy]
listen = ["127.0.0.1:{self.port}"]
{proxy}
[admin]
listen = "127.0.0.1:{self.admin}"
[metrics]
listen = "127.0.0.1:{self.metrics}"
[credentials.v]
settings = {{ token_url = "http://127.0.0.1:{issuer}/token" }}
secrets = {{ client_id = "client-of-this-bench", client_secret = "secret-of-this-bench" }}
[upstreams.one]
url = "http://127.0.0.1:{vendor}"
credential = "v"
{one}
[upstreams.two]
url = "http://localhost:{vendor}"
credential = "v"
""")
        bound = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))) if files else None
        self.process = subprocess.Popen([binary, "run", "--config", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=bound)
        for _ in range(400):
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                break
            except OSError:
                time.sleep(0.02)
        else:
            sys.exit("the program did not open its port")
        self.get("/two/x")

    def get(self, path, timeout=30):
        """Status and seconds of one GET."""
        begin = time.monotonic()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout) as answer:
                answer.read()
                status = answer.status
        except urllib.error.HTTPError as e:
            status = e.code
        except OSError as e:
            status = type(e).__name__
        return status, time.monotonic() - begin

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss(self):
        return int(pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.dir.cleanup()


def head(binary):
    """A vendor's answer repeats the token in one header: CPU for it, and how long another upstream's request takes meanwhile."""
    for kib in (15, 30, 60, 120, 281):
        with Program(binary, "workers = 1") as program:
            program.get("/one/x")
            before, seen = program.cpu(), []
            first = threading.Thread(target=lambda: seen.append(program.get(f"/one/repeat/{kib * 1024}")))
            first.start()
            slowest, other = 0.0, None
            while first.is_alive():
                other, seconds = program.get("/two/x")
                slowest = max(slowest, seconds)
            first.join()
            runs = 20 if kib <= 60 else 0
            for _ in range(runs):
                program.get(f"/one/repeat/{kib * 1024}")
            cpu = (program.cpu() - before) / (runs + 1)
            print(f"head: {kib:4} KiB of a header repeat the token: answered {seen[0][0]} after {seen[0][1]:.3f} s, {cpu * 1000:.1f} ms of CPU each"
                  f" (the calls beside it included), another upstream's slowest answer {slowest:.3f} s ({other})")


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def http2_requests(port, streams):
    """Asks for /metrics on so many streams of one HTTP/2 connection, with a window of nothing."""
    s = socket.create_connection(("127.0.0.1", port), 2)
    window = struct.pack(">HI", 4, 0)
    text = lambda t: bytes([len(t)]) + t
    block = b"\x82\x86" + b"\x04" + text(b"/metrics") + b"\x01" + text(b"localhost")
    s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, window))
    try:
        for n in range(streams):
            s.sendall(frame(1, 5, 2 * n + 1, block))
    except OSError:
        pass
    return s


def http1_requests(port, requests):
    """Sends so many requests for /metrics on one connection and reads nothing."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.settimeout(0.5)
    s.connect(("127.0.0.1", port))
    try:
        s.sendall(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n" * requests)
    except OSError:
        pass
    return s


def admin(binary):
    """Clients of the admin and the metrics port that ask and never read."""
    for name, ask, connections, each in [("HTTP/2", http2_requests, 8, 195), ("HTTP/2", http2_requests, 36, 195),
                                         ("HTTP/1.1", http1_requests, 36, 195), ("HTTP/1.1", http1_requests, 500, 40)]:
        for which in ("admin", "metrics"):
            with Program(binary) as program:
                before, held = program.rss(), []
                for _ in range(connections):
                    try:
                        held.append(ask(getattr(program, which), each))
                    except OSError:
                        pass
                most, until = 0.0, time.monotonic() + 4
                while time.monotonic() < until:
                    most = max(most, program.rss())
                    time.sleep(0.05)
                print(f"admin: {which} port, {connections} {name} connections of {each} unread answers: {before:.0f} -> {most:.0f} MiB")
                for s in held:
                    s.close()


def files(binary):
    """1,024 open files, one upstream whose vendor drips: what the other upstream's callers get meanwhile."""
    for connections in (200, 400, 600):
        with Program(binary, one="pool = { requests = 5000 }", files=1024) as program:
            held = []
            for _ in range(connections):
                s = socket.create_connection(("127.0.0.1", program.port), 2)
                s.sendall(b"GET /one/slow HTTP/1.1\r\nhost: localhost\r\n\r\n")
                held.append(s)
            time.sleep(3)
            seen = [program.get("/two/x", 10) for _ in range(5)]
            good = sum(status == 200 for status, _ in seen)
            print(f"files: {connections} requests to an upstream that drips, {program.files()} of 1024 files open:"
                  f" {good} of 5 requests to another upstream answered 200 ({seen[0][0]}), slowest {max(s for _, s in seen):.2f} s")
            for s in held:
                s.close()


def check(binary):
    """Seconds and memory of `check` for so many credentials with an upstream each."""
    for count in (500, 1000, 2000, 4000):
        with tempfile.TemporaryDirectory() as folder:
            config = pathlib.Path(folder, "c.toml")
            config.write_text("".join(
                f'[credentials.c{n}]\nsettings = {{ token_url = "https://auth{n}.example/token", scope = "read" }}\n'
                f'secrets = {{ client_id = "id{n}", client_secret = {{ file = "/run/secrets/c{n}" }} }}\n'
                f'[upstreams.u{n}]\nurl = "https://api{n}.example/v1"\ncredential = "c{n}"\n' for n in range(count)))
            begin = time.monotonic()
            process = subprocess.Popen([binary, "check", "--no-secrets", "--config", str(config)], stdout=subprocess.DEVNULL)
            timer = threading.Timer(60, process.kill)
            timer.start()
            _, status, used = os.wait4(process.pid, 0)
            timer.cancel()
            print(f"check: {count} credentials: {time.monotonic() - begin:.2f} s, {used.ru_maxrss / 1024:.0f} MiB,"
                  f" exit {os.waitstatus_to_exitcode(status)}")


def unfinished(binary):
    """Connections that send 76 KiB of a head and never its end, where callers must authenticate."""
    for connections in (90, 180, 360):
        with Program(binary, 'client_auth = "a-shared-secret-of-this-bench"') as program:
            before, held = program.rss(), []
            for _ in range(connections):
                s = socket.create_connection(("127.0.0.1", program.port), 2)
                s.settimeout(0.5)
                try:
                    s.sendall(b"GET /one/x HTTP/1.1\r\nhost: localhost\r\n" + b"".join(b"x-%03d: " % n + b"y" * 750 + b"\r\n" for n in range(100)))
                except OSError:
                    pass
                held.append(s)
            most, until = 0.0, time.monotonic() + 3
            while time.monotonic() < until:
                most = max(most, program.rss())
                time.sleep(0.05)
            print(f"unfinished: {connections} connections with 76 KiB of a head each: {before:.0f} -> {most:.0f} MiB")
            for s in held:
                s.close()


CASES = {c.__name__: c for c in (head, admin, files, check, unfinished)}


def main():
    if len(sys.argv) < 2 or any(case not in CASES for case in sys.argv[2:]):
        sys.exit(__doc__)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    for case in sys.argv[2:] or CASES:
        CASES[case](os.path.abspath(sys.argv[1]))
        sys.stdout.flush()


main()
