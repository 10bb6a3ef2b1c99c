//! Opening: everything that can be refused comes first, and only then is anything changed.
//! What a failed opening made is removed by its owners when they are dropped.

use super::clock::boottime;
use super::decider::uplink_id;
use super::error::AgentError;
use super::lock::{self, Lock};
use super::machine::{self, Interfaces, enforcing, own_table};
use super::privilege;
use crate::config::{HookChoice, KernelMode, Settings};
use crate::control;
use crate::datapath::{
    Datapath, DatapathConfig, Hook, KernelLogLevel, LinkHeader, LocalOutput, Opened, check_capabilities,
    check_clock, check_local_output,
};
use crate::fib::{self, LinkReport, MarkRule, OwnTable};
use crate::types::IfIndex;

/// Everything that is open before any part runs.
pub(super) struct Opening {
    pub(super) interfaces: Interfaces,
    pub(super) datapath: Opened,
    pub(super) routes: fib::Overrides,
    pub(super) socket: control::Socket,
    pub(super) lock: TableLock,
}

/// Opens everything; an error leaves the machine as it was.
pub(super) async fn open(settings: &Settings) -> Result<Opening, AgentError> {
    fib::check_privileges()?;
    check_capabilities()?;
    check_clock()?;
    let socket = control::bind(&settings.agent.control_socket, privilege::grants(settings)?)?;
    let lock = TableLock::take(settings)?;
    let interfaces = machine::interfaces(settings).await?;
    for note in machine::routing(settings, &interfaces).await? {
        tracing::warn!("{note}");
    }
    let own = own_table(settings);
    let mut routes = fib::Overrides::open(own).await?;
    let mut datapath = Datapath::open(&datapath_config(settings, &interfaces))?;
    attach(settings, &interfaces, &mut datapath)?;
    if enforcing(settings) {
        let kernel = &settings.kernel;
        if datapath.lease.read()?.deadline <= boottime() && routes.clear().await? > 0 {
            // They have been without effect; the first renewal must not revive them.
            tracing::warn!("removed overrides that an earlier run left: their lease has ended");
        }
        datapath.lease.arm(kernel.mark, kernel.mask)?;
        if let Err(error) = ready_routing(settings).await {
            clear_routing(own).await;
            return Err(error);
        }
    } else {
        datapath.lease.expire()?;
        let left = machine::clean(own).await?;
        if left.routes + left.rules > 0 {
            tracing::warn!(
                routes = left.routes,
                rules = left.rules,
                "removed what an earlier run left: this one only observes"
            );
        }
    }
    Ok(Opening { interfaces, datapath, routes, socket, lock })
}

/// What has to stand in the kernel's routing before the first override, by the mode of the kernel: safe to repeat.
pub(super) async fn ready_routing(settings: &Settings) -> Result<(), AgentError> {
    let own = own_table(settings);
    if own.is_shared() {
        // What a run in the other mode left would have no effect, and stay.
        fib::cleanup(machine::apart(settings)).await?;
        return Ok(());
    }
    fib::ensure_rules(own, mark_rule(settings)).await?;
    Ok(())
}

/// Which packets look into ETM's table.
pub(super) fn mark_rule(settings: &Settings) -> MarkRule {
    let kernel = &settings.kernel;
    MarkRule { mark: kernel.mark, mask: kernel.mask, priority: kernel.rule_priority }
}

/// One agent per routing table and network namespace. Whose routes stand in the main table holds that too: by their own
/// tables two such agents would not meet.
pub(super) struct TableLock {
    _held: Vec<Lock>,
}

impl TableLock {
    /// As long as it is held no agent works on this table, nor on the main one.
    pub(super) fn whole(table: u32) -> Result<TableLock, AgentError> {
        let tables = [table, OwnTable::in_main(0).table];
        Ok(TableLock { _held: tables.into_iter().map(TableLock::hold).collect::<Result<_, _>>()? })
    }

    fn take(settings: &Settings) -> Result<TableLock, AgentError> {
        let own = own_table(settings);
        let tables = [settings.kernel.table].into_iter().chain(own.is_shared().then_some(own.table));
        Ok(TableLock { _held: tables.map(TableLock::hold).collect::<Result<_, _>>()? })
    }

    fn hold(table: u32) -> Result<Lock, AgentError> {
        lock::take(&format!("etm-table-{table}")).map_err(|refused| match refused {
            lock::Refused::Held(pid) => AgentError::TableInUse { table, holder: lock::holder(pid) },
            lock::Refused::System(source) => AgentError::System { doing: "lock the routing table", source },
        })
    }
}

/// No rule and no route of ETM stays. A failure is said, for there is nobody left to return it to.
pub(super) async fn clear_routing(own: OwnTable) {
    if let Err(error) = machine::clean(own).await {
        tracing::error!(%error, "routes or rules of ETM may be left; `etm-agent detach` removes them");
    }
}

fn datapath_config(settings: &Settings, interfaces: &Interfaces) -> DatapathConfig {
    let (datapath, kernel) = (&settings.datapath, &settings.kernel);
    // Where it cannot be had, acting is refused; an agent that observes goes on without.
    let local = !kernel.local_output.is_empty() && check_local_output().is_ok();
    let output = || LocalOutput { table: kernel.table, sources: kernel.local_output.clone() };
    DatapathConfig {
        pin_root: datapath.pin_root.clone(),
        slots: datapath.prefixes_ipv4 + datapath.prefixes_ipv6,
        uplink_rows: u16::try_from(interfaces.uplinks.len()).unwrap_or(u16::MAX),
        prefixes4: datapath.prefixes_ipv4,
        prefixes6: datapath.prefixes_ipv6,
        fast_path: datapath.fast_path,
        canary: settings.policy.canary.share,
        local_output: local.then(output),
        uplinks: interfaces.uplinks.iter().map(|link| link.name.clone()).collect(),
        hook: match datapath.hook {
            HookChoice::Auto => Hook::Auto,
            HookChoice::Tcx => Hook::Tcx,
            HookChoice::Clsact => Hook::Clsact,
        },
        kernel_log: if datapath.kernel_log { KernelLogLevel::Debug } else { KernelLogLevel::Off },
    }
}

/// What the frames of an interface begin with.
pub(super) fn header(link: &LinkReport) -> LinkHeader {
    if link.ethernet { LinkHeader::Ethernet } else { LinkHeader::None }
}

fn attach(settings: &Settings, interfaces: &Interfaces, opened: &mut Opened) -> Result<(), AgentError> {
    let uplinks: Vec<IfIndex> = interfaces.uplinks.iter().map(|link| link.ifindex).collect();
    let marks = enforcing(settings) && settings.kernel.mode == KernelMode::Lease;
    let inside: &[LinkReport] = if marks { &interfaces.inside } else { &[] };
    let inside_indexes: Vec<IfIndex> = inside.iter().map(|link| link.ifindex).collect();
    opened.datapath.retain(&uplinks, &inside_indexes)?;
    for (index, link) in interfaces.uplinks.iter().enumerate() {
        let how = opened.datapath.attach_uplink(uplink_id(index), link.ifindex, header(link))?;
        tracing::info!(interface = %link.name, hook = ?how, "counting what leaves");
    }
    offer_xdp(settings, interfaces, &mut opened.datapath)?;
    for link in inside {
        let how = opened.datapath.attach_inside(link.ifindex)?;
        tracing::info!(interface = %link.name, hook = ?how, "marking what comes in, while the lease is fresh");
    }
    Ok(())
}

/// A forwarder that does not call is no reason not to start: it finds the map to call by only when ETM has made it.
fn offer_xdp(
    settings: &Settings,
    interfaces: &Interfaces,
    datapath: &mut Datapath,
) -> Result<(), AgentError> {
    let chosen = &settings.datapath.xdp;
    if chosen.is_empty() {
        return Ok(datapath.leave_forwarders()?);
    }
    datapath.serve_forwarders()?;
    for link in interfaces.inside.iter().filter(|link| chosen.contains(&link.name)) {
        match datapath.check_forwarder(link.ifindex) {
            Ok(found) => tracing::info!(interface = %link.name, ?found, "counting what is redirected in XDP"),
            Err(error) => tracing::error!(%error, "what is redirected in XDP is not counted"),
        }
    }
    Ok(())
}
