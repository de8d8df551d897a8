//! A program outside of the repository finds what `install.sh` installs, by CMake and by pkg-config. What
//! this package is made of.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::paths::{Folder, has, libraries, package, run};

const PROGRAM: &str = r#"
#include <hyperscatter.h>

int main(void) {
    hs_incidence *pairs = 0;
    hs_incidence_sizes sizes;
    if (hs_abi_version() != HS_ABI_VERSION || hs_incidence_subsets(8, 2, &pairs) != HS_OK ||
        hs_incidence_get_sizes(pairs, &sizes) != HS_OK) {
        return 1;
    }
    hs_incidence_free(pairs);
    return sizes.hyperedges == 28 ? 0 : 1;
}
"#;

/// Installs the libraries of this build.
fn install(folder: &Path) -> PathBuf {
    let prefix = folder.join("prefix with a space & more");
    run(Command::new(package().join("install.sh")).arg(&prefix).arg(libraries()));
    prefix
}

#[test]
fn cmake_finds_the_package() {
    if !has("cmake") {
        return;
    }
    let folder = Folder::new("cmake");
    let prefix = install(folder.path());
    std::fs::write(folder.path().join("main.c"), PROGRAM).unwrap();
    let project = "cmake_minimum_required(VERSION 3.16)
project(trainer C)
find_package(hyperscatter 0.1 REQUIRED)
foreach(kind hyperscatter static)
    add_executable(with_${kind} main.c)
    target_link_libraries(with_${kind} PRIVATE hyperscatter::${kind})
endforeach()
";
    std::fs::write(folder.path().join("CMakeLists.txt"), project).unwrap();
    let build = folder.path().join("build");
    let generator = ["-G", "Unix Makefiles"];
    let mut configure = Command::new("cmake");
    configure.args(generator).arg("-S").arg(folder.path()).arg("-B").arg(&build);
    run(configure.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.display())));
    run(Command::new("cmake").arg("--build").arg(&build));
    run(&mut Command::new(build.join("with_hyperscatter")));
    run(&mut Command::new(build.join("with_static")));

    // Another minor version may be another interface.
    std::fs::write(folder.path().join("CMakeLists.txt"), project.replace("0.1 ", "0.2 ")).unwrap();
    let refused = Command::new("cmake").arg("-S").arg(folder.path()).arg("-B").arg(&build).output().unwrap();
    assert!(!refused.status.success());
}

#[test]
fn pkg_config_finds_the_library() {
    if !has("pkg-config") {
        return;
    }
    let folder = Folder::new("pkg-config");
    let prefix = install(folder.path());
    let (source, program) = (folder.path().join("main.c"), folder.path().join("program"));
    std::fs::write(&source, PROGRAM).unwrap();
    // As one does it in a shell.
    let script = r#"eval "cc '$1' -o '$2' $(pkg-config --cflags --libs hyperscatter)" && "$2""#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(&source).arg(&program);
    run(shell.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")));
}

/// Operators are compiled with the core (`src/compiled.rs` there): this package links to them.
#[test]
fn operators_are_compiled_with_the_core_alone() {
    let operators = |library: &str| {
        let mut nm = Command::new("nm");
        let symbols = run(nm.args(["--defined-only", "--demangle"]).arg(libraries().join(library)));
        // One of the functions that have all others below them, for each backend.
        [("hyperscatter::cpu::", "::forward"), ("hyperscatter::cuda::", "::call")].map(
            |(module, function)| {
                symbols.lines().filter(|line| line.contains(module) && line.contains(function)).count()
            },
        )
    };
    let (library, package) = (operators("libhyperscatter_c.so"), operators("libhyperscatter_c.rlib"));
    assert!(library.iter().all(|&n| n >= 4) && package == [0, 0], "{library:?}, {package:?}");
}
