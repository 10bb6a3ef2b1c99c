//! BIRD, FRR and GoBGP as the router of a [`crate::pair`]: configuration, start, questions. Each runs by pid inside its
//! namespace with files of the lab; the system's own services and their directories are never touched.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::bird::Bird;
use crate::command::{cannot_start, run};
use crate::daemons_v6;
use crate::error::LabError;
use crate::netns::Namespace;
pub use crate::pair_plan::{
    CUSTOMER_AS, CUSTOMER_V4, ETM_AS, ETM_V4, ETM_V6, PREFIXES, ROUTER_CUSTOMER_V4, ROUTER_V4, ROUTER_V6,
    prefix_v4, prefix_v6,
};
use crate::poll::wait_until;

/// How the router under test is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Which daemon.
    pub daemon: Daemon,
    /// The router's AS; ETM's own for a core router.
    pub asn: u32,
    /// TCP-MD5 key, where one is used.
    pub key: Option<&'static str>,
    /// RFC 5082 on the session with ETM.
    pub gtsm: bool,
    /// The router waits for ETM to connect.
    pub passive: bool,
    /// ETM and the router meet over IPv6 alone ([`crate::daemons_v6`]); the fields above do not count then, nor the customer.
    pub six: bool,
}

/// Where Debian keeps FRR's daemons.
const FRR: &str = "/usr/lib/frr";
/// How long a daemon may take to answer.
const START: Duration = Duration::from_secs(20);

/// A routing daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// bird2.
    Bird,
    /// frr: zebra and bgpd.
    Frr,
    /// gobgpd.
    Gobgp,
}

impl Daemon {
    /// All of them.
    pub const ALL: [Daemon; 3] = [Daemon::Bird, Daemon::Frr, Daemon::Gobgp];
}

/// The customer: one session with the router, nothing of its own.
pub fn customer_config(router_as: u32) -> String {
    format!(
        "router id {CUSTOMER_V4};\nprotocol device {{ }}\n\
         protocol bgp upstream {{\n  local {CUSTOMER_V4} as {CUSTOMER_AS}; neighbor {ROUTER_CUSTOMER_V4} as {router_as};\n  \
         connect retry time 1; connect delay time 1; error wait time 1, 2; hold time 30;\n  \
         ipv4 {{ import all; export none; }};\n}}\n"
    )
}

/// Starts the router; its processes.
pub(crate) fn start(
    setup: &Setup,
    namespace: &Namespace,
    directory: &Path,
    again: bool,
) -> Result<Vec<Child>, LabError> {
    match setup.daemon {
        Daemon::Bird => start_bird(setup, namespace, directory, again),
        Daemon::Frr => start_frr(setup, namespace, directory),
        Daemon::Gobgp => start_gobgp(setup, namespace, directory, again),
    }
}

/// Asks the router by its own client.
pub(crate) fn ask(
    setup: &Setup,
    namespace: &Namespace,
    directory: &Path,
    words: &[&str],
) -> Result<String, LabError> {
    match setup.daemon {
        Daemon::Bird => {
            Bird::existing("router", directory).ask(&words.join(" ")).map(|lines| lines.join("\n"))
        }
        Daemon::Frr => {
            let socket = directory.display().to_string();
            let mut args = vec!["--vty_socket", socket.as_str()];
            words.iter().for_each(|word| args.extend(["-c", *word]));
            ask_program(namespace, "vtysh", &args)
        }
        Daemon::Gobgp => ask_program(namespace, "gobgp", words),
    }
}

fn start_bird(
    setup: &Setup,
    namespace: &Namespace,
    directory: &Path,
    again: bool,
) -> Result<Vec<Child>, LabError> {
    if setup.six {
        let log = directory.join("router.log").display().to_string();
        write(&directory.join("router.conf"), &daemons_v6::bird(&log))?;
        return Bird::start("router", namespace, directory).map(|(_, child)| vec![child]);
    }
    let mut text = format!(
        "log \"{}/router.log\" all;\nrouter id {ROUTER_V4};\nprotocol device {{ }}\nprotocol direct {{ ipv4; ipv6; }}\n",
        directory.display()
    );
    for (family, routes) in [("4", prefix_v4 as fn(u32) -> String), ("6", prefix_v6)] {
        let _ = writeln!(text, "protocol static own{family} {{\n  ipv{family};");
        (0..PREFIXES).for_each(|i| {
            let _ = writeln!(text, "  route {} blackhole;", routes(i));
        });
        text += "}\n";
    }
    let key = setup.key.map_or_else(String::new, |key| format!("password \"{key}\"; "));
    let gtsm = if setup.gtsm { "ttl security on; " } else { "" };
    let passive = if setup.passive { "passive; " } else { "" };
    let asn = setup.asn;
    let _ = write!(
        text,
        "protocol bgp etm {{\n  local {ROUTER_V4} as {asn}; neighbor {ETM_V4} as {ETM_AS}; {key}{gtsm}{passive}\n  \
         graceful restart on; graceful restart time 20; hold time 9;\n  \
         connect retry time 1; connect delay time 1; error wait time 1, 2; error forget time 5;\n  \
         ipv4 {{ import all; export where source = RTS_STATIC; next hop self; add paths tx; }};\n  \
         ipv6 {{ import all; export where source = RTS_STATIC; next hop address {ROUTER_V6}; add paths tx; }};\n}}\n\
         protocol bgp customer {{\n  local {ROUTER_CUSTOMER_V4} as {asn}; neighbor {CUSTOMER_V4} as {CUSTOMER_AS};\n  \
         connect retry time 1; connect delay time 1; error wait time 1, 2; hold time 30;\n  \
         ipv4 {{ import all; export where source = RTS_STATIC; }};\n}}\n"
    );
    write(&directory.join("router.conf"), &text)?;
    if again {
        let args = [
            "-f",
            "-R",
            "-c",
            &directory.join("router.conf").display().to_string(),
            "-s",
            &directory.join("router.ctl").display().to_string(),
            "-P",
            &directory.join("router.pid").display().to_string(),
        ]
        .map(str::to_owned);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        return Ok(vec![spawn("start bird again", namespace, "bird", &args, &directory.join("again.out"))?]);
    }
    Bird::start("router", namespace, directory).map(|(_, child)| vec![child])
}

fn frr_config(setup: &Setup) -> String {
    let mut text = format!(
        "hostname router\nrouter bgp {}\n bgp router-id {ROUTER_V4}\n no bgp ebgp-requires-policy\n \
         no bgp network import-check\n bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n \
         bgp graceful-restart restart-time 20\n no bgp default ipv4-unicast\n \
         neighbor {ETM_V4} remote-as {ETM_AS}\n neighbor {ETM_V4} timers 3 9\n neighbor {ETM_V4} timers connect 1\n \
         neighbor {ETM_V4} advertisement-interval 0\n",
        setup.asn
    );
    if let Some(key) = setup.key {
        let _ = writeln!(text, " neighbor {ETM_V4} password {key}");
    }
    if setup.gtsm {
        let _ = writeln!(text, " neighbor {ETM_V4} ttl-security hops 1");
    }
    if setup.passive {
        let _ = writeln!(text, " neighbor {ETM_V4} passive");
    }
    let _ = write!(
        text,
        " neighbor {CUSTOMER_V4} remote-as {CUSTOMER_AS}\n neighbor {CUSTOMER_V4} timers connect 1\n \
         neighbor {CUSTOMER_V4} advertisement-interval 0\n"
    );
    for (family, prefix) in [("ipv4", prefix_v4 as fn(u32) -> String), ("ipv6", prefix_v6)] {
        let _ = writeln!(text, " address-family {family} unicast");
        (0..PREFIXES).for_each(|i| {
            let _ = writeln!(text, "  network {}", prefix(i));
        });
        let _ = write!(
            text,
            "  neighbor {ETM_V4} activate\n  neighbor {ETM_V4} soft-reconfiguration inbound\n  \
             neighbor {ETM_V4} addpath-tx-all-paths\n  neighbor {ETM_V4} route-map own out\n"
        );
        if family == "ipv4" {
            let _ = writeln!(text, "  neighbor {CUSTOMER_V4} activate");
        }
        text += " exit-address-family\n";
    }
    let _ = write!(
        text,
        "route-map own permit 10\n match as-path own\n set ipv6 next-hop global {ROUTER_V6}\n\
         bgp as-path access-list own permit ^$\n"
    );
    text
}

fn start_frr(setup: &Setup, namespace: &Namespace, directory: &Path) -> Result<Vec<Child>, LabError> {
    // The daemons give up root for the user frr, who then keeps its sockets and pids here.
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o777))
        .map_err(LabError::io("open the lab's directory for FRR"))?;
    write(&directory.join("zebra.conf"), "hostname zebra\n")?;
    let config = if setup.six { daemons_v6::frr() } else { frr_config(setup) };
    write(&directory.join("bgpd.conf"), &config)?;
    let at = directory.display().to_string();
    let api = format!("{at}/zserv.api");
    let mut children = Vec::new();
    for name in ["zebra", "bgpd"] {
        let config = format!("{at}/{name}.conf");
        let pid = format!("{at}/{name}.pid");
        let program = format!("{FRR}/{name}");
        let mut args = vec!["-f", &config, "-i", &pid, "-z", &api, "--vty_socket", &at, "-P", "0"];
        if name == "bgpd" && !setup.six {
            args.extend(["-l", ROUTER_V4, "-l", ROUTER_CUSTOMER_V4]);
        }
        let output = directory.join(format!("{name}.out"));
        children.push(spawn(&format!("start {name}"), namespace, &program, &args, &output)?);
        wait_until(&format!("{name} to answer"), START, || {
            let socket = directory.join(format!("{name}.vty"));
            if socket.exists() { Ok(()) } else { Err("no socket yet".to_owned()) }
        })?;
    }
    wait_until("bgpd to answer", START, || {
        let answer = ask(setup, namespace, directory, &["show bgp summary json"]);
        answer.map(drop).map_err(|error| error.to_string())
    })?;
    Ok(children)
}

fn gobgp_peer(setup: &Setup, etm: bool) -> String {
    let (address, asn) = if etm { (ETM_V4, ETM_AS) } else { (CUSTOMER_V4, CUSTOMER_AS) };
    let mut text =
        format!("[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{address}\"\npeer-as = {asn}\n");
    if let Some(key) = setup.key.filter(|_| etm) {
        let _ = writeln!(text, "auth-password = \"{key}\"");
    }
    let hold = if etm { 9 } else { 30 };
    let _ = write!(
        text,
        "[neighbors.timers.config]\nhold-time = {hold}\nkeepalive-interval = {}\nconnect-retry = 2\n\
         idle-hold-time-after-reset = 1\n[neighbors.transport.config]\npassive-mode = {}\n",
        hold / 3,
        setup.passive && etm
    );
    if etm && setup.gtsm {
        text += "[neighbors.ttl-security.config]\nenabled = true\nttl-min = 255\n";
    }
    if etm {
        text += "[neighbors.graceful-restart.config]\nenabled = true\nrestart-time = 20\n";
    }
    for family in ["ipv4-unicast", "ipv6-unicast"].into_iter().take(if etm { 2 } else { 1 }) {
        let _ = writeln!(
            text,
            "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{family}\""
        );
        if etm {
            text += "[neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true\n\
                     [neighbors.afi-safis.add-paths.config]\nsend-max = 8\n";
        }
    }
    text
}

fn start_gobgp(
    setup: &Setup,
    namespace: &Namespace,
    directory: &Path,
    again: bool,
) -> Result<Vec<Child>, LabError> {
    let mut text = format!("[global.config]\nas = {}\nrouter-id = \"{ROUTER_V4}\"\nport = 179\n", setup.asn);
    if setup.six {
        text = daemons_v6::gobgp();
    } else {
        text += &gobgp_peer(setup, true);
        text += &gobgp_peer(setup, false);
    }
    let config = directory.join("router.toml");
    write(&config, &text)?;
    let path = config.display().to_string();
    let mut args = vec!["-f", &path, "-t", "toml", "--api-hosts", "127.0.0.1:50051", "--pprof-disable"];
    if again {
        args.push("-r");
    }
    let child = spawn("start gobgpd", namespace, "gobgpd", &args, &directory.join("gobgpd.out"))?;
    wait_until("gobgpd to answer", START, || {
        ask(setup, namespace, directory, &["neighbor"]).map(drop).map_err(|error| error.to_string())
    })?;
    for i in 0..PREFIXES {
        // Without a next hop GoBGP takes itself for it, towards each peer by the address that peer knows.
        ask(setup, namespace, directory, &["global", "rib", "add", &prefix_v4(i)])?;
        let six = prefix_v6(i);
        let words = ["global", "rib", "-a", "ipv6", "add", &six, "nexthop", ROUTER_V6];
        let words = if setup.six { &words[..6] } else { &words };
        ask(setup, namespace, directory, words)?;
    }
    Ok(vec![child])
}

pub(crate) fn write(path: &Path, text: &str) -> Result<(), LabError> {
    std::fs::write(path, text).map_err(LabError::io(format!("write {}", path.display())))
}

fn spawn(
    what: &str,
    namespace: &Namespace,
    program: &str,
    args: &[&str],
    output: &Path,
) -> Result<Child, LabError> {
    let file = std::fs::File::create(output).map_err(LabError::io(what))?;
    let mut command = namespace.command(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stderr(file.try_clone().map_err(LabError::io(what))?)
        .stdout(file);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().map_err(|source| cannot_start(what, "nsenter", source))
}

fn ask_program(namespace: &Namespace, program: &str, args: &[&str]) -> Result<String, LabError> {
    let net = format!("--net={}", namespace.path().display());
    run(&format!("ask {program}"), "nsenter", &[&[net.as_str(), "--", program], args].concat(), None)
}
