"""The metrics that src/promises.md names, and what follows from it: which names a query may use.

    metrics.py --scrape FILE     compares a scrape of a running cupbearer (FILE, or - for stdin): each metric there, with these labels
"""

import argparse
import pathlib
import re
import sys

from common import ROOT, Verdict

PREFIX = "cupbearer_"


def promised():
    """Name of each metric on the page of promises -> its labels."""
    section = (ROOT / "src" / "promises.md").read_text().split("\n## Metrics\n")[1].split("\n## ")[0]
    rows = "\n".join(line.split("|")[2] for line in section.splitlines() if line.startswith("| "))
    found = re.findall(r"`([a-z_]+)(?:\{([a-z,]+)\})?`", rows)
    return {name: labels.split(",") if labels else [] for name, labels in found}


PROMISED = promised()
HISTOGRAMS = {name: labels for name, labels in PROMISED.items() if name.endswith(("_duration_seconds", "_wait_seconds"))}
OTHERS = {name: labels for name, labels in PROMISED.items() if name not in HISTOGRAMS}
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
        verdict.check(name in known or name.startswith("process_"), f"{name} is promised")
    verdict.end()


if __name__ == "__main__":
    args = argparse.ArgumentParser()
    args.add_argument("--scrape", required=True)
    file = args.parse_args().scrape
    compare(sys.stdin.read() if file == "-" else pathlib.Path(file).read_text())
