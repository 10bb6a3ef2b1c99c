//! The BMP station of ETM against real routers: GoBGP and FRR report what their peers told them, and a GoBGP what it
//! made of ETM's announcements. Needs root and both daemons; without, every test says SKIP and why.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etm_agent::bmp::{
    self, Reach, RouterConfig, SourceConfig, View, Watch, station, status_channel as bmp_status,
};
use etm_agent::core::decision::{Announcement, Decision};
use etm_agent::core::input::{EffectiveChange, Input, RouteChange, SessionChange};
use etm_agent::peering::{
    DEFAULT_LOCAL_PREF, InjectConfig, NextHops, OutPolicy, Ports, SessionConfig, run_inject, status_channel,
};
use etm_agent::proto::bmp::PeerKey;
use etm_agent::types::{
    AsPath, Asn, ExitId, Family, Generation, PeerId, Prefix, RouteAttrs, RouterId, Timestamp,
};
use etm_tests::clock::boottime_ns;
use etm_tests::netns::Namespace;
use etm_tests::poll::wait_until;
use tokio::sync::{mpsc, watch};

const ROUTER: &str = "192.0.2.1";
const PROVIDER: &str = "192.0.2.2";
const ETM: &str = "192.0.2.9";
const FRR: &str = "/usr/lib/frr/bgpd";

/// Longest time a router may take for anything.
const PATIENCE: Duration = Duration::from_secs(30);

fn turn() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: network namespaces need root (geteuid is not 0)");
        return None;
    }
    for program in ["/usr/bin/gobgpd", "/usr/bin/gobgp", FRR] {
        if !Path::new(program).exists() {
            println!("SKIP: {program} is not installed (packages gobgpd and frr)");
            return None;
        }
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

fn clock() -> Timestamp {
    Timestamp(boottime_ns())
}

/// One namespace with nothing but its loopback, and the daemons in it.
struct Place {
    namespace: Namespace,
    directory: tempfile::TempDir,
    daemons: BTreeMap<&'static str, Child>,
}

impl Place {
    fn new() -> Place {
        let namespace = Namespace::create(&format!("etm-bmp-{}", std::process::id())).unwrap();
        let addresses = [ROUTER, PROVIDER, ETM].map(|address| format!("addr add {address}/32 dev lo"));
        let lines = [vec!["link set lo up".to_owned()], addresses.to_vec()].concat();
        namespace.ip_batch("address the loopback", &lines).unwrap();
        Place { namespace, directory: tempfile::tempdir().unwrap(), daemons: BTreeMap::new() }
    }

    /// A GoBGP of `asn` at `address` with one peer, its control port there too.
    fn gobgp(&mut self, name: &'static str, asn: u32, address: &str, peer: (&str, u32), bmp: Option<&str>) {
        let (peer, peer_as) = peer;
        let family = |name: &str| {
            format!("[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{name}\"\n")
        };
        // ADD-PATH is negotiated; which reports then have path identifiers differs from daemon to daemon.
        let add_path = if bmp.is_some() { "receive = true" } else { "send-max = 4" };
        let add_path = format!("[neighbors.afi-safis.add-paths.config]\n{add_path}\n");
        let monitor = bmp.map_or_else(String::new, |view| {
            format!(
                "[[bmp-servers]]\n[bmp-servers.config]\naddress = \"{ETM}\"\nport = 11019\n\
                 route-monitoring-policy = \"{view}\"\n"
            )
        });
        let config = format!(
            "[global.config]\nas = {asn}\nrouter-id = \"{address}\"\nport = 1790\n\
             local-address-list = [\"{address}\"]\n[[neighbors]]\n[neighbors.config]\n\
             neighbor-address = \"{peer}\"\npeer-as = {peer_as}\n[neighbors.timers.config]\nconnect-retry = 1\n\
             [neighbors.transport.config]\nlocal-address = \"{address}\"\nremote-port = 1790\npassive-mode = {}\n\
             {}{add_path}{}{monitor}",
            bmp.is_none(),
            family("ipv4-unicast"),
            family("ipv6-unicast"),
        );
        let path = self.directory.path().join(format!("{name}.toml"));
        fs::write(&path, config).unwrap();
        let mut command = self.namespace.command("gobgpd");
        command.arg("-f").arg(&path).arg("--api-hosts").arg(format!("{address}:50051"));
        self.start(name, command);
        wait_until("gobgp to answer", PATIENCE, || self.ask(address, &["global"])).unwrap();
    }

    fn ask(&self, address: &str, args: &[&str]) -> Result<(), String> {
        let mut command = self.namespace.command("gobgp");
        let output = command.args(["-u", address, "-p", "50051"]).args(args).output().unwrap();
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// An FRR bgpd without zebra.
    fn frr(&mut self) {
        let directory = self.directory.path().to_owned();
        let config = format!(
            "hostname frr\nrouter bgp 64500\n bgp router-id {ROUTER}\n no bgp ebgp-requires-policy\n \
             neighbor {PROVIDER} remote-as 64601\n neighbor {PROVIDER} port 1790\n \
             neighbor {PROVIDER} update-source {ROUTER}\n neighbor {PROVIDER} ebgp-multihop 2\n \
             neighbor {PROVIDER} timers connect 1\n address-family ipv4 unicast\n  \
             neighbor {PROVIDER} soft-reconfiguration inbound\n exit-address-family\n bmp targets etm\n  \
             bmp stats interval 1000\n  bmp monitor ipv4 unicast pre-policy\n  bmp monitor ipv4 unicast post-policy\n  \
             bmp connect {ETM} port 11019 min-retry 200 max-retry 1000\n"
        );
        fs::write(directory.join("frr.conf"), config).unwrap();
        let mut command = self.namespace.command(FRR);
        command
            .arg("-f")
            .arg(directory.join("frr.conf"))
            .args(["-Z", "-n", "-S", "-u", "root", "-g", "root"]);
        command.args(["-M", "bmp", "-l", ROUTER, "-p", "1790", "-P", "0"]);
        command.arg("-i").arg(directory.join("frr.pid")).arg("--vty_socket").arg(&directory);
        self.start("router", command);
    }

    fn start(&mut self, name: &'static str, mut command: Command) {
        let log = fs::File::create(self.directory.path().join(format!("{name}.log"))).unwrap();
        let child =
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.daemons.insert(name, child);
    }

    fn kill(&mut self, name: &str) {
        if let Some(mut child) = self.daemons.remove(name) {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Runs `work` on a runtime of its own in `namespace`.
fn run<T: Send>(namespace: &Namespace, work: impl Future<Output = T> + Send) -> T {
    let within = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        Ok(builder.enable_all().build().unwrap().block_on(work))
    };
    namespace.inside(within).unwrap()
}

impl Drop for Place {
    fn drop(&mut self) {
        for name in self.daemons.keys().copied().collect::<Vec<_>>() {
            self.kill(name);
        }
        drop(Command::new("ip").args(["netns", "del", self.namespace.name()]).output());
    }
}

fn router(view: View) -> RouterConfig {
    let key = PeerKey { address: PROVIDER.parse().unwrap(), distinguisher: 0 };
    RouterConfig {
        name: "edge2".to_owned(),
        // Both daemons connect from whatever address the kernel chooses: that of the station, on one loopback.
        address: ETM.parse().unwrap(),
        reach: Reach::Listen,
        view,
        path_ids: None,
        quiet: Some(Duration::from_secs(1)),
        sources: vec![SourceConfig {
            peer: PeerId(0),
            name: format!("edge2/{PROVIDER}"),
            key,
            provider: "transit-a".to_owned(),
            next_hops: Vec::new(),
            own: "64500:179".parse().unwrap(),
        }],
        watch: None,
    }
}

/// What the decision would know.
#[derive(Debug, Default)]
struct Heard {
    up: bool,
    complete: BTreeSet<Family>,
    routes: BTreeMap<Prefix, Arc<RouteAttrs>>,
    down: Option<String>,
    effective: Option<BTreeMap<Prefix, IpAddr>>,
}

impl Heard {
    fn take(&mut self, input: Input) {
        match input {
            Input::Session(event) => match event.change {
                SessionChange::Up { .. } => *self = Heard { up: true, ..Heard::default() },
                SessionChange::EndOfRib(family) => drop(self.complete.insert(family)),
                SessionChange::Down { reason } => *self = Heard { down: Some(reason), ..Heard::default() },
                other => panic!("{other:?}"),
            },
            Input::Routes(batch) => batch.changes.into_iter().for_each(|change| match change {
                RouteChange::Announce { prefix, attrs, .. } => drop(self.routes.insert(prefix, attrs)),
                RouteChange::Withdraw { prefix, .. } => drop(self.routes.remove(&prefix)),
            }),
            Input::Effective(event) => match event.change {
                EffectiveChange::Unknown => self.effective = None,
                EffectiveChange::Watched => self.effective = Some(BTreeMap::new()),
                EffectiveChange::Routes(changes) => {
                    let effective = self.effective.as_mut().unwrap();
                    for (prefix, hop) in changes {
                        match hop {
                            Some(hop) => effective.insert(prefix, hop),
                            None => effective.remove(&prefix),
                        };
                    }
                }
            },
            other => panic!("{other:?}"),
        }
    }

    fn paths(&self) -> Vec<(String, String)> {
        let row =
            |(prefix, attrs): (&Prefix, &Arc<RouteAttrs>)| (prefix.to_string(), attrs.as_path.to_string());
        self.routes.iter().map(row).collect()
    }
}

/// A station that listens, and what it hears.
struct Ear {
    inputs: mpsc::Receiver<Input>,
    stop: watch::Sender<bool>,
    parts: tokio::task::JoinSet<()>,
    heard: Heard,
}

impl Ear {
    fn open(config: RouterConfig) -> Ear {
        let (inputs, received) = mpsc::channel(64);
        let (stop, stopped) = watch::channel(false);
        let (status, _) = bmp_status(&config, clock());
        let ports = bmp::Ports { inputs, status, stop: stopped.clone(), clock };
        let mut parts = tokio::task::JoinSet::new();
        for part in
            station(&[format!("{ETM}:11019").parse().unwrap()], vec![(config, ports)], &stopped).unwrap()
        {
            parts.spawn(part);
        }
        Ear { inputs: received, stop, parts, heard: Heard::default() }
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Heard) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds(&self.heard) {
            match tokio::time::timeout_at(deadline, self.inputs.recv()).await {
                Ok(input) => self.heard.take(input.unwrap()),
                Err(_) => panic!("{what} did not come: {:?}", self.heard),
            }
        }
    }

    async fn close(mut self) {
        self.stop.send_replace(true);
        while self.parts.join_next().await.is_some() {}
    }
}

/// Which daemon is the monitored router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    GoBgp,
    Frr,
}

/// A provider announces, withdraws and dies, and so does the router: the station hears it all.
fn monitored(kind: Kind, view: View) {
    let Some(_turn) = turn() else { return };
    let mut place = Place::new();
    place.gobgp("provider", 64601, PROVIDER, (ROUTER, 64500), None);
    for prefix in ["198.18.1.0/24", "198.18.2.0/24"] {
        place.ask(PROVIDER, &["global", "rib", "add", prefix, "nexthop", PROVIDER]).unwrap();
    }
    let namespace = place.namespace.clone();
    let place = Mutex::new(place);
    let work = async {
        let act = |work: &mut dyn FnMut(&mut Place)| work(&mut place.lock().unwrap());
        let mut ear = Ear::open(router(view));
        let word = if view == View::PrePolicy { "pre-policy" } else { "post-policy" };
        act(&mut |place| match kind {
            Kind::GoBgp => place.gobgp("router", 64500, ROUTER, (PROVIDER, 64601), Some(word)),
            Kind::Frr => place.frr(),
        });
        ear.until("both routes", |heard| heard.up && heard.routes.len() == 2).await;
        let path = |prefix: &str| (prefix.to_owned(), "64601".to_owned());
        assert_eq!(ear.heard.paths(), [path("198.18.1.0/24"), path("198.18.2.0/24")]);
        ear.until("the end of the table", |heard| heard.complete.contains(&Family::V4)).await;
        act(&mut |place| place.ask(PROVIDER, &["global", "rib", "del", "198.18.1.0/24"]).unwrap());
        ear.until("the withdrawal", |heard| heard.routes.len() == 1).await;
        let community =
            ["global", "rib", "add", "198.18.3.0/24", "nexthop", PROVIDER, "community", "64601:7"];
        act(&mut |place| place.ask(PROVIDER, &community).unwrap());
        ear.until("another route", |heard| heard.routes.len() == 2).await;
        let attrs = &ear.heard.routes[&"198.18.3.0/24".parse().unwrap()];
        assert_eq!((attrs.next_hop.to_string().as_str(), attrs.communities.len()), (PROVIDER, 1));
        act(&mut |place| place.kill("provider"));
        ear.until("the peer's end", |heard| heard.down.is_some()).await;
        println!("{kind:?} {word}: peer down: {}", ear.heard.down.as_deref().unwrap());
        assert!(ear.heard.routes.is_empty());
        act(&mut |place| place.kill("router"));
        let lost = |heard: &Heard| heard.down.as_ref().is_some_and(|why| why.starts_with("edge2: "));
        ear.until("the router's end", lost).await;
        println!("{kind:?} {word}: router down: {}", ear.heard.down.as_deref().unwrap());
        ear.close().await;
    };
    run(&namespace, work);
}

#[test]
fn gobgp_reports_what_its_peer_told_it() {
    monitored(Kind::GoBgp, View::PrePolicy);
}

#[test]
fn gobgp_reports_what_its_policy_left() {
    monitored(Kind::GoBgp, View::PostPolicy);
}

#[test]
fn frr_reports_what_its_peer_told_it() {
    monitored(Kind::Frr, View::PrePolicy);
}

#[test]
fn frr_reports_what_its_policy_left() {
    monitored(Kind::Frr, View::PostPolicy);
}

fn announce(generation: u64, prefixes: &[&str]) -> Arc<Decision> {
    let attrs = RouteAttrs {
        as_path: AsPath::sequence([64601, 64700]),
        ..RouteAttrs::to_next_hop("10.1.0.1".parse().unwrap())
    };
    let announcement = Announcement { exit: ExitId(0), attrs: Arc::new(attrs) };
    let announce = prefixes.iter().map(|prefix| (prefix.parse().unwrap(), announcement.clone())).collect();
    Arc::new(Decision { generation: Generation(generation), announce, ..Decision::default() })
}

#[test]
fn a_loc_rib_proves_that_an_announcement_is_effective() {
    let Some(_turn) = turn() else { return };
    let mut place = Place::new();
    let community = "64500:179".parse().unwrap();
    let asn = Asn(64500);
    let router_id = RouterId(ETM.parse().unwrap());
    let mut session = SessionConfig::new(PeerId(3), "core", ROUTER.parse().unwrap(), asn, asn, router_id);
    session.local = Some(ETM.parse().unwrap());
    session.port = 1790;
    let next_hops = NextHops { v4: Some(ETM.parse().unwrap()), v6: None, ..NextHops::default() };
    let inject = InjectConfig::new(OutPolicy { local_pref: DEFAULT_LOCAL_PREF, community }, next_hops);
    let (decisions, decided) = watch::channel(announce(1, &["198.18.5.0/24", "198.18.6.0/24"]));
    let mut config = router(View::PrePolicy);
    config.watch = Some(Watch { peer: PeerId(3), session: "core".to_owned(), community });
    // It must be listening before GoBGP tries, which tries again only after a while.
    let namespace = place.namespace.clone();
    let place = Mutex::new(&mut place);
    let work = async {
        let mut ear = Ear::open(config);
        place.lock().unwrap().gobgp("router", 64500, ROUTER, (ETM, 64500), Some("local-rib"));
        let (inputs, mut received) = mpsc::channel(64);
        let (status, _) = status_channel(&session, clock());
        let (stop, stopped) = watch::channel(false);
        let told = run_inject(session, inject, decided, Ports { inputs, status, stop: stopped, clock });
        let steps = async {
            let effective = |heard: &Heard| heard.effective.as_ref().map(BTreeMap::len);
            ear.until("two effective announcements", |heard| effective(heard) == Some(2)).await;
            let hops: BTreeSet<IpAddr> = ear.heard.effective.as_ref().unwrap().values().copied().collect();
            assert_eq!(hops, BTreeSet::from([ETM.parse().unwrap()]));
            let begun = std::time::Instant::now();
            decisions.send_replace(announce(2, &["198.18.5.0/24"]));
            ear.until("one to be taken back", |heard| effective(heard) == Some(1)).await;
            println!("taken back and seen to be after {:?}", begun.elapsed());
            let begun = std::time::Instant::now();
            decisions.send_replace(announce(3, &["198.18.5.0/24", "198.18.7.0/24"]));
            ear.until("another", |heard| effective(heard) == Some(2)).await;
            println!("effective and seen to be after {:?}", begun.elapsed());
            place.lock().unwrap().kill("router");
            ear.until("to know nothing", |heard| heard.effective.is_none()).await;
            stop.send_replace(true);
            ear.close().await;
        };
        let drain = async { while received.recv().await.is_some() {} };
        tokio::join!(told, drain, steps);
    };
    run(&namespace, work);
}
