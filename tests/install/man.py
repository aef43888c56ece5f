"""The manual pages: no complaint of mandoc or groff, and nothing is missing that the programs themselves name."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

BUILD = os.environ["MS_BUILD_DIR"]
MAN, BIN = os.path.join(BUILD, "man"), os.path.join(BUILD, "bin")
PAGES = ("migstream.1", "migrestore.1", "migstream.yml.5")
failures = []


def check(ok, what):
    if not ok:
        failures.append(what)


def run(*args, **kw):
    return subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)


def lint(path):
    if shutil.which("mandoc"):
        p = run("mandoc", "-Tlint", "-Wwarning", path)
        check(p.returncode == 0 and not p.stdout, p.stdout)
    if shutil.which("groff"):
        p = run("groff", "-man", "-Tutf8", "-ww", "-z", path)
        check(p.returncode == 0 and not p.stdout, p.stdout)


def plain(path):
    """As it is read: without roff, one space between words."""
    if shutil.which("mandoc"):
        text = run("mandoc", "-Tascii", path).stdout
    else:
        text = run("groff", "-man", "-Tascii", "-P-c", path).stdout
    return re.sub(r"\s+", " ", re.sub(".\b", "", text))


def keys_of(o, prefix=""):
    for k, v in o.items():
        if isinstance(v, dict):
            yield from keys_of(v, prefix + k + ".")
        else:
            yield prefix + k


def main():
    if not shutil.which("mandoc") and not shutil.which("groff"):
        print("neither mandoc nor groff is here")
        return 77
    for page in PAGES:
        lint(os.path.join(MAN, page))
    text = {page: plain(os.path.join(MAN, page)) for page in PAGES}

    help_text = run(os.path.join(BIN, "migstream"), "--help").stdout
    commands = re.findall(r"^  ([a-z]+) ", help_text.split("Commands:")[1], re.M)
    check(len(commands) >= 11, f"only {commands}")
    for c in commands:
        check(f"migstream {c} " in text["migstream.1"], f"migstream.1: no {c}")
        for option in re.findall(r"^ +(?:-., |   )(--[a-z-]+)", run(os.path.join(BIN, "migstream"), c, "--help").stdout, re.M):
            check(option == "--help" or option in text["migstream.1"], f"migstream.1: no {option} of {c}")
    options = re.findall(r"^ +(?:-., |   )(--[a-z-]+)", run(os.path.join(BIN, "migrestore"), "--help").stdout, re.M)
    check(len(options) >= 15, f"only {options}")
    for option in options:
        check(option == "--help" or option in text["migrestore.1"], f"migrestore.1: no {option}")

    # A configuration with everything at its default prints every key but those that have none.
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "c.yml")
        with open(path, "w") as f:
            f.write("databases: [{path: /x/a.db, replicas: [{name: r, type: file, path: /y}]}]\n")
        c = json.loads(run(os.path.join(BIN, "migstream"), "config", "print", "--json", path).stdout)
    keys = set(keys_of({k: v for k, v in c.items() if k != "databases"}))
    database = c["databases"][0]
    keys |= set(keys_of({k: v for k, v in database.items() if k != "replicas"})) | set(keys_of(database["replicas"][0]))
    check(len(keys) > 30, f"only {len(keys)} keys")
    for key in sorted(keys):
        check(re.search(rf"(^|\s){re.escape(key)} \(", text["migstream.yml.5"]), f"migstream.yml.5: no {key}")
    for f in failures:
        print(f)
    print(len(commands), "commands,", len(options), "options of migrestore,", len(keys), "keys:", "ok" if not failures else "FAILED")
    return 1 if failures else 0


sys.exit(main())
