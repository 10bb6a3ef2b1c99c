//! `etm bgp`: sessions, monitored routers, routes and candidates of a running agent. Orders for sessions are the one
//! thing here that changes anything, and they change no decision.

use super::bgp_text as text;
use crate::control::schema::{BgpOrdered, BgpPeers, BgpRules};
use crate::control::{self, ClientError};
use crate::core::view::{CandidatesView, RoutePage};
use crate::runtime::{Export, MrtPeer};
use crate::types::bgp::MESSAGE_LIMIT;
use crate::types::{Asn, Family, PathId, PeerId, Prefix, RouteAttrs, RouterId};
use clap::Subcommand;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What is asked about BGP.
#[derive(Debug, Subcommand)]
pub(super) enum BgpCommand {
    /// Sessions and routers monitored by BMP; with a name, everything about one.
    Peers {
        /// Name of a session, a router, or a monitored peer.
        peer: Option<String>,
    },
    /// Routes as received, in prefix order, page by page. With --json one object a line.
    Routes {
        /// Only this prefix, or the longest known one that covers it.
        prefix: Option<Prefix>,
        /// Only routes of this session or monitored peer.
        #[arg(long, value_name = "NAME")]
        peer: Option<String>,
        /// All prefixes inside PREFIX too.
        #[arg(long, requires = "prefix")]
        longer: bool,
    },
    /// The rules for routes ([[policy.route]]) and how many announcements each decided about.
    Rules,
    #[command(flatten)]
    Order(OrderCommand),
    /// All routes as an MRT file (TABLE_DUMP_V2), for other tools and for `etm mrt`.
    Export {
        /// Where to; `-` writes to standard output.
        file: PathBuf,
    },
    /// All routes of a prefix in order of preference, and which step of the decision process put each where it is.
    Candidates {
        /// Such as 198.51.100.0/24 or 2001:db8::1.
        prefix: Prefix,
    },
}

const PEER_HELP: &str = "The name of the session, as `etm bgp peers` shows it";
const STALE_HELP: &str = "\
While a session of role learn is down its routes are gone: overrides that need them end at once, and no other is made
before its table is complete again. A session of role inject withdraws what it announced before it ends.";

/// What a session is told.
#[derive(Debug, Subcommand)]
pub(super) enum OrderCommand {
    /// End a session and begin it anew at once: all routes are exchanged again.
    ///
    /// The peer is told Cease, Administrative Reset (RFC 4486 subcode 4).
    #[command(after_help = STALE_HELP)]
    Reset {
        #[arg(help = PEER_HELP)]
        peer: String,
        /// Shown to the peer's operator (RFC 9003), at most 128 octets.
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, value_parser = message)]
        message: String,
    },
    /// End a session and keep it down until `etm bgp start`, or a restart of what runs it.
    ///
    /// The peer is told Cease, Administrative Shutdown (RFC 4486 subcode 2). Sessions of role learn are run by etm-agent,
    /// those of role inject by its guardian.
    #[command(after_help = STALE_HELP)]
    Shutdown {
        #[arg(help = PEER_HELP)]
        peer: String,
        /// Shown to the peer's operator (RFC 9003), at most 128 octets.
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, value_parser = message)]
        message: String,
    },
    /// Bring a session up again after `shutdown`; or try again now instead of after a pause.
    Start {
        #[arg(help = PEER_HELP)]
        peer: String,
    },
    /// Ask the peer to send its routes again, without ending the session (RFC 2918). Only for role learn.
    Refresh {
        #[arg(help = PEER_HELP)]
        peer: String,
        /// Only these routes. Default: both families of the session.
        #[arg(long, value_name = "ipv4|ipv6", value_parser = family)]
        family: Option<Family>,
    },
}

fn message(text: &str) -> Result<String, String> {
    if text.len() <= MESSAGE_LIMIT {
        return Ok(text.to_owned());
    }
    Err(format!("it has {} octets, and {MESSAGE_LIMIT} fit: shorten it", text.len()))
}

fn family(text: &str) -> Result<Family, String> {
    match text {
        "ipv4" => Ok(Family::V4),
        "ipv6" => Ok(Family::V6),
        _ => Err("write ipv4 or ipv6".to_owned()),
    }
}

/// Why there is no, or no complete, answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum BgpError {
    /// The agent's side.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The file is complete but for these.
    #[error("{routes} routes could not be written: their attributes do not fit into a record")]
    LeftOut {
        /// How many.
        routes: u64,
    },
    /// The file to write.
    #[error("writing {}: {source}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Our side.
    #[error("writing the answer: {source}")]
    Write {
        /// The system's answer.
        #[from]
        source: io::Error,
    },
}

/// Where to ask and how to answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Where<'a> {
    pub(super) socket: &'a Path,
    pub(super) json: bool,
}

/// Asks, and writes the answer to `out` as it comes.
pub(super) async fn run(command: &BgpCommand, at: Where<'_>, out: &mut impl Write) -> Result<(), BgpError> {
    match command {
        BgpCommand::Peers { peer } => peers(peer.as_deref(), at, out).await,
        BgpCommand::Routes { prefix, peer, longer } => {
            let mut first = true;
            pages(at.socket, (*prefix, *longer), peer.as_deref(), |page| {
                let begins = std::mem::take(&mut first);
                if !at.json {
                    return Ok(out.write_all(text::routes(&page.routes, begins).as_bytes())?);
                }
                for route in &page.routes {
                    line(route, out)?;
                }
                Ok(())
            })
            .await
        }
        BgpCommand::Export { file } if file.as_os_str() == "-" => export(at, out).await,
        BgpCommand::Export { file } => {
            let created =
                std::fs::File::create(file).map_err(|source| BgpError::File { path: file.clone(), source });
            export(at, &mut io::BufWriter::new(created?)).await
        }
        BgpCommand::Rules => {
            let view: BgpRules = control::get(at.socket, "/v1/bgp/rules").await?;
            if at.json { line(&view, out) } else { Ok(out.write_all(text::rules(&view).as_bytes())?) }
        }
        BgpCommand::Order(command) => order(command, at, out).await,
        BgpCommand::Candidates { prefix } => {
            let view: CandidatesView =
                control::get(at.socket, &format!("/v1/bgp/candidates?prefix={prefix}")).await?;
            if at.json { line(&view, out) } else { Ok(out.write_all(text::candidates(&view).as_bytes())?) }
        }
    }
}

async fn order(command: &OrderCommand, at: Where<'_>, out: &mut impl Write) -> Result<(), BgpError> {
    let resource = match command {
        OrderCommand::Reset { peer, message } => {
            format!("/v1/bgp/reset?peer={}&message={}", encoded(peer), encoded(message))
        }
        OrderCommand::Shutdown { peer, message } => {
            format!("/v1/bgp/shutdown?peer={}&message={}", encoded(peer), encoded(message))
        }
        OrderCommand::Start { peer } => format!("/v1/bgp/start?peer={}", encoded(peer)),
        OrderCommand::Refresh { peer, family: None } => format!("/v1/bgp/refresh?peer={}", encoded(peer)),
        OrderCommand::Refresh { peer, family: Some(family) } => {
            let family = match family {
                Family::V4 => "v4",
                Family::V6 => "v6",
            };
            format!("/v1/bgp/refresh?peer={}&family={family}", encoded(peer))
        }
    };
    let ordered: BgpOrdered = control::order(at.socket, &resource).await?;
    if at.json { line(&ordered, out) } else { Ok(out.write_all(text::ordered(&ordered).as_bytes())?) }
}

async fn peers(name: Option<&str>, at: Where<'_>, out: &mut impl Write) -> Result<(), BgpError> {
    let answer: BgpPeers = control::get(at.socket, "/v1/bgp/peers").await?;
    let Some(name) = name else {
        return if at.json {
            line(&answer, out)
        } else {
            Ok(out.write_all(text::peers(&answer).as_bytes())?)
        };
    };
    if let Some(peer) = answer.peers.iter().find(|peer| peer.status.name == name) {
        let shown = text::peer(peer, answer.at_ns);
        return if at.json { line(peer, out) } else { Ok(out.write_all(shown.as_bytes())?) };
    }
    if let Some(router) = answer.routers.iter().find(|router| router.name == name) {
        let shown = text::router(router, answer.at_ns);
        return if at.json { line(router, out) } else { Ok(out.write_all(shown.as_bytes())?) };
    }
    if let Some(source) = answer.routers.iter().flat_map(|r| &r.sources).find(|source| source.name == name) {
        let shown = text::source(source, answer.at_ns);
        return if at.json { line(source, out) } else { Ok(out.write_all(shown.as_bytes())?) };
    }
    let error = format!("no session, router or monitored peer is named `{name}`; `etm bgp peers` lists them");
    Err(ClientError::Refused { error }.into())
}

/// One record for each prefix. Pages end between prefixes, so none is cut in two.
async fn export(at: Where<'_>, out: &mut impl Write) -> Result<(), BgpError> {
    let answer: BgpPeers = get(at.socket, "/v1/bgp/peers").await?;
    let (numbers, peers) = sources(&answer);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let collector = answer.peers.iter().find_map(|peer| peer.status.peer_router_id);
    let collector = collector.unwrap_or(RouterId(Ipv4Addr::UNSPECIFIED));
    let mut file = Export::begin(&mut *out, u32::try_from(now).unwrap_or(u32::MAX), collector, &peers)?;
    pages(at.socket, (None, false), None, |page| {
        for routes in page.routes.chunk_by(|a, b| a.prefix == b.prefix) {
            let Some(first) = routes.first() else { continue };
            let stored: Vec<(u16, PathId, &RouteAttrs)> = routes
                .iter()
                .filter_map(|route| Some((*numbers.get(&route.peer)?, route.path_id, &*route.attributes)))
                .collect();
            file.prefix(first.prefix, &stored)?;
        }
        Ok(())
    })
    .await?;
    match file.end()? {
        0 => Ok(()),
        routes => Err(BgpError::LeftOut { routes }),
    }
}

/// The peer table: sessions, monitored peers, and last the static routes. What has no address or AS gets none.
fn sources(answer: &BgpPeers) -> (BTreeMap<PeerId, u16>, Vec<MrtPeer>) {
    let nobody = RouterId(Ipv4Addr::UNSPECIFIED);
    let mut list: Vec<(PeerId, MrtPeer)> = answer
        .peers
        .iter()
        .map(|peer| {
            let status = &peer.status;
            let router_id = status.peer_router_id.unwrap_or(nobody);
            (status.peer, MrtPeer { address: status.remote.ip(), asn: status.peer_as, router_id })
        })
        .collect();
    for source in answer.routers.iter().flat_map(|router| &router.sources) {
        let (asn, router_id) = (source.asn.unwrap_or_default(), source.router_id.unwrap_or(nobody));
        list.push((source.peer, MrtPeer { address: source.address, asn, router_id }));
    }
    let after = list.iter().map(|(peer, _)| peer.0.saturating_add(1)).max().unwrap_or(0);
    let address = Ipv4Addr::UNSPECIFIED.into();
    list.push((PeerId(after), MrtPeer { address, asn: Asn(0), router_id: nobody }));
    let number = |(at, (peer, _)): (usize, &(PeerId, MrtPeer))| Some((*peer, u16::try_from(at).ok()?));
    (list.iter().enumerate().filter_map(number).collect(), list.into_iter().map(|(_, peer)| peer).collect())
}

/// Every page of the RIB that is asked for, one after the other: the agent never has to hold an answer of any size.
pub(super) async fn pages(
    socket: &Path,
    (prefix, longer): (Option<Prefix>, bool),
    peer: Option<&str>,
    mut take: impl FnMut(RoutePage) -> Result<(), BgpError>,
) -> Result<(), BgpError> {
    let mut fixed = format!("/v1/bgp/routes?longer={longer}");
    if let Some(prefix) = prefix {
        fixed += &format!("&prefix={prefix}");
    }
    if let Some(peer) = peer {
        fixed += &format!("&peer={}", encoded(peer));
    }
    let mut after: Option<Prefix> = None;
    loop {
        let resource = after.map_or_else(|| fixed.clone(), |after| format!("{fixed}&after={after}"));
        let page: RoutePage = get(socket, &resource).await?;
        after = page.next;
        take(page)?;
        if after.is_none() {
            return Ok(());
        }
    }
}

async fn get<T: DeserializeOwned>(socket: &Path, resource: &str) -> Result<T, BgpError> {
    Ok(control::get(socket, resource).await?)
}

/// A name as a value of a query (RFC 3986 section 2.1).
fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:@".contains(&byte);
    let write = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(write).collect()
}

fn line(value: &impl Serialize, out: &mut impl Write) -> Result<(), BgpError> {
    let text = serde_json::to_string(value).map_err(|source| ClientError::Form { source })?;
    Ok(writeln!(out, "{text}")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_way_through_a_query() {
        assert_eq!(encoded("edge2/198.51.100.1@5"), "edge2/198.51.100.1@5");
        assert_eq!(encoded("a b&c=é"), "a%20b%26c%3D%C3%A9");
    }

    #[test]
    fn a_text_that_a_peer_might_cut_off_is_refused() {
        assert_eq!(message("back at 9").as_deref(), Ok("back at 9"));
        assert!(message(&"x".repeat(128)).is_ok());
        assert!(message(&"é".repeat(65)).is_err_and(|error| error.contains("130 octets")));
    }
}
