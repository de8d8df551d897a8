//! What the driver needs to know of a PTX text: who can load it, and which kernels it has.

use std::sync::{Arc, Mutex, PoisonError};

use super::status::{Outcome, Status};

/// The facts of a module's text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ptx {
    /// `.version`: major, minor.
    pub(crate) version: (u32, u32),
    /// `.target sm_XY`: major, minor.
    pub(crate) target: (u32, u32),
    /// Whether the target is one architecture only (`sm_90a`).
    pub(crate) exact: bool,
    /// The names after `.entry`.
    pub(crate) entries: Vec<String>,
}

/// The texts that were read, which are few and long: each device of each test loads the same.
static READ: Mutex<Vec<(String, Arc<Ptx>)>> = Mutex::new(Vec::new());

impl Ptx {
    /// Reads a text, unless it was read before.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub(crate) fn read(text: &str) -> Outcome<Arc<Self>> {
        let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, ptx)) = read.iter().find(|(known, _)| known == text) {
            return Ok(ptx.clone());
        }
        let ptx = Arc::new(Self::parse(text)?);
        read.push((text.to_owned(), ptx.clone()));
        Ok(ptx)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// `INVALID_PTX` where version or target are missing.
    pub(crate) fn parse(text: &str) -> Outcome<Self> {
        let text = without_comments(text);
        let version = after(&text, ".version").next().and_then(|rest| {
            let (major, minor) = word(rest).split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        let target = after(&text, ".target").next().and_then(|rest| {
            let name = word(rest).strip_prefix("sm_")?;
            let digits = name.trim_end_matches(['a', 'f']);
            let number: u32 = digits.parse().ok()?;
            Some(((number / 10, number % 10), digits.len() != name.len()))
        });
        let (Some(version), Some((target, exact))) = (version, target) else {
            return Err(Status::INVALID_PTX);
        };
        let entries = after(&text, ".entry").map(|rest| word(rest).to_owned()).collect();
        Ok(Self { version, target, exact, entries })
    }

    /// Checks that a device and a driver can load it.
    ///
    /// # Errors
    /// `UNSUPPORTED_PTX_VERSION` or `NO_BINARY_FOR_GPU`.
    pub(crate) fn check(&self, newest: (u32, u32), capability: (u32, u32)) -> Outcome {
        if self.version > newest {
            return Err(Status::UNSUPPORTED_PTX_VERSION);
        }
        let runs = if self.exact { self.target == capability } else { self.target <= capability };
        if runs { Ok(()) } else { Err(Status::NO_BINARY_FOR_GPU) }
    }
}

/// What follows each occurrence of a directive.
fn after<'a>(text: &'a str, directive: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(directive)
        .map(move |(at, _)| &text[at + directive.len()..])
        .filter(|rest| rest.starts_with(char::is_whitespace))
        .map(str::trim_start)
}

/// The characters of a name or number at the start.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "_$%.".contains(c))).unwrap_or(text.len());
    &text[..end]
}

fn without_comments(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("//").into_iter().chain(rest.find("/*")).min() {
        kept.push_str(&rest[..start]);
        let comment = &rest[start..];
        let end = if comment.starts_with("//") {
            comment.find('\n')
        } else {
            comment[2..].find("*/").map(|end| end + 4)
        };
        kept.push(' ');
        rest = &comment[end.unwrap_or(comment.len())..];
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "//\n// .entry no_kernel(\n.version 8.0\n.target sm_80, debug\n/* .entry none( */\n\
                        .visible .entry first(\n.param .u64 p\n)\n{ ret; }\n.entry second_f32 () { ret; }\n";

    #[test]
    fn directives_are_read_and_comments_are_not() {
        let ptx = Ptx::parse(TEXT).unwrap();
        let entries = vec!["first".to_owned(), "second_f32".to_owned()];
        assert_eq!(ptx, Ptx { version: (8, 0), target: (8, 0), exact: false, entries });
    }

    #[test]
    fn a_text_without_version_or_target_is_invalid() {
        assert_eq!(Ptx::parse(".version 8.0\n"), Err(Status::INVALID_PTX));
        assert_eq!(Ptx::parse(".target sm_80\n"), Err(Status::INVALID_PTX));
        assert_eq!(Ptx::parse("int main() {}"), Err(Status::INVALID_PTX));
    }

    #[test]
    fn a_later_architecture_loads_an_earlier_target_unless_it_is_exact() {
        let ptx = |target: &str| Ptx::parse(&format!(".version 8.0\n.target {target}\n")).unwrap();
        assert_eq!(ptx("sm_75").check((8, 0), (9, 0)), Ok(()));
        assert_eq!(ptx("sm_90a").check((8, 0), (9, 0)), Ok(()));
        assert_eq!(ptx("sm_90a").check((8, 0), (10, 0)), Err(Status::NO_BINARY_FOR_GPU));
        assert_eq!(ptx("sm_100").check((8, 0), (9, 0)), Err(Status::NO_BINARY_FOR_GPU));
        assert_eq!(ptx("sm_75").check((7, 8), (9, 0)), Err(Status::UNSUPPORTED_PTX_VERSION));
    }
}
