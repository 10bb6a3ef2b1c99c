//! How fast ETM's own table converges, against `ip -batch` with the same routes in the same run.
//! In a network namespace of its own that is gone afterwards; never a route outside it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Instant;

use etm_agent::core::decision::KernelAction;
use etm_agent::fib::{FibError, Overrides, OwnTable};
use etm_agent::types::{Family, IfIndex, Prefix};
use serde_json::json;

use super::BenchOptions;
use crate::command::run as run_program;
use crate::error::LabError;
use crate::netns::Namespace;

const ROUTES: u32 = 200_000;
const ROUNDS: usize = 5;
const UPLINK: &str = "up0";
/// The table that `ip` fills: not ETM's, so that both start from nothing.
const PEER_TABLE: u32 = 180;

/// Removes the namespace and the batch file, also when a step fails.
struct Place {
    namespace: Namespace,
    batch: PathBuf,
}

impl Place {
    fn make() -> Result<Place, LabError> {
        let name = format!("etm-bench-fib-{}", std::process::id());
        let batch = std::env::temp_dir().join(&name);
        let place = Place { namespace: Namespace::create(&name)?, batch };
        let lines = [
            format!("link add {UPLINK} type veth peer name far0"),
            "link set far0 up".to_owned(),
            format!("link set {UPLINK} up"),
            format!("address add 192.0.2.254/24 dev {UPLINK}"),
            format!("address add 2001:db8:ffff::fe/64 dev {UPLINK} nodad"),
        ];
        place.namespace.ip_batch("prepare the namespace of the bench", &lines)?;
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.batch);
        let removed = run_program(
            "remove the namespace of the bench",
            "ip",
            &["netns", "del", self.namespace.name()],
            None,
        );
        if let Err(error) = removed {
            eprintln!("etm-lab: {error}");
        }
    }
}

/// What is done with all routes at once.
#[derive(Clone, Copy)]
struct Step {
    name: &'static str,
    verb: &'static str,
    /// Which of the two gateways the routes have afterwards; none where they go.
    gateway: Option<u8>,
}

const STEPS: [Step; 3] = [
    Step { name: "add", verb: "add", gateway: Some(1) },
    Step { name: "replace", verb: "replace", gateway: Some(2) },
    Step { name: "delete", verb: "del", gateway: None },
];

/// Runs both families.
pub(super) fn run(options: &BenchOptions) -> Result<(), LabError> {
    for family in [Family::V4, Family::V6] {
        let place = Place::make()?;
        let mut etm = [const { Vec::new() }; STEPS.len()];
        let mut own = [const { Vec::new() }; STEPS.len()];
        let mut peer = [const { Vec::new() }; STEPS.len()];
        for _ in 0..ROUNDS {
            for ((times, own), (ms, own_ms)) in
                etm.iter_mut().zip(own.iter_mut()).zip(by_etm(&place, family)?)
            {
                times.push(ms);
                own.push(own_ms);
            }
            for (times, ms) in peer.iter_mut().zip(by_ip(&place, family)?) {
                times.push(ms);
            }
        }
        let own = own.iter_mut();
        for ((step, own), (etm, peer)) in STEPS.iter().zip(own).zip(etm.iter_mut().zip(peer.iter_mut())) {
            let (etm_ms, ip_ms) = (middle(etm), middle(peer));
            options.show(&json!({
                "bench": "fib",
                "family": if family == Family::V4 { "v4" } else { "v6" },
                "op": step.name,
                "routes": ROUTES,
                "etm_per_s": per_s(etm_ms),
                "ip_batch_per_s": per_s(ip_ms),
                "etm_ms": round(etm_ms),
                "ip_batch_ms": round(ip_ms),
                "etm_own_ms": round(middle(own)),
                "ratio": round(ip_ms / etm_ms),
                "rounds": ROUNDS,
            }));
        }
    }
    Ok(())
}

/// Milliseconds of each step by the agent's own adapter, and of these in its own code: the rest is the kernel's.
fn by_etm(place: &Place, family: Family) -> Result<Vec<(f64, f64)>, LabError> {
    let failed = |source: FibError| LabError::Fib { source };
    let index = place.namespace.inside(|| {
        let index = nix::net::if_::if_nametoindex(UPLINK);
        index.map_err(LabError::errno(format!("find interface {UPLINK}")))
    })?;
    place.namespace.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(LabError::io("start a runtime"))?;
        runtime.block_on(async {
            let mut table = Overrides::open(OwnTable::default()).await.map_err(failed)?;
            let mut times = Vec::new();
            for step in &STEPS {
                let wanted = wanted(family, step.gateway, IfIndex(index));
                let (begin, own) = (Instant::now(), own_ms());
                let outcome = table.converge(&wanted).await.map_err(failed)?;
                times.push((begin.elapsed().as_secs_f64() * 1e3, own_ms() - own));
                expect(outcome.changed, &outcome.failed)?;
            }
            Ok(times)
        })
    })
}

fn expect(changed: usize, failed: &[(Prefix, String)]) -> Result<(), LabError> {
    if failed.is_empty() && u32::try_from(changed) == Ok(ROUTES) {
        return Ok(());
    }
    Err(LabError::Malformed {
        what: "the outcome of converging".to_owned(),
        detail: format!(
            "{changed} of {ROUTES} changed, {} refused, first {:?}",
            failed.len(),
            failed.first()
        ),
    })
}

/// Milliseconds of each step by one `ip -batch`, which reads a file that is written before.
fn by_ip(place: &Place, family: Family) -> Result<Vec<f64>, LabError> {
    let file = place.batch.display().to_string();
    let mut times = Vec::new();
    for step in &STEPS {
        let mut lines = String::new();
        for number in 0..ROUTES {
            let _ = write!(
                lines,
                "route {} {} table {PEER_TABLE} proto 179 metric 10",
                step.verb,
                prefix(family, number)?
            );
            if let Some(gateway) = step.gateway {
                let _ = write!(lines, " via {} dev {UPLINK}", address(family, gateway));
            }
            lines.push('\n');
        }
        fs::write(&place.batch, lines).map_err(LabError::io(format!("write {file}")))?;
        let what = format!("{} {ROUTES} routes by ip -batch", step.name);
        let begin = Instant::now();
        run_program(&what, "ip", &["-n", place.namespace.name(), "-batch", &file], None)?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

fn wanted(family: Family, gateway: Option<u8>, ifindex: IfIndex) -> BTreeMap<Prefix, KernelAction> {
    let Some(gateway) = gateway else { return BTreeMap::new() };
    let action = KernelAction::Via { gateway: address(family, gateway), ifindex };
    (0..ROUTES).filter_map(|number| Some((prefix(family, number).ok()?, action))).collect()
}

fn address(family: Family, host: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, host.into())),
    }
}

/// The routes: /24s from 11.0.0.0 on, /48s from 2001:db9:: on.
fn prefix(family: Family, number: u32) -> Result<Prefix, LabError> {
    let (addr, len) = match family {
        Family::V4 => (IpAddr::V4(Ipv4Addr::from((11 << 24) + (number << 8))), 24),
        Family::V6 => {
            let bits = (0x2001_0db9_u128 << 96) + (u128::from(number) << 80);
            (IpAddr::V6(Ipv6Addr::from(bits)), 48)
        }
    };
    Prefix::new(addr, len).map_err(|source| LabError::Malformed {
        what: "a prefix of the bench".to_owned(),
        detail: source.to_string(),
    })
}

fn per_s(ms: f64) -> f64 {
    (f64::from(ROUTES) / ms * 1e3).round()
}

/// Processor time of this thread outside the kernel, to a hundredth of a second (proc(5), field 14).
fn own_ms() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    let fields = text.rsplit(") ").next().unwrap_or_default().split_whitespace();
    fields.skip(11).find_map(|field| field.parse::<f64>().ok()).unwrap_or_default() * 10.0
}

fn middle(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
