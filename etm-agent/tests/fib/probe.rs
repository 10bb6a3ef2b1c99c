//! Start-up checks, clean-up, and what BIRD tells.

use crate::netns::{in_netns, run, two_uplinks};
use etm_agent::fib::{
    Cleaned, FibError, Finding, MarkRule, Overrides, OwnTable, check_privileges, cleanup, ensure_rules,
    probe_bird, probe_kernel,
};
use etm_agent::types::Family;
use std::path::Path;
use std::time::{Duration, Instant};

const OWN: OwnTable = OwnTable { table: 179, protocol: 179 };
const RULE: MarkRule = MarkRule { mark: 0x0e00_0000, mask: 0x0f00_0000, priority: 1790 };

#[test]
fn the_sysctls_that_matter_are_found_in_this_namespace() {
    in_netns(async || {
        two_uplinks();
        check_privileges().unwrap();
        let uplinks = ["up1".to_owned(), "up2".to_owned()];
        run("sysctl -qw net.ipv4.conf.up1.rp_filter=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.ip_forward=0");
        let findings = probe_kernel(OWN, 1790, &uplinks).await.unwrap();
        let strict = |name: &str| Finding::StrictReversePath { interface: name.to_owned() };
        assert!(findings.contains(&strict("up1")) && !findings.contains(&strict("up2")), "{findings:?}");
        assert!(findings.contains(&Finding::NotForwarding { family: Family::V4 }), "{findings:?}");
        assert!(findings.iter().any(|finding| matches!(finding, Finding::UsesDeadLinks { .. })));
        run("sysctl -qw net.ipv4.conf.all.rp_filter=2 net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             for up in up1 up2; do for v in 4 6; do
               sysctl -qw net.ipv$v.conf.$up.ignore_routes_with_linkdown=1
             done; done");
        assert_eq!(probe_kernel(OWN, 1790, &uplinks).await.unwrap(), []);
        run("ip route add 198.18.0.0/24 via 192.0.2.3 proto 179");
        match probe_kernel(OWN, 1790, &uplinks).await.unwrap().as_slice() {
            [finding @ Finding::OwnProtocolInMain { count: 1, .. }] => assert!(finding.refuses_enforce()),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn clean_up_removes_everything_of_etm_and_nothing_else() {
    in_netns(async || {
        two_uplinks();
        run("ip rule add fwmark 0x1 lookup 100 priority 50
             ip route add 198.18.0.0/24 via 192.0.2.3 table 100 proto 179
             ip route add 198.18.0.0/24 via 192.0.2.3 table 179 proto static
             ip route add 198.18.1.0/24 via 192.0.2.3 proto bird");
        let state = || run("ip -4 rule; ip -6 rule; ip route show table all; ip -6 route show table all");
        let before = state();
        ensure_rules(OWN, RULE).await.unwrap();
        run("ip route add 198.18.2.0/24 via 192.0.2.3 table 179 proto 179 metric 10
             ip route add 198.18.2.0/24 table 179 proto 179 metric 11 nexthop via 192.0.2.3 nexthop via 192.0.2.5
             ip route add throw 198.18.2.0/25 table 179 proto 179 metric 10
             ip -6 route add 2001:db8:1::/48 table 179 proto 179 metric 9 nexthop via 2001:db8:ffff::1:1 nexthop via 2001:db8:ffff::2:1
             ip -6 route add throw 2001:db8:1:1::/64 table 179 proto 179 metric 10");
        assert_eq!(cleanup(OWN).await.unwrap(), Cleaned { rules: 2, routes: 5 });
        assert_eq!(state(), before);
        assert_eq!(cleanup(OWN).await.unwrap(), Cleaned::default());
        let main = OwnTable { table: 254, protocol: 179 };
        assert!(matches!(cleanup(main).await, Err(FibError::ReservedTable { table: 254 })));
    });
}

/// A BIRD in the namespace of this thread; ended when dropped.
struct Bird {
    directory: tempfile::TempDir,
    process: std::process::Child,
}

impl Bird {
    fn start(learn: &str) -> Bird {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("bird.conf");
        let text = format!(
            "router id 192.0.2.2;
             protocol device {{}}
             ipv4 table t179;
             protocol kernel main4 {{ ipv4 {{ export all; import all; }}; }}
             protocol kernel etm4 {{ ipv4 {{ table t179; import all; export none; }}; kernel table 179; {learn} }}"
        );
        std::fs::write(&config, text).unwrap();
        let process = std::process::Command::new("bird")
            .args(["-f", "-c"])
            .arg(&config)
            .arg("-s")
            .arg(directory.path().join("ctl"))
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        Bird { directory, process }
    }

    async fn findings(&self) -> Vec<Finding> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match probe_bird(OWN, &self.directory.path().join("ctl")).await {
                Ok(findings) if !matches!(findings.as_slice(), [Finding::DaemonUnknown { .. }]) => {
                    return findings;
                }
                other => assert!(Instant::now() < deadline, "{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_bird_that_learns_is_told_from_one_that_does_not() {
    in_netns(async || {
        if std::process::Command::new("bird").arg("--version").output().is_err() {
            println!("SKIP bird is not installed");
            return;
        }
        two_uplinks();
        let wanted = [(
            "198.18.0.0/24".parse().unwrap(),
            etm_agent::core::decision::KernelAction::Via {
                gateway: "192.0.2.3".parse().unwrap(),
                ifindex: crate::netns::ifindex("up1"),
            },
        )];
        Overrides::open(OWN).await.unwrap().converge(&wanted.into()).await.unwrap();
        let quiet = Bird::start("");
        assert_eq!(quiet.findings().await, []);
        drop(quiet);
        let learning = Bird::start("learn;");
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut findings = learning.findings().await;
        while findings.is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
            findings = learning.findings().await;
        }
        match findings.as_slice() {
            [Finding::DaemonLearns { name, imported: 1, .. }, Finding::DaemonLearntOwn { count: 1 }] => {
                assert_eq!(name, "etm4");
            }
            other => panic!("{other:?}"),
        }
        let absent = probe_bird(OWN, Path::new("/nonexistent/bird.ctl")).await.unwrap();
        assert!(matches!(absent.as_slice(), [Finding::DaemonUnknown { .. }]), "{absent:?}");
    });
}
