//! Starting: one function per part, each given exactly the ends of the channels it owns.

use super::alarm::Alarm;
use super::clock::boottime;
use super::decider::{Decider, Directive, Identity, Sources, uplink_id};
use super::error::AgentError;
use super::gate::Gate;
use super::guarded::{Ends, Guarded, Origin};
use super::machine::{Interfaces, enforcing, own_table};
use super::monitors;
use super::open::{Opening, header};
use super::orders::Desk;
use super::privilege;
use super::record::{self, Tap};
use super::sampler::{Attachment, Marking, Note, Sampler};
use super::sessions::{self, Prepared, Session, Shown};
use super::site;
use super::standing::OrdersFile;
use super::stop::{End, Parts};
use super::table::{self, Job};
use crate::bmp;
use crate::config::{KernelMode, Settings};
use crate::control::schema::{GuardianView, Quantiles};
use crate::control::{self, Desks, Request};
use crate::core::controller::Controller;
use crate::core::controls::Standing;
use crate::core::decision::{Adopted, Decision};
use crate::core::input::{Input, Sample, TableFill};
use crate::core::policy::{Mode, Policy, Uplink};
use crate::datapath::{Counters, Datapath, KernelLog, Live, OffSwitch, Opened, PrefixTable};
use crate::fib::{self, GatewayMonitor, LinkMonitor, LinkReport, OwnTable, RouteMonitor, StatsReader};
use crate::types::bmp::RouterStatus;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Inputs that wait for the decision: batches of up to 512 routes, so three megabytes at most.
const INPUTS: usize = 64;

/// Starts every part. An error means that nothing runs any more.
pub(super) fn start(
    settings: &Settings,
    origin: Origin<'_>,
    opening: Opening,
    (file, standing): (OrdersFile, Standing),
) -> Result<Parts, AgentError> {
    let Opening { interfaces, datapath, routes, socket, lock } = opening;
    let Opened { datapath, table, counters, lease, mut off, local, live, log, adopted } = datapath;
    let found = (adopted, still_off(&mut off, &standing)?, standing);
    let controller = controller(settings, &interfaces.uplinks, &routes, found);
    let (guarded, lifeline) = Guarded::of(settings, controller.enforcing())?;
    let (sources, Senders { directives, links, requests, samples, inputs }) = sources();
    let (orders, orders_rx) = mpsc::channel(4);
    let ((jobs, jobs_rx), (notes, notes_rx)) = (sync_channel(16), sync_channel(64));
    let (decisions, decisions_rx) = watch::channel(controller.decision());
    let (fill, fill_rx) = watch::channel(TableFill::default());
    let (learning, learning_rx) = watch::channel(false);
    let ((stop_sessions, stop), (stop_rest, rest_rx)) = (watch::channel(false), watch::channel(false));
    let scraped = metrics(settings)?;
    let monitors = monitors::of(settings, &inputs, &rest_rx)?;
    let Prepared { sessions, listeners } = sessions::learning(settings, &inputs, &stop)?;
    let (durations, sample_times) = watch::channel(Quantiles::default());
    let shown = guarded.beside(settings, &sessions);
    let guardian = (guarded.view(), Desk::of(&sessions, guarded.orders()));
    let identity = identity(settings, origin, &shown, guardian, (monitors.statuses, sample_times));
    let mut parts = Parts {
        tasks: JoinSet::new(),
        ended: Vec::new(),
        directives: directives.clone(),
        notes: notes.clone(),
        stop_sessions,
        stop_rest,
        learning: learning_rx,
        partings: sessions.len() + usize::from(!guarded.is_empty()),
        statuses: shown,
        started: false,
        _lock: lock,
    };
    let tasks = &mut parts.tasks;
    let tap = spawn_recorder(tasks, settings)?;
    let decider =
        Decider::new(controller, (lease, off, local), (decisions, learning), lifeline, (jobs, tap), identity);
    let desk = (file, orders_rx, requests.clone(), notes.clone());
    site::spawn(tasks, settings, (&decider.acting, decisions_rx.clone()), (&inputs, &notes), &rest_rx)?;
    spawn_orders(tasks, settings, &decider, desk, &rest_rx);
    spawn_decider(tasks, decider, sources)?;
    let sampler = sampler(settings, (datapath, counters, log), &interfaces, fill_rx, (samples, durations))?;
    spawn_sampler(tasks, sampler, notes_rx)?;
    spawn_table(tasks, (table, live), jobs_rx, inputs.clone(), fill)?;
    spawn_watchers(tasks, settings, &interfaces.uplinks, (links, notes), &rest_rx)?;
    let ends = Ends { decisions: decisions_rx.clone(), inputs: inputs.clone(), directives, stop };
    let routes = guarded.fenced(routes);
    guarded.announce(tasks, settings, origin, ends);
    spawn_routes(tasks, own_table(settings), routes, inputs, decisions_rx, &rest_rx)?;
    let talkers = (sessions, listeners, monitors.parts);
    spawn_conversations(tasks, (socket, Desks { requests, orders }, scraped), talkers, rest_rx);
    Ok(parts)
}

/// The kernel's switch, turned off where an operator did so and the map is new: after a reboot, or an orderly stop. The
/// guardian reads it too.
fn still_off(off: &mut OffSwitch, standing: &Standing) -> Result<bool, AgentError> {
    if standing.off {
        off.set()?;
    }
    Ok(off.is_off()?)
}

/// The decision, knowing what an earlier run left where it may go on with it.
fn controller(
    settings: &Settings,
    uplinks: &[LinkReport],
    routes: &fib::Overrides,
    (mut adopted, off, standing): (Adopted, bool, Standing),
) -> Controller {
    if enforcing(settings) {
        adopted.routes = routes.installed().clone();
    }
    let slots = settings.datapath.prefixes_ipv4 + settings.datapath.prefixes_ipv6;
    Controller::new(policy(settings, uplinks), slots, &adopted, off).standing_by(standing)
}

/// The other ends of the decision's sources.
struct Senders {
    directives: mpsc::Sender<Directive>,
    links: mpsc::Sender<Input>,
    requests: mpsc::Sender<Request>,
    samples: mpsc::Sender<Sample>,
    inputs: mpsc::Sender<Input>,
}

fn sources() -> (Sources, Senders) {
    let (inputs, inputs_rx) = mpsc::channel(INPUTS);
    let (requests, requests_rx) = mpsc::channel(16);
    let (samples, samples_rx) = mpsc::channel(1);
    let (links, links_rx) = mpsc::channel(64);
    let (directives, directives_rx) = mpsc::channel(4);
    let sources = Sources {
        directives: directives_rx,
        links: links_rx,
        requests: requests_rx,
        samples: samples_rx,
        inputs: inputs_rx,
    };
    (sources, Senders { directives, links, requests, samples, inputs })
}

/// The operator's, with what only the machine knows: interfaces without link header have no frames to bill.
fn policy(settings: &Settings, uplinks: &[LinkReport]) -> Policy {
    let mut policy = settings.policy.clone();
    for (uplink, _) in policy.uplinks.iter_mut().zip(uplinks).filter(|(_, link)| !link.ethernet) {
        uplink.billing = uplink.billing.without_header();
    }
    policy
}

fn sampler(
    settings: &Settings,
    (datapath, counters, log): (Datapath, Counters, Option<KernelLog>),
    found: &Interfaces,
    fill: watch::Receiver<TableFill>,
    (samples, durations): (mpsc::Sender<Sample>, watch::Sender<Quantiles>),
) -> Result<Sampler, AgentError> {
    let marks = enforcing(settings) && settings.kernel.mode == KernelMode::Lease;
    Ok(Sampler {
        datapath,
        counters,
        log,
        stats: StatsReader::open()?,
        interval: settings.policy.interval,
        alarm: Alarm::new(settings.policy.uplinks.iter().map(Uplink::limit_rate).collect()),
        attached: found.uplinks.iter().map(attachment).collect(),
        inside: found.inside.iter().map(|link| marking(link, marks)).collect(),
        marks,
        fill,
        samples,
        durations,
    })
}

fn attachment(link: &LinkReport) -> Attachment {
    let ifindex = Some(link.ifindex);
    Attachment { wanted: ifindex, attached: ifindex, header: header(link), failing: false }
}

fn marking(link: &LinkReport, marks: bool) -> Marking {
    let wanted = Some(link.ifindex);
    Marking { wanted, attached: wanted.filter(|_| marks), failing: false }
}

fn identity(
    settings: &Settings,
    origin: Origin<'_>,
    shown: &[Shown],
    (guardian, desk): (Option<watch::Receiver<GuardianView>>, Desk),
    (routers, sample_times): (Vec<watch::Receiver<RouterStatus>>, watch::Receiver<Quantiles>),
) -> Identity {
    Identity {
        started: boottime(),
        pin_root: settings.datapath.pin_root.display().to_string(),
        privileges: privilege::view(origin.held),
        lease_span: settings.kernel.lease,
        mark: (settings.kernel.mark, settings.kernel.mask),
        peers: shown.iter().map(|(_, role, status)| (*role, status.clone())).collect(),
        guardian,
        desk,
        routers,
        sample_times,
    }
}

pub(super) type Tasks = JoinSet<(&'static str, End)>;

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

pub(super) fn plain(result: Result<(), impl Into<AgentError>>) -> End {
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

/// The same for a mode that acts.
pub(super) fn acting(settings: &Settings) -> Settings {
    let mut settings = settings.clone();
    settings.policy.mode = Mode::Enforce;
    settings
}

/// What orders at run time need beside the decision: the gate.
fn spawn_orders(
    tasks: &mut Tasks,
    settings: &Settings,
    decider: &Decider,
    (file, orders, decision, notes): (
        OrdersFile,
        mpsc::Receiver<Request>,
        mpsc::Sender<Request>,
        SyncSender<Note>,
    ),
    stop: &watch::Receiver<bool>,
) {
    let (standing, stop) = (decider.standing.subscribe(), stop.clone());
    let gate = Gate { settings: acting(settings), file, orders, decision, notes, standing, stop };
    tasks.spawn(async move {
        gate.run().await;
        ("the gate of orders", End::Plain)
    });
}

fn spawn_sampler(tasks: &mut Tasks, sampler: Sampler, notes: Receiver<Note>) -> Result<(), AgentError> {
    spawn_thread(tasks, "sampler", move || End::Datapath(Box::new(sampler.run(&notes))))
}

fn spawn_recorder(tasks: &mut Tasks, settings: &Settings) -> Result<Tap, AgentError> {
    let (tap, recorder) = record::pair(&settings.record);
    spawn_thread(tasks, "recorder", move || {
        recorder.run();
        End::Plain
    })?;
    Ok(tap)
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

/// Whoever sees that an exit is lost.
fn spawn_watchers(
    tasks: &mut Tasks,
    settings: &Settings,
    uplinks: &[LinkReport],
    (links, notes): (mpsc::Sender<Input>, SyncSender<Note>),
    stop: &watch::Receiver<bool>,
) -> Result<(), AgentError> {
    spawn_gateways(tasks, settings, links.clone(), stop)?;
    spawn_links(tasks, uplinks, links, notes, stop)
}

/// Link events go to the decision first, then to the sampler, which attaches to what returned.
fn spawn_links(
    tasks: &mut Tasks,
    uplinks: &[LinkReport],
    links: mpsc::Sender<Input>,
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
                if links.send(Input::Link(event)).await.is_err() {
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

fn spawn_gateways(
    tasks: &mut Tasks,
    settings: &Settings,
    links: mpsc::Sender<Input>,
    stop: &watch::Receiver<bool>,
) -> Result<(), AgentError> {
    let gateways = settings.policy.exits.iter().flat_map(|exit| exit.gateways.iter().copied());
    let monitor = GatewayMonitor::open(gateways)?;
    let (events, mut received) = mpsc::channel(64);
    let stop = stop.clone();
    tasks.spawn(async move {
        let forward = async {
            while let Some(event) = received.recv().await {
                if links.send(Input::Gateway(event)).await.is_err() {
                    return;
                }
            }
        };
        let (result, ()) = tokio::join!(monitor.run(events, stop), forward);
        ("the gateway monitor", plain(result))
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
        let result = routes.run(decisions, inputs, boottime, routes_stop).await;
        let end =
            result.map_or_else(|error| End::Failed(error.into()), |routes| End::Routes(Box::new(routes)));
        ("the kernel routes", end)
    });
    Ok(())
}

/// Whoever talks to others: the control socket, BGP sessions.
fn spawn_conversations(
    tasks: &mut Tasks,
    (socket, desks, scraped): (control::Socket, Desks, Option<TcpListener>),
    (sessions, listeners, station): (Vec<Session>, Vec<BoxFuture<'static, ()>>, Vec<bmp::Part>),
    stop: watch::Receiver<bool>,
) {
    spawn_metrics(tasks, scraped, desks.requests.clone(), stop.clone());
    spawn_control(tasks, socket, desks, stop);
    spawn_sessions(tasks, sessions, listeners, station);
}

/// Where metrics are served beside the control socket, if anywhere; nothing is served yet.
pub(super) fn metrics(settings: &Settings) -> Result<Option<TcpListener>, AgentError> {
    let Some(listen) = settings.metrics else { return Ok(None) };
    let bound = std::net::TcpListener::bind(listen).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    bound.map(Some).map_err(|source| AgentError::Metrics { listen, source })
}

fn spawn_metrics(
    tasks: &mut Tasks,
    listener: Option<TcpListener>,
    requests: mpsc::Sender<Request>,
    stop: watch::Receiver<bool>,
) {
    let Some(listener) = listener else { return };
    tasks.spawn(async move {
        control::serve_metrics(listener, requests, stop).await;
        ("the metrics", End::Plain)
    });
}

fn spawn_control(tasks: &mut Tasks, socket: control::Socket, desks: Desks, stop: watch::Receiver<bool>) {
    tasks.spawn(async move {
        control::serve(socket, desks, stop).await;
        ("the control socket", End::Plain)
    });
}

fn spawn_sessions(
    tasks: &mut Tasks,
    sessions: Vec<Session>,
    listeners: Vec<BoxFuture<'static, ()>>,
    station: Vec<bmp::Part>,
) {
    for part in station {
        tasks.spawn(async move {
            part.await;
            ("the BMP station", End::Plain)
        });
    }
    for listener in listeners {
        tasks.spawn(async move {
            listener.await;
            ("a BGP listener", End::Plain)
        });
    }
    for session in sessions {
        tasks.spawn(async move {
            let confirmed = session.future.await;
            ("a BGP session", End::Session { confirmed })
        });
    }
}
