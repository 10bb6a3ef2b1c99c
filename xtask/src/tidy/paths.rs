//! The paths that code names: `std::fs::read`, and each branch of `use std::{fs, io::{self, Read}}`.
//!
//! Does not resolve names: a re-export hides where a thing comes from, so re-exports at a crate's root are refused
//! elsewhere (`arrows`).

/// A path of at least one name and the line it stands on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) line: usize,
    pub(super) names: Vec<String>,
}

/// Whether a byte of code belongs to a word.
pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

/// All paths in blanked code, in order.
pub(super) fn named(code: &str) -> Vec<Named> {
    let mut reader = Reader { bytes: code.as_bytes(), at: 0, line: 1, found: Vec::new() };
    while reader.at < reader.bytes.len() {
        if reader.at_word() {
            reader.tree(&[]);
        } else {
            reader.step();
        }
    }
    reader.found
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
    found: Vec<Named>,
}

impl Reader<'_> {
    fn at_word(&self) -> bool {
        self.bytes.get(self.at).is_some_and(|byte| is_word(*byte))
    }

    fn step(&mut self) {
        if self.bytes.get(self.at) == Some(&b'\n') {
            self.line += 1;
        }
        self.at += 1;
    }

    fn blanks(&mut self) {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.step();
        }
    }

    /// Moves past `token` if it comes next, blanks before it included; else stays.
    fn take(&mut self, token: &[u8]) -> bool {
        let (at, line) = (self.at, self.line);
        self.blanks();
        if self.bytes[self.at.min(self.bytes.len())..].starts_with(token) {
            self.at += token.len();
            return true;
        }
        (self.at, self.line) = (at, line);
        false
    }

    fn word(&mut self) -> String {
        let start = self.at;
        while self.at_word() {
            self.at += 1;
        }
        String::from_utf8_lossy(&self.bytes[start..self.at]).into_owned()
    }

    /// A path, or a tree of them below `prefix`.
    fn tree(&mut self, prefix: &[String]) {
        let line = self.line;
        let mut names = prefix.to_vec();
        names.push(self.word());
        while self.take(b"::") {
            self.blanks();
            if self.take(b"{") {
                return self.branches(&names);
            }
            if !self.at_word() {
                break;
            }
            names.push(self.word());
        }
        // `self` in a tree is the prefix itself.
        if names.len() > 1 && names.last().is_some_and(|name| name == "self") {
            names.pop();
        }
        self.found.push(Named { line, names });
    }

    fn branches(&mut self, prefix: &[String]) {
        loop {
            self.blanks();
            if self.at_word() {
                self.tree(prefix);
            } else if self.take(b"}") || self.at >= self.bytes.len() {
                return;
            } else {
                self.step();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(code: &str) -> Vec<String> {
        named(code).into_iter().map(|named| format!("{} {}", named.line, named.names.join("::"))).collect()
    }

    #[test]
    fn every_branch_of_a_use_tree_is_a_path() {
        let code = "use std::{\n    fs,\n    io::{self, Read as R},\n};\nx";
        assert_eq!(
            joined(code),
            ["1 use", "2 std::fs", "3 std::io", "3 std::io::Read", "3 std::io::as", "3 std::io::R", "5 x"]
        );
    }

    #[test]
    fn paths_in_expressions_and_types_are_found() {
        assert_eq!(joined("a::b::<c::D>(e)"), ["1 a::b", "1 c::D", "1 e"]);
        assert_eq!(joined("use super::*;\ncrate\n  ::x"), ["1 use", "1 super", "2 crate::x"]);
    }
}
