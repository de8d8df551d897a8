//! The header is what cbindgen makes of the source, and is complete.

use std::collections::HashSet;

use super::paths::package;

/// What cbindgen writes.
fn generated() -> String {
    let config = cbindgen::Config::from_file(package().join("cbindgen.toml")).unwrap();
    let bindings = cbindgen::Builder::new().with_crate(package()).with_config(config).generate().unwrap();
    let mut header = vec![];
    bindings.write(&mut header);
    // What Rust calls safety is what a caller in C promises.
    String::from_utf8(header).unwrap().replace(" # Safety\n", " The caller promises:\n")
}

/// To write it anew:
///
/// ```text
/// HYPERSCATTER_WRITE_HEADER=1 cargo test --package hyperscatter-c header
/// ```
#[test]
fn the_header_is_what_the_source_says() {
    let path = package().join("include/hyperscatter.h");
    let generated = generated();
    if std::env::var_os("HYPERSCATTER_WRITE_HEADER").is_some_and(|write| write == "1") {
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(
        committed == generated,
        "{} is not what cbindgen writes: HYPERSCATTER_WRITE_HEADER=1 cargo test --package hyperscatter-c header",
        path.display()
    );
}

/// Each function and each constant of the source is in the header.
#[test]
fn the_header_leaves_nothing_out() {
    let header = generated();
    let mut names = vec![];
    for entry in std::fs::read_dir(package().join("src")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in text.lines() {
            let name = |from: &str, to: &str| {
                let rest = line.strip_prefix(from)?;
                Some(rest.split(|c: char| to.contains(c)).next().unwrap().to_owned())
            };
            names.extend(name("pub unsafe extern \"C\" fn ", "("));
            names.extend(name("pub extern \"C\" fn ", "("));
            names.extend(name("pub const ", ":"));
        }
    }
    assert!(names.len() > 120, "{}", names.len());
    // Whole words: many a name begins like another.
    let words: HashSet<_> = header.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    let missing: Vec<_> = names.iter().filter(|name| !words.contains(&***name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
