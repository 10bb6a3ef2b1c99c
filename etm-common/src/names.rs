//! Names of maps, programs, globals and pins. Never longer than the kernel's 15 characters.

use crate::limits::MAX_UPLINKS;

/// Version of everything in this crate; part of the pin root, so that builds that disagree never meet.
pub const ABI_VERSION: &str = "v1";
/// Where maps and links are pinned unless configured otherwise.
pub const PIN_ROOT: &str = "/sys/fs/bpf/etm/v1";
/// Directory of pinned links under the pin root.
pub const LINKS: &str = "links";

/// LPM trie: IPv4 prefix -> slot.
pub const PREFIX4: &str = "etm_prefix4";
/// LPM trie: IPv6 prefix -> slot.
pub const PREFIX6: &str = "etm_prefix6";
/// Array of pairs of [`crate::word`]s: the first 24 bits of an IPv4 address -> slot. Derived from [`PREFIX4`].
pub const DIR24: &str = "etm_dir24";
/// Array of pairs of [`crate::word`]s: bits 3 to 24 of an IPv6 address in 2000::/3 -> slot. Derived from [`PREFIX6`].
pub const DIR6: &str = "etm_dir6";
/// Array of pairs of [`crate::word`]s: blocks of 256 words, one per value of the next octet. Derived from both tries.
pub const NODE: &str = "etm_node";
/// Array of one pair of [`crate::word`]s: the default routes of IPv4 and IPv6. Derived from both tries.
pub const DEFAULT: &str = "etm_default";
/// Hash: interface index -> [`crate::Uplink`].
pub const UPLINKS: &str = "etm_uplinks";
/// Array of u64 by the low bits of the interface index ([`crate::near`]): what most packets find instead of searching
/// [`UPLINKS`], from which it is derived.
pub const NEAR: &str = "etm_near";
/// Array of [`crate::Count`], row = uplink * slots + slot.
pub const COUNT: &str = "etm_count";
/// Array of [`crate::Count`], row = uplink * reasons + reason.
pub const UNCOUNTED: &str = "etm_uncounted";
/// Per-CPU array of [`crate::Total`], row = uplink: everything offered, whatever it was counted for.
pub const TOTAL: &str = "etm_total";
/// Hash made by the agent alone: row -> [`crate::RowOwner`], so that rows stay with their uplink however the
/// configuration is ordered.
pub const ROWS: &str = "etm_rows";
/// Array of one [`crate::Lease`].
pub const LEASE: &str = "etm_lease";
/// Array of one [`crate::Off`].
pub const OFF: &str = "etm_off";
/// Per-CPU array of [`crate::Count`]: row [`MARKED_PLAIN`] and row [`MARKED_SET`].
pub const MARKED: &str = "etm_marked";
/// Per-CPU array of [`crate::Count`] by [`crate::local`]: packets that the router itself makes.
pub const LOCAL: &str = "etm_local";
/// LPM trie of the sources whose packets may take overrides, where the router itself makes them; IPv4 as ::ffff:0:0/96.
/// Never pinned: each program reads its own.
pub const SOURCES: &str = "etm_sources";
/// Hash made by the agent alone: text of prefix and uplink -> bytes, packets, rate of the top prefixes.
pub const LIVE: &str = "etm_live";

/// Array of one program, [`XDP_PROGRAM`]: what a forwarder in XDP calls when it redirects a packet.
pub const XDP_CALL: &str = "etm_xdp_call";
/// Per-CPU array of [`crate::Count`]: what was redirected in XDP, by uplink, then the two `XDP_SEEN_*` rows.
pub const XDP_SEEN: &str = "etm_xdp_seen";
/// Row of [`XDP_SEEN`]: redirected to an interface that is no uplink.
pub const XDP_SEEN_ELSEWHERE: u32 = MAX_UPLINKS;
/// Row of [`XDP_SEEN`]: redirected nobody knows where: the forwarder did not say, and the kernel has no route.
pub const XDP_SEEN_UNKNOWN: u32 = MAX_UPLINKS + 1;
/// First word of the metadata by which a forwarder says where it redirects to; the second is the interface index.
/// "ETM1" in the machine's byte order.
pub const XDP_STATED: u32 = 0x4554_4d31;

/// Row of [`MARKED`]: packets that passed without the mark.
pub const MARKED_PLAIN: u32 = 0;
/// Row of [`MARKED`]: packets that were marked.
pub const MARKED_SET: u32 = 1;

/// Classifier at TC egress of uplinks.
pub const EGRESS_PROGRAM: &str = "etm_egress";
/// The same, where packets that the router itself makes take overrides too.
pub const EGRESS_OWN_PROGRAM: &str = "etm_egress_own";
/// Classifier at TC ingress of inside interfaces.
pub const MARK_PROGRAM: &str = "etm_mark";

/// Classifier that asks whether the kernel has what `local_output` needs; never attached.
pub const PROBE_PROGRAM: &str = "etm_probe";

/// XDP program for tail calls from forwarders.
pub const XDP_PROGRAM: &str = "etm_xdp";

/// Read-only global of the programs: slots per uplink.
pub const GLOBAL_SLOTS: &str = "ETM_SLOTS";
/// Read-only global of the programs: 1 looks up in the derived arrays, 0 in the tries alone.
pub const GLOBAL_FAST: &str = "ETM_FAST";
/// Read-only global of the programs: flows whose hash is below it are marked ([`crate::canary`]).
pub const GLOBAL_CANARY: &str = "ETM_CANARY";
/// Read-only global of the programs: the table of overrides, which [`EGRESS_OWN_PROGRAM`] asks.
pub const GLOBAL_TABLE: &str = "ETM_TABLE";
/// Read-only global of the programs, by the convention of aya-log: 0 is silent, 4 is debug.
pub const GLOBAL_LOG_LEVEL: &str = "AYA_LOG_LEVEL";

/// Classifier of the bench's own object; never attached.
pub const BENCH_PROGRAM: &str = "etm_bench";
/// Array of the bench's object: destinations, two u64 each.
pub const BENCH_SEQUENCE: &str = "etm_destination";
/// Elements of [`BENCH_SEQUENCE`], a power of two.
pub const BENCH_DESTINATIONS: u32 = 1 << 16;
/// Read-only global of the bench's program.
pub const GLOBAL_BENCH: &str = "ETM_BENCH";
/// Value of [`GLOBAL_BENCH`]: neither lookup nor count.
pub const BENCH_BASE: u32 = 0;
/// Value of [`GLOBAL_BENCH`]: lookup and count, as [`GLOBAL_FAST`] says.
pub const BENCH_COUNT: u32 = 1;

const _: () = {
    // BPF_OBJ_NAME_LEN is 16 with the closing zero; the kernel would cut a longer name silently.
    let names = [
        PREFIX4,
        PREFIX6,
        DIR24,
        DIR6,
        NODE,
        DEFAULT,
        UPLINKS,
        NEAR,
        COUNT,
        UNCOUNTED,
        TOTAL,
        ROWS,
        LEASE,
        OFF,
        MARKED,
        LOCAL,
        SOURCES,
        LIVE,
        EGRESS_PROGRAM,
        EGRESS_OWN_PROGRAM,
        MARK_PROGRAM,
        PROBE_PROGRAM,
        XDP_CALL,
        XDP_SEEN,
        XDP_PROGRAM,
    ];
    let mut i = 0;
    while i < names.len() {
        assert!(names[i].len() <= 15);
        i += 1;
    }
};
