//! What clients ask of sessions and routes, and what they order sessions. Never speaks to a session itself: the desk does.

use super::Decider;
use crate::control::schema::{Answer, BgpOrdered, BgpPeer, BgpPeers, Problem};
use crate::core::controller::Browse;
use crate::core::input::{Input, SessionChange, SessionEvent};
use crate::core::policy::Role;
use crate::types::Timestamp;
use crate::types::bgp::SessionOrder;

impl Decider {
    pub(super) fn bgp_peers(&self, now: Timestamp) -> BgpPeers {
        let wanted = self.decisions.borrow().announce.len();
        let peers = self.identity.peers.iter().map(|(role, status)| {
            let status = status.borrow().clone();
            let inject = *role == Role::Inject;
            BgpPeer {
                role: *role,
                wanted: if inject { wanted } else { 0 },
                effective: self.controller.effective(status.peer),
                status,
            }
        });
        let routers = self.identity.routers.iter().map(|router| router.borrow().clone());
        BgpPeers { at_ns: now, peers: peers.collect(), routers: routers.collect() }
    }

    /// To the session at once; what it makes of it shows in its status, and that it was ordered in the log.
    pub(super) fn bgp_order(&mut self, name: &str, order: SessionOrder) -> Answer {
        let (words, kind) = (order.to_string(), order.as_str());
        let placed = self.identity.desk.place(&self.identity, name, order);
        match placed {
            Err(answer) => answer,
            Ok((peer, state)) => {
                let change = SessionChange::Ordered { order: words };
                self.feed(Input::Session(SessionEvent { peer, change }));
                let (session, order) = (name.to_owned(), kind.to_owned());
                Answer::BgpOrdered(BgpOrdered { session, order, state })
            }
        }
    }

    pub(super) fn bgp_routes(&self, mut browse: Browse, peer: Option<String>) -> Answer {
        if let Some(name) = peer {
            browse.peer = self.controller.source(&name);
            if browse.peer.is_none() {
                let error =
                    format!("no session or monitored peer is named `{name}`; `etm bgp peers` lists them");
                return Answer::Missing(Problem { error });
            }
        }
        Answer::BgpRoutes(self.controller.routes(&browse))
    }
}
