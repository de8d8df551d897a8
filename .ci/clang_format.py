#!/usr/bin/env python3
"""Formats the kernels, the emulator's C++ and the programs in C as .clang-format says, or checks that they
are formatted.

    .ci/clang_format.py            formats in place
    .ci/clang_format.py --check    names what would change, and fails where something would

The formatter is pinned, since versions break lines differently. It is installed from PyPI into target/
on the first run.
"""

import subprocess
import sys
from pathlib import Path

FORMATTER = "clang-format==23.1.3"
ROOT = Path(__file__).resolve().parent.parent
INSTALLED = ROOT / "target" / FORMATTER.replace("==", "-")
FOLDERS = ["kernels", "emulator/kernels", "emulator/shim", "bindings/c/tests/programs"]
# Files that a generator wrote are what it writes.
GENERATED = "// Generated"


def main(arguments):
    program = INSTALLED / "clang_format" / "data" / "bin" / "clang-format"
    if not program.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(INSTALLED)]
        subprocess.run([*pip, FORMATTER], check=True)
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).iterdir())]
    files = [file for file in files if file.suffix in (".cu", ".cuh", ".h", ".c", ".cpp")]
    files = [str(file) for file in files if not file.read_text().startswith(GENERATED)]
    how = ["--dry-run", "--Werror"] if arguments == ["--check"] else ["-i"]
    subprocess.run([str(program), "--style=file", *how, *files], check=True)
    print(f"{len(files)} files are formatted")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} failed: run .ci/clang_format.py to format")
