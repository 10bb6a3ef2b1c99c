//! Who looks after what others may do to the machine that ETM works on: the routing daemon, ETM's routing rule,
//! and inside interfaces that are made anew.
//! Never judges what that means for decisions.

use super::clock::boottime;
use super::decider::uplink_id;
use super::error::AgentError;
use super::machine::{self, own_table};
use super::open::mark_rule;
use super::sampler::Note;
use super::start::{Tasks, acting, plain};
use super::stop::End;
use crate::config::Settings;
use crate::core::decision::Decision;
use crate::core::input::{Input, LinkEvent};
use crate::fib::{LinkMonitor, RuleWatch};
use crate::types::UplinkId;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use tokio::sync::{mpsc, watch};

/// Spawns them.
pub(super) fn spawn(
    tasks: &mut Tasks,
    settings: &Settings,
    (acts, decisions): (&watch::Sender<bool>, watch::Receiver<Arc<Decision>>),
    (inputs, notes): (&mpsc::Sender<Input>, &SyncSender<Note>),
    stop: &watch::Receiver<bool>,
) -> Result<(), AgentError> {
    let (daemon, acts_now, stopped) = (acting(settings), acts.subscribe(), stop.clone());
    tasks.spawn(async move {
        (
            "the watch on the routing daemon",
            plain(machine::watch_daemon(daemon, acts_now, decisions, stopped).await),
        )
    });
    let refusals = machine::watch_refusals(settings.clone(), inputs.clone(), stop.clone());
    tasks.spawn(async move {
        refusals.await;
        ("the watch on what speaks against acting", End::Plain)
    });
    let own = own_table(settings);
    if !own.is_shared() {
        spawn_rule_watch(tasks, RuleWatch::open(own, mark_rule(settings))?, acts, inputs, stop);
        spawn_inside(tasks, &settings.kernel.inside, notes.clone(), stop.clone())?;
    }
    Ok(())
}

fn spawn_rule_watch(
    tasks: &mut Tasks,
    rules: RuleWatch,
    acts: &watch::Sender<bool>,
    inputs: &mpsc::Sender<Input>,
    stop: &watch::Receiver<bool>,
) {
    let (events, mut received) = mpsc::channel(16);
    let (acts, inputs, stop) = (acts.subscribe(), inputs.clone(), stop.clone());
    tasks.spawn(async move {
        let forward = async {
            while let Some(event) = received.recv().await {
                if inputs.send(Input::Site(event)).await.is_err() {
                    return;
                }
            }
        };
        let (result, ()) = tokio::join!(rules.run(acts, events, boottime, stop), forward);
        ("the watch on the routing rule", plain(result))
    });
}

/// An inside interface that is made anew is marked anew. Here a link's number is its place in `kernel.inside`.
fn spawn_inside(
    tasks: &mut Tasks,
    names: &[String],
    notes: SyncSender<Note>,
    stop: watch::Receiver<bool>,
) -> Result<(), AgentError> {
    let names: Vec<(UplinkId, String)> =
        names.iter().enumerate().map(|(index, name)| (uplink_id(index), name.clone())).collect();
    let monitor = LinkMonitor::open(names)?;
    let (events, mut received) = mpsc::channel::<LinkEvent>(16);
    tasks.spawn(async move {
        let forward = async {
            while let Some(event) = received.recv().await {
                let notes = notes.clone();
                let note = Note::Inside(event.uplink.index(), event.ifindex);
                // The sampler may be in a sample; its queue is short and this task may wait, but not a runtime thread.
                if !matches!(tokio::task::spawn_blocking(move || notes.send(note)).await, Ok(Ok(()))) {
                    return;
                }
            }
        };
        let (result, ()) = tokio::join!(monitor.run(events, stop), forward);
        ("the monitor of inside links", plain(result))
    });
    Ok(())
}
