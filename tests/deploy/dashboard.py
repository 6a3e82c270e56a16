"""deploy/grafana/dashboard.json: can be imported as it is, and asks only for what exists.

    dashboard.py                 the checks (needs promql-parser, PyPI)
    dashboard.py --queries       one JSON object a line for each query, variables filled in as `All` and a rate interval of 1m:
                                 {"panel", "kind": panel|annotation|variable, "instant", "expr", "series": [names], "may_be_empty"}
    dashboard.py --prometheus URL    also runs each against that Prometheus: every one must be accepted, and return series
                                 unless it may be empty (reads what exists only in bad times, or where certificates are configured)
"""

import argparse
import json
import re
import urllib.error
import urllib.parse
import urllib.request

from common import DEPLOY, Verdict
from metrics import HISTOGRAMS, OTHERS, PREFIX
from promql import p, problems, walk

BOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
INTERVALS = {"$__rate_interval": "1m", "$__interval": "1m", "$__range": "1h"}
# A certificate is configured by few; annotations mark moments.
RARE = {"cupbearer_certificate_expiry_timestamp_seconds"}


def variables():
    return [v for v in BOARD["templating"]["list"] if v["type"] == "query"]


def panels():
    for panel in BOARD["panels"]:
        yield panel
        yield from panel.get("panels", [])


def filled(expr):
    for name, value in INTERVALS.items():
        expr = expr.replace(name, value)
    for variable in variables():
        expr = re.sub(rf"\$(?:{variable['name']}\b|{{{variable['name']}}})", lambda _, v=variable: v["allValue"], expr)
    return expr


def selector(query):
    """label_values(SELECTOR, LABEL) -> SELECTOR, LABEL"""
    found = re.fullmatch(r"label_values\((.*), *(\w+)\)", query)
    return (found[1], found[2]) if found else (query, None)


def queries():
    for panel in panels():
        for target in panel.get("targets", []):
            yield {"panel": panel["title"], "kind": "panel", "instant": bool(target.get("instant")), "expr": filled(target["expr"])}
    for note in BOARD["annotations"]["list"]:
        if "expr" in note:
            yield {"panel": note["name"], "kind": "annotation", "instant": False, "expr": filled(note["expr"])}
    for variable in variables():
        yield {"panel": variable["name"], "kind": "variable", "instant": True, "expr": filled(selector(variable["query"]["query"])[0])}


def described():
    for query in queries():
        try:
            names = sorted({n.name for n in walk(p.parse(query["expr"])) if isinstance(n, p.VectorSelector) and n.name})
        except ValueError:
            names = []
        yield query | {"series": names, "may_be_empty": query["kind"] == "annotation" or bool(RARE & set(names))}


def answer(prometheus, expr):
    address = f"{prometheus.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
    try:
        with urllib.request.urlopen(address, timeout=10) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as e:
        return json.load(e)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--queries", action="store_true")
    args.add_argument("--prometheus", metavar="URL")
    args = args.parse_args()
    if args.queries:
        for query in described():
            print(json.dumps(query))
        return
    verdict = Verdict("dashboard")

    verdict.check(problems("sum(rate(cupbearer_nonsense_total[1m]))") and problems("sum("), "the judge refuses an unknown series and what is no query")
    verdict.check(BOARD["uid"] == "cupbearer" and BOARD["id"] is None, "uid is fixed and id is null")
    verdict.check(isinstance(BOARD["schemaVersion"], int) and "__requires" in BOARD and "__inputs" in BOARD, "it can be imported")
    kinds = {panel["type"] for panel in panels()} - {"row"}
    required = {r["id"] for r in BOARD["__requires"] if r["type"] == "panel"}
    verdict.check(kinds == required, "__requires names the panels that are used", kinds ^ required)
    ids = [panel["id"] for panel in panels()]
    verdict.check(len(ids) == len(set(ids)), "panel ids are unique")
    taken = {}
    for panel in panels():
        g = panel["gridPos"]
        for cell in ((x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])):
            verdict.check(cell not in taken, f"{panel['title']} does not cover {taken.get(cell)}") if cell in taken else None
            taken[cell] = panel["title"]
        verdict.check(g["x"] + g["w"] <= 24, f"{panel['title']} is inside")
        if panel["type"] != "row":
            verdict.check(panel["description"] and panel["fieldConfig"]["defaults"]["unit"], f"{panel['title']} has a description and a unit")
            verdict.check(panel["datasource"]["uid"] == "${datasource}", f"{panel['title']} uses the data source variable")
            for target in panel["targets"]:
                expr = target["expr"]
                verdict.check(target["datasource"]["uid"] == "${datasource}", f"{panel['title']} {target['refId']} uses the data source variable")
                # Labels that may be absent are matched by =~ only: `=~".*"` holds for a series without the label.
                for label in ("namespace", "pod", "instance"):
                    verdict.check(f'{label}=~"${label}"' in expr, f"{panel['title']} {target['refId']} follows the variable {label}")
    names = {v["name"] for v in variables()}
    verdict.check({"namespace", "pod", "upstream", "credential"} <= names, "the variables are there", names)
    for variable in variables():
        verdict.check(variable["includeAll"] and variable["allValue"] == ".*", f"All of {variable['name']} matches series without that label")
        label = selector(variable["query"]["query"])[1]
        verdict.check(label == variable["name"], f"{variable['name']} lists its label's values")
        verdict.check(variable["definition"] == variable["query"]["query"], f"{variable['name']} says in both places the same")
    shown = {name for query in described() for name in query["series"]}
    unseen = [n for n in OTHERS if PREFIX + n not in shown] + [n for n in HISTOGRAMS if f"{PREFIX}{n}_bucket" not in shown]
    verdict.check(not unseen, "every metric is on the dashboard", unseen)
    for query in described():
        where = f"{query['panel']} ({query['kind']})"
        verdict.check("$" not in query["expr"], f"{where} uses known variables only", query["expr"])
        wrong = problems(query["expr"])
        verdict.check(not wrong, f"{where} asks for what exists", f"{wrong} in {query['expr']}")
        if args.prometheus:
            got = answer(args.prometheus, query["expr"])
            verdict.check(got["status"] == "success", f"{where} is accepted", got.get("error"))
            if got["status"] == "success" and not query["may_be_empty"]:
                verdict.check(got["data"]["result"], f"{where} returns series", query["expr"])
    verdict.end()


if __name__ == "__main__":
    main()
