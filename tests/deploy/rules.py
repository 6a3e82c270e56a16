"""deploy/prometheus: the rules load, each alert is complete, tested both ways, and has a runbook; each query names only what exists.

Needs promtool (Debian package prometheus), PyYAML and promql-parser (PyPI).
"""

import copy
import pathlib
import re
import tempfile

from common import DEPLOY, Verdict, need, run, skip
from promql import problems

try:
    import yaml
except ImportError:
    skip("PyYAML is not installed")

HERE = DEPLOY / "prometheus"
verdict = Verdict("prometheus")


def anchor(heading):
    return re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-")


def promtool(*args, cwd=HERE):
    status, said = run(PROMTOOL, *args, cwd=str(cwd))
    # promtool exits 0 on some files it could not load.
    return status == 0 and "FAILED" not in said, said


def names_in(rules):
    """Recorded series -> the labels they may have (unknown to a parser that looks at one query: those of the aggregation)."""
    return {r["record"]: {"upstream", "credential", "token", "outcome", "code"} for r in rules if "record" in r}


def alerts_can_be_missed():
    """The judges are shown what is wrong: a query that is none, each alert silenced, series and labels that do not exist."""
    with tempfile.TemporaryDirectory() as scratch:
        bad = {"groups": [{"name": "x", "rules": [{"alert": "X", "expr": "sum(by"}]}]}
        pathlib.Path(scratch, "rules.yaml").write_text(yaml.safe_dump(bad))
        verdict.check(not promtool("check", "rules", "rules.yaml", cwd=scratch)[0], "promtool refuses a query that is none")
        rules = yaml.safe_load((HERE / "rules.yaml").read_text())
        tests = yaml.safe_load((HERE / "rules.test.yaml").read_text())
        for name in [r["alert"] for g in rules["groups"] for r in g["rules"] if "alert" in r]:
            silent = copy.deepcopy(rules)
            for rule in (r for g in silent["groups"] for r in g["rules"] if r.get("alert") == name):
                rule["expr"] = "vector(0) > 1"
            pathlib.Path(scratch, "rules.yaml").write_text(yaml.safe_dump(silent))
            # Only the cases about this alert: the whole file takes seconds each time.
            about = [t | {"alert_rule_test": c} for t in tests["tests"] if (c := [c for c in t.get("alert_rule_test", []) if c["alertname"] == name])]
            pathlib.Path(scratch, "rules.test.yaml").write_text(yaml.safe_dump(tests | {"tests": about}))
            verdict.check(not promtool("test", "rules", "rules.test.yaml", cwd=scratch)[0], f"the tests notice when {name} never fires")
    verdict.check(problems("cupbearer_nonsense_total"), "a series that is not promised is refused")
    verdict.check(problems('cupbearer_requests_total{credential="x"}'), "a label that the series does not have is refused")
    verdict.check(problems("sum by (vendor) (cupbearer_requests_total)"), "grouping by a label that nothing has is refused")


def main():
    alerts_can_be_missed()
    for args in (("check", "rules", "rules.yaml"), ("check", "config", "scrape.yaml"), ("test", "rules", "rules.test.yaml")):
        ok, said = promtool(*args)
        verdict.check(ok, " ".join(("promtool", *args)), said)

    # Debian's promtool knows no Kubernetes discovery: there the job is checked without that one key.
    kubernetes = yaml.safe_load((HERE / "scrape-kubernetes.yaml").read_text())
    for job in kubernetes["scrape_configs"]:
        verdict.check(job.pop("kubernetes_sd_configs") == [{"role": "pod"}], "pods are discovered")
    with tempfile.TemporaryDirectory() as scratch:
        with open(f"{scratch}/scrape.yaml", "w") as f:
            yaml.safe_dump(kubernetes, f)
        ok, said = promtool("check", "config", "scrape.yaml", cwd=scratch)
        verdict.check(ok, "the Kubernetes job is a scrape job", said)

    rules = [r for g in yaml.safe_load((HERE / "rules.yaml").read_text())["groups"] for r in g["rules"]]
    recorded = names_in(rules)
    for rule in rules:
        name = rule.get("alert") or rule["record"]
        wrong = problems(rule["expr"], recorded)
        verdict.check(not wrong, f"{name} asks for what exists", wrong)

    headings = {anchor(h) for h in re.findall(r"^#+ (.*)$", (HERE / "README.md").read_text(), re.MULTILINE)}
    fires, quiet = set(), set()
    for test in yaml.safe_load((HERE / "rules.test.yaml").read_text())["tests"]:
        for case in test.get("alert_rule_test", []):
            told = case.get("exp_alerts") or []
            (fires if told else quiet).add(case["alertname"])
            # A case that expects some of the series of one alert and not the others is both.
            series = {s["series"] for s in test["input_series"]}
            if told and len(series) > len(told):
                quiet.add(case["alertname"])
    for rule in rules:
        if "alert" not in rule:
            continue
        name, notes = rule["alert"], rule.get("annotations", {})
        verdict.check(all(notes.get(k) for k in ("summary", "description", "runbook_url")), f"{name} has summary, description and runbook")
        verdict.check(rule["labels"].get("severity") in ("critical", "warning", "info"), f"{name} has a severity")
        page, _, section = notes.get("runbook_url", "").partition("#")
        verdict.check(page == "deploy/prometheus/README.md" and section in headings, f"{name}'s runbook is there", section)
        verdict.check(name in fires and name in quiet, f"{name} is tested both ways")
    orphans = [h for h in headings if h.startswith("cupbearer") and h not in {r["alert"].lower() for r in rules if "alert" in r}]
    verdict.check(not orphans, "every runbook belongs to an alert", orphans)
    verdict.end()


PROMTOOL = need("promtool")
if __name__ == "__main__":
    main()
