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

/// The root of the repository. Elsewhere there are no files to look for.
fn root() -> Option<&'static Path> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join("tests").exists() {
        println!("SKIPPED: the repository is not at {}", root.display());
        return None;
    }
    Some(root)
}

/// The Rust files below a folder, by their paths from there.
fn rust_files(folder: &Path) -> Vec<String> {
    let mut files = vec![];
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}

/// Each file of tests is in the map, by its path or as a module.
#[test]
fn the_map_of_guarantees_leaves_out_no_file() {
    let Some(root) = root() else { return };
    let (file, text) = MAP;
    let is_missing = |path: &String| {
        let module = path.trim_end_matches(".rs").replace('/', "::");
        !text.contains(&format!("`{module}::")) && !text.contains(&format!("`tests/{path}`"))
    };
    let mut files = rust_files(&root.join("tests"));
    files.retain(|path| !path.starts_with("fixtures/") && !path.ends_with("mod.rs") && is_missing(path));
    assert!(files.is_empty(), "{file} leaves out {files:#?}");
}

/// Each source file is in the table of folders: in the rows behind that of its folder, by its name or by that
/// of a folder.
#[test]
fn the_table_of_folders_leaves_out_no_file() {
    let Some(root) = root() else { return };
    let text = include_str!("../ARCHITECTURE.md");
    let table = text.lines().skip_while(|line| *line != "| place | subject |");
    let (mut folder, mut named) = (String::new(), vec![]);
    for line in table.take_while(|line| line.starts_with('|')) {
        let place = line.split('|').nth(1).unwrap();
        for word in place.split('`').skip(1).step_by(2) {
            match word.strip_prefix("src/") {
                Some(inner) => folder = inner.to_owned(),
                None => named.push(format!("{folder}{word}")),
            }
        }
    }
    let is_missing = |path: &String| {
        let in_folder = |name: &String| {
            name.ends_with('/')
                && (path.starts_with(&**name) || path.strip_suffix(".rs") == name.strip_suffix('/'))
        };
        !named.iter().any(|name| name == path || in_folder(name))
    };
    let mut files = rust_files(&root.join("src"));
    files.retain(|path| path != "lib.rs" && !path.ends_with("mod.rs") && is_missing(path));
    assert!(files.is_empty(), "ARCHITECTURE.md leaves out {files:#?}");
}

#[test]
fn documents_name_files_that_exist() {
    let Some(root) = root() else { return };
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
