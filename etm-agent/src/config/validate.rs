//! From the file as typed to what it means. Finds every fault, not only the first.

use super::billing;
use super::bmp;
use super::guards;
use super::raw::{self, Raw, Text};
use super::record;
use super::report::Fault;
use super::routes;
use super::session::is_link_local;
use super::settings::{
    BgpSettings, BmpSettings, DatapathSettings, HookChoice, KernelMode, KernelSettings, SessionSettings,
    Settings,
};
use crate::core::decision::OWN_METRIC;
use crate::core::policy::{Exit, Policy, Provider, Role, StaticRoute, Uplink};
use crate::types::{
    Asn, Community, ExitId, Family, Prefix, ProviderId, RouterId, Share, UplinkId, parse_duration,
};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// rtm_protocol of routes that a daemon installs: zebra 11, bird 12, bgp 186.
const DAEMON_PROTOCOLS: [u8; 3] = [11, 12, 186];

/// Who has a gateway: a link-local one belongs to an interface, and may be there on another one too.
type Gateways = BTreeMap<(IpAddr, Option<UplinkId>), String>;

pub(super) fn settings(raw: &Raw) -> Result<Settings, Vec<Fault>> {
    let mut check = Check::default();
    let ports = check.ports(&raw.port);
    let mut uplinks = check.uplinks(&raw.interface, &ports);
    check.faults.extend(billing::settle(&raw.provider, &mut uplinks));
    let (providers, exits) = check.providers(&raw.provider, &uplinks);
    let kernel = check.kernel(&raw.kernel);
    let mut bgp = raw.bgp.as_ref().map(|bgp| check.bgp(bgp, &exits, kernel.lease));
    let borders = check.borders(raw, (&uplinks, &exits), bgp.as_mut());
    let bmp = raw.bmp.as_ref().map(|bmp| check.bmp(bmp, &providers, bgp.as_ref()));
    let community = check.community(raw.bgp.as_ref());
    let (interval, stale_after) = check.times(raw, kernel.lease);
    let peers = bmp::peers(bgp.as_ref(), bmp.as_ref());
    let policy = Policy {
        route_rules: check.route_rules(&raw.policy, &peers),
        internal: check.parse_all(&raw.policy.internal),
        mode: raw.agent.mode,
        interval,
        peers,
        static_routes: check.static_routes(&raw.static_route, &exits),
        exclude: raw.policy.exclude.iter().filter_map(|text| check.parse::<Prefix>(text)).collect(),
        hold: check.duration(raw.policy.hold.as_ref(), Duration::from_secs(300)),
        max_overrides: raw.policy.max_overrides.unwrap_or(10_000),
        max_moved_share: check.share(raw.policy.max_moved.as_ref(), Share::percent(50)),
        max_moved_per_minute: check.share(raw.policy.max_moved_per_minute.as_ref(), Share::percent(50)),
        fill_share: check.fill_rate(raw.policy.fill_rate.as_ref()),
        split: raw.policy.split.as_ref().is_some_and(|split| *split.get_ref()),
        approval: check.duration(raw.policy.approval.as_ref(), Duration::from_secs(900)),
        pins: check.pins(&raw.pin, &exits),
        forbidden: check.pins(&raw.forbid, &exits),
        prices: check.prices(&raw.prices),
        max_throws: raw.kernel.max_throws.unwrap_or(256),
        community,
        daemon_protocols: daemon_protocols(&raw.kernel),
        own_metric: (kernel.mode == KernelMode::Main).then_some(OWN_METRIC),
        process: routes::process(&raw.policy.decision),
        stale_after,
        guards: check.guards(&raw.policy, interval),
        canary: check.canary(&raw.policy.canary, kernel.mode),
        own_next_hops: guards::own_next_hops(bgp.as_ref()),
        own_as: bgp.as_ref().map(|bgp| bgp.asn),
        uplinks,
        borders,
        ports,
        providers,
        exits,
    };
    check.completeness(raw, &policy);
    check.split(raw, &policy);
    check.tree(raw, &policy);
    let settings = check.whole(raw, (policy, kernel), (bgp, bmp));
    if check.faults.is_empty() { Ok(settings) } else { Err(check.faults) }
}

impl Check {
    /// With all that is no policy.
    fn whole(
        &mut self,
        raw: &Raw,
        (policy, kernel): (Policy, KernelSettings),
        (bgp, bmp): (Option<BgpSettings>, Option<BmpSettings>),
    ) -> Settings {
        let agent = self.agent(&raw.agent);
        Settings {
            guardian: self.guardian(&raw.guardian, &agent.control_socket),
            control: self.control(&raw.control),
            agent,
            datapath: self.datapath(&raw.datapath),
            record: record::settings(&raw.record, &mut self.faults),
            metrics: raw.metrics.listen,
            policy,
            kernel,
            bgp,
            bmp,
        }
    }
}

fn daemon_protocols(raw: &raw::Kernel) -> Vec<u8> {
    raw.daemon_protocols.as_ref().map_or_else(|| DAEMON_PROTOCOLS.to_vec(), |listed| listed.get_ref().clone())
}

pub(super) fn path(given: Option<&str>, default: &str) -> PathBuf {
    PathBuf::from(given.unwrap_or(default))
}

#[derive(Default)]
pub(super) struct Check {
    faults: Vec<Fault>,
}

impl Check {
    pub(super) fn fault(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.faults.push(Fault { span: Some(span), message: message.into(), help: None });
    }

    pub(super) fn fault_with_help(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.faults.push(Fault { span: Some(span), message: message.into(), help: Some(help.into()) });
    }

    pub(super) fn fault_at(&mut self, span: Option<Range<usize>>, message: String) {
        self.faults.push(Fault { span, message, help: None });
    }

    pub(super) fn faulty(&self) -> bool {
        !self.faults.is_empty()
    }

    pub(super) fn missing(&mut self, message: impl Into<String>, help: impl Into<String>) {
        self.faults.push(Fault { span: None, message: message.into(), help: Some(help.into()) });
    }

    pub(super) fn parse<T>(&mut self, text: &Text) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        match text.get_ref().parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault(text.span(), error.to_string());
                None
            }
        }
    }

    pub(super) fn share(&mut self, text: Option<&Text>, default: Share) -> Share {
        text.and_then(|text| self.parse(text)).unwrap_or(default)
    }

    pub(super) fn duration(&mut self, text: Option<&Text>, default: Duration) -> Duration {
        let Some(text) = text else { return default };
        match parse_duration(text.get_ref()) {
            Ok(span) => span,
            Err(error) => {
                self.fault(text.span(), error.to_string());
                default
            }
        }
    }

    /// Time between samples, and the age from which the last one is stale.
    fn times(&mut self, raw: &Raw, lease: Duration) -> (Duration, Duration) {
        let agent = &raw.agent;
        let interval = self.duration(agent.interval.as_ref(), Duration::from_secs(1));
        let bounds = Duration::from_millis(100)..=Duration::from_secs(60);
        if let Some(text) = agent.interval.as_ref().filter(|_| !bounds.contains(&interval)) {
            self.fault(text.span(), "the interval must be between 100ms and 60s");
        }
        let stale_after =
            self.duration(agent.stale_after.as_ref(), (interval * 3).max(Duration::from_secs(5)));
        if let Some(text) = agent.stale_after.as_ref().filter(|_| stale_after < interval * 2) {
            self.fault(text.span(), "a sample cannot be stale before two intervals have passed");
        }
        self.lease_outlives(raw, interval, lease);
        (interval, stale_after)
    }

    /// The lease is renewed once per interval; it must outlive a late one.
    fn lease_outlives(&mut self, raw: &Raw, interval: Duration, lease: Duration) {
        if lease >= interval * 3 {
            return;
        }
        let span = raw.agent.interval.as_ref().or(raw.kernel.lease.as_ref()).map(Text::span);
        let message =
            "kernel.lease must be at least three times agent.interval: it is renewed once per interval";
        self.faults.push(Fault { span, message: message.to_owned(), help: None });
    }

    fn providers(&mut self, raw: &[raw::Provider], uplinks: &[Uplink]) -> (Vec<Provider>, Vec<Exit>) {
        let (mut providers, mut exits) = (Vec::new(), Vec::new());
        let mut gateways: Gateways = BTreeMap::new();
        for (index, provider) in raw.iter().enumerate() {
            let name = provider.name.get_ref();
            if providers.iter().any(|known: &Provider| known.name == *name) {
                self.fault(provider.name.span(), format!("provider `{name}` is described twice"));
            }
            if provider.exits.get_ref().is_empty() {
                self.fault(provider.exits.span(), format!("provider `{name}` has no exit"));
            }
            let contract = self.contract(provider.commit.as_ref(), &provider.tiers);
            providers.push(Provider {
                name: name.clone(),
                asn: provider.asn.map(Asn),
                covering: provider.covering,
                contract,
            });
            for (number, exit) in provider.exits.get_ref().iter().enumerate() {
                let default_name = if provider.exits.get_ref().len() == 1 {
                    name.clone()
                } else {
                    format!("{name}-{}", number + 1)
                };
                let exit_name = exit.name.as_ref().map_or(default_name, |name| name.get_ref().clone());
                let Some(uplink) = self.uplink(&exit.interface, uplinks) else { continue };
                exits.push(Exit {
                    provider: ProviderId(u16::try_from(index).unwrap_or(u16::MAX)),
                    uplink,
                    gateways: self.gateways(exit, (uplink, &exit_name), &mut gateways),
                    name: exit_name,
                });
            }
        }
        (providers, exits)
    }

    fn uplink(&mut self, name: &Text, uplinks: &[Uplink]) -> Option<UplinkId> {
        let found = uplinks.iter().position(|uplink| uplink.name == *name.get_ref());
        if found.is_none() {
            let known: Vec<&str> = uplinks.iter().map(|uplink| uplink.name.as_str()).collect();
            self.fault_with_help(
                name.span(),
                format!("no [[interface]] is named `{}`", name.get_ref()),
                format!(
                    "described are: {}",
                    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                ),
            );
        }
        found.and_then(|index| u16::try_from(index).ok()).map(UplinkId)
    }

    fn gateways(
        &mut self,
        exit: &raw::Exit,
        (uplink, name): (UplinkId, &str),
        seen: &mut Gateways,
    ) -> Vec<IpAddr> {
        if exit.gateways.get_ref().is_empty() {
            self.fault(exit.gateways.span(), format!("exit `{name}` has no gateway"));
        }
        for gateway in exit.gateways.get_ref() {
            self.unicast(gateway.span(), "gateway", *gateway.get_ref());
            let link = Some(uplink).filter(|_| is_link_local(*gateway.get_ref()));
            if let Some(other) = seen.insert((*gateway.get_ref(), link), name.to_owned()) {
                let message = format!("gateway {} is that of exit `{other}` already", gateway.get_ref());
                self.fault(gateway.span(), message);
            }
        }
        exit.gateways.get_ref().iter().map(|gateway| *gateway.get_ref()).collect()
    }

    pub(super) fn exit(&mut self, name: &Text, exits: &[Exit]) -> Option<ExitId> {
        let found = exits.iter().position(|exit| exit.name == *name.get_ref());
        if found.is_none() {
            let known: Vec<&str> = exits.iter().map(|exit| exit.name.as_str()).collect();
            let message = format!("no exit is named `{}`", name.get_ref());
            self.fault_with_help(name.span(), message, format!("exits are: {}", known.join(", ")));
        }
        found.and_then(|index| u16::try_from(index).ok()).map(ExitId)
    }

    fn static_routes(&mut self, raw: &[raw::StaticRoute], exits: &[Exit]) -> Vec<StaticRoute> {
        let mut routes = Vec::new();
        for route in raw {
            let (prefix, exit) = (self.parse::<Prefix>(&route.prefix), self.exit(&route.exit, exits));
            let (Some(prefix), Some(exit)) = (prefix, exit) else { continue };
            let reachable = exits
                .get(exit.index())
                .is_some_and(|exit| exit.gateways.iter().any(|addr| Family::of(*addr) == prefix.family()));
            if !reachable {
                let message = format!("exit `{}` has no {} gateway", route.exit.get_ref(), prefix.family());
                self.fault(route.exit.span(), message);
            }
            routes.push(StaticRoute { prefix, exit });
        }
        routes
    }

    fn kernel(&mut self, raw: &raw::Kernel) -> KernelSettings {
        let lease = self.duration(raw.lease.as_ref(), Duration::from_secs(10));
        if let Some(text) =
            raw.lease.as_ref().filter(|_| lease < Duration::from_secs(3) || lease > Duration::from_secs(300))
        {
            self.fault(text.span(), "the lease must be between 3s and 300s");
        }
        let settings = KernelSettings {
            mode: match raw.mode {
                raw::KernelMode::Lease => KernelMode::Lease,
                raw::KernelMode::Main => KernelMode::Main,
            },
            inside: raw.inside.iter().map(|name| name.get_ref().clone()).collect(),
            table: raw.table.as_ref().map_or(179, |value| *value.get_ref()),
            protocol: raw.protocol.as_ref().map_or(179, |value| *value.get_ref()),
            mark: raw.mark.as_ref().map_or(0x1_0000, |value| *value.get_ref()),
            mask: raw.mask.as_ref().map_or(0x1_0000, |value| *value.get_ref()),
            rule_priority: raw.rule_priority.as_ref().map_or(1790, |value| *value.get_ref()),
            local_output: self.local_output(raw),
            lease,
        };
        if let Some(table) = raw.table.as_ref().filter(|value| matches!(value.get_ref(), 0 | 252..=255)) {
            self.fault(table.span(), "tables 0 and 252 to 255 are the system's; choose another");
        }
        self.protocols(raw, settings.protocol);
        if let Some(mark) = raw.mark.as_ref().or(raw.mask.as_ref())
            && (settings.mark & settings.mask == 0 || settings.mark & !settings.mask != 0)
        {
            self.fault(mark.span(), "the mark must be made of bits of the mask, at least one");
        }
        if let Some(priority) =
            raw.rule_priority.as_ref().filter(|value| !(1..32_766).contains(value.get_ref()))
        {
            self.fault(
                priority.span(),
                "the rule must come after the local table and before main: 1 to 32765",
            );
        }
        settings
    }

    fn datapath(&mut self, raw: &raw::Datapath) -> DatapathSettings {
        let prefixes_ipv4 = raw.prefixes_ipv4.as_ref().map_or(1_250_000, |value| *value.get_ref());
        let prefixes_ipv6 = raw.prefixes_ipv6.as_ref().map_or(400_000, |value| *value.get_ref());
        for value in [&raw.prefixes_ipv4, &raw.prefixes_ipv6].into_iter().flatten() {
            if !(1..=8_000_000).contains(value.get_ref()) {
                self.fault(value.span(), "room for prefixes must be between 1 and 8000000");
            }
        }
        if let Some(root) = raw.pin_root.as_ref().filter(|root| !root.get_ref().starts_with('/')) {
            self.fault(root.span(), "the pin root must be an absolute path below a mounted bpffs");
        }
        DatapathSettings {
            pin_root: path(raw.pin_root.as_ref().map(|root| root.get_ref().as_str()), "/sys/fs/bpf/etm/v1"),
            prefixes_ipv4,
            prefixes_ipv6,
            hook: match raw.hook {
                None | Some(raw::HookText::Auto) => HookChoice::Auto,
                Some(raw::HookText::Tcx) => HookChoice::Tcx,
                Some(raw::HookText::Clsact) => HookChoice::Clsact,
            },
            xdp: raw.xdp.iter().map(|name| name.get_ref().clone()).collect(),
            keep_on_exit: raw.keep_on_exit.unwrap_or(true),
            fast_path: raw.fast_path.unwrap_or(true),
            kernel_log: raw.kernel_log.unwrap_or(false),
        }
    }

    fn community(&mut self, bgp: Option<&raw::Bgp>) -> Community {
        /// Stands for an AS that does not fit: the last one of private use (RFC 6996); those above it are reserved (RFC 1997).
        const PRIVATE_AS: u16 = 65_534;
        // The low half is the table's number: recognisable, and unlikely to be in use.
        let own = bgp.map_or(0, |bgp| *bgp.asn.get_ref());
        let default = Community(u32::from(u16::try_from(own).unwrap_or(PRIVATE_AS)) << 16 | 179);
        let given = bgp.and_then(|bgp| bgp.community.as_ref());
        let Some(text) = given else { return default };
        let Some(community) = self.parse(text) else { return default };
        self.own_community(text, community);
        community
    }

    fn bgp(&mut self, raw: &raw::Bgp, exits: &[Exit], lease: Duration) -> BgpSettings {
        let hold_time = self.duration(raw.hold_time.as_ref(), Duration::from_secs(9).min(lease));
        if let Some(text) = raw.hold_time.as_ref() {
            if hold_time > lease {
                self.fault(
                    text.span(),
                    "the hold time must not exceed kernel.lease: a dead agent's announcements live that long",
                );
            } else if hold_time < Duration::from_secs(3) {
                self.fault(text.span(), "a hold time is at least 3s (RFC 4271 section 4.2)");
            }
        }
        if *raw.asn.get_ref() == 0 {
            self.fault(raw.asn.span(), "AS 0 is reserved (RFC 7607)");
        }
        self.router_id(&raw.router_id);
        if let Some(zero) = raw.local_pref.as_ref().filter(|value| *value.get_ref() == 0) {
            self.fault(
                zero.span(),
                "a LOCAL_PREF of 0 is below that of every other route: nobody would follow ETM's",
            );
        }
        let mut sessions: Vec<SessionSettings> = Vec::new();
        for session in &raw.session {
            if sessions.iter().any(|known| known.name == *session.name.get_ref()) {
                self.fault(
                    session.name.span(),
                    format!("session `{}` is described twice", session.name.get_ref()),
                );
            }
            let settings = self.session(session, raw, exits);
            sessions.extend(settings);
        }
        BgpSettings {
            asn: Asn(*raw.asn.get_ref()),
            local_pref: raw.local_pref.as_ref().map_or(1_000_000, |value| *value.get_ref()),
            hold_time,
            listen_port: raw.listen_port.unwrap_or(179),
            sessions,
        }
    }

    pub(super) fn router_id(&mut self, id: &toml::Spanned<std::net::Ipv4Addr>) -> RouterId {
        if id.get_ref().is_unspecified() {
            self.fault(id.span(), "a BGP Identifier must not be zero (RFC 6286)");
        }
        RouterId(*id.get_ref())
    }

    /// What must be there for ETM to have anything to do.
    fn completeness(&mut self, raw: &Raw, policy: &Policy) {
        if raw.interface.is_empty() {
            self.missing(
                "no uplink is described",
                "add an [[interface]] table with name and capacity for each interface towards providers",
            );
        }
        if raw.provider.is_empty() {
            self.missing("no provider is described", "add a [[provider]] table with name and exits");
        }
        let learns = policy.peers.iter().any(|peer| peer.role == Role::Learn);
        if !learns && policy.static_routes.is_empty() {
            self.missing(
                "ETM would know no route",
                "add a [[bgp.session]] with role = \"learn\" towards this router's BGP daemon, a [[bmp.router]] with peers, or [[static_route]] tables",
            );
        }
        let by_marks = raw.kernel.mode == raw::KernelMode::Lease;
        if policy.mode != crate::core::policy::Mode::Observe && by_marks && raw.kernel.inside.is_empty() {
            self.missing(
                format!("mode is \"{}\", but no inside interface is named", policy.mode.as_str()),
                "add kernel.inside = [\"...\"]: the interfaces by which the traffic to steer comes in",
            );
        }
        let inside = |name: &str| raw.kernel.inside.iter().any(|inside| inside.get_ref() == name);
        for name in raw.datapath.xdp.iter().filter(|name| !inside(name.get_ref())) {
            self.fault(
                name.span(),
                format!(
                    "`{}` is not in kernel.inside: a forwarder in XDP takes packets in there",
                    name.get_ref()
                ),
            );
        }
        for name in &raw.kernel.inside {
            if policy.uplinks.iter().any(|uplink| uplink.name == *name.get_ref()) {
                self.fault(
                    name.span(),
                    format!("`{}` is an uplink; it cannot be inside too", name.get_ref()),
                );
            }
        }
    }
}
