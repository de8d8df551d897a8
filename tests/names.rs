//! The names that documents and scripts give to tests and files are names of tests and files.

use std::path::Path;
use std::process::Command;

const MAP: (&str, &str) = ("tests/README.md", include_str!("README.md"));

/// What selects tests by parts of their names.
const SCRIPTS: [(&str, &str); 2] =
    [(".ci/run", include_str!("../.ci/run")), ("gpu-check/run.sh", include_str!("../gpu-check/run.sh"))];

/// The names of all tests of this binary.
fn tests() -> Vec<String> {
    let output = Command::new(std::env::current_exe().unwrap()).arg("--list").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// The words of a text that have a mark in them, such as the path of a test or of a file.
fn words_with(mark: &'static str, text: &'static str) -> impl Iterator<Item = &'static str> {
    let ends = |c: char| !c.is_ascii_alphanumeric() && !"_:/.-".contains(c);
    let words = text.split(ends).map(|word| word.trim_end_matches(['.', '-'])).filter(|w| !w.is_empty());
    words.filter(move |word| word.contains(mark))
}

/// Each test of the map of guarantees is there, by its full name or by the modules that it stands in.
#[test]
fn the_map_of_guarantees_names_tests_that_exist() {
    let tests: Vec<_> = tests().iter().map(|test| format!("::{test}::")).collect();
    let (file, text) = MAP;
    let is_missing = |word: &&str| {
        let path = format!("::{}::", word.trim_matches(':'));
        !tests.iter().any(|test| test.contains(&path))
    };
    let missing: Vec<_> = words_with("::", text).filter(is_missing).collect();
    assert!(missing.is_empty(), "{file} names tests that do not exist: {missing:#?}");
    assert!(words_with("::", text).count() > 50, "{file} names hardly a test");
}

#[test]
fn scripts_select_tests_that_exist() {
    let tests = tests();
    for (file, text) in SCRIPTS {
        let missing = |word: &&str| !tests.iter().any(|test| test.contains(word));
        let missing: Vec<_> = words_with("::", text).filter(missing).collect();
        assert!(missing.is_empty(), "{file} selects tests that do not exist: {missing:#?}");
    }
}

/// In the repository; elsewhere there are no files to look for.
#[test]
fn documents_name_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join("tests").exists() {
        println!("SKIPPED: the repository is not at {}", root.display());
        return;
    }
    let documents = [
        ("README.md", include_str!("../README.md")),
        ("SAFETY.md", include_str!("../SAFETY.md")),
        ("ARCHITECTURE.md", include_str!("../ARCHITECTURE.md")),
        ("CONTRIBUTING.md", include_str!("../CONTRIBUTING.md")),
        ("RELEASING.md", include_str!("../RELEASING.md")),
        ("gpu-check/README.md", include_str!("../gpu-check/README.md")),
        MAP,
    ];
    let folders =
        ["benches", "bindings", "emulator", "examples", "fuzz", "gpu-check", "kernels", "src", "tests"];
    // NAME stands for one that the reader gives.
    let is_file = |word: &&str| {
        let in_folder = |(folder, path): (&str, &str)| folders.contains(&folder) && path.contains('.');
        word.split_once('/').is_some_and(in_folder) && !word.contains("NAME")
    };
    for (document, text) in documents {
        let missing: Vec<_> = words_with("/", text)
            .map(|word| word.trim_end_matches(':'))
            .filter(is_file)
            .filter(|path| !root.join(path).exists())
            .collect();
        assert!(missing.is_empty(), "{document} names files that do not exist: {missing:#?}");
    }
}
