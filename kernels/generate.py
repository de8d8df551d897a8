#!/usr/bin/env python3
"""Compiles kernels/*.cu to the modules in kernels/ptx, or checks that they are what the compiler gives.

    python3 kernels/generate.py            writes kernels/ptx/*.ptx
    python3 kernels/generate.py --check    compares, and fails where a file differs or all are too large

A module is one kernel file for one type, with checks or without: a workspace loads no more than it needs.

The compiler is pinned: NVRTC 12.0.76 from PyPI, which emits PTX 8.0 (drivers from R525 on) and the same bytes
on every machine. It is installed into target/ on the first run. No GPU and no CUDA toolkit are needed.
"""

import argparse
import collections
import ctypes
import functools
import hashlib
import itertools
import pathlib
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

COMPILER = "nvidia-cuda-nvrtc-cu12==12.0.76"
# The least architecture of files that name no other: every later one runs its PTX. One with a suffix (sm_90a)
# would run on that alone.
ARCHITECTURE = "compute_75"
# Multiplications and additions are fused where the source says so and nowhere else: the CPU backend has the
# same bits.
OPTIONS = ["--std=c++17", "--fmad=false", "--prec-div=true", "--prec-sqrt=true", "--ftz=false", "--restrict"]
# The line of a kernel file that says which modules it is: a list of types of modules.cuh, whether kernels for
# long rows are apart, whether it needs a later architecture, and whether it has kernels without checks alone,
# or with checks alone. What is the same for two types is compiled once: sums of 16-bit features are f32, and
# the gradients of the weights of an instance are double for all.
HEAD = re.compile(r"^// Modules: (?:(?P<one>one for all types)|(?P<types>[\w ]+?))"
                  r"(?P<long>; long rows apart)?(?:; for (?P<architecture>compute_\d+))?"
                  r"(?:; (?P<alone>unchecked|checked) alone)?\.$", re.MULTILINE)
# How names end, by the macros that say which kernels there are.
CHECKS = {"unchecked": "", "checked": "checked"}
# The bytes of PTX for each type of features: the files are part of the published crate.
BUDGET = 1_000_000

KERNELS = pathlib.Path(__file__).resolve().parent
MODULES = KERNELS / "ptx"
INSTALLED = KERNELS.parent / "target" / "nvrtc-12.0.76"


def installed() -> pathlib.Path:
    """The folder of the compiler's libraries."""
    libraries = INSTALLED / "nvidia" / "cuda_nvrtc" / "lib"
    if not (libraries / "libnvrtc.so.12").exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(INSTALLED)]
        subprocess.run([*pip, COMPILER], check=True)
    return libraries


class Nvrtc:
    """The few functions of NVRTC that are needed."""

    def __init__(self, libraries: pathlib.Path):
        # The compiler opens its builtins by name.
        ctypes.CDLL(str(libraries / "libnvrtc-builtins.so.12.0"), mode=ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(str(libraries / "libnvrtc.so.12"))

    def call(self, name: str, *arguments) -> int:
        return getattr(self.library, name)(*arguments)

    def text(self, size: str, get: str, program) -> str:
        length = ctypes.c_size_t()
        self.call(size, program, ctypes.byref(length))
        buffer = ctypes.create_string_buffer(length.value)
        self.call(get, program, buffer)
        return buffer.value.decode()

    def compile(self, source: pathlib.Path, defines: list[str]) -> str:
        """The PTX of one file, with these macros."""
        headers = sorted(KERNELS.glob("*.cuh"))
        texts = (ctypes.c_char_p * len(headers))(*[h.read_bytes() for h in headers])
        names = (ctypes.c_char_p * len(headers))(*[h.name.encode() for h in headers])
        program = ctypes.c_void_p()
        status = self.call("nvrtcCreateProgram", ctypes.byref(program), source.read_bytes(),
                           source.name.encode(), len(headers), texts, names)
        architecture = f"--gpu-architecture={head(source)['architecture'] or ARCHITECTURE}"
        macros = [f"--define-macro={name}" for name in defines]
        options = [o.encode() for o in [*OPTIONS, architecture, *macros]]
        options = (ctypes.c_char_p * len(options))(*options)
        status = status or self.call("nvrtcCompileProgram", program, len(options), options)
        if status != 0:
            log = self.text("nvrtcGetProgramLogSize", "nvrtcGetProgramLog", program)
            sys.exit(f"{source.name} does not compile (NVRTC error {status}):\n{log}")
        return self.text("nvrtcGetPTXSize", "nvrtcGetPTX", program)


def without_unused_variables(ptx: str) -> str:
    """Without the global variables that no kernel reads: the compiler writes down each constant that it
    knows, also those of its own headers, 4 KB of them in each module."""
    definition = re.compile(r"\.global [^;=]*?(\w+)(?:\[\d+\])?(?: = [^;]*)?;")
    named = re.findall(r"[A-Za-z_$][\w$]*", ptx)
    unused = {name for name in definition.findall(ptx) if named.count(name) == 1}
    kept = [line for line in ptx.splitlines() if not ((d := definition.match(line)) and d[1] in unused)]
    return "\n".join(kept)


# Short names of registers: of 64 and 16 bits, and of double.
REGISTERS = {"rd": "%d", "rs": "%h", "fd": "%e"}


def without_layout(ptx: str) -> str:
    """Without comments, indentation and spaces, and with short names of labels, parameters and registers: a
    fifth less of the text."""
    lines = (" ".join(line.split()).replace("$L__BB", "$L").replace(", ", ",") for line in ptx.splitlines())
    kept = "\n".join(line for line in lines if line and not line.startswith("//"))
    kept = re.sub(r"\b\w+_param_(\d+)\b", r"p\1", kept)
    return re.sub(r"%(rd|rs|fd)(?=[\d<])", lambda name: REGISTERS[name[1]], kept)


# An instruction: what it writes, or an address, and all behind it.
INSTRUCTION = re.compile(r"^(?:@!?\S+ )?(?P<name>[a-z]\S*) (?P<first>\{[^}]*\}|[^,;]+)(?P<others>.*)$")
CONSTANT = re.compile(r"^mov\.[a-z]\d+ (%[a-z]+\d+),(0[fd][0-9A-F]+|-?\d+);$")
# What takes a constant for any register but the first.
TAKES_CONSTANTS = re.compile(r"^(fma|mul|add|sub|div|mad|setp|selp|and|or|shl|shr|shf|min|max|mov\.[fu]|shfl|"
                             r"st\.(?!.*\.v\d))")
REGISTER = re.compile(r"%[a-z]+\d+")


def with_constants_in_place(ptx: str) -> str:
    """With each constant where it is read, and not in a register of its own: one and a half per cent less of
    the text, of which the assembler makes the same code for sm_90, and for sm_80 but for a few registers."""
    kernels = re.split(r"(?=^\.visible \.entry)", ptx, flags=re.MULTILINE)
    return "".join(kernel_with_constants_in_place(kernel) for kernel in kernels)


def kernel_with_constants_in_place(kernel: str) -> str:
    lines = kernel.split("\n")
    constants = {m[1]: (i, m[2]) for i, line in enumerate(lines) if (m := CONSTANT.match(line))}
    written, readers = collections.Counter(), collections.defaultdict(list)
    for i, line in enumerate(lines):
        if not (m := INSTRUCTION.match(line)):
            # What is not understood keeps its registers, as if it wrote them twice; likewise below.
            written.update({register: 2 for register in REGISTER.findall(line)})
            continue
        written.update(REGISTER.findall(m["first"]))
        takes = TAKES_CONSTANTS.match(m["name"])
        for register in REGISTER.findall(m["others"]):
            readers[register].append(i)
            if not takes:
                written[register] += 2
    for register, (i, constant) in constants.items():
        shorter = len(lines[i]) + 1 + len(readers[register]) * (len(register) - len(constant)) > 0
        if written[register] == 1 and shorter:
            for k in set(readers[register]):
                m = INSTRUCTION.match(lines[k])
                others = re.sub(re.escape(register) + r"\b", constant, m["others"])
                lines[k] = lines[k][:m.start("others")] + others
            lines[i] = ""
    return "\n".join(line for line in lines if line) + ("\n" if kernel.endswith("\n") else "")


def with_short_registers(ptx: str) -> str:
    """Without the % of registers, a tenth of the text. What begins with p and a digit is a parameter, so
    predicates become q."""
    return re.sub(r"%([a-z])(?=[\d<])", lambda name: "q" if name[1] == "p" else name[1], ptx)


def head(source: pathlib.Path) -> re.Match:
    """What a kernel file says of its modules."""
    return HEAD.search(source.read_text()) or sys.exit(f"{source.name} does not say which modules it is")


def types(name: str) -> list[str]:
    """The types of a list in modules.cuh: `features` are those of MODULES_OF_FEATURES(KERNELS)."""
    macro = name.upper().replace(" ", "_")
    text = (KERNELS / "modules.cuh").read_text()
    body = re.search(rf"^#define MODULES_OF_{macro}\(KERNELS\) (.*(?<=\\)\n)*.*", text, re.MULTILINE)
    if not body:
        sys.exit(f"modules.cuh has no list MODULES_OF_{macro}")
    members = re.findall(r"MODULES_OF_(\w+)\((FOR_CHECKS)?", body[0])[1:]
    return [t for member, is_type in members for t in ([member.lower()] if is_type else types(member))]


def modules() -> list[tuple[str, pathlib.Path, list[str]]]:
    """The modules by name, with their sources and the macros that say which they are, as in build.rs."""
    found = []
    for source in sorted(KERNELS.glob("*.cu")):
        of = head(source)
        of_types = [""] if of["one"] else types(of["types"])
        rows, checks = ["", "long"] if of["long"] else [""], [of["alone"]] if of["alone"] else CHECKS
        for element, rows, checks in itertools.product(of_types, rows, checks):
            name = "_".join(part for part in (source.stem, element, rows, CHECKS[checks]) if part)
            words = [element, checks, (rows or "other") + "_rows" if of["long"] else ""]
            found.append((name, source, [f"HYPERSCATTER_{word.upper()}" for word in words if word]))
    return found


def generated(module: tuple[str, pathlib.Path, list[str]]) -> tuple[str, str]:
    """The name and the text of a module."""
    name, source, defines = module
    first = f"// Generated by `python3 kernels/generate.py` with {COMPILER}. Do not edit.\n"
    ptx = compiler().compile(source, defines).rstrip("\0\n")
    ptx = with_constants_in_place(without_layout(without_unused_variables(ptx)))
    return name, first + with_short_registers(ptx) + "\n"


@functools.cache
def compiler() -> Nvrtc:
    """That of this process: one compiles one file at a time."""
    return Nvrtc(installed())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true",
                        help="compare with the files that are there, write nothing")
    check = parser.parse_args().check
    installed()
    with ProcessPoolExecutor() as processes:
        texts = list(processes.map(generated, modules()))
    total, wrong, stale = 0, [], set(MODULES.glob("*.ptx"))
    for name, ptx in texts:
        target = MODULES / f"{name}.ptx"
        stale.discard(target)
        digest = hashlib.sha256(ptx.encode()).hexdigest()[:16]
        print(f"{target.name}: {len(ptx):,} bytes, sha256 {digest}")
        total += len(ptx)
        if not check:
            MODULES.mkdir(exist_ok=True)
            target.write_text(ptx)
        elif not target.exists() or target.read_text() != ptx:
            wrong.append(target.name)
    for target in sorted(stale):
        if check:
            wrong.append(target.name)
        else:
            target.unlink()
    budget = BUDGET * len(types("features"))
    print(f"all: {total:,} of {budget:,} bytes")
    if wrong:
        sys.exit(f"not what the compiler gives: {', '.join(wrong)}. Run `python3 kernels/generate.py`.")
    if total > budget:
        sys.exit("the PTX files are over their size budget")


if __name__ == "__main__":
    main()
