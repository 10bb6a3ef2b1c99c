//! Every Rust file opens with `//!`, and the README stays short.

use super::Finding;
use super::source::Source;

/// Findings about the heads of files.
pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    sources.iter().filter_map(head).collect()
}

fn head(source: &Source) -> Option<Finding> {
    let first = source.raw.lines().next().unwrap_or_default();
    let says = first.strip_prefix("//!").is_some_and(|text| text.trim().len() > 1);
    let what = "begin the file with `//!`: what it is and what it never does";
    (!says).then(|| Finding::new(&source.path, 1, "head", what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_head_is_found() {
        let found = |text: &str| check(&[Source::new("a/src/b.rs", text)]).len();
        assert_eq!(found("//! What this is.\nfn a() {}\n"), 0);
        for text in ["", "fn a() {}\n//! late\n", "//!\n", "// what this is\n", "#![no_std]\n//! late\n"] {
            assert_eq!(found(text), 1, "{text:?}");
        }
    }
}
