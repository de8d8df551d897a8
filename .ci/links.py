#!/usr/bin/env python3
"""Fails where a relative link in a Markdown file leads nowhere.

    .ci/links.py                the repository, and each package as it would be published
    .ci/links.py --self-test    tests this script on a little tree of its own

In the repository a link may lead to each file and folder that is part of it. In a package it may lead only to
what the package has: its readers have nothing else there. Places in a page (`#heading`) are checked
too. Links with a scheme (https:) are not.
"""

import posixpath
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# The packages that are published, and their folders.
PACKAGES = {"hyperscatter": ".", "hyperscatter-candle": "bindings/candle",
            "hyperscatter-c": "bindings/c"}
FENCED = r"^ *(```+|~~~+).*?^ *\1[`~]* *$"
SPAN = r"(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)"
CODE = re.compile(f"{FENCED}|{SPAN}", re.DOTALL | re.MULTILINE)
INLINE = r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)"
DEFINITION = r"^ *\[[^\]]+\]: *<?(\S+?)>?(?:\s|$)"
LINK = re.compile(f"{INLINE}|{DEFINITION}", re.MULTILINE)


def without_code(text):
    """The text with code blanked out, on the same lines."""
    return CODE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def places(text):
    """The anchors that headings get."""
    text = re.sub(FENCED, "", text, flags=re.DOTALL | re.MULTILINE)
    result = set()
    for heading in re.findall(r"^#+ +(.*?) *#*$", text, re.MULTILINE):
        heading = re.sub(r"\]\([^)]*\)", "]", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", heading).replace(" ", "-")
        result.add(next(a for a in [anchor, *(f"{anchor}-{i}" for i in range(1, 99))] if a not in result))
    return result


def dangling(root, files):
    """Where each link of a Markdown file of `files` stands that leads to none of them."""
    there = set(files) | {"."}
    for file in files:
        there.update(str(folder) for folder in Path(file).parents)
    result = []
    for file in sorted(f for f in files if f.endswith(".md")):
        text = (root / file).read_text()
        for found in LINK.finditer(without_code(text)):
            link = found[1] or found[2]
            if re.match(r"[a-z][a-z0-9+.-]*:", link):
                continue
            path, _, place = link.partition("#")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(file), path)) if path else file
            line = text.count("\n", 0, found.start()) + 1
            if target not in there:
                result.append(f"{file}:{line}: {link} is not there")
            elif place and target.endswith(".md") and place not in places((root / target).read_text()):
                result.append(f"{file}:{line}: {link}: no such heading")
    return result


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()


def self_test():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "a").mkdir()
        (root / "README.md").write_text(
            "# One\n[a](a/B.md) [b](a) [c](#one) [d](a/B.md#two-words \"title\") [e](https://x/y)\n"
            "`[f](nowhere)` ``x[`g`](nowhere)``\n```text\n[h](nowhere)\n```\n"
            "[i](C.md)\n[j]: a/D.md\n[k](#two)\n[l](\nE.md)\n"
        )
        (root / "a/B.md").write_text("## Two `words`\n[up](../README.md) [out](../../X.md)\n")
        expected = [
            "README.md:7: C.md is not there",
            "README.md:8: a/D.md is not there",
            "README.md:9: #two: no such heading",
            "README.md:10: E.md is not there",
            "a/B.md:2: ../../X.md is not there",
        ]
        found = dangling(root, ["README.md", "a/B.md"])
        if found != expected:
            sys.exit("self-test: these links\n" + "\n".join(found) + "\ninstead of\n" + "\n".join(expected))
    print("the self-test passed")


def main(arguments):
    if arguments == ["--self-test"]:
        return self_test()
    checked = [(".", "the repository", output("git", "ls-files"))]
    for package, folder in PACKAGES.items():
        files = output("cargo", "package", "--package", package, "--list", "--allow-dirty", "--locked")
        checked.append((folder, f"the package {package}", files))
    failed = False
    for folder, name, files in checked:
        found = dangling(Path(folder), [file for file in files if (Path(folder) / file).exists()])
        for link in found:
            print(f"{name}: {link}")
        failed |= bool(found)
    if failed:
        sys.exit("the links above lead nowhere")
    print(f"all links lead somewhere in {', '.join(name for _, name, _ in checked)}")


if __name__ == "__main__":
    main(sys.argv[1:])
