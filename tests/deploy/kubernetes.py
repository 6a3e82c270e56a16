"""The manifests of deploy/kubernetes: right by the published schemas, and as safe as they claim to be.

    kubernetes.py --plain     the files as they are: kubernetes-validate (PyPI) and the rules written here
    kubernetes.py             all of it, with kustomize and kubeconform (`go install`) and the operator's types (npm)

Each folder is built with kustomize (or `kubectl kustomize`), then checked with kubernetes-validate --strict (schemas in the
package, for the oldest and the newest supported release), with kubeconform on the same schemas, PodMonitors with the operator's
own types (npm @kubernetes-models/prometheus-operator), and by rules written here. Each judge is first shown something wrong.
"""

import copy
import importlib.resources
import json
import pathlib
import sys
import tomllib

from common import DEPLOY, TOOLS, Verdict, partly, run, skip, tool

try:
    import kubernetes_validate
    import yaml
except ImportError as e:
    skip(f"{e.name} is not installed")

FOLDERS = ["sidecar", "lockout", "job", "central"]
OLDEST, NEWEST = "1.29", "1.37"  # native sidecars are on by default since 1.29
FOREIGN = {"PodMonitor"}  # kinds that Kubernetes itself does not know
verdict = Verdict("kubernetes")


def build(folder):
    path = str(DEPLOY / "kubernetes" / folder)
    if kustomize := tool("kustomize"):
        status, text = run(kustomize, "build", path)
    elif kubectl := tool("kubectl"):
        status, text = run(kubectl, "kustomize", path)
    else:
        skip("neither kustomize nor kubectl is installed")
    verdict.check(status == 0, f"{folder} builds", text if status else "")
    return [d for d in yaml.safe_load_all(text) if d] if status == 0 else []


def plain():
    """The files that can be applied one by one: everything that is no kustomization and no patch."""
    for path in sorted((DEPLOY / "kubernetes").rglob("*.yaml")):
        if path.name != "kustomization.yaml" and path.parent.name != "lockout":
            for doc in yaml.safe_load_all(path.read_text()):
                yield path.parent.name, path.name, doc


def schema_says(doc, version):
    try:
        kubernetes_validate.validate(doc, version, strict=True)
        return None
    except kubernetes_validate.ValidationError as e:
        return e.message


def with_kubeconform(name, docs):
    """The same schemas, read by another program. They name each other by address; in a copy, by file."""
    kubeconform = tool("kubeconform")
    if not kubeconform:
        return None
    here = TOOLS / "kubernetes-schemas"
    for version in (OLDEST, NEWEST):
        copied = here / f"v{version}.0"
        if not (copied / ".done").exists():
            source = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict"
            copied.mkdir(parents=True, exist_ok=True)
            for file in source.iterdir():
                schema = json.loads(file.read_text().replace('"/api/_definitions.json', '"_definitions.json'))
                schema.pop("$id", None)
                (copied / file.name).write_text(json.dumps(schema))
            (copied / ".done").touch()
        location = f"{copied}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
        status, said = run(
            kubeconform, "-strict", "-summary", "-kubernetes-version", f"{version}.0", "-skip", ",".join(FOREIGN),
            "-schema-location", location, "-",
            stdin="---\n".join(yaml.safe_dump(d) for d in docs),
        )  # fmt: skip
        if status != 0:
            return said
    return ""


def pod_monitor_says(doc):
    """What is wrong with a PodMonitor: unknown keys by the list below, types by the operator's own."""
    known = {
        "": {"apiVersion", "kind", "metadata", "spec"},
        "spec": {"selector", "podMetricsEndpoints", "namespaceSelector", "jobLabel", "podTargetLabels", "sampleLimit"},
        "endpoint": {"port", "portNumber", "path", "interval", "scrapeTimeout", "relabelings", "metricRelabelings", "scheme"},
        "relabeling": {"action", "sourceLabels", "targetLabel", "replacement", "regex", "separator", "modulus"},
    }
    extra = set(doc) - known[""] | set(doc["spec"]) - known["spec"]
    for endpoint in doc["spec"]["podMetricsEndpoints"]:
        extra |= set(endpoint) - known["endpoint"]
        for relabeling in endpoint.get("relabelings", []):
            extra |= set(relabeling) - known["relabeling"]
    if extra:
        return f"unknown keys {sorted(extra)}"
    node, places = tool("node"), [p for p in (TOOLS / "node", TOOLS) if (p / "node_modules" / "@kubernetes-models" / "prometheus-operator").exists()]
    if not node or not places:
        partly("the operator's own types: node or @kubernetes-models/prometheus-operator is not installed")
        return None
    script = (
        'import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";'
        f"new PodMonitor({json.dumps(doc)}).validate();"
    )
    status, said = run(node, "--input-type=module", "-e", script, cwd=str(places[0]))
    return None if status == 0 else said


def judges_can_refuse(plainly):
    good = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "b"}}
    bad = dict(good, bogus=1)
    for version in (OLDEST, NEWEST):
        verdict.check(schema_says(good, version) is None and schema_says(bad, version), f"kubernetes-validate {version} refuses an unknown key")
    if plainly:
        return
    said = with_kubeconform("bad", [bad])
    if said is None:
        partly("kubeconform is not installed")
    else:
        verdict.check(said and "bogus" in said, "kubeconform refuses an unknown key", said)
        verdict.check(with_kubeconform("good", [good]) == "", "kubeconform accepts what is right", with_kubeconform("good", [good]))
    monitor = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {"name": "x"}, "spec": {"selector": {}, "podMetricsEndpoints": [{"port": "a"}]}}
    wrong = copy.deepcopy(monitor)
    wrong["spec"]["podMetricsEndpoints"][0]["prot"] = "a"
    verdict.check(pod_monitor_says(monitor) is None and pod_monitor_says(wrong), "a PodMonitor with an unknown key is refused")


def pod_of(doc):
    return doc["spec"]["template"]["spec"] if doc["kind"] in ("Deployment", "Job") else None


def safe(folder, docs):
    """What the comments in the manifests promise."""
    names = {(d["kind"], d["metadata"]["name"]) for d in docs}
    for doc in docs:
        pod = pod_of(doc)
        if not pod:
            continue

        def say(ok, what, why=""):
            verdict.check(ok, f"{folder}: {what}", why)

        say(pod["enableServiceLinks"] is False and pod["automountServiceAccountToken"] is False, "no service links, no service account token")
        containers = pod.get("initContainers", []) + pod["containers"]
        ours = [c for c in containers if c["name"] == "cupbearer"]
        say(len(ours) == 1, "one cupbearer")
        grace = pod["terminationGracePeriodSeconds"]
        for c in containers:
            sc = c["securityContext"]
            locked = sc["runAsNonRoot"] and sc["readOnlyRootFilesystem"] and not sc["allowPrivilegeEscalation"] and sc["capabilities"] == {"drop": ["ALL"]}
            say(locked and pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, f"{c['name']} is locked down", sc)
            limits = c["resources"]
            say("memory" in limits["limits"] and "cpu" not in limits["limits"] and set(limits["requests"]) == {"cpu", "memory"}, f"{c['name']} has requests and a memory limit")
        for c in ours:
            say(c["securityContext"]["runAsUser"] == 65532, "cupbearer is user 65532")
            mounted = {m["name"]: m for m in c["volumeMounts"]}
            say(not any("subPath" in m for m in mounted.values()), "nothing is mounted by subPath")
            configs = [tomllib.loads(text) for d in docs if d["kind"] == "ConfigMap" for key, text in d["data"].items() if key.endswith(".toml")]
            for state in [pathlib.PurePosixPath(config["state"]["dir"]) for config in configs if "state" in config]:
                # The root of an emptyDir or a claim belongs to root.
                under = [m for m in mounted.values() if pathlib.PurePosixPath(m["mountPath"]) in state.parents and not m.get("readOnly")]
                say(under, "the guard's folder is one that cupbearer makes in a writable volume", state)
                say({m["name"] for m in under} <= {v["name"] for v in pod["volumes"]}, "and the volume is there", under)
            for config in configs:
                listen = config.get("admin", {}).get("listen", "")
                say(listen.startswith("unix:"), "no port lets other programs of the pod refresh and unlatch", listen)
                socket = pathlib.PurePosixPath(listen.removeprefix("unix:"))
                under = [m for m in mounted.values() if pathlib.PurePosixPath(m["mountPath"]) in socket.parents and not m.get("readOnly")]
                say(under and {m["name"] for m in under} <= {v["name"] for v in pod["volumes"]}, "the admin socket has a writable volume", socket)
                others = [o["name"] for o in containers if o not in ours and {m["name"] for m in o.get("volumeMounts", [])} & {m["name"] for m in under}]
                say(not others, "which no other container mounts", others)
            if "initContainers" in pod:
                say(any("state" in config for config in configs), "a restarted sidecar remembers refused attempts")
            if c in pod.get("initContainers", []):
                say(c["restartPolicy"] == "Always", "the sidecar is native")
                probe = c["startupProbe"]
                say(probe["periodSeconds"] * probe["failureThreshold"] < grace, "the startup probe gives up before the grace period ends")
                say("readinessProbe" not in c, "the sidecar's readiness is not the pod's")
            for volume in pod["volumes"]:
                if "secret" in volume:
                    say(("Secret", volume["secret"]["secretName"]) in names, f"Secret {volume['secret']['secretName']} is there", names)
                    say(volume["secret"]["defaultMode"] == 0o440 and pod["securityContext"]["fsGroup"] == c["securityContext"]["runAsGroup"], "secrets are for the group only")
                    others = [o["name"] for o in containers if o not in ours and volume["name"] in {m["name"] for m in o.get("volumeMounts", [])}]
                    say(not others, "the application cannot read the secrets", others)
                if "configMap" in volume:
                    say(("ConfigMap", volume["configMap"]["name"]) in names, f"ConfigMap {volume['configMap']['name']} is there", names)
        if doc["kind"] == "Deployment":
            say(doc["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}, "a rollout adds one pod and takes none")
    for doc in docs:
        if doc["kind"] == "NetworkPolicy":
            rules = [r for r in doc["spec"]["ingress"] if any(p.get("port") in ("cb-metrics", 14191) for p in r.get("ports", [{"port": "cb-metrics"}]))]
            narrow = all("namespaceSelector" in f and "podSelector" in f for r in rules for f in r.get("from", [{}]))
            verdict.check(rules and narrow, f"{folder}: only the scraper reaches the read-only port", rules)
            named = {p.get("port") for r in doc["spec"]["ingress"] for p in r.get("ports", [])}
            of_init = {p["name"] for d in docs if pod_of(d) for c in pod_of(d).get("initContainers", []) for p in c.get("ports", [])}
            verdict.check(not named & of_init, f"{folder}: no port of an init container is named, which some network plugins do not know", named & of_init)
            open_admin = [r for r in doc["spec"]["ingress"] if "ports" not in r or any(p.get("port") == 14190 for p in r["ports"])]
            verdict.check(not open_admin, f"{folder}: nobody reaches the admin port", open_admin)
    if folder.startswith("lockout"):
        made = [d for d in docs if d["kind"] == "Secret"]
        verdict.check(len(made) == 1 and made[0].get("immutable") and made[0]["metadata"]["name"] != "cupbearer-lockout", "lockout: the Secret is immutable and named by its content", made)


def main():
    plainly = sys.argv[1:] == ["--plain"]
    judges_can_refuse(plainly)
    folders = {}
    for folder, file, doc in plain():
        folders.setdefault(folder, []).append(doc)
        if doc["kind"] not in FOREIGN:
            for version in (OLDEST, NEWEST):
                said = schema_says(doc, version)
                verdict.check(said is None, f"{folder}/{file} fits the schema of {version}", said)
    verdict.check(sorted([*folders, "lockout"]) == sorted(FOLDERS), "every folder is looked at", sorted(folders))
    for folder, docs in folders.items():
        safe(folder, docs)
    if plainly:
        verdict.end()
    for folder in FOLDERS:
        docs = build(folder)
        for doc in docs:
            if doc["kind"] in FOREIGN:
                said = pod_monitor_says(doc)
                verdict.check(said is None, f"{folder}: {doc['kind']} fits the operator's types", said)
            else:
                for version in (OLDEST, NEWEST):
                    said = schema_says(doc, version)
                    verdict.check(said is None, f"{folder}: {doc['kind']} {doc['metadata']['name']} fits the schema of {version}", said)
        said = with_kubeconform(folder, docs)
        verdict.check(not said, f"{folder} passes kubeconform", said)
        safe(f"{folder} as built", docs)
    verdict.end()


if __name__ == "__main__":
    main()
