//! What local processes may say on the guardian's socket after the preamble: frames, read as the guardian reads them, and
//! carried out as it carries out those of an agent that it listens to. The first octet says how much time passes
//! between two of them, in tenths of a second.
//!
//! Found wrong: a panic; a frame that costs more memory than arrived; announcements while switched off, beyond the end
//! of the lease, or without an agent.
#![no_main]

use etm_agent::core::custody::{Custody, Tenure, Terms};
use etm_agent::guardian::{Reader, ToGuardian};
use etm_agent::types::Timestamp;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::runtime::Runtime;

const LEASE_NS: u64 = 10_000_000_000;
const LEASE: Duration = Duration::from_nanos(LEASE_NS);

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| match tokio::runtime::Builder::new_current_thread().build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("{error}"),
    });

fn frames(pause_ns: u64, bytes: &[u8]) {
    let terms = Terms { patience: None, adopt: LEASE, linger: None, lease: LEASE };
    let (mut custody, mut now) = (Custody::new(terms), Timestamp(1));
    let Ok((joined, _)) = custody.join(now, None) else { return };
    let epoch = joined.epoch;
    let mut until = Timestamp(0);
    let mut reader = Reader::new(bytes);
    while let Ok(said) = RUNTIME.block_on(reader.hear::<ToGuardian>()) {
        now = Timestamp(now.0 + pause_ns);
        let switched_off = matches!(said, ToGuardian::Off);
        let done = match said {
            ToGuardian::Off => Ok(custody.off(now)),
            ToGuardian::Forget => Ok(custody.forget(now)),
            ToGuardian::On => custody.on(now, epoch),
            ToGuardian::Tenure(tenure) => {
                let done = custody.renew(now, epoch, tenure);
                if let (Ok(_), Tenure::Held { until: promised, decided }) = (&done, tenure) {
                    // What was decided before stays until something is decided anew.
                    until = if decided { promised } else { promised.max(until) };
                    assert!(custody.until().0 <= now.0 + LEASE_NS, "a lease of more than its length");
                }
                done
            }
            ToGuardian::Change(change) => custody.change(now, epoch, change.into()),
            ToGuardian::Stop => custody.stop(now, epoch),
            ToGuardian::Agent { .. } | ToGuardian::Order { .. } => continue,
        };
        let told = custody.told().announce.len();
        assert!(!switched_off || told == 0, "{told} announced after off: {done:?}");
        custody.look(now, false);
        let told = custody.told().announce.len();
        assert!(told == 0 || now <= until, "{told} announced at {now:?}, the lease ended at {until:?}");
    }
    custody.leave(now, epoch);
    custody.look(Timestamp(u64::MAX), false);
    assert!(custody.told().announce.is_empty(), "announced without an agent, beyond every lease");
}

fuzz_target!(|data: &[u8]| {
    if let [first, rest @ ..] = data {
        frames(u64::from(*first) * 100_000_000, rest);
    }
});
