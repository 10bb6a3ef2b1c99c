//! Converges ETM's own table, or ETM's part of the main table, to `Decision::kernel`.
//!
//! Keeps its own view of what is installed, begun by a dump that adopts what an earlier run left, so that a
//! restart changes nothing by itself. Never replaces or deletes a route that this view does not hold, and never
//! installs an override before the throws that protect the more-specifics inside it.

use crate::core::decision::{Decision, KernelAction, OWN_METRIC};
use crate::core::input::{ForeignRoutes, Input, Installed};
use crate::fib::OwnTable;
use crate::fib::disturbance::{self, Witness};
use crate::fib::error::FibError;
use crate::fib::plan::{self, Change, Routes, Step};
use crate::fib::route_codec::{self as codec, RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE, RouteRow};
use crate::fib::socket::{self, Endpoint, Request};
use crate::fib::wire::Refusal;
use crate::types::{Prefix, Timestamp};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteMessage;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How often a dump that is disturbed by changes is repeated.
const DUMP_ATTEMPTS: u32 = 5;

/// ETM's own table and what is in it.
pub struct Overrides {
    own: OwnTable,
    requests: Endpoint,
    installed: Routes,
    /// Routes of others in it, as read last.
    foreign: Option<ForeignRoutes>,
    /// Says whether the lease is held; none where the kernel itself ends the effect with it.
    fence: Option<Fence>,
}

/// Whether something may stand now.
pub type Fence = Box<dyn Fn() -> bool + Send + Sync>;

/// How often a fence is asked, and a kernel without memory.
const LOOK: Duration = Duration::from_millis(250);

/// Nothing where the kernel had no memory for a request: what was asked is asked again, for then it is another question.
fn spared<T>(result: Result<T, FibError>, known: &mut bool) -> Result<Option<T>, FibError> {
    match result {
        Ok(value) => {
            *known = true;
            Ok(Some(value))
        }
        Err(error @ FibError::NoMemory { .. }) => {
            if std::mem::replace(known, false) {
                tracing::warn!(%error, "kernel routes stand as they are");
            }
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overrides")
            .field("own", &self.own)
            .field("installed", &self.installed.len())
            .finish_non_exhaustive()
    }
}

/// What converging did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Routes added, replaced or deleted.
    pub changed: usize,
    /// Prefixes that could not be installed as wanted, with the kernel's reason. Their traffic is plainly routed.
    pub failed: Vec<(Prefix, String)>,
}

impl Overrides {
    /// Reads ETM's table and adopts what an earlier run left in it.
    ///
    /// Refuses a table that holds routes of another protocol.
    pub async fn open(own: OwnTable) -> Result<Overrides, FibError> {
        let mut overrides = Overrides::unread(own)?;
        let rows = overrides.rows().await?;
        if let Some(ForeignRoutes { count, first, protocol }) = foreign(&rows, own) {
            return Err(FibError::ForeignRoutes { table: own.table, count, first, protocol });
        }
        overrides.adopt(rows).await?;
        Ok(overrides)
    }

    /// The table without a look into it.
    pub(super) fn unread(own: OwnTable) -> Result<Overrides, FibError> {
        // Unspecified, and compat, default, main, local of rtnetlink(7).
        if matches!(own.table, 0 | 252..=255) && !own.is_shared() {
            return Err(FibError::ReservedTable { table: own.table });
        }
        Ok(Overrides {
            own,
            requests: Endpoint::open()?,
            installed: Routes::new(),
            foreign: None,
            fence: None,
        })
    }

    /// The same, with routes that stand only while `fence` says so: in a table that no lease guards.
    #[must_use]
    pub fn fenced(self, fence: Fence) -> Overrides {
        Overrides { fence: Some(fence), ..self }
    }

    /// What is installed, as far as known.
    pub fn installed(&self) -> &BTreeMap<Prefix, KernelAction> {
        &self.installed
    }

    /// Follows `decisions` until `shutdown`, and mends what others do to ETM's table. Leaves the routes as they are.
    ///
    /// Generation 0 means that nothing has been decided yet: what was adopted stays.
    pub async fn run(
        mut self,
        mut decisions: watch::Receiver<Arc<Decision>>,
        reports: mpsc::Sender<Input>,
        clock: fn() -> Timestamp,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<Overrides, FibError> {
        let groups = [socket::GROUP_LINK, socket::GROUP_IPV4_ROUTE, socket::GROUP_IPV6_ROUTE];
        let mut monitor = Endpoint::subscribe(&groups)?;
        let mut told: Option<Installed> = None;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut site = Witness::new(reports.clone());
        // False while the kernel has no memory for requests: then it is not known what the table holds.
        let mut known = true;
        spared(self.resync().await, &mut known)?;
        loop {
            if site.tell_foreign(self.foreign).await.is_err() {
                return Ok(self);
            }
            let decision = Arc::clone(&decisions.borrow_and_update());
            if let Some(outcome) = spared(self.follow(&decision, known).await, &mut known)?.flatten() {
                let news = Installed {
                    generation: decision.generation,
                    at: clock(),
                    changed: outcome.changed,
                    failed: outcome.failed,
                };
                if is_news(told.as_ref(), &news) {
                    if reports.send(Input::Installed(news.clone())).await.is_err() {
                        return Ok(self);
                    }
                    told = Some(news);
                }
            }
            tokio::select! {
                () = super::stopped(&mut shutdown) => return Ok(self),
                changed = decisions.changed() => if changed.is_err() { return Ok(self) },
                _ = look.tick(), if self.fence.is_some() || !known => {}
                disturbed = disturbance::next(&mut monitor, self.own, self.requests.port()) => {
                    let by_others = disturbed?;
                    let before = std::mem::take(&mut self.installed);
                    let Some(odd) = spared(self.read_again().await, &mut known)? else { continue };
                    // The guardian takes away what may not stand any more.
                    let meant = self.fence.as_ref().is_none_or(|fence| fence());
                    let touched = plan::differing(&before, &self.installed).chain(odd);
                    if by_others && meant && site.tell_touched(touched).await.is_err() {
                        return Ok(self);
                    }
                }
            }
        }
    }

    /// Makes the table hold what `decision` wants, once there is one; reads it before where it is not `known`.
    async fn follow(&mut self, decision: &Decision, known: bool) -> Result<Option<Outcome>, FibError> {
        if !known {
            self.resync().await?;
        }
        if decision.generation.0 == 0 {
            return Ok(None);
        }
        let may_stand = self.fence.as_ref().is_none_or(|fence| fence());
        let nothing = Routes::new();
        let wanted = if may_stand { &decision.kernel } else { &nothing };
        self.converge_or_resync(wanted).await.map(Some)
    }

    /// Reads the table after a disturbance, as `resync_counting` does.
    async fn read_again(&mut self) -> Result<Vec<Prefix>, FibError> {
        self.requests.barrier().await?;
        self.resync_counting().await
    }

    /// Makes the table hold exactly `wanted`.
    ///
    /// A refused route is reported, its traffic left to plain routing, and the rest goes on. An error means that
    /// the outcome is not known: `resync` before the next call.
    pub async fn converge(&mut self, wanted: &BTreeMap<Prefix, KernelAction>) -> Result<Outcome, FibError> {
        let wanted = &if self.own.is_shared() {
            Cow::Owned(plan::without_throws(wanted))
        } else {
            Cow::Borrowed(wanted)
        };
        let mut pass = self.pass(wanted).await?;
        if pass.view_is_wrong {
            let changed = pass.outcome.changed;
            self.resync().await?;
            pass = self.pass(wanted).await?;
            pass.outcome.changed += changed;
        }
        Ok(pass.outcome)
    }

    /// Reads the table anew. Returns true where it differed from what was known.
    pub async fn resync(&mut self) -> Result<bool, FibError> {
        let before = std::mem::take(&mut self.installed);
        self.resync_counting().await?;
        Ok(before != self.installed)
    }

    /// The same; returns routes of ETM's protocol that it never makes, and that are gone now.
    async fn resync_counting(&mut self) -> Result<Vec<Prefix>, FibError> {
        self.installed.clear();
        let rows = self.rows().await?;
        self.foreign = foreign(&rows, self.own);
        self.adopt(rows).await
    }

    /// Deletes every route of ETM's table and protocol and verifies that none is left. Returns how many there were.
    pub async fn clear(&mut self) -> Result<usize, FibError> {
        let mut rows = self.own_rows().await?;
        let count = rows.len();
        rows.sort_by_key(|row| plan::place_of_removal(row.prefix, row.as_action()));
        self.delete_rows(&rows).await?;
        self.installed.clear();
        match self.own_rows().await?.len() {
            0 => Ok(count),
            left => Err(FibError::NotClean { left, table: self.own.table, protocol: self.own.protocol }),
        }
    }

    async fn converge_or_resync(&mut self, wanted: &Routes) -> Result<Outcome, FibError> {
        match self.converge(wanted).await {
            Err(FibError::Overrun) => {
                self.requests = Endpoint::open()?;
                self.resync().await?;
                self.converge(wanted).await
            }
            outcome => outcome,
        }
    }

    async fn pass(&mut self, wanted: &Routes) -> Result<Pass, FibError> {
        let mut pass = Pass::default();
        let throws = plan::throws_first(&self.installed, wanted);
        let refused = self.apply(&throws, &mut pass).await?;
        // Copied only where something is refused: 200,000 routes are not copied to be left as they are.
        let mut target = Cow::Borrowed(wanted);
        if !refused.is_empty() {
            let (kept, left_out) = plan::without_unprotected(wanted, &refused);
            target = Cow::Owned(kept);
            pass.leave_out(left_out);
        }
        let changes = plan::overrides(&self.installed, &target);
        for group in changes.chunk_by(|one, next| one.prefix.len() == next.prefix.len()) {
            let less = if let Cow::Owned(less) = &target { Some(less) } else { None };
            let group = self.still_meant(group, less);
            let refused = self.apply(&group, &mut pass).await?;
            if !refused.is_empty() {
                self.route_plainly(&refused, target.to_mut(), &mut pass).await?;
            }
        }
        let removals = plan::removals(&self.installed, &target);
        let rank = plan::rank_of_removal;
        for group in removals.chunk_by(|one, next| rank(one) == rank(next)) {
            self.apply(group, &mut pass).await?;
        }
        Ok(pass)
    }

    /// Of changes that were planned what is still to be made, as this table takes it.
    fn still_meant<'a>(&self, group: &'a [Change], target: Option<&Routes>) -> Cow<'a, [Change]> {
        let mut group = Cow::Borrowed(group);
        // An earlier refusal may have taken a covering override out of the target.
        if let Some(target) = target {
            let meant = |change: &Change| target.get(&change.prefix).copied() == change.step.after();
            group = Cow::Owned(group.iter().copied().filter(meant).collect());
        }
        if self.own.is_shared() {
            group = Cow::Owned(plan::without_replacing(group.into_owned()));
        }
        group
    }

    /// Takes refused overrides out of the target, and protects them from what covers them.
    async fn route_plainly(
        &mut self,
        refused: &[Prefix],
        target: &mut Routes,
        pass: &mut Pass,
    ) -> Result<(), FibError> {
        let mut throws = Vec::new();
        for prefix in refused {
            target.remove(prefix);
            let throw = plan::instead_of_refused(target, *prefix).filter(|_| !self.own.is_shared());
            if let Some(throw) = throw {
                target.insert(*prefix, throw);
                throws.extend(plan::change(&self.installed, *prefix, Some(throw)));
            }
        }
        let unprotected = self.apply(&throws, pass).await?;
        if !unprotected.is_empty() {
            let (kept, left_out) = plan::without_unprotected(target, &unprotected);
            *target = kept;
            pass.leave_out(left_out);
        }
        Ok(())
    }

    /// Makes changes whose order does not matter; returns the prefixes that were refused.
    async fn apply(&mut self, changes: &[Change], pass: &mut Pass) -> Result<Vec<Prefix>, FibError> {
        let (own, order) = (self.own, plan::sending_order(changes));
        let refusals = self.requests.transact(order.len(), |sent| request(own, changes[order[sent]])).await?;
        let mut refusals: BTreeMap<usize, Refusal> =
            refusals.into_iter().map(|(sent, refusal)| (order[sent], refusal)).collect();
        let mut refused = Vec::new();
        for (index, change) in changes.iter().enumerate() {
            match (refusals.remove(&index), change.step.after()) {
                (None, Some(action)) => {
                    self.installed.insert(change.prefix, action);
                    pass.outcome.changed += 1;
                }
                // ESRCH: gone already, the kernel removes the IPv4 routes of a lost interface without a word.
                (None | Some(Refusal { errno: libc::ESRCH, .. }), None) => {
                    self.installed.remove(&change.prefix);
                    pass.outcome.changed += 1;
                }
                (Some(refusal), _) => {
                    pass.refuse(self.own, change, &refusal);
                    refused.push(change.prefix);
                }
            }
        }
        Ok(refused)
    }

    /// Takes `rows` as what is installed and deletes those of ETM's that it would not make today.
    async fn adopt(&mut self, rows: Vec<RouteRow>) -> Result<Vec<Prefix>, FibError> {
        let mut odd = Vec::new();
        for row in rows.into_iter().filter(|row| row.protocol == self.own.protocol) {
            match row.as_action() {
                Some(action) if row.metric == OWN_METRIC => {
                    self.installed.insert(row.prefix, action);
                }
                _ => odd.push(row),
            }
        }
        self.delete_rows(&odd).await?;
        Ok(odd.into_iter().map(|row| row.prefix).collect())
    }

    async fn delete_rows(&mut self, rows: &[RouteRow]) -> Result<(), FibError> {
        let own = self.own;
        let request =
            |index: usize| Request { kind: RTM_DELROUTE, flags: 0, body: codec::own_row(own, &rows[index]) };
        let refusals = self.requests.transact(rows.len(), request).await?;
        let refusal =
            refusals.into_iter().map(|(_, refusal)| refusal).find(|refusal| refusal.errno != libc::ESRCH);
        refusal
            .map_or(Ok(()), |refusal| Err(FibError::Refused { what: "deleting ETM's own routes", refusal }))
    }

    async fn own_rows(&mut self) -> Result<Vec<RouteRow>, FibError> {
        let mut rows = self.rows().await?;
        rows.retain(|row| row.protocol == self.own.protocol);
        Ok(rows)
    }

    /// All routes of ETM's table, whoever made them.
    async fn rows(&mut self) -> Result<Vec<RouteRow>, FibError> {
        const WHAT: &str = "reading ETM's own routing table";
        for _ in 0..DUMP_ATTEMPTS {
            let mut rows = Vec::new();
            let mut disturbed = false;
            for family in [AddressFamily::Inet, AddressFamily::Inet6] {
                let (own, body) = (self.own, codec::own_dump_request(family, self.own));
                disturbed |= self
                    .requests
                    .dump(WHAT, RTM_GETROUTE, &body, |message| {
                        let row = (message.kind == RTM_NEWROUTE).then(|| codec::read(message.payload));
                        rows.extend(row.flatten().filter(|row| is_of(row, own)));
                    })
                    .await?;
            }
            if !disturbed {
                return Ok(rows);
            }
        }
        Err(FibError::Unsettled { what: WHAT, attempts: DUMP_ATTEMPTS })
    }
}

/// Of ETM's table everything, of a shared one what can only be ETM's.
fn is_of(row: &RouteRow, own: OwnTable) -> bool {
    let ours = || row.protocol == own.protocol && row.metric == OWN_METRIC;
    row.table == own.table && (!own.is_shared() || ours())
}

/// Whose routes these are is said by their protocol.
fn foreign(rows: &[RouteRow], own: OwnTable) -> Option<ForeignRoutes> {
    let mut others = rows.iter().filter(|row| row.protocol != own.protocol);
    let first = others.next()?;
    Some(ForeignRoutes { count: 1 + others.count(), first: first.prefix, protocol: first.protocol })
}

/// What one pass over the plan did.
#[derive(Default)]
struct Pass {
    outcome: Outcome,
    /// A refusal says that the view of the table is not what the table is.
    view_is_wrong: bool,
}

impl Pass {
    fn refuse(&mut self, own: OwnTable, change: &Change, refusal: &Refusal) {
        self.view_is_wrong |= matches!(refusal.errno, libc::EEXIST | libc::ENOENT | libc::ESRCH);
        let reason = match (refusal.errno, change.step.after()) {
            (libc::EEXIST, Some(_)) => format!("table {} holds a route of another program for it", own.table),
            (_, Some(_)) => refusal.to_string(),
            (_, None) => format!("it could not be removed: {refusal}"),
        };
        self.outcome.failed.push((change.prefix, reason));
    }

    fn leave_out(&mut self, left_out: Vec<(Prefix, Prefix)>) {
        for (prefix, unprotected) in left_out {
            let reason = format!("{unprotected} inside it could not be protected by a throw route");
            self.outcome.failed.push((prefix, reason));
        }
    }
}

fn request(own: OwnTable, change: Change) -> Request<RouteMessage> {
    let (kind, flags, action) = match change.step {
        Step::Add(to) => (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, to),
        // CREATE for the case that the kernel dropped it with its interface a moment ago.
        Step::Replace { to, .. } => (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, to),
        Step::Remove(from) => (RTM_DELROUTE, 0, from),
    };
    let body = match change.step {
        Step::Remove(_) => codec::own_removal(own, change.prefix, action),
        Step::Add(_) | Step::Replace { .. } => codec::own_route(own, change.prefix, action),
    };
    Request { kind, flags, body }
}

/// A report is due for a new generation, after a change, and where other prefixes fail than were told.
fn is_news(told: Option<&Installed>, news: &Installed) -> bool {
    told.is_none_or(|told| {
        told.generation != news.generation || news.changed > 0 || told.failed != news.failed
    })
}
