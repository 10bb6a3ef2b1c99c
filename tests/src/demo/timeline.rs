//! Prints the demo as it happens: lines for people, or one JSON object per line.

use serde_json::{Map, Value, json};

use crate::clock::{boottime_ns, millis_between};

/// Who reads the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A person.
    Text,
    /// A program: one object per line.
    Json,
}

/// The running story.
#[derive(Debug)]
pub(crate) struct Timeline {
    format: Format,
    start_ns: u64,
}

impl Timeline {
    pub(crate) fn start(format: Format) -> Self {
        Self { format, start_ns: boottime_ns() }
    }

    /// A chapter.
    pub(crate) fn chapter(&self, title: &str) {
        match self.format {
            Format::Text => println!("\n{title}"),
            Format::Json => self.object("chapter", title, &json!({})),
        }
    }

    /// Something that happened now.
    pub(crate) fn say(&self, text: &str) {
        self.at(boottime_ns(), text, &json!({}));
    }

    /// Something that happened at `at_ns`, with figures for programs.
    pub(crate) fn at(&self, at_ns: u64, text: &str, figures: &Value) {
        match self.format {
            Format::Text => println!("  {:>8.3} s  {text}", millis_between(self.start_ns, at_ns) / 1e3),
            Format::Json => {
                let mut figures = figures.clone();
                figures["at_ms"] = json!(millis_between(self.start_ns, at_ns));
                self.object("event", text, &figures);
            }
        }
    }

    /// A line that only people need: a command to try, a table.
    pub(crate) fn aside(&self, text: &str) {
        if self.format == Format::Text {
            println!("              {text}");
        }
    }

    /// The last object of a JSON run.
    pub(crate) fn result(&self, result: &Value) {
        if self.format == Format::Json {
            println!("{result}");
        }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    fn object(&self, kind: &str, text: &str, figures: &Value) {
        let mut object = Map::new();
        object.insert(kind.to_owned(), json!(text));
        if let Value::Object(more) = figures {
            object.extend(more.clone());
        }
        println!("{}", Value::Object(object));
    }
}
