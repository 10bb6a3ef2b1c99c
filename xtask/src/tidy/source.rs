//! A Rust file prepared for reading by rules: comments and strings blanked, test code told apart.
//!
//! A small lexer, not a parser: it knows comments, strings, characters, braces and `#[cfg(test)]`, no more.
//! Blanks keep their place, so that line numbers stay true.

use std::collections::BTreeSet;
use std::path::Path;

use super::paths::{Named, is_word, named};

/// One Rust file.
#[derive(Debug)]
pub(super) struct Source {
    /// Relative to the root, with `/`.
    pub(super) path: String,
    /// As written.
    pub(super) raw: String,
    /// Without comments and the contents of strings.
    pub(super) code: String,
    /// `code` without `#[cfg(test)]` items; empty for a file that is all test.
    pub(super) product: String,
    /// The paths that `product` names.
    pub(super) named: Vec<Named>,
    /// Lines that are not in `#[cfg(test)]` items.
    pub(super) product_lines: usize,
    /// Modules declared `#[cfg(test)] mod name;`: their files are tests.
    test_modules: Vec<String>,
    test: bool,
}

impl Source {
    /// Prepares the text of the file at `path` (relative to the root).
    pub(super) fn new(path: &str, raw: &str) -> Self {
        let code = blanked(raw);
        let Parted { product, test_lines, test_modules } = without_tests(&code);
        let mut source = Self {
            path: path.to_owned(),
            raw: raw.to_owned(),
            product_lines: raw.lines().count().saturating_sub(test_lines),
            named: named(&product),
            code,
            product,
            test_modules,
            test: false,
        };
        if is_test_path(path) {
            source.make_test();
        }
        source
    }

    /// Whether the whole file is test code.
    pub(super) fn is_test(&self) -> bool {
        self.test
    }

    fn make_test(&mut self) {
        self.test = true;
        self.product.clear();
        self.named.clear();
        self.product_lines = 0;
    }
}

/// Number of the line that holds the byte at `offset`, from 1.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Marks the files of modules that are declared under `#[cfg(test)]` in another file.
pub(super) fn mark_test_files(sources: &mut [Source]) {
    let mut tests = BTreeSet::new();
    for source in sources.iter() {
        let path = Path::new(&source.path);
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let dir = path.parent().map(|dir| dir.to_string_lossy().into_owned()).unwrap_or_default();
        let base =
            if ["mod", "lib", "main"].contains(&stem.as_str()) { dir } else { format!("{dir}/{stem}") };
        tests.extend(source.test_modules.iter().map(|name| format!("{base}/{name}")));
    }
    for source in sources {
        if tests
            .iter()
            .any(|test| source.path == format!("{test}.rs") || source.path.starts_with(&format!("{test}/")))
        {
            source.make_test();
        }
    }
}

/// Integration tests, benches and fuzz targets of any package; `tests/src` is the lab, which is a product.
fn is_test_path(path: &str) -> bool {
    let dirs: Vec<&str> = path.split('/').collect();
    dirs.get(1).is_some_and(|dir| ["tests", "benches", "fuzz"].contains(dir))
}

/// The code with comments, strings and characters replaced by blanks of the same length.
fn blanked(raw: &str) -> String {
    let bytes = raw.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => comment_end(bytes, at),
            b'"' => string_end(bytes, at),
            b'r' if !after_word(bytes, at) => raw_string_end(bytes, at),
            b'\'' => char_end(bytes, at),
            _ => at,
        };
        // The quotes stay, so that a blanked string still reads as one.
        for byte in out.iter_mut().take(end).skip(at) {
            if *byte != b'\n' && *byte != b'"' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether the byte at `at` continues a word; `br"` and `cr"` are prefixes of raw strings, not words.
fn after_word(bytes: &[u8], at: usize) -> bool {
    let word = |back: usize| at.checked_sub(back).and_then(|i| bytes.get(i)).is_some_and(|b| is_word(*b));
    match at.checked_sub(1).and_then(|i| bytes.get(i)) {
        Some(b'b' | b'c') => word(2),
        _ => word(1),
    }
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
}

fn comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut at) = (0_usize, start);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// End of a raw string that begins at `start`, or `start` if none does.
fn raw_string_end(bytes: &[u8], start: usize) -> usize {
    let hashes = bytes[start + 1..].iter().take_while(|byte| **byte == b'#').count();
    if bytes.get(start + 1 + hashes) != Some(&b'"') {
        return start;
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    let body = start + 2 + hashes;
    (body..bytes.len()).find(|at| bytes[*at..].starts_with(&close)).map_or(bytes.len(), |at| at + close.len())
}

/// End of a character literal, or `start` if this is a lifetime.
fn char_end(bytes: &[u8], start: usize) -> usize {
    if bytes.get(start + 1) == Some(&b'\\') {
        let rest = start + 3;
        return (rest..bytes.len()).find(|at| bytes[*at] == b'\'').map_or(bytes.len(), |at| at + 1);
    }
    let length = std::str::from_utf8(&bytes[start + 1..])
        .ok()
        .and_then(|text| text.chars().next())
        .map_or(1, char::len_utf8);
    if bytes.get(start + 1 + length) == Some(&b'\'') { start + 2 + length } else { start }
}

/// Code with its tests taken out.
struct Parted {
    product: String,
    test_lines: usize,
    /// Modules that are only declared there, their code being in another file.
    test_modules: Vec<String>,
}

/// Blanks every item under `#[cfg(test)]`.
fn without_tests(code: &str) -> Parted {
    let mut out = code.as_bytes().to_vec();
    let (mut test_modules, mut test_lines) = (Vec::new(), 0);
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(") {
        let start = from + found;
        let close = code[start..].find(']').map_or(code.len(), |at| start + at + 1);
        from = close;
        if !code[start..close].contains("test") || code[start..close].contains("not(test") {
            continue;
        }
        let end = item_end(code, close);
        let item = &code[close..end];
        if let Some(name) =
            item.trim_end().strip_suffix(';').and_then(|item| item.trim().rsplit("mod ").next())
            && item.contains("mod ")
        {
            test_modules.push(name.trim().to_owned());
        }
        test_lines += line_at(code, end) - line_at(code, start) + 1;
        for byte in &mut out[start..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        from = end;
    }
    Parted { product: String::from_utf8_lossy(&out).into_owned(), test_lines, test_modules }
}

/// Where the item that begins at or after `start` ends: its `;` or the brace that closes its body.
fn item_end(code: &str, start: usize) -> usize {
    let bytes = code.as_bytes();
    let mut nested = 0_usize;
    for (at, byte) in bytes.iter().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => nested += 1,
            b')' | b']' => nested = nested.saturating_sub(1),
            b';' if nested == 0 => return at + 1,
            b'{' if nested == 0 => return brace_end(code, at),
            _ => {}
        }
    }
    bytes.len()
}

/// The byte after the brace that closes the one at `open`.
pub(super) fn brace_end(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_blanked_in_place() {
        for (raw, code) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"f("x\"y{", z)"#, r#"f("  \" ", z)"#.replace('\\', " ").as_str()),
            (r##"f(r#"a "b" {"#, c)"##, "f(  \"  \" \"  \" , c)"),
            ("'{' 'a x<'a> '\\'' b", "    'a x<'a>      b"),
        ] {
            assert_eq!(blanked(raw).replace('"', " "), code.replace('"', " "), "{raw}");
        }
    }

    #[test]
    fn test_code_is_told_from_product_code() {
        let source = Source::new(
            "a/src/b.rs",
            "//! b\nfn a() {}\n#[cfg(test)]\nmod tests {\n    fn t() {}\n}\nfn c() {}\n",
        );
        assert!(source.product.contains("fn a") && source.product.contains("fn c"));
        assert!(!source.product.contains("fn t") && source.code.contains("fn t"));
        assert_eq!(source.product_lines, 3);
        let other = Source::new(
            "a/src/b.rs",
            "#[cfg(not(test))]\nmod real {\n}\n#[cfg(feature = \"x\")]\nfn y() {}\n",
        );
        assert!(other.product.contains("mod real") && other.product.contains("fn y"));
    }

    #[test]
    fn files_of_test_modules_and_integration_tests_are_tests() {
        let mut sources = vec![
            Source::new("a/src/core/mod.rs", "#[cfg(test)]\nmod fixtures;\npub mod rate;\n"),
            Source::new("a/src/core/fixtures.rs", "fn f() {}\n"),
            Source::new("a/src/core/rate.rs", "#[cfg(test)]\nmod tests;\nfn r() {}\n"),
            Source::new("a/src/core/rate/tests.rs", "fn t() {}\n"),
            Source::new("tests/tests/lab.rs", "fn l() {}\n"),
            Source::new("tests/src/lab.rs", "fn l() {}\n"),
        ];
        mark_test_files(&mut sources);
        let tests: Vec<bool> = sources.iter().map(Source::is_test).collect();
        assert_eq!(tests, [false, true, false, true, true, false]);
    }
}
