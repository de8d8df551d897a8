//! Where the files of a build are.

use std::path::{Path, PathBuf};
use std::process::Command;

/// This package.
pub fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of this test, in which the libraries lie, too.
pub fn libraries() -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    for library in ["libhyperscatter_c.so", "libhyperscatter_c.a", "libhyperscatter_emulator.so"] {
        assert!(folder.join(library).is_file(), "there is no {library} in {}", folder.display());
    }
    folder
}

/// A new folder that is removed in the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hyperscatter-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A folder in which what has the driver's name is none, also where the machine has one.
    pub fn without_driver(&self) -> PathBuf {
        let folder = self.0.join("no-driver");
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["libcuda.so", "libcuda.so.1"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        folder
    }

    /// A folder in which the emulated driver has the driver's name.
    pub fn with_driver(&self) -> PathBuf {
        let folder = self.0.join("driver");
        std::fs::create_dir_all(&folder).unwrap();
        let library = libraries().join("libhyperscatter_emulator.so");
        std::os::unix::fs::symlink(library, folder.join("libcuda.so")).unwrap();
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether there is a program of this name; says so where not.
pub fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        println!("SKIPPED: there is no {program}");
    }
    found
}

/// Runs a program to its end, and gives what it prints.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} ends with {}\n{out}\n{err}", output.status);
    out.into_owned()
}
