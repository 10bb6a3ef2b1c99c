//! Operators' orders for BGP sessions: to the session itself where the agent runs it, else by way of the guardian.
//! Never waits, and never takes an order that the session could not obey: whoever gave it is told why.

use super::decider::Identity;
use super::guarded::ForGuarded;
use super::sessions::Session;
use crate::control::schema::{Answer, GuardianState, Problem};
use crate::core::policy::Role;
use crate::types::PeerId;
use crate::types::bgp::{PeerStatus, SessionOrder, SessionState};
use std::collections::BTreeMap;
use tokio::sync::mpsc;

/// Where orders go.
pub(super) struct Desk {
    own: BTreeMap<PeerId, mpsc::Sender<SessionOrder>>,
    guarded: mpsc::Sender<ForGuarded>,
}

impl Desk {
    /// For the sessions that the agent runs, and those of its guardian.
    pub(super) fn of(own: &[Session], guarded: mpsc::Sender<ForGuarded>) -> Desk {
        let own = own.iter().map(|session| (session.peer, session.orders.clone())).collect();
        Desk { own, guarded }
    }

    /// Hands an order to the session with this name; its number and its state before, or what is wrong.
    pub(super) fn place(
        &self,
        known: &Identity,
        name: &str,
        order: SessionOrder,
    ) -> Result<(PeerId, SessionState), Answer> {
        let found = known.peers.iter().find(|(_, status)| status.borrow().name == name);
        let Some((role, status)) = found else { return Err(unknown(known, name)) };
        let status = status.borrow();
        if let Some(error) = objection(*role, &status, &order) {
            return Err(Answer::Refused(Problem { error }));
        }
        let guardian = known.guardian.as_ref().map(|view| view.borrow().state);
        if *role == Role::Inject && guardian != Some(GuardianState::Guarding) {
            let error =
                format!("{name} is a session of the guardian, which is not there; `etm status` says why");
            return Err(Answer::Refused(Problem { error }));
        }
        let peer = status.peer;
        let taken = match self.own.get(&peer) {
            Some(orders) => orders.try_send(order).is_ok(),
            None => self.guarded.try_send((peer, order)).is_ok(),
        };
        if !taken {
            let error = format!("{name} has not obeyed earlier orders yet; try again");
            return Err(Answer::Failed(Problem { error }));
        }
        Ok((peer, status.state))
    }
}

fn unknown(known: &Identity, name: &str) -> Answer {
    let monitored = known.routers.iter().any(|router| {
        let router = router.borrow();
        router.name == name || router.sources.iter().any(|source| source.name == name)
    });
    let error = if monitored {
        format!("{name} is only monitored, by BMP: give orders to that router itself")
    } else {
        let names: Vec<String> = known.peers.iter().map(|(_, status)| status.borrow().name.clone()).collect();
        match names.is_empty() {
            true => format!("no BGP session is named `{name}`: none is configured"),
            false => format!("no BGP session is named `{name}`; there are: {}", names.join(", ")),
        }
    };
    Answer::Missing(Problem { error })
}

/// Why an order makes no sense now.
fn objection(role: Role, status: &PeerStatus, order: &SessionOrder) -> Option<String> {
    let (name, up) = (&status.name, status.state.is_established());
    match order {
        SessionOrder::Start if up => {
            Some(format!("{name} is established already; `etm bgp reset {name}` begins it anew"))
        }
        SessionOrder::Refresh(_) if role == Role::Inject => Some(format!(
            "{name} announces and learns nothing, so there is nothing to ask for; `etm bgp reset {name}` announces everything anew"
        )),
        SessionOrder::Refresh(_) if !up => Some(format!(
            "{name} is {}, not established: it gets the whole table when it comes up",
            status.state
        )),
        SessionOrder::Refresh(_) if !status.theirs.iter().any(|word| word == "route-refresh") => {
            Some(format!(
                "the peer of {name} does not know route refresh (RFC 2918); `etm bgp reset {name}` makes it send its table again"
            ))
        }
        SessionOrder::Refresh(Some(family)) if !status.families.contains(family) => {
            Some(format!("{name} does not exchange {family} routes"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Asn, Family, Timestamp};

    fn status(state: SessionState) -> PeerStatus {
        let (remote, ases) = ("192.0.2.1:179".parse().unwrap(), (Asn(64500), Asn(64501)));
        let mut status = PeerStatus::new(PeerId(0), "p0", remote, ases, "none", Timestamp(0));
        status.enter(state, Timestamp(1));
        status.families = vec![Family::V4];
        status.theirs = vec!["route-refresh".to_owned()];
        status
    }

    #[test]
    fn orders_that_cannot_be_obeyed_are_refused_with_what_to_do() {
        let (up, idle) = (status(SessionState::Established), status(SessionState::Idle));
        let deaf = PeerStatus { theirs: Vec::new(), ..up.clone() };
        let text = || "maintenance".to_owned();
        let refresh = |family| SessionOrder::Refresh(family);
        for (title, role, status, order, part) in [
            ("a reset of one that is up", Role::Learn, &up, SessionOrder::Reset(text()), None),
            ("a reset of one that is not", Role::Learn, &idle, SessionOrder::Reset(text()), None),
            ("a shutdown", Role::Inject, &up, SessionOrder::Shutdown(text()), None),
            ("a start", Role::Inject, &idle, SessionOrder::Start, None),
            ("a start of one that is up", Role::Learn, &up, SessionOrder::Start, Some("established already")),
            ("a refresh", Role::Learn, &up, refresh(None), None),
            ("a refresh of one family", Role::Learn, &up, refresh(Some(Family::V4)), None),
            (
                "of a family it does not have",
                Role::Learn,
                &up,
                refresh(Some(Family::V6)),
                Some("does not exchange"),
            ),
            ("of one that is down", Role::Learn, &idle, refresh(None), Some("idle, not established")),
            ("of one that announces", Role::Inject, &up, refresh(None), Some("nothing to ask for")),
            ("of a peer that cannot", Role::Learn, &deaf, refresh(None), Some("does not know route refresh")),
        ] {
            let said = objection(role, status, &order);
            assert_eq!(said.is_some(), part.is_some(), "{title}: {said:?}");
            assert!(said.unwrap_or_default().contains(part.unwrap_or_default()), "{title}");
        }
    }
}
