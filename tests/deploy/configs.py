"""Finds every cupbearer configuration under deploy/ and writes each into a folder of its own, for `cupbearer check`.

    configs.py --out DIR              DIR/<where it stood>/config.toml, one line `<path>` on stdout for each
    configs.py --check CUPBEARER      also runs `CUPBEARER check --no-secrets` on each; every one must exit 0
    configs.py --check CUPBEARER --strict     lints fail too

Without either it only sees whether each is TOML and says how many there are.
"""

import argparse
import pathlib
import tempfile
import tomllib

from common import DEPLOY, Verdict, run, skip

try:
    import yaml
except ImportError:
    skip("PyYAML is not installed")


def configs():
    """(name, text) of each configuration: files named *.toml, and ConfigMap entries named *.toml (patches included)."""
    for path in sorted(DEPLOY.rglob("*.toml")):
        yield str(path.relative_to(DEPLOY)).replace("/", "-").removesuffix(".toml"), path.read_text()
    for path in sorted((DEPLOY / "kubernetes").rglob("*.yaml")):
        for doc in yaml.safe_load_all(path.read_text()):
            if isinstance(doc, dict) and doc.get("kind") == "ConfigMap":
                for key, text in (doc.get("data") or {}).items():
                    if key.endswith(".toml"):
                        yield f"kubernetes-{path.parent.name}-{doc['metadata']['name']}", text


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--out", type=pathlib.Path)
    args.add_argument("--check", metavar="CUPBEARER")
    args.add_argument("--strict", action="store_true")
    args = args.parse_args()
    verdict = Verdict("configurations")
    with tempfile.TemporaryDirectory() as scratch:
        out = args.out or pathlib.Path(scratch)
        names = set()
        for name, text in configs():
            verdict.check(name not in names, f"{name} is one configuration")
            names.add(name)
            try:
                tomllib.loads(text)
                verdict.check(True, "")
            except tomllib.TOMLDecodeError as e:
                verdict.check(False, f"{name} is TOML", e)
            file = out / name / "config.toml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            if args.out:
                print(file)
            if args.check:
                strict = ["--strict"] if args.strict else []
                status, said = run(args.check, "check", "--no-secrets", *strict, "--config", str(file))
                verdict.check(status == 0, f"cupbearer check accepts {name}", said)
    verdict.check(len(names) >= 5, "the configurations of all examples are found", sorted(names))
    verdict.end()


if __name__ == "__main__":
    main()
