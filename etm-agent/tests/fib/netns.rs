//! A network namespace that lives as long as the thread of one test. It has no name, so nothing is left behind.

use etm_agent::types::Timestamp;
use nix::sched::{CloneFlags, unshare};
use std::process::Command;
use std::time::Duration;

/// Runs `test` in a fresh network namespace, on a thread and a single-threaded runtime of its own.
pub(crate) fn in_netns(test: impl AsyncFnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            println!("SKIP making a network namespace needs root: {errno}");
            return;
        }
        run("ip link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(60), test()).await.expect("the test hangs");
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command in the namespace of this thread and returns what it printed; it must succeed.
pub(crate) fn run(command: &str) -> String {
    let output = Command::new("/bin/sh").args(["-c", command]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{command}` failed: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A veth pair with addresses: `up1` (192.0.2.0/31 and 2001:db8:ffff::/127) to `far1`, `up2` likewise one further.
pub(crate) fn two_uplinks() {
    for n in [1, 2] {
        run(&format!(
            "ip link add up{n} type veth peer name far{n}
             ip link set up{n} up; ip link set far{n} up
             ip addr add 192.0.2.{}/31 dev up{n}
             ip addr add 2001:db8:ffff::{n}:0/127 dev up{n} nodad",
            n * 2
        ));
    }
}

/// CLOCK_BOOTTIME, as the runtime hands it in.
pub(crate) fn clock() -> Timestamp {
    let text = std::fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = text.split(' ').next().unwrap().parse().unwrap();
    Timestamp(Duration::from_secs_f64(seconds).as_nanos().try_into().unwrap())
}

/// Index of an interface.
pub(crate) fn ifindex(name: &str) -> etm_agent::types::IfIndex {
    let text = run(&format!("ip -o link show dev {name}"));
    etm_agent::types::IfIndex(text.split(':').next().unwrap().trim().parse().unwrap())
}
