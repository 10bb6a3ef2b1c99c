//! Who looks after what others may do to the machine that ETM works on: the routing daemon, and ETM's routing rule.
//! Never judges what that means for decisions.

use super::clock::boottime;
use super::error::AgentError;
use super::machine::{self, own_table};
use super::open::mark_rule;
use super::start::{Tasks, acting, plain};
use crate::config::Settings;
use crate::core::input::Input;
use crate::fib::RuleWatch;
use tokio::sync::{mpsc, watch};

/// Spawns them.
pub(super) fn spawn(
    tasks: &mut Tasks,
    settings: &Settings,
    acts: &watch::Sender<bool>,
    inputs: &mpsc::Sender<Input>,
    stop: &watch::Receiver<bool>,
) -> Result<(), AgentError> {
    let (daemon, acts_now, stopped) = (acting(settings), acts.subscribe(), stop.clone());
    tasks.spawn(async move {
        ("the watch on the routing daemon", plain(machine::watch_daemon(daemon, acts_now, stopped).await))
    });
    let own = own_table(settings);
    if !own.is_shared() {
        spawn_rule_watch(tasks, RuleWatch::open(own, mark_rule(settings))?, acts, inputs, stop);
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
