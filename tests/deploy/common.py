"""What the checks of deploy/ share: where things are, which tools are there, and how a missing one is told.

A missing tool is `SKIP reason` and exit 0 on a developer's machine, and a failure where CI=true.
Tools are looked for in $TOOLS (default: target/tools: bin/, venv/bin/, node/node_modules/) and on PATH.
"""

import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
TOOLS = pathlib.Path(os.environ.get("TOOLS", ROOT / "target" / "tools")).resolve()


def skip(reason):
    """Ends the check without a verdict; in CI there is no such thing."""
    if os.environ.get("CI") == "true":
        sys.exit(f"FAIL {reason}, and CI must have it")
    print(f"SKIP {reason}")
    sys.exit(0)


_told = set()


def partly(reason):
    """Says once that a part is left out, and goes on; in CI that is a failure, too."""
    if os.environ.get("CI") == "true":
        sys.exit(f"FAIL {reason}, and CI must have it")
    if reason not in _told:
        print(f"SKIP {reason}")
    _told.add(reason)


def tool(name):
    """Path of a program, or None."""
    for place in (TOOLS / "bin", TOOLS / "venv" / "bin"):
        if os.access(place / name, os.X_OK):
            return str(place / name)
    return shutil.which(name)


def need(name):
    """Path of a program; without it the check is skipped."""
    return tool(name) or skip(f"{name} is not installed")


def run(*command, stdin=None, cwd=None):
    """(status, stdout and stderr together), never longer than two minutes."""
    done = subprocess.run(command, check=False, input=stdin, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    return done.returncode, done.stdout


class Verdict:
    """Collects what is wrong, so that one run tells everything."""

    def __init__(self, subject):
        self.subject, self.passed, self.wrong = subject, 0, []

    def check(self, ok, what, why=""):
        """Notes one check; `what` is a sentence that is true when it passes."""
        if ok:
            self.passed += 1
        else:
            self.wrong.append(f"{what}{': ' + str(why).strip() if why else ''}")
        return bool(ok)

    def end(self):
        for line in self.wrong:
            print(f"FAIL {self.subject}: {line}")
        print(f"{self.subject}: {self.passed} passed, {len(self.wrong)} failed")
        sys.exit(1 if self.wrong else 0)
