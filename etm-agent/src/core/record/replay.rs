//! Replay: recorded inputs are handed to a decision again, and what follows is compared bit for bit with what followed
//! then. Never goes on past the first difference by itself: the caller decides.

use super::entry::Entry;
use super::trace::{Standing, Trace};
use crate::core::controller::Controller;
use crate::core::input::Input;
use crate::types::{Prefix, Timestamp};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Debug;

/// A decision that recorded inputs are handed to.
#[derive(Clone, Debug)]
pub struct Replay {
    controller: Controller,
    /// The decision as the recording tells it, and as it was made here.
    recorded: Standing,
    replayed: Standing,
    counted: Counted,
}

/// What was replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// Inputs.
    pub inputs: u64,
    /// Of these, readings of the counters: rounds.
    pub rounds: u64,
    /// Decisions that differ from the one before.
    pub decisions: u64,
}

impl std::ops::Add for Counted {
    type Output = Counted;
    fn add(self, other: Counted) -> Counted {
        Counted {
            inputs: self.inputs + other.inputs,
            rounds: self.rounds + other.rounds,
            decisions: self.decisions + other.decisions,
        }
    }
}

/// The first thing that is not the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Number of the input, from 1.
    pub input: u64,
    /// Number of the round, from 1.
    pub round: u64,
    /// What kind of input.
    pub handed_in: &'static str,
    /// When it was handed in, since boot.
    pub at_ns: Timestamp,
    /// What differs.
    pub what: &'static str,
    /// The first prefix for which it does.
    pub prefix: Option<Prefix>,
    /// As recorded.
    pub recorded: String,
    /// As made here.
    pub replayed: String,
}

fn name(input: &Input) -> &'static str {
    match input {
        Input::Session(_) => "session",
        Input::Routes(_) => "routes",
        Input::Link(_) => "link",
        Input::Fib(_) => "kernel table",
        Input::Sample(_) => "round",
        Input::Released(_) => "released rows",
        Input::Installed(_) => "installed",
        Input::Told(_) => "told",
        Input::Order(_) => "order",
        Input::Tick => "tick",
        Input::Effective(_) => "effect",
        Input::Gateway(_) => "gateway",
        Input::Site(_) => "site",
    }
}

impl Replay {
    /// From a keyframe.
    pub fn new(controller: Controller) -> Replay {
        let standing = Standing::of(&controller.decision());
        Replay { controller, recorded: standing.clone(), replayed: standing, counted: Counted::default() }
    }

    /// Hands an input in.
    pub fn step(&mut self, entry: &Entry) -> Option<Difference> {
        self.counted.inputs += 1;
        self.counted.rounds += u64::from(matches!(entry.input, Input::Sample(_)));
        let outcome = self.controller.handle(entry.now, entry.input.clone());
        let trace = Trace::of(&outcome, &mut self.replayed);
        self.counted.decisions += u64::from(trace.decision.is_some());
        if let Some(change) = &entry.trace.decision {
            self.recorded.apply(change);
        }
        if trace == entry.trace { None } else { Some(self.difference(entry, &trace)) }
    }

    /// The state reached.
    pub fn controller(&self) -> &Controller {
        &self.controller
    }

    /// What was replayed so far.
    pub fn counted(&self) -> Counted {
        self.counted
    }

    fn difference(&self, entry: &Entry, trace: &Trace) -> Difference {
        let recorded = &entry.trace;
        let (what, prefix, sides) = first_of(&self.recorded.kernel, &self.replayed.kernel)
            .map(|(prefix, sides)| ("the kernel route", Some(prefix), sides))
            .or_else(|| {
                first_of(&self.recorded.announce, &self.replayed.announce)
                    .map(|(prefix, sides)| ("the announcement", Some(prefix), sides))
            })
            .or_else(|| event(recorded, trace).map(|sides| ("the decision log", None, sides)))
            .unwrap_or_else(|| rest(recorded, trace));
        Difference {
            input: self.counted.inputs,
            round: self.counted.rounds,
            handed_in: name(&entry.input),
            at_ns: entry.now,
            what,
            prefix,
            recorded: sides.0,
            replayed: sides.1,
        }
    }
}

fn shown(value: Option<&impl Debug>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| format!("{value:?}"))
}

fn first_of<T: PartialEq + Debug>(
    recorded: &BTreeMap<Prefix, T>,
    replayed: &BTreeMap<Prefix, T>,
) -> Option<(Prefix, (String, String))> {
    let differs = |prefix: &&Prefix| recorded.get(prefix) != replayed.get(prefix);
    let prefix = recorded.keys().filter(differs).chain(replayed.keys().filter(differs)).min()?;
    Some((*prefix, (shown(recorded.get(prefix)), shown(replayed.get(prefix)))))
}

fn event(recorded: &Trace, replayed: &Trace) -> Option<(String, String)> {
    let most = recorded.events.len().max(replayed.events.len());
    let at = (0..most).find(|at| recorded.events.get(*at) != replayed.events.get(*at))?;
    let text = |trace: &Trace| trace.events.get(at).cloned().unwrap_or_else(|| "none".to_owned());
    Some((text(recorded), text(replayed)))
}

fn rest(recorded: &Trace, replayed: &Trace) -> (&'static str, Option<Prefix>, (String, String)) {
    if recorded.table != replayed.table {
        let sides = (shown(recorded.table.as_ref()), shown(replayed.table.as_ref()));
        return ("the changes of the prefix tables (digests)", None, sides);
    }
    if recorded.live != replayed.live {
        let sides = (shown(recorded.live.as_ref()), shown(replayed.live.as_ref()));
        return ("the live rows (digests)", None, sides);
    }
    let number =
        |trace: &Trace| shown(trace.decision.as_ref().map(|change| (change.generation, change.at)).as_ref());
    ("the number or time of the decision", None, (number(recorded), number(replayed)))
}
