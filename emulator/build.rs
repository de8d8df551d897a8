//! Compiles the CUDA kernels for the host: each `.cu` file into a *fast* and a *checked* library.
//!
//! The checked build is instrumented by g++'s thread and undefined-behaviour sanitizers, but not linked with
//! their runtimes: `shim/callbacks.cpp` defines the functions that they call. Shared memory is thread-local,
//! so that the thread-local segment of a library is the shared memory of its kernels.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

/// How much dynamic shared memory a block may have: what an H100 gives (227 KiB).
const DYNAMIC_SHARED: usize = 227 << 10;

/// Stands for `__global__` in the preprocessed source.
const MARKER: &str = "__emulator_kernel__";

/// For every compilation of a kernel.
const COMMON: &[&str] = &[
    "-std=c++17",
    "-g",
    "-fPIC",
    "-w",
    // One result on every machine: nothing is fused but what the kernel fuses.
    "-ffp-contract=off",
    "-fno-math-errno",
    // Shared memory has no constructors, and each library has its own.
    "-fno-extern-tls-init",
    "-fno-gnu-unique",
    "-fno-exceptions",
];

const FAST: &[&str] = &["-O2"];

const CHECKED: &[&str] = &[
    "-O1",
    "-fno-omit-frame-pointer",
    "-fsanitize=thread",
    "-fsanitize=undefined",
    "-fno-sanitize=vptr",
    "-fsanitize-coverage=trace-pc",
    "--param=tsan-distinguish-volatile=1",
    "--param=tsan-instrument-func-entry-exit=0",
];

fn main() {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
    println!("cargo:rerun-if-env-changed=CXX");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=shim");

    let mut jobs = Vec::new();
    for (group, folder) in [("product", here.join("../kernels")), ("own", here.join("kernels"))] {
        println!("cargo:rerun-if-changed={}", folder.display());
        for source in sources(&folder) {
            let stem = source.file_stem().expect("a .cu file").to_string_lossy().into_owned();
            jobs.push(Job { source, out: out.join(group).join(stem), shim: here.join("shim") });
        }
    }
    let kernels = in_parallel(&jobs, Job::run);

    let mut owner = BTreeMap::new();
    for (job, names) in jobs.iter().zip(&kernels) {
        for name in names {
            if let Some(other) = owner.insert(name, &job.source) {
                panic!("kernel {name} is in {} and in {}", other.display(), job.source.display());
            }
        }
    }
    let list: String = jobs
        .iter()
        .map(|job| format!("    ({:?}, {:?}),\n", job.library(Build::Fast), job.library(Build::Checked)))
        .collect();
    fs::write(
        out.join("libraries.rs"),
        format!(
            "/// The fast and the checked library of each kernel file.\n\
             const LIBRARIES: &[(&str, &str)] = &[\n{list}];\n\
             /// How much dynamic shared memory a library has room for.\n\
             const DYNAMIC_SHARED: usize = {DYNAMIC_SHARED};\n"
        ),
    )
    .expect("OUT_DIR is writable");
}

/// The `.cu` files of a folder, in order; none where there is no folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "cu"));
    files.sort();
    files
}

/// Runs the jobs on as many threads as cargo allows.
fn in_parallel<J: Sync, R: Send>(jobs: &[J], run: impl Fn(&J) -> R + Sync) -> Vec<R> {
    let threads = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let results = Mutex::new(jobs.iter().map(|_| None).collect::<Vec<Option<R>>>());
    let next = Mutex::new(0..jobs.len());
    thread::scope(|scope| {
        for _ in 0..jobs.len().min(threads) {
            scope.spawn(|| {
                loop {
                    let Some(i) = next.lock().expect("no job panicked").next() else { return };
                    let result = run(&jobs[i]);
                    results.lock().expect("no job panicked")[i] = Some(result);
                }
            });
        }
    });
    results.into_inner().expect("no job panicked").into_iter().map(|r| r.expect("each job ran")).collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Build {
    Fast,
    Checked,
}

/// One kernel file to compile.
struct Job {
    source: PathBuf,
    /// The folder of what comes out.
    out: PathBuf,
    shim: PathBuf,
}

impl Job {
    fn library(&self, build: Build) -> PathBuf {
        self.out.join(if build == Build::Fast { "fast.so" } else { "checked.so" })
    }

    /// Compiles both libraries; returns the names of the kernels.
    fn run(&self) -> Vec<String> {
        fs::create_dir_all(&self.out).expect("OUT_DIR is writable");
        let kernels = self.kernel_names();
        let unit = self.out.join("unit.cpp");
        fs::write(&unit, self.unit(&kernels)).expect("OUT_DIR is writable");
        for build in [Build::Fast, Build::Checked] {
            self.compile(build, &unit);
        }
        kernels
    }

    /// A C++ compiler with the flags that the kernels always have.
    fn compiler(&self) -> Command {
        let mut command = Command::new(env::var("CXX").unwrap_or_else(|_| "g++".into()));
        let folder = self.source.parent().expect("a file in a folder");
        command.args(COMMON).arg("-I").arg(folder).arg("-include").arg(self.shim.join("cuda.h"));
        command
    }

    /// The kernels of the file, also those that macros define: what stands before the first parenthesis
    /// behind `__global__` in the preprocessed source.
    fn kernel_names(&self) -> Vec<String> {
        let mut command = self.compiler();
        command.arg(format!("-D__global__={MARKER}")).args(["-E", "-P", "-x", "c++"]).arg(&self.source);
        let text = output(&mut command);
        text.split(MARKER).skip(1).map(|declaration| name_of(declaration, &self.source)).collect()
    }

    /// The source that is compiled: the kernel file, then the table of its kernels.
    fn unit(&self, kernels: &[String]) -> String {
        let entries: String = kernels
            .iter()
            .map(|name| format!("    emulator::Registered<&{name}>::kernel(\"{name}\"),\n"))
            .collect();
        format!(
            "// Written by build.rs.\n#include {:?}\n#include {:?}\n\
             extern \"C\" const emulator::Kernel emulator_kernels[] = {{\n{entries}    {{}},\n}};\n",
            self.source,
            self.shim.join("register.h"),
        )
    }

    fn compile(&self, build: Build, unit: &Path) {
        let library = self.library(build);
        let object = library.with_extension("o");
        let flags = if build == Build::Fast { FAST } else { CHECKED };
        output(self.compiler().args(flags).arg("-c").arg(unit).arg("-o").arg(&object));

        // The sanitizers' constructor is instrumented itself, and would run outside of any fiber.
        let without = ["--remove-section=.init_array*", "--remove-section=.rela.init_array*"];
        output(Command::new("objcopy").args(without).arg(&object));

        let shared = library.with_extension("s");
        fs::write(&shared, dynamic_shared(&object, &self.source)).expect("OUT_DIR is writable");

        let mut link = Command::new(env::var("CXX").unwrap_or_else(|_| "g++".into()));
        link.args([
            "-std=c++17",
            "-O2",
            "-g",
            "-fPIC",
            "-shared",
            "-fno-builtin",
            "-Wl,-Bsymbolic",
            "-Wl,-z,defs",
        ]);
        link.arg(self.shim.join("entry.cpp"));
        if build == Build::Checked {
            link.arg(self.shim.join("callbacks.cpp"));
        }
        output(link.arg(&object).arg(&shared).arg("-lm").arg("-o").arg(&library));
    }
}

/// The name in `... name(parameters)`, where attributes with parentheses may come first.
fn name_of(declaration: &str, source: &Path) -> String {
    let mut rest = declaration;
    loop {
        let open =
            rest.find('(').unwrap_or_else(|| panic!("{}: __global__ without a function", source.display()));
        let name: String = rest[..open]
            .trim_end()
            .chars()
            .rev()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect();
        if name != "__attribute__" && name != "alignas" {
            return name;
        }
        let mut depth = 0;
        let close = rest[open..].find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        rest = &rest[open + close.expect("the compiler accepted the parentheses") + 1..];
    }
}

/// The definition of the dynamic shared memory, which a kernel file declares only: the one undefined
/// thread-local symbol of its object, under a second name that the engine knows.
fn dynamic_shared(object: &Path, source: &Path) -> String {
    let symbols = output(Command::new("readelf").args(["-sW"]).arg(object));
    let undefined: Vec<_> = symbols
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() == 8 && fields[3] == "TLS" && fields[6] == "UND")
        .map(|fields| fields[7])
        .collect();
    assert!(undefined.len() <= 1, "{}: several extern __shared__ arrays: {undefined:?}", source.display());
    let define = |name| {
        format!(
            ".section .tbss,\"awT\",@nobits\n.balign 128\n.globl emulator_dynamic_shared\n.globl {name}\n\
             .type emulator_dynamic_shared, @object\n.type {name}, @object\n\
             .size emulator_dynamic_shared, {DYNAMIC_SHARED}\n.size {name}, {DYNAMIC_SHARED}\n\
             emulator_dynamic_shared:\n{name}:\n.zero {DYNAMIC_SHARED}\n"
        )
    };
    let text = undefined.first().map(define).unwrap_or_default();
    format!("{text}.section .note.GNU-stack,\"\",@progbits\n")
}

/// What a command prints; panics with what it complained about if it fails.
fn output(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?} failed:\n{complaint}");
    String::from_utf8(done.stdout).expect("compilers print UTF-8")
}
