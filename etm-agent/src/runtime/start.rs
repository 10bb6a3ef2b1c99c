//! Starting: one function per part, each given exactly the ends of the channels it owns.

use super::announce::{Announcer, Stance, announce};
use super::clock::boottime;
use super::decider::{Decider, Identity, Sources, uplink_id};
use super::error::AgentError;
use super::machine::{self, enforcing, own_table};
use super::open::{Opening, header};
use super::sampler::{Attachment, Note, Sampler};
use super::sessions::{self, Session, Shown, Standing};
use super::stop::{End, Parts};
use super::table::{self, Job};
use crate::config::Settings;
use crate::control::schema::{GuardianView, Quantiles};
use crate::control::{self, Request};
use crate::core::controller::Controller;
use crate::core::custody::Tenure;
use crate::core::decision::Decision;
use crate::core::input::{Input, LinkEvent, Sample, TableFill};
use crate::core::policy::Role;
use crate::datapath::{Counters, Datapath, KernelLog, Live, Opened, PrefixTable};
use crate::fib::{self, LinkMonitor, LinkReport, OwnTable, RouteMonitor, StatsReader};
use crate::telemetry::LogFormat;
use crate::types::{PeerId, Timestamp};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// How this process was started, for the guardian that it starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    /// The configuration file.
    pub(super) config: &'a Path,
    pub(super) log: LogFormat,
}

/// Starts every part. An error means that nothing runs any more.
pub(super) fn start(
    settings: &Settings,
    origin: Origin<'_>,
    opening: Opening,
) -> Result<Parts, AgentError> {
    let Opening { interfaces, datapath, routes, socket, lock } = opening;
    let Opened { datapath, table, counters, lease, off, live, log, mut adopted } = datapath;
    if enforcing(settings) {
        adopted.routes = routes.installed().clone();
    }
    let slots = settings.datapath.prefixes_ipv4 + settings.datapath.prefixes_ipv6;
    let controller = Controller::new(settings.policy.clone(), slots, &adopted, off.is_off()?);
    let (inputs, inputs_rx) = mpsc::channel(4096);
    let (requests, requests_rx) = mpsc::channel(16);
    let (samples, samples_rx) = mpsc::channel(1);
    let (links, links_rx) = mpsc::channel(64);
    let (directives, directives_rx) = mpsc::channel(4);
    let (jobs, jobs_rx) = sync_channel(16);
    let (notes, notes_rx) = sync_channel(64);
    let (decisions, decisions_rx) = watch::channel(controller.decision());
    let (fill, fill_rx) = watch::channel(TableFill::default());
    let (learning, learning_rx) = watch::channel(false);
    let undecided = controller.enforcing();
    let (stance, stance_rx) =
        watch::channel(Stance { tenure: (!undecided).then_some(Tenure::Released), on: 0 });
    let (adopt, adopt_rx) = watch::channel(Timestamp(0));
    let (stop_sessions, sessions_rx) = watch::channel(false);
    let (stop_rest, rest_rx) = watch::channel(false);
    let (_, no_decisions) = watch::channel(controller.decision());
    let sessions = sessions::of(settings, Role::Learn, &inputs, &no_decisions, &sessions_rx)?;
    let guarded = Guarded::of(settings)?;
    let (durations, sample_times) = watch::channel(Quantiles::default());
    let shown = shown(settings, &sessions, &guarded);
    let identity = identity(settings, &shown, &guarded, sample_times);
    let mut parts = Parts {
        tasks: JoinSet::new(),
        ended: Vec::new(),
        directives: directives.clone(),
        notes: notes.clone(),
        stop_sessions,
        stop_rest,
        learning: learning_rx,
        partings: sessions.len() + usize::from(!guarded.peers.is_empty()),
        statuses: shown,
        inside: interfaces.inside.iter().map(|link| link.ifindex).collect(),
        started: false,
        _lock: lock,
    };
    let tasks = &mut parts.tasks;
    let decider = Decider::new(
        controller,
        (lease, off),
        (decisions, learning),
        (stance, adopt_rx),
        jobs,
        identity,
    );
    let sources = Sources {
        directives: directives_rx,
        links: links_rx,
        requests: requests_rx,
        samples: samples_rx,
        inputs: inputs_rx,
    };
    spawn_decider(tasks, decider, sources)?;
    let reader = (datapath, counters, log);
    let sampler = sampler(settings, reader, &interfaces.uplinks, fill_rx, (samples, durations))?;
    spawn_sampler(tasks, sampler, notes_rx)?;
    spawn_table(tasks, (table, live), jobs_rx, inputs.clone(), fill)?;
    spawn_links(tasks, &interfaces.uplinks, links, notes, &rest_rx)?;
    if !guarded.peers.is_empty() {
        let announcer = Announcer {
            settings: settings.guardian.clone(),
            config: origin.config.to_owned(),
            log_format: origin.log.as_str(),
            digest: sessions::digest(settings),
            decisions: decisions_rx.clone(),
            stance: stance_rx,
            inputs: inputs.clone(),
            directives,
            adopt,
            shown: guarded.shown,
            peers: guarded.peers,
            stop: sessions_rx,
        };
        tasks.spawn(async move { ("the announcements", announce(announcer).await) });
    }
    spawn_routes(tasks, own_table(settings), routes, inputs, decisions_rx, &rest_rx)?;
    spawn_daemon_watch(tasks, settings.clone(), rest_rx.clone());
    spawn_control(tasks, socket, requests, rest_rx);
    spawn_sessions(tasks, sessions);
    Ok(parts)
}

fn sampler(
    settings: &Settings,
    (datapath, counters, log): (Datapath, Counters, Option<KernelLog>),
    uplinks: &[LinkReport],
    fill: watch::Receiver<TableFill>,
    (samples, durations): (mpsc::Sender<Sample>, watch::Sender<Quantiles>),
) -> Result<Sampler, AgentError> {
    Ok(Sampler {
        datapath,
        counters,
        log,
        stats: StatsReader::open()?,
        interval: settings.policy.interval,
        attached: uplinks.iter().map(attachment).collect(),
        fill,
        samples,
        durations,
    })
}

fn attachment(link: &LinkReport) -> Attachment {
    let ifindex = Some(link.ifindex);
    Attachment { wanted: ifindex, attached: ifindex, header: header(link), failing: false }
}

/// The guardian's sessions, as far as the agent has to do with them.
struct Guarded {
    shown: watch::Sender<GuardianView>,
    peers: Vec<(PeerId, watch::Sender<Standing>)>,
}

impl Guarded {
    /// None of them is known to be up.
    fn of(settings: &Settings) -> Result<Guarded, AgentError> {
        let mut peers = Vec::new();
        for session in sessions::unstarted(settings, Role::Inject)? {
            let standing = Standing { json: sessions::json(&session.status.borrow()), ..Standing::default() };
            peers.push((session.peer, watch::Sender::new(standing)));
        }
        Ok(Guarded { shown: watch::Sender::new(GuardianView::default()), peers })
    }
}

/// All sessions in order of configuration.
fn shown(settings: &Settings, own: &[Session], guarded: &Guarded) -> Vec<(String, Role, Shown)> {
    let mut shown = Vec::new();
    for (peer, name) in sessions::named(settings, Role::Learn) {
        let status = own.iter().find(|session| session.peer == peer).map(|session| session.status.clone());
        shown.extend(status.map(|status| (peer, name, Role::Learn, Shown::Own(status))));
    }
    for (peer, name) in sessions::named(settings, Role::Inject) {
        let standing = guarded.peers.iter().find(|(number, _)| *number == peer);
        let standing = standing.map(|(_, standing)| standing.subscribe());
        shown.extend(standing.map(|standing| (peer, name, Role::Inject, Shown::Guarded(standing))));
    }
    shown.sort_by_key(|(peer, ..)| *peer);
    shown.into_iter().map(|(_, name, role, shown)| (name, role, shown)).collect()
}

fn identity(
    settings: &Settings,
    shown: &[(String, Role, Shown)],
    guarded: &Guarded,
    sample_times: watch::Receiver<Quantiles>,
) -> Identity {
    Identity {
        started: boottime(),
        pin_root: settings.datapath.pin_root.display().to_string(),
        lease_span: settings.kernel.lease,
        peers: shown.iter().map(|(_, _, shown)| shown.clone()).collect(),
        guardian: (!guarded.peers.is_empty()).then(|| guarded.shown.subscribe()),
        sample_times,
    }
}

type Tasks = JoinSet<(&'static str, End)>;

/// Runs `work` on a thread of its own, joined through `tasks`. A panic there ends the agent in order.
fn spawn_thread(
    tasks: &mut Tasks,
    name: &'static str,
    work: impl FnOnce() -> End + Send + 'static,
) -> Result<(), AgentError> {
    let (ended, end) = oneshot::channel();
    let thread = std::thread::Builder::new().name(format!("etm-{name}"));
    thread
        .spawn(move || {
            // Whoever waited is gone when the agent is torn down; there is nobody else to tell.
            let _ = ended.send(work());
        })
        .map_err(|source| AgentError::System { doing: "start a thread", source })?;
    tasks
        .spawn(async move { (name, end.await.unwrap_or(End::Failed(AgentError::PartEnded { part: name }))) });
    Ok(())
}

fn plain(result: Result<(), impl Into<AgentError>>) -> End {
    result.map_or_else(|error| End::Failed(error.into()), |()| End::Plain)
}

fn spawn_decider(tasks: &mut Tasks, decider: Decider, sources: Sources) -> Result<(), AgentError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|source| AgentError::System { doing: "start the decision's runtime", source })?;
    spawn_thread(tasks, "decider", move || {
        runtime.block_on(decider.run(sources));
        End::Plain
    })
}

fn spawn_sampler(tasks: &mut Tasks, sampler: Sampler, notes: Receiver<Note>) -> Result<(), AgentError> {
    spawn_thread(tasks, "sampler", move || End::Datapath(Box::new(sampler.run(&notes))))
}

fn spawn_table(
    tasks: &mut Tasks,
    (table, live): (PrefixTable, Live),
    jobs: Receiver<Job>,
    inputs: mpsc::Sender<Input>,
    fill: watch::Sender<TableFill>,
) -> Result<(), AgentError> {
    spawn_thread(tasks, "table", move || plain(table::run(table, live, &jobs, &inputs, &fill)))
}

/// Link events go to the decision first, then to the sampler, which attaches to what returned.
fn spawn_links(
    tasks: &mut Tasks,
    uplinks: &[LinkReport],
    links: mpsc::Sender<LinkEvent>,
    notes: SyncSender<Note>,
    stop: &watch::Receiver<bool>,
) -> Result<(), AgentError> {
    let names = uplinks.iter().enumerate().map(|(index, link)| (uplink_id(index), link.name.clone()));
    let monitor = LinkMonitor::open(names.collect())?;
    let (events, mut received) = mpsc::channel(64);
    let stop = stop.clone();
    tasks.spawn(async move {
        let forward = async {
            while let Some(event) = received.recv().await {
                if links.send(event).await.is_err() {
                    return;
                }
                let notes = notes.clone();
                // The sampler may be in a sample; its queue is short and this task may wait, but not a runtime thread.
                if tokio::task::spawn_blocking(move || notes.send(Note::Link(event))).await.is_err() {
                    return;
                }
            }
        };
        let (result, ()) = tokio::join!(monitor.run(events, stop), forward);
        ("the link monitor", plain(result))
    });
    Ok(())
}

fn spawn_routes(
    tasks: &mut Tasks,
    own: OwnTable,
    routes: fib::Overrides,
    inputs: mpsc::Sender<Input>,
    decisions: watch::Receiver<Arc<Decision>>,
    stop: &watch::Receiver<bool>,
) -> Result<(), AgentError> {
    let monitor = RouteMonitor::open(own)?;
    let (events, mut received) = mpsc::channel(64);
    let (installed, mut reports) = mpsc::channel(16);
    let (to_decider, monitor_stop, routes_stop) = (inputs.clone(), stop.clone(), stop.clone());
    tasks.spawn(async move {
        let forward = async {
            while let Some(event) = received.recv().await {
                if to_decider.send(Input::Fib(event)).await.is_err() {
                    return;
                }
            }
        };
        let (result, ()) = tokio::join!(monitor.run(events, monitor_stop), forward);
        ("the route monitor", plain(result))
    });
    tasks.spawn(async move {
        let forward = async {
            while let Some(report) = reports.recv().await {
                if inputs.send(Input::Installed(report)).await.is_err() {
                    return;
                }
            }
        };
        let (result, ()) = tokio::join!(routes.run(decisions, installed, boottime, routes_stop), forward);
        let end =
            result.map_or_else(|error| End::Failed(error.into()), |routes| End::Routes(Box::new(routes)));
        ("the kernel routes", end)
    });
    Ok(())
}

fn spawn_control(
    tasks: &mut Tasks,
    socket: control::Socket,
    requests: mpsc::Sender<Request>,
    stop: watch::Receiver<bool>,
) {
    tasks.spawn(async move {
        control::serve(socket, requests, stop).await;
        ("the control socket", End::Plain)
    });
}

fn spawn_daemon_watch(tasks: &mut Tasks, settings: Settings, stop: watch::Receiver<bool>) {
    tasks.spawn(async move {
        ("the watch on the routing daemon", plain(machine::watch_daemon(settings, stop).await))
    });
}

fn spawn_sessions(tasks: &mut Tasks, sessions: Vec<Session>) {
    for session in sessions {
        tasks.spawn(async move {
            let confirmed = session.future.await;
            ("a BGP session", End::Session { confirmed })
        });
    }
}
