#!/usr/bin/env python3
"""Reports what each kernel takes (registers, shared memory, stack, spills), and how wide its accesses are.

    python3 kernels/resources.py                  prints the tables, and fails where a kernel breaks a rule
    python3 kernels/resources.py --native sm_90   with nvcc for some architectures alone, in less time

Two ways lead to machine code, and both are looked at: `ptx`, the assembler on kernels/ptx/*.ptx, as a driver
does it; and `cu`, nvcc on kernels/*.cu, as build.rs does it where native code is asked for. The rules:

* nothing is spilled, nothing has a stack frame, and no local memory is read or written;
* in the kernels of gather.cu each vector that the source loads or stores is one access of 128 bits: there are
  as many as the source has, or more where the compiler repeats code. So none is split into narrower ones;
* in those of gather.cu, at least half of the vectors of IN_FLIGHT source rows are loaded one behind the
  other: no value of one is used before the last is under way, and no other access of global memory stands
  between them. `flight` shows how many, and of how many: where registers are short, the assembler starts to
  add before all are under way, which costs time and is no mistake;
* in the dense kernels of rows there is an access of a thread's vector for each vertex that they have room
  for, in the backward for 8 of x and 8 of g: of 128 bits, and of 64 for narrow types;
* in walk_rows there is one for each row that is under way.

Which narrower accesses belong to the path for aligned rows, and which to the other and to the tables, cannot
be told from the counts. `generic` are accesses whose address the assembler could not place in global memory,
all widths together.

Compiler and disassembler are pinned packages of PyPI, installed into target/ on the first run. Without the
disassembler the accesses are not counted, which is said. No GPU and no CUDA toolkit are needed. Each run
first tries its rules on a kernel that breaks them.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import generate

COMPILER = ["nvidia-cuda-nvcc==13.0.88", "nvidia-cuda-crt==13.0.88", "nvidia-nvvm==13.0.88",
            "nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cccl==13.0.85"]
# The first that PyPI has. It reads what older compilers wrote.
DISASSEMBLER = "nvidia-cuda-nvdisasm==13.2.51"
# A100, H100, and the consumer GPUs after them.
ARCHITECTURES = ["sm_80", "sm_90", "sm_120"]
# As build.rs has them.
NVCC_OPTIONS = ["-cubin", "-std=c++17", "--fmad=false", "-O3"]

KERNELS = pathlib.Path(__file__).resolve().parent
TARGET = KERNELS.parent / "target"

FEATURES, SUMS = ("|".join(generate.types(name)) for name in ("features", "sums"))
# Features of half the size of their sums: a lane of a gather has a vector of 16 bytes of them and two of
# sums, a thread of the other kernels one of 8 bytes and one of sums.
NARROW = generate.types("narrow features")

# The entries of gather.cu.
GATHERS = re.compile(rf"(gather_sums|gather|add_partials)_({FEATURES})(?:_checked)?")

# The dense kernels of rows: a thread loads a vector of each row that it has, and one to add to.
DENSE = re.compile(rf"dense(\d+)_(conv|backward_async|backward)_({FEATURES})")
OTHER_DENSE = re.compile(rf"dense_(?:(?:form|gradient)_(?:{SUMS})(?:_checked)?|find_checked)")
# The walk through rows that surrounds an epilogue.
WALK = re.compile(rf"walk_rows_({FEATURES})(?:_checked)?")
# Layers: of so many features, in TF32 or as the type is multiplied otherwise.
LAYER = re.compile(rf"layer(256|512|_tf32)(_backward)?_({FEATURES})")
# The vertices of a part of a dense backward, of which a thread loads rows of x and rows of g.
PART = 8

# It breaks all the rules: an index that is not constant puts its array into local memory, few registers
# spill, and all accesses are 4 bytes wide.
PLANTED = """
extern "C" __global__ void gather_f32(float* to, const float* from, const unsigned* index) {
    float indexed[64], kept[64];
#pragma unroll
    for (int i = 0; i < 64; i++) indexed[i] = kept[i] = from[3 * i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 64; i++) to[3 * i] = kept[i] * indexed[index[i] % 64];
}
"""
PLANTED_OPTIONS = ["--maxrregcount=24"]


@dataclass
class Entry:
    """What the assembler and the disassembler say about one kernel."""
    registers: int = 0
    shared: int = 0
    stack: int = 0
    spills: int = 0
    loads: Counter = field(default_factory=Counter)
    stores: Counter = field(default_factory=Counter)
    # From global to shared memory, asynchronously.
    copies: Counter = field(default_factory=Counter)
    local: int = 0
    # The longest run of loads of 128 bits that no use of their values and no other access of global memory
    # interrupts.
    flight: int = 0
    generic: int = 0
    # Products of tensor cores, and for each the moves between registers before it, behind the first.
    products: int = 0
    moves: list[int] = field(default_factory=list)
    instructions: int = 0


def install(packages: list[str], folder: pathlib.Path, program: str) -> pathlib.Path:
    """The folder of the programs of some packages, which are installed unless `program` is there."""
    programs = folder / "nvidia" / "cu13" / "bin"
    if not (programs / program).exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        subprocess.run([*pip, "--target", str(folder), *packages], check=True)
    # pip keeps no permissions: make executable what is a program.
    for file in [*programs.iterdir(), *(folder / "nvidia" / "cu13" / "nvvm").glob("bin/*")]:
        if file.is_file() and not os.access(file, os.X_OK):
            file.chmod(0o755)
    return programs


def installed_disassembler() -> pathlib.Path | None:
    """The disassembler, if it can be had."""
    folder = TARGET / DISASSEMBLER.replace("nvidia-cuda-", "").replace("==", "-")
    try:
        return install([DISASSEMBLER], folder, "nvdisasm") / "nvdisasm"
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"NO DISASSEMBLER ({error}): neither the widths of accesses nor local memory are checked below")
        return None


def run(*command) -> str:
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(str(c) for c in command)} failed ({done.returncode}):\n{done.stdout}")
    return done.stdout


def read_assembler(text: str) -> dict[str, Entry]:
    """The entries in what `ptxas -v` prints."""
    entries, entry = {}, None
    for line in text.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            entry = entries[found[1]] = Entry()
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads",
                                line):
            # Of a function that an entry calls, too.
            entry.stack += int(found[1])
            entry.spills += int(found[2]) + int(found[3])
        elif found := re.search(r"Used (\d+) registers", line):
            entry.registers = int(found[1])
            shared = re.search(r"(\d+) bytes smem", line)
            entry.shared = int(shared[1]) if shared else 0
    return entries


def read_disassembly(text: str, entries: dict[str, Entry]) -> None:
    """Counts the accesses in what nvdisasm prints: by width in bits, and those of local memory."""
    instruction = re.compile(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?\w+\s+)?([A-Z]\w*)((?:\.\w+)*)(.*)")
    entry, run, loaded, moves = None, 0, set(), 0
    for line in text.splitlines():
        if found := re.match(r"\s*\.section\s+\.text\.(\w+)", line):
            entry, run, loaded = entries.get(found[1]), 0, set()
        elif entry and (found := instruction.match(line)):
            name, modifiers, operands = found[1], found[2], found[3]
            registers = [int(number) for number in re.findall(r"\bR(\d+)\b", operands)]
            is_vector_load = name in ("LDG", "LD") and ".128" in modifiers
            if loaded.intersection(registers) or (name in ("LDG", "STG", "LD", "ST") and not is_vector_load):
                run, loaded = 0, set()
            if is_vector_load:
                run += 1
                loaded.update(range(registers[0], registers[0] + 4))
                entry.flight = max(entry.flight, run)
            entry.instructions += 1
            if name == "HMMA":
                entry.moves.append(moves if entry.products else 0)
                entry.products, moves = entry.products + 1, 0
            moves += name == "MOV" or name == "IMAD" and ".MOV" in modifiers
            entry.generic += name in ("LD", "ST")
            if name in ("LDL", "STL"):
                entry.local += 1
            # Generic accesses, LD and ST, are counted with those of global memory, which they are meant for.
            elif name in ("LDG", "STG", "LD", "ST", "LDGSTS"):
                width = re.search(r"\.[US]?(8|16|64|128|256)\b", modifiers)
                side = entry.loads if name.startswith("L") else entry.stores
                side = entry.copies if name == "LDGSTS" else side
                side[int(width[1]) if width else 32] += 1
    if silent := [name for name, entry in entries.items() if entry.instructions == 0]:
        sys.exit(f"no instructions of {', '.join(silent)} in the disassembly: the format is not understood")


def faults(name: str, entry: Entry, disassembled: bool) -> list[str]:
    """The rules that a kernel breaks."""
    broken = []
    if entry.spills:
        broken.append(f"spills ({entry.spills} bytes)")
    if entry.stack:
        broken.append(f"has a stack frame ({entry.stack} bytes)")
    if disassembled:
        if entry.local:
            broken.append(f"accesses local memory ({entry.local} instructions)")
        if is_gather := GATHERS.fullmatch(name):
            loads, stores, flight = vector_accesses(is_gather[1], is_gather[2])
            for what, found, least in [
                ("loads of 128 bits", entry.loads[128], loads),
                ("stores of 128 bits", entry.stores[128], stores),
                ("loads of 128 bits under way together", entry.flight, flight // 2),
            ]:
                if found < least:
                    broken.append(f"has {found} {what}, and needs {least}")
        elif name.startswith("gather"):
            broken.append("is a gather that the rules do not know")
        is_dense = DENSE.fullmatch(name)
        if name.startswith("dense") and not is_dense and not OTHER_DENSE.fullmatch(name):
            broken.append("is a dense kernel that no rule is for")
        if is_dense:
            width = 64 if is_dense[3] in NARROW else 128
            # Results are loaded to be added to, and rows for an epilogue. A bias is of the type of sums.
            of_rows = {"conv": 1 + int(is_dense[1]), "backward": 2 * PART, "backward_async": 0}
            loads = 1 + of_rows[is_dense[2]]
            loads += is_dense[2] == "conv" and width == 128
            if entry.loads[width] < loads:
                broken.append(f"has {entry.loads[width]} loads of {width} bits, and needs {loads}")
            if entry.stores[width] < 1:
                broken.append(f"stores no vectors of {width} bits")
            # Of g and of x, before the first step and in each.
            if is_dense[2] == "backward_async" and entry.copies[width] < 4:
                broken.append(f"has {entry.copies[width]} copies of {width} bits, and needs 4")
        if is_layer := LAYER.fullmatch(name):
            narrow = is_layer[3] in NARROW
            width = 64 if narrow and is_layer[1] == "512" else 128
            # Of a step, which has 64 bytes of a row: two halves of a group, one or two fragments of outputs,
            # and two products of each, or three.
            steps = 8 if narrow and is_layer[1] == "256" else 16
            products = steps * 2 * (4 if steps == 8 else 3 if is_layer[1] == "256" else 2)
            if entry.products < products:
                broken.append(f"has {entry.products} products of tensor cores, and needs {products}")
            # Fragments that are put together anew for each product.
            if (moves := sum(entry.moves[:products])) > products // 4:
                broken.append(f"has {moves} moves between {products} products")
            if entry.stores[width] < 1 or entry.loads[width] < 1 or entry.copies[128] < 2:
                broken.append(f"does not load and store vectors of {width} bits, or copies none of 128")
        if is_walk := WALK.fullmatch(name):
            width = 64 if is_walk[1] in NARROW else 128
            # Of a copy and of two sums, and the results that are added to.
            loads = 1 + 2 * rows_at_once() + 2
            if entry.loads[width] < loads:
                broken.append(f"has {entry.loads[width]} loads of {width} bits, and needs {loads}")
            if entry.stores[width] < 2:
                broken.append(f"has {entry.stores[width]} stores of {width} bits, and needs 2")
    return broken


def in_flight() -> int:
    """The source rows that a lane loads before it adds the first."""
    return int(re.search(r"\bIN_FLIGHT = (\d+),", (KERNELS / "gather.cu").read_text())[1])


def rows_at_once() -> int:
    """The rows that a thread of epilogue.cu loads before it adds the first."""
    return int(re.search(r"\bROWS_AT_ONCE = (\d+) ", (KERNELS / "epilogue.cu").read_text())[1])


def vector_accesses(kind: str, element: str) -> tuple[int, int, int]:
    """The vectors that an entry of gather.cu loads and stores, and how many of them it loads together."""
    own, sums = 1, 2 if element in NARROW else 1
    # Results are rows of either type, where those differ; they are stored, and loaded to be added to and for
    # dot products.
    results = own if own == sums else own + sums
    together = in_flight() * (own if kind == "gather" else sums)
    partials = 0 if kind == "add_partials" else sums
    # The rows and the bias of an epilogue, where sums may have one.
    epilogue = 0 if kind == "gather" and own != sums else own + sums
    return together + 2 * results + epilogue, results + partials, together


class Tools:
    """The compiler, and the disassembler if it can be had."""

    def __init__(self):
        self.programs = install(COMPILER, TARGET / "nvcc-13.0.88", "nvcc")
        self.disassembler = installed_disassembler()

    def entries(self, source: pathlib.Path, architecture: str, options=()) -> dict[str, Entry]:
        """The kernels of a file, PTX or CUDA C++."""
        with tempfile.TemporaryDirectory() as folder:
            cubin = pathlib.Path(folder) / "kernels.cubin"
            if source.suffix == ".ptx":
                text = run(self.programs / "ptxas", "-v", f"-arch={architecture}", *options, "-o", cubin,
                           source)
            else:
                text = run(self.programs / "nvcc", *NVCC_OPTIONS, f"-arch={architecture}", "--resource-usage",
                           *options, "-o", cubin, source)
            entries = read_assembler(text)
            if not entries or any(e.registers == 0 for e in entries.values()):
                sys.exit(f"{source.name}: what the assembler printed is not understood:\n{text}")
            if self.disassembler:
                read_disassembly(run(self.disassembler, cubin), entries)
        return entries

    def try_rules(self) -> None:
        """Fails unless the rules find all that is wrong with the planted kernel, on each architecture."""
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder) / "planted.cu"
            source.write_text(PLANTED)
            for architecture in ARCHITECTURES:
                (name, entry), = self.entries(source, architecture, PLANTED_OPTIONS).items()
                found = faults(name, entry, self.disassembler is not None)
                if len(found) != (6 if self.disassembler else 2):
                    sys.exit("the rules miss something in a kernel that breaks all of them "
                             f"({architecture}): {found}")


def widths(counts: Counter) -> str:
    """`128:4 32:9`, the widest first."""
    return " ".join(f"{width}:{counts[width]}" for width in sorted(counts, reverse=True)) or "-"


def in_flight_of(name: str, entry: Entry) -> str:
    """`3/4`, or nothing for other kernels than those of gather.cu."""
    is_gather = GATHERS.fullmatch(name)
    return f"{entry.flight}/{vector_accesses(is_gather[1], is_gather[2])[2]}" if is_gather else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--native", nargs="+", choices=ARCHITECTURES, default=ARCHITECTURES,
                        help="the architectures for nvcc; all unless given")
    native = parser.parse_args().native
    tools = Tools()
    tools.try_rules()
    disassembled = tools.disassembler is not None
    row = "{:<28} {:<4} {:<7} {:>9} {:>6} {:>5} {:>6} {:>5} {:>6} {:>7}  {:<24} {:<22}"
    print("Bytes, and instructions by width in bits (of both the aligned and the element-wise path).")
    print(row.format("entry", "from", "arch", "registers", "shared", "stack", "spills", "local", "flight",
                     "generic", "global loads", "global stores").rstrip())
    wrong, kinds = [], {".ptx": set(), ".cu": set()}
    sources = [*sorted((KERNELS / "ptx").glob("*.ptx")), *sorted(KERNELS.glob("*.cu"))]
    work = [(source, architecture) for source in sources
            for architecture in (ARCHITECTURES if source.suffix == ".ptx" else native)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda job: tools.entries(*job), work)
        for (source, architecture), entries in zip(work, results, strict=True):
            for name, e in sorted(entries.items()):
                kinds[source.suffix].add(name)
                accesses = ("?",) * 5
                if disassembled:
                    accesses = (e.local, in_flight_of(name, e), e.generic, widths(e.loads), widths(e.stores))
                print(row.format(name, source.suffix[1:], architecture, e.registers, e.shared, e.stack,
                                 e.spills, *accesses).rstrip())
                broken = faults(name, e, disassembled)
                wrong += [f"{name} ({source.suffix[1:]}, {architecture}) {fault}" for fault in broken]
    if not kinds[".ptx"] or kinds[".ptx"] != kinds[".cu"]:
        wrong.append(f"the entries of PTX and sources differ: {sorted(kinds['.ptx'] ^ kinds['.cu'])}")
    if wrong:
        sys.exit("\n".join(wrong))
    more = ", no local memory, and vectors whole in each gather" if disassembled else ""
    print(f"no spills, no stack frames{more}")


if __name__ == "__main__":
    main()
