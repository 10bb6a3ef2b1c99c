//! The configuration that the lab writes is one that the agent accepts.

use std::path::PathBuf;

use etm_agent::config;
use etm_agent::core::policy::{Mode, Role};
use etm_tests::agent::{self, AgentOptions, Site};
use etm_tests::topology::Provider;

#[test]
fn the_agent_accepts_the_configuration_that_the_lab_writes() {
    let site = Site {
        directory: PathBuf::from("/run/etm-lab/x"),
        pin_root: PathBuf::from("/sys/fs/bpf/etm-lab-x/v1"),
        uplink_bps: 50_000_000,
    };
    for (options, mode) in
        [(AgentOptions::default(), Mode::Enforce), (AgentOptions::observe(), Mode::Observe)]
    {
        let settings =
            config::parse("etm.toml", &agent::config(&site, &options)).unwrap_or_else(|e| panic!("{e}"));
        let policy = &settings.policy;
        assert_eq!(policy.mode, mode);
        assert_eq!(settings.datapath.pin_root, site.pin_root);
        assert_eq!(settings.agent.control_socket, site.control_socket());
        let names: Vec<&str> = policy.uplinks.iter().map(|uplink| uplink.name.as_str()).collect();
        assert_eq!(names, Provider::ALL.map(Provider::uplink));
        assert!(policy.uplinks.iter().all(|uplink| uplink.capacity.0 == 50_000_000));
        let roles: Vec<Role> = policy.peers.iter().map(|peer| peer.role).collect();
        assert_eq!(roles, [Role::Learn, Role::Inject]);
    }
}
