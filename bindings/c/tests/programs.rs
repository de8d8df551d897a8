//! The programs in C and C++, compiled with warnings as errors and run under AddressSanitizer and
//! UndefinedBehaviorSanitizer: with the emulated driver in the real one's place, and without a driver.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::paths::{Folder, libraries, package, run};

/// Compiles a program into a folder, with sanitizers.
fn compile(compiler: &str, standard: &str, source: &str, folder: &Path) -> PathBuf {
    let program = folder.join(source.replace('.', "_"));
    let sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    compile_with(&sanitizers, &[compiler, standard], source, &program);
    program
}

/// The compiler comes with its standard.
fn compile_with(sanitizers: &[&str], compiler: &[&str], source: &str, program: &Path) {
    let flags = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-O1", "-fno-omit-frame-pointer"];
    let mut command = Command::new(compiler[0]);
    command.args(&compiler[1..]).args(flags).arg("-D_GNU_SOURCE").args(sanitizers);
    command.arg("-I").arg(package().join("include"));
    command.arg(package().join("tests/programs").join(source)).arg("-o").arg(program);
    command.arg("-L").arg(libraries()).args(["-lhyperscatter_c", "-ldl", "-lm"]);
    run(command.arg(format!("-Wl,-rpath,{}", libraries().display())));
}

/// Runs it with the emulated driver, or with a folder without any.
fn run_with(program: &Path, driver: &Path) -> String {
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", driver).env("HYPERSCATTER_EMULATOR_DEVICES", "2");
    command.env("ASAN_OPTIONS", "strict_string_checks=1");
    // Not the variables of threads: LeakSanitizer may crash when it looks for those of threads that begin.
    let leaks = package().join("tests/programs/leaks.txt");
    command.env("LSAN_OPTIONS", format!("use_tls=0:print_suppressions=0:suppressions={}", leaks.display()));
    run(&mut command)
}

/// What a program in C can get: all statuses but these.
const NOT_FROM_C: &[(&str, &str)] = &[
    ("HS_ERROR_BUSY", "by chance alone: see `tests/operators.rs`"),
    ("HS_ERROR_PANIC", "no panic is known: see `tests/status.rs`"),
    ("HS_ERROR_UNKNOWN", "all have a number"),
    ("HS_ERROR_GRAPH_OUT_OF_RANGE", "owners are counts"),
    ("HS_ERROR_GRAPH_IDS_NOT_SORTED", "owners are counts"),
    ("HS_ERROR_OUT_OF_MEMORY", "sanitizers end the program where there is no memory"),
    ("HS_ERROR_PARTIAL_ROW", "rows are counted"),
    ("HS_ERROR_PARTIAL_INSTANCE", "rows are counted"),
    ("HS_ERROR_UNKNOWN_INSTANCES", "instances are counted"),
    ("HS_ERROR_STRIDE", "the length of an operand follows from its strides"),
    ("HS_ERROR_DRIVER_TOO_OLD", "with another driver"),
    ("HS_ERROR_UNSUPPORTED_ARCHITECTURE", "with another device"),
    ("HS_ERROR_DRIVER", "where the driver fails"),
    ("HS_ERROR_INDEX_OUT_OF_BOUNDS", "nobody can write tables on a device"),
    ("HS_ERROR_PER_THREAD_STREAM", "workspaces are made on a stream of the library"),
    ("HS_ERROR_KERNEL_NOT_LOADED", "a mistake of the library"),
    ("HS_ERROR_UNCHECKED_TABLES", "nobody can write tables on a device"),
    ("HS_ERROR_BATCH_IN_USE", "nobody can write tables on a device"),
    ("HS_ERROR_TABLE_RANGE", "nobody can write tables on a device"),
    ("HS_ERROR_TABLE_VALUE", "nobody can write tables on a device"),
];

#[test]
fn a_program_in_c_trains_on_each_backend_and_gets_each_error() {
    let folder = Folder::new("c");
    let program = compile("gcc", "-std=c99", "train.c", folder.path());
    let with = run_with(&program, &folder.with_driver());
    assert!(with.contains("trained on the CPU and on a device\n"), "{with}");
    let without = run_with(&program, &folder.without_driver());
    assert!(without.contains("trained on the CPU\n"), "{without}");
    let output = [with, without].concat();
    let provoked: BTreeSet<_> = output.lines().filter_map(|line| line.strip_prefix("provoked ")).collect();
    let constants = include_str!("../src/status.rs").lines();
    let statuses = constants.filter_map(|line| line.strip_prefix("pub const ")?.split_once(": i32 = "));
    let all: BTreeSet<_> = statuses.map(|(name, _)| name).filter(|name| *name != "HS_OK").collect();
    let excepted: BTreeSet<_> = NOT_FROM_C.iter().map(|(name, _)| *name).collect();
    assert!(excepted.is_subset(&all), "no statuses: {:?}", excepted.difference(&all));
    let expected: BTreeSet<_> = all.difference(&excepted).copied().collect();
    assert_eq!(provoked, expected);
}

#[test]
fn a_forked_process_may_call_everything_of_the_cpu() {
    let folder = Folder::new("fork");
    let program = folder.path().join("train_c");
    compile_with(&[], &["gcc", "-std=c99"], "train.c", &program);
    let output = run_with(&program, &folder.without_driver());
    assert!(output.contains("a forked process called\n"), "{output}");
}

#[test]
fn calls_on_the_cpu_allocate_blocks_of_a_queue_alone() {
    let folder = Folder::new("allocations");
    let program = folder.path().join("allocations");
    compile_with(&["-fno-builtin"], &["gcc", "-std=c11"], "allocations.c", &program);
    // What calls, allocations and threads there are.
    let [many, alone, small] = [[4, 300], [1, 300], [4, 1]].map(|[threads, tokens]| {
        let arguments = [threads, tokens].map(|number| number.to_string());
        // Not what cargo names there: a library that an earlier build left may lie in its folders.
        let output = run(Command::new(&program).env("LD_LIBRARY_PATH", libraries()).args(arguments));
        let number = |word: &str| word.parse::<usize>().ok();
        output.split_whitespace().filter_map(number).collect::<Vec<_>>()
    });
    // A block of the queue through which calls go to the pool has room for 31 of them or more.
    assert!(many[1] <= many[0] / 31 + 1 && [0, 5].contains(&many[2]), "{many:?}");
    assert!(alone[1] == 0 && alone[2] <= 1, "{alone:?}");
    assert!(small[1] == 0, "{small:?}");
}

/// What a driver and a device that are too old are told apart by.
#[test]
fn an_old_driver_is_an_error() {
    let folder = Folder::new("old");
    let source = folder.path().join("open.c");
    let text = "#include <hyperscatter.h>\n#include <stdio.h>\nint main(void) {\n    hs_device *device = 0;\n    \
                puts(hs_status_name(hs_device_open(0, &device)));\n    hs_error e = HS_ERROR_INIT;\n    \
                hs_last_error(&e);\n    printf(\"%lld %lld\\n\", (long long)e.value, (long long)e.bound);\n    \
                return 0;\n}\n";
    std::fs::write(&source, text).unwrap();
    let program = folder.path().join("open");
    let mut command = Command::new("gcc");
    command.arg(&source).arg("-o").arg(&program).arg("-I").arg(package().join("include"));
    command.arg("-L").arg(libraries()).arg("-lhyperscatter_c");
    run(command.arg(format!("-Wl,-rpath,{}", libraries().display())));
    let mut command = Command::new(&program);
    command.env("LD_LIBRARY_PATH", folder.with_driver());
    command.env("HYPERSCATTER_EMULATOR_DRIVER_VERSION", "11080");
    assert_eq!(run(&mut command), "HS_ERROR_DRIVER_TOO_OLD\n11080 12000\n");
}

#[test]
fn a_program_in_cpp_has_the_bits_of_the_cpu_on_a_device() {
    let folder = Folder::new("cpp");
    let program = compile("g++", "-std=c++17", "train.cpp", folder.path());
    let output = run_with(&program, &folder.with_driver());
    assert!(output.contains("the layer ran on the CPU and on a device\n"), "{output}");
    let output = run_with(&program, &folder.without_driver());
    assert!(output.contains("the layer ran on the CPU\n"), "{output}");
}

/// As `tests/nvtx.rs` of the library has it: whether the ranges are there at all.
#[test]
fn calls_on_a_device_are_ranges_for_profilers() {
    let folder = Folder::new("ranges");
    let program = folder.path().join("train_cpp");
    compile_with(&[], &["g++", "-std=c++17"], "train.cpp", &program);
    let (driver, source) = (folder.with_driver(), folder.path().join("nvtx.c"));
    let text = "#include <stdio.h>\nint nvtxRangePushA(const char *name) { return printf(\"range %s\\n\", name); }\n\
                int nvtxRangePop(void) { return 0; }\n";
    std::fs::write(&source, text).unwrap();
    let library = driver.join("libnvtx3interop.so.1");
    run(Command::new("gcc").args(["-shared", "-fPIC"]).arg(&source).arg("-o").arg(library));
    let output = run_with(&program, &driver);
    for call in ["hyperscatter::conv_epilogue\n", "hyperscatter::conv_epilogue_backward\n"] {
        assert!(output.contains(&format!("range {call}")), "{output}");
    }
}
