"""The metrics of the contract (section 6), and what follows from it: which names a query may use.

    metrics.py --scrape FILE     compares a scrape of a running cupbearer (FILE, or - for stdin): each metric there, with these labels
"""

import argparse
import pathlib
import re
import sys

from common import Verdict

PREFIX = "cupbearer_"
HISTOGRAMS = {"request_duration_seconds": ["upstream"], "token_request_duration_seconds": ["credential", "token"], "token_wait_seconds": ["credential"]}
OTHERS = {
    "requests_total": ["upstream", "code"],
    "requests_in_flight": ["upstream"],
    "refusals_total": ["upstream", "code"],
    "replays_total": ["upstream", "outcome"],
    "token_rejections_total": ["upstream"],
    "redirects_removed_total": ["upstream"],
    "upstream_connects_total": ["upstream", "outcome"],
    "token_requests_total": ["credential", "token", "outcome"],
    "token_expiry_timestamp_seconds": ["credential", "token"],
    "token_refresh_timestamp_seconds": ["credential", "token"],
    "token_last_success_timestamp_seconds": ["credential", "token"],
    "token_sendable": ["credential", "token"],
    "token_resting": ["credential", "token"],
    "token_unchanged_total": ["credential", "token"],
    "token_lifetime_implausible_total": ["credential", "token"],
    "token_waiters": ["credential"],
    "credential_latched": ["credential"],
    "credential_rejections": ["credential"],
    "credential_info": ["credential", "profile"],
    "secret_read_errors_total": ["credential"],
    "secret_changes_total": ["credential"],
    "config_reloads_total": ["outcome"],
    "config_last_reload_success_timestamp_seconds": [],
    "certificate_expiry_timestamp_seconds": ["use"],
    "state_write_errors_total": [],
    "panics_total": [],
    "log_lines_dropped_total": [],
    "build_info": ["version"],
}
# Series that exist only from first use, or only where a certificate is configured.
LATER = {"requests_total", "refusals_total", "certificate_expiry_timestamp_seconds"}
# What the client library adds for the process itself.
PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_virtual_memory_bytes", "process_open_fds", "process_max_fds", "process_start_time_seconds", "process_threads"}  # fmt: skip
# What Prometheus adds to every series it scrapes, and what scrape configurations here add.
TARGET_LABELS = {"job", "instance", "namespace", "pod"}


def series():
    """Name of each series a query may use -> its labels."""
    known = {PREFIX + name: set(labels) for name, labels in OTHERS.items()}
    for name, labels in HISTOGRAMS.items():
        known[f"{PREFIX}{name}_bucket"] = {*labels, "le"}
        known[f"{PREFIX}{name}_sum"] = known[f"{PREFIX}{name}_count"] = set(labels)
    known.update({name: set() for name in PROCESS})
    known["up"] = set()
    return known


def compare(text):
    verdict = Verdict("metrics")
    seen = {}
    for line in text.splitlines():
        if m := re.match(r"(\w+)(?:\{(.*)\})? \S+$", line):
            seen.setdefault(m[1], set()).update(re.findall(r'(\w+)="', m[2] or ""))
    known = series()
    for name, labels in sorted(known.items()):
        if name.startswith(PREFIX) and (name in seen or name.removeprefix(PREFIX) not in LATER):
            verdict.check(seen.get(name) == labels, f"{name} has labels {sorted(labels)}", seen.get(name))
    for name in sorted(seen):
        verdict.check(name in known or name.startswith("process_"), f"{name} is in the contract")
    verdict.end()


if __name__ == "__main__":
    args = argparse.ArgumentParser()
    args.add_argument("--scrape", required=True)
    file = args.parse_args().scrape
    compare(sys.stdin.read() if file == "-" else pathlib.Path(file).read_text())
