//! Leaks made by real routers: an announcement of ETM that comes back by the border's own export, from an eBGP peer, and in
//! the BMP feed of another router. Each withdraws everything until an operator says `on`. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an unwrap is the assertion of a test")]

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use etm_tests::agent::{Agent, AgentOptions, Site, config, write_text};
use etm_tests::lab::{Lab, LabOptions};
use etm_tests::poll::{pass_time, wait_until};
use etm_tests::scene::{PATIENCE, Scene, turn};
use etm_tests::topology::{Provider, Role};
use etm_tests::traces;
use etm_tests::traffic::{Demand, FRAME, Generator, Sink};

/// Until nothing of ETM is in effect once the announcement came back.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The border's address that ETM's announcements name as next hop here: a router does not pass on a route towards its next
/// hop, so it is not that of the border's session with core.
const NEXT_HOP: &str = "10.0.9.5";

/// A scene in which ETM steers.
fn steered() -> Scene {
    let scene = started("");
    scene.wait_overrides().unwrap();
    scene
}

/// A scene with an agent that knows nothing yet; `more` is added to its configuration.
fn started(more: &str) -> Scene {
    let lab = Lab::up(LabOptions::default()).unwrap();
    lab.namespace(Role::Border).ip(&["addr", "add", "10.0.9.5/24", "dev", "core0"]).unwrap();
    let text = config(&Site::of(&lab), &AgentOptions::default());
    let text = text.replace("next_hops = [\"10.0.9.1\",", &format!("next_hops = [\"{NEXT_HOP}\","));
    assert!(text.contains(NEXT_HOP), "{text}");
    let text = text + more;
    let sink = Sink::start(&lab.namespace(Role::Sink)).unwrap();
    let path = write_text(&lab, &text).unwrap();
    let flows = Demand::by_home(47.5, 7.0, 6.0).flows(lab.table(), FRAME);
    let generator = Generator::start(&lab.namespace(Role::Content), &flows, FRAME).unwrap();
    let agent = Agent::start_by(&lab, &path, "info").unwrap();
    Scene { generator, sink, agent, lab }
}

/// Gives a router another configuration; what it was before.
fn reconfigured(lab: &Lab, role: Role, changes: &[(&str, &str)], more: &str) -> String {
    let path = lab.directory().join(format!("{role}.conf"));
    let before = fs::read_to_string(&path).unwrap();
    let mut text = before.clone();
    for (old, new) in changes {
        assert!(text.contains(old), "{old:?} in {text}");
        text = text.replace(old, new);
    }
    fs::write(&path, text + more).unwrap();
    lab.bird(role).configure().unwrap();
    before
}

fn restored(lab: &Lab, role: Role, before: &str) {
    fs::write(lab.directory().join(format!("{role}.conf")), before).unwrap();
    lab.bird(role).configure().unwrap();
}

fn said(scene: &Scene, args: &[&str]) -> String {
    String::from_utf8(scene.agent.etm(args).unwrap().stdout).unwrap()
}

/// The state `leak`, and nothing of ETM in effect; it stays so until an operator says `on`, and while the leak is there.
fn withdraws_everything(scene: &Scene, by: &str) {
    wait_until("the leak to be seen", PATIENCE, || match scene.agent.state() {
        Ok(state) if state == "leak" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .map_err(|error| scene.agent.with_log(error))
    .unwrap();
    wait_until("nothing of ETM to be in effect", AT_ONCE, || {
        let announced = traces::announced(&scene.lab).map_err(|error| error.to_string())?;
        let routes = traces::routes(&scene.lab).map_err(|error| error.to_string())?;
        if announced.is_empty() && routes.is_empty() {
            return Ok(());
        }
        Err(format!("{routes:?} {announced:?}"))
    })
    .unwrap();
    let status = said(scene, &["status"]);
    assert!(status.contains("LEAK") && status.contains(by), "{status}");
    let metrics = etm_tests::http::request(scene.agent.socket(), "GET", "/metrics", AT_ONCE).unwrap().body;
    assert!(
        metrics.contains("etm_leak 1\n") && metrics.contains("etm_state{state=\"leak\"} 1\n"),
        "{metrics}"
    );
    let events = scene.agent.events(0).unwrap();
    assert_eq!(events.iter().filter(|event| event.kind == "leaked").count(), 1, "{events:?}");
}

/// With the leak gone nothing happens by itself; with the operator's word ETM steers again.
fn steers_again_when_told(scene: &Scene) {
    pass_time(Duration::from_secs(3));
    assert_eq!(scene.agent.state().unwrap(), "leak");
    assert_eq!(traces::announced(&scene.lab).unwrap(), []);
    let back = wait_until("ETM to accept the order", PATIENCE, || {
        scene.agent.etm(&["on"]).map_err(|error| error.to_string())?;
        let state = scene.agent.state().map_err(|error| error.to_string())?;
        if state == "leak" { Err(state) } else { Ok(()) }
    });
    back.map_err(|error| scene.agent.with_log(error)).unwrap();
    scene.wait_overrides().unwrap();
}

#[test]
fn an_announcement_that_core_reflects_and_the_border_exports_to_etm_withdraws_everything_until_on() {
    let Some(_turn) = turn() else { return };
    let scene = steered();
    let border = [
        // The first session of those that neither import nor are of ETM is core's.
        (
            "ipv4 { import none; export where source = RTS_BGP; next hop self; };",
            "ipv4 { import all; export where source = RTS_BGP; next hop self; };",
        ),
        (
            "ipv4 { import none; export where source = RTS_BGP; add paths tx; };",
            "rr client; ipv4 { import none; export where source = RTS_BGP; add paths tx; };",
        ),
    ];
    let border = reconfigured(&scene.lab, Role::Border, &border, "");
    let core = [(
        "hold time 9;\n  ipv4 { import all; export none; };\n  ipv6 { import all; export none; };\n}\n# ETM",
        "hold time 9; rr client;\n  ipv4 { import all; export where proto = \"etm_inject\"; };\n  ipv6 { import all; export none; };\n}\n# ETM",
    )];
    let core = reconfigured(&scene.lab, Role::Core, &core, "");
    withdraws_everything(&scene, "border announces");
    restored(&scene.lab, Role::Core, &core);
    restored(&scene.lab, Role::Border, &border);
    scene.lab.wait_converged().unwrap();
    steers_again_when_told(&scene);
}

/// Gives core and a provider a way to each other's addresses.
fn routed(lab: &Lab, provider: Provider) {
    let network = format!("{}.0/24", provider.gateway_v4().trim_end_matches(".1"));
    lab.namespace(Role::Core).ip(&["route", "replace", &network, "via", "10.0.9.1"]).unwrap();
    let back = ["route", "replace", "10.0.9.0/24", "via", provider.border_v4()];
    lab.namespace(provider.role()).ip(&back).unwrap();
}

/// Core takes NO_EXPORT off, and passes what ETM announced on to a provider: a session that it should not have.
fn given_to_a_provider(lab: &Lab, provider: Provider) -> String {
    let leaky = "protocol bgp leaky {\n  local 10.0.9.2 as 64500; neighbor GATEWAY as ASN; multihop;\n  \
                 connect retry time 1; connect delay time 1; error wait time 1, 2;\n  \
                 ipv4 { import none; export where proto = \"etm_inject\"; };\n}\n"
        .replace("GATEWAY", provider.gateway_v4())
        .replace("ASN", &provider.asn().to_string());
    let inject = "hold time 9;\n  ipv4 { import all; export none; };\n  ipv6 { import all; export none; };\n}\nprotocol bgp leaky";
    let strips = inject.replace(
        "ipv4 { import all;",
        "ipv4 { import filter { bgp_community.delete((65535,65281)); accept; };",
    );
    let before = reconfigured(lab, Role::Core, &[], &leaky);
    reconfigured(lab, Role::Core, &[(inject, &strips)], "");
    before
}

/// The provider's end of it; `import` is what it does with the routes.
fn taken(provider: Provider, import: &str) -> String {
    "protocol bgp leaky {\n  local GATEWAY as ASN; neighbor 10.0.9.2 as 64500; multihop;\n  \
     connect retry time 1; connect delay time 1; error wait time 1, 2;\n  \
     ipv4 { IMPORT export none; };\n}\n"
        .replace("GATEWAY", provider.gateway_v4())
        .replace("ASN", &provider.asn().to_string())
        .replace("IMPORT", import)
}

#[test]
fn an_announcement_that_an_ebgp_peer_sends_back_withdraws_everything_until_on() {
    let Some(_turn) = turn() else { return };
    let scene = steered();
    // A border that drops its own AS never shows it to ETM: this one is told to accept it.
    let accepts = [("protocol bgp transit_a_4 {\n", "protocol bgp transit_a_4 {\n  allow local as 1;\n")];
    let border = reconfigured(&scene.lab, Role::Border, &accepts, "");
    scene.lab.wait_converged().unwrap();
    scene.wait_overrides().unwrap();
    routed(&scene.lab, Provider::TransitA);
    let exports = [
        ("export where proto = \"table4\"", "export where proto = \"table4\" || proto = \"leaky\""),
        // Its packets would go round and round between the two.
        ("export where source = RTS_BGP;", "export where source = RTS_BGP && proto != \"leaky\";"),
    ];
    let takes = taken(Provider::TransitA, "import filter { preference = 300; accept; };");
    let transit = reconfigured(&scene.lab, Role::TransitA, &exports, &takes);
    let core = given_to_a_provider(&scene.lab, Provider::TransitA);
    withdraws_everything(&scene, "our AS in its path");
    restored(&scene.lab, Role::Core, &core);
    restored(&scene.lab, Role::TransitA, &transit);
    restored(&scene.lab, Role::Border, &border);
    scene.lab.wait_converged().unwrap();
    steers_again_when_told(&scene);
}

/// Where a router listens that reports to ETM what a provider tells it.
const MONITORED: &str = "10.0.9.9";

const FEED: &str = "\n[bmp]\nlisten = [\"10.0.9.1:11019\"]\n\n[[bmp.router]]\nname = \"edge2\"\naddress = \"10.0.9.2\"\n\
    view = \"pre-policy\"\ncomplete_after = \"1s\"\npeers = [{ address = \"10.1.0.1\", provider = \"transit-a\" }]\n";

/// A GoBGP with a session to transit-a, ended with the lab.
fn monitored(lab: &Lab) -> Child {
    let text = format!(
        "[global.config]\nas = 64500\nrouter-id = \"{MONITORED}\"\nport = 1790\nlocal-address-list = [\"{MONITORED}\"]\n\
         [[neighbors]]\n[neighbors.config]\nneighbor-address = \"10.1.0.1\"\npeer-as = 64501\n\
         [neighbors.as-path-options.config]\nallow-own-as = 1\n[neighbors.timers.config]\nconnect-retry = 1\n[neighbors.transport.config]\nlocal-address = \"{MONITORED}\"\n\
         passive-mode = true\n[neighbors.ebgp-multihop.config]\nenabled = true\nmultihop-ttl = 8\n\
         [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"ipv4-unicast\"\n\
         [[bmp-servers]]\n[bmp-servers.config]\naddress = \"10.0.9.1\"\nport = 11019\nroute-monitoring-policy = \"pre-policy\"\n"
    );
    let path = lab.directory().join("gobgp.toml");
    fs::write(&path, text).unwrap();
    let log = fs::File::create(lab.directory().join("gobgp.log")).unwrap();
    let core = lab.namespace(Role::Core);
    core.ip(&["addr", "add", &format!("{MONITORED}/24"), "dev", "border0"]).unwrap();
    let mut command = core.command("gobgpd");
    command.arg("-f").arg(&path).args(["--api-hosts", &format!("{MONITORED}:50051"), "--pprof-disable"]);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

#[test]
fn an_announcement_that_another_routers_bmp_feed_shows_withdraws_everything_until_on() {
    let Some(_turn) = turn() else { return };
    if !Path::new("/usr/bin/gobgpd").exists() {
        println!("SKIP: /usr/bin/gobgpd is not installed (package gobgpd)");
        return;
    }
    // This border itself never sees it: the way back leads through its own AS.
    let scene = started(FEED);
    let mut router = monitored(&scene.lab);
    routed(&scene.lab, Provider::TransitA);
    // Told to that router alone, so that nothing else shows it.
    let tells = "protocol bgp monitored {\n  local 10.1.0.1 as 64501; neighbor 10.0.9.9 port 1790 as 64500; multihop;\n  \
                 connect retry time 1; connect delay time 1; error wait time 1, 2;\n  \
                 ipv4 { table leaked; import none; export all; };\n}\n";
    let takes = taken(Provider::TransitA, "table leaked; import all;");
    reconfigured(&scene.lab, Role::TransitA, &[], &format!("ipv4 table leaked;\n{takes}{tells}"));
    scene.wait_overrides().unwrap();
    let core = given_to_a_provider(&scene.lab, Provider::TransitA);
    withdraws_everything(&scene, "edge2");
    restored(&scene.lab, Role::Core, &core);
    // What the feed showed goes with that session.
    steers_again_when_told(&scene);
    router.kill().unwrap();
    router.wait().unwrap();
}
