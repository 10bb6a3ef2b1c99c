//! Faults of a configuration as a report for people: all of them, each with line and caret.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::ops::Range;

/// A configuration that cannot be used. `Display` is the whole report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{report}")]
pub struct ConfigError {
    report: String,
}

/// One fault of meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Place in the text, in bytes; none where something is missing altogether.
    pub(super) span: Option<Range<usize>>,
    /// What is wrong and what to write instead.
    pub(super) message: String,
    /// What to do, where the message does not say it.
    pub(super) help: Option<String>,
}

impl ConfigError {
    pub(super) fn syntax(name: &str, text: &str, error: &toml::de::Error) -> ConfigError {
        let fault = Fault { span: error.span(), message: error.message().to_owned(), help: None };
        ConfigError { report: render(name, text, &[fault]) }
    }

    pub(super) fn semantic(name: &str, text: &str, faults: &[Fault]) -> ConfigError {
        ConfigError { report: render(name, text, faults) }
    }
}

fn render(name: &str, text: &str, faults: &[Fault]) -> String {
    let renderer = Renderer::plain();
    let reports: Vec<String> = faults
        .iter()
        .map(|fault| {
            let title = Level::ERROR.primary_title(fault.message.as_str());
            let group = match &fault.span {
                Some(span) => title.element(
                    Snippet::source(text)
                        .path(name)
                        .annotation(AnnotationKind::Primary.span(clip(span, text))),
                ),
                None => title.element(Level::NOTE.message(format!("in {name}"))),
            };
            let group = match &fault.help {
                Some(help) => group.element(Level::HELP.message(help.as_str())),
                None => group,
            };
            renderer.render(&[group])
        })
        .collect();
    reports.join("\n\n")
}

/// A span that lies inside the text and marks at least one byte.
fn clip(span: &Range<usize>, text: &str) -> Range<usize> {
    let end = span.end.min(text.len());
    span.start.min(end)..end
}
