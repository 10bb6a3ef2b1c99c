//! The adapter to the kernel programs: loads, attaches, fills and reads them.
//!
//! One start gives several handles for several threads: `Datapath` (attachments), `PrefixTable` (writer of the
//! tries), `Counters` (sampler), `Lease`, `OffSwitch` (read by the agent, written by `etm off`), `Live`. Pins outlive the process on purpose: counters and attachments
//! go on, and the lease, not a file descriptor, is what ends ETM's effect.
//!
//! Never decides anything, never reads a clock, and never touches a program or pin that is not ETM's.

mod arrays;
mod batch;
mod btf;
mod caps;
mod clsact;
mod counters;
mod detach;
mod doctor;
mod error;
mod klog;
mod known;
mod lease;
mod links;
mod live;
mod local;
mod mapped;
mod pins;
mod place;
mod rows;
mod shape;
mod survey;
mod sys;
mod table;
mod trie;
mod xdp;

pub use caps::{check as check_capabilities, check_clock};
pub use counters::Counters;
pub use detach::{Detached, detach};
pub use doctor::{Capability, Feature, Findings, Pin, examine};
pub use error::DatapathError;
pub use klog::KernelLog;
pub use lease::{Lease, LeaseState, Marked, OffSwitch};
pub use links::{Attached, Hook};
pub use live::Live;
pub use local::{LocalCounts, LocalFate, LocalOutput, check_local_output};
pub use survey::{Interface, OnHook, interfaces};
pub use table::PrefixTable;
pub use xdp::Forwarder;

use crate::core::decision::Adopted;
use crate::types::{IfIndex, Share, UplinkId};
use arrays::{Arrays, Tables};
use aya::maps::{Map, MapData};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use counters::Grid;
use etm_common::{UPLINK_WITHOUT_ETHERNET, Uplink, limits, names, word};
use known::Known;
use mapped::{Lent, Mapped, Rows, Shared, Words};
use pins::Pins;
use place::{Direction, Place};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The eBPF object that was built with this binary; empty if there was none.
pub fn object() -> &'static [u8] {
    static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/etm.bpf.o"));
    OBJECT
}

/// Everything that the kernel side's sizes depend on. Changing a size means `detach` first.
#[derive(Clone, Debug)]
pub struct DatapathConfig {
    /// Directory on a BPF file system; made where it is missing.
    pub pin_root: PathBuf,
    /// Rows per uplink, that is prefixes that can be counted at once, both families together.
    pub slots: u32,
    /// Uplinks there are rows for.
    pub uplink_rows: u16,
    /// Room of the IPv4 trie.
    pub prefixes4: u32,
    /// Room of the IPv6 trie.
    pub prefixes6: u32,
    /// Whether the derived arrays answer (about 75 MB and 256 bytes for each prefix of `prefixes6`), or the tries alone.
    pub fast_path: bool,
    /// Interface names in order of `UplinkId`, for the live statistics.
    pub uplinks: Vec<String>,
    /// How to attach.
    pub hook: Hook,
    /// Share of the flows that are marked.
    pub canary: Share,
    /// Where what the router itself makes takes overrides too.
    pub local_output: Option<LocalOutput>,
    /// Whether the kernel programs write debug lines.
    pub kernel_log: KernelLogLevel,
}

/// Whether the kernel programs write debug lines; what is off is removed by the verifier and costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelLogLevel {
    /// Silent.
    #[default]
    Off,
    /// Malformed packets too.
    Debug,
}

/// What the packets of an interface begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkHeader {
    /// An Ethernet header.
    #[default]
    Ethernet,
    /// The IP header: ARPHRD_NONE, tunnels, wireguard.
    None,
}

/// The handles of one start.
pub struct Opened {
    /// Attachments. Dropping it before `keep` undoes the start.
    pub datapath: Datapath,
    /// For the table writer.
    pub table: PrefixTable,
    /// For the sampler.
    pub counters: Counters,
    /// For the lease renewer.
    pub lease: Lease,
    /// The operator's switch.
    pub off: OffSwitch,
    /// What became of what the router itself made.
    pub local: LocalCounts,
    /// For the writer of live statistics.
    pub live: Live,
    /// Debug lines of the programs, where they are on.
    pub log: Option<KernelLog>,
    /// What an earlier run left.
    pub adopted: Adopted,
}

/// The programs, where they are attached, and the pins.
pub struct Datapath {
    object: Ebpf,
    uplinks: Known,
    /// Row of the counters of each uplink.
    row_of: Vec<u16>,
    hook: Hook,
    /// The program for uplinks.
    egress: &'static str,
    /// Why there is no program for forwarders in XDP.
    no_xdp: Option<DatapathError>,
    /// What this start attached where nothing was, until it is kept.
    made: Vec<Place>,
    kept: bool,
    pins: Pins,
}

impl Datapath {
    /// Loads the programs, with the maps of an earlier run where they fit.
    ///
    /// Until `keep`, dropping the result removes what this start made, and nothing that it found.
    pub fn open(config: &DatapathConfig) -> Result<Opened, DatapathError> {
        check(config)?;
        if object().is_empty() {
            return Err(DatapathError::NoObject);
        }
        caps::check()?;
        let shapes = shape::shapes(config)?;
        let mut pins = Pins::open(&config.pin_root)?;
        // All pins before any is used: what is refused must not be half adopted.
        for shape in &shapes {
            let found = match shape::fits(pins.root(), shape) {
                // The programs of the earlier run keep theirs until they are replaced.
                Err(DatapathError::PinShape { pin, .. }) if shape.derived => {
                    links::remove_pin(&pin)?;
                    false
                }
                other => other?,
            };
            if !found {
                pins.note(pins.root().join(shape.name));
            }
        }
        let mut object = load(config, &shapes)?;
        let live = open_live(&pins)?;
        if let Some(output) = &config.local_output {
            local::enter_sources(&mut object, output)?;
        }
        for program in [local::egress_program(config.local_output.as_ref()), names::MARK_PROGRAM] {
            classifier(&mut object, program)?
                .load()
                .map_err(|cause| DatapathError::Program { program, cause: Box::new(cause) })?;
        }
        // Now or never: the maps that it names are handed out below, and some of their descriptors closed.
        let no_xdp = xdp::load(&mut object).err();
        let log = match config.kernel_log {
            KernelLogLevel::Off => None,
            KernelLogLevel::Debug => KernelLog::open(&mut object),
        };
        let mut opened = handles(config, object, live, log, pins)?;
        opened.datapath.no_xdp = no_xdp;
        Ok(opened)
    }

    /// Counts what leaves through an interface in the rows of `uplink`, first of all programs there.
    pub fn attach_uplink(
        &mut self,
        uplink: UplinkId,
        ifindex: IfIndex,
        header: LinkHeader,
    ) -> Result<Attached, DatapathError> {
        let Some(&row) = self.row_of.get(uplink.index()) else {
            let rows = u16::try_from(self.row_of.len()).unwrap_or(u16::MAX);
            return Err(DatapathError::UplinkRow { uplink: uplink.0, rows });
        };
        let flags = match header {
            LinkHeader::Ethernet => 0,
            LinkHeader::None => UPLINK_WITHOUT_ETHERNET,
        };
        // Before the program runs there: it counts nothing on an interface that it does not find.
        let value = Uplink { index: u32::from(row), flags };
        self.uplinks.enter(ifindex, value)?;
        self.attach(self.egress, Place { ifindex, direction: Direction::Egress })
    }

    /// Marks what comes in from an inside interface while the lease is fresh.
    pub fn attach_inside(&mut self, ifindex: IfIndex) -> Result<Attached, DatapathError> {
        self.attach(names::MARK_PROGRAM, Place { ifindex, direction: Direction::Ingress })
    }

    /// Takes the counting program off an interface, or clears up after one that vanished. Its counters stay.
    pub fn detach_uplink(&mut self, ifindex: IfIndex) -> Result<(), DatapathError> {
        self.take_off(Place { ifindex, direction: Direction::Egress })
    }

    /// Takes the marking program off an interface, or clears up after one that vanished.
    pub fn detach_inside(&mut self, ifindex: IfIndex) -> Result<(), DatapathError> {
        self.take_off(Place { ifindex, direction: Direction::Ingress })
    }

    /// Takes the marking program off every interface.
    pub fn detach_marking(&mut self) -> Result<(), DatapathError> {
        let places = links::pinned(&self.pins.links())?;
        let mut first = Ok(());
        for place in places.into_iter().filter(|place| place.direction == Direction::Ingress) {
            // One that cannot be cleared keeps none of the others.
            first = first.and(self.take_off(place));
        }
        first
    }

    /// Takes ETM off all interfaces but these: what an earlier run with another configuration left.
    pub fn retain(&mut self, uplinks: &[IfIndex], inside: &[IfIndex]) -> Result<(), DatapathError> {
        for place in links::pinned(&self.pins.links())? {
            let wanted = match place.direction {
                Direction::Egress => uplinks,
                Direction::Ingress => inside,
            };
            if !wanted.contains(&place.ifindex) {
                self.take_off(place)?;
            }
        }
        for (ifindex, _) in self.uplinks.list()? {
            if !uplinks.contains(&ifindex) {
                self.uplinks.forget(ifindex)?;
            }
        }
        Ok(())
    }

    /// The start succeeded: from now on links, maps and counters outlive the process.
    pub fn keep(&mut self) {
        self.kept = true;
        self.made.clear();
        self.pins.keep();
    }

    fn attach(&mut self, program: &'static str, place: Place) -> Result<Attached, DatapathError> {
        let dir = self.pins.links();
        let fresh = !links::exists(place, &dir);
        let result = links::attach(classifier(&mut self.object, program)?, place, self.hook, &dir);
        match &result {
            Ok(_) if fresh && !self.kept => self.made.push(place),
            Err(_) if fresh => undo(place, &dir),
            Ok(_) | Err(_) => {}
        }
        result
    }

    fn take_off(&mut self, place: Place) -> Result<(), DatapathError> {
        links::detach(place, &self.pins.links())?;
        match place.direction {
            Direction::Egress => self.uplinks.forget(place.ifindex),
            Direction::Ingress => Ok(()),
        }
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        let dir = self.pins.links();
        self.made.drain(..).rev().for_each(|place| undo(place, &dir));
    }
}

/// Runs when something failed already, so it goes on where it cannot.
fn undo(place: Place, dir: &Path) {
    if let Err(error) = links::detach(place, dir) {
        tracing::warn!(place = place.label(), %error, "cannot take back what the failed start attached");
    }
}

fn check(config: &DatapathConfig) -> Result<(), DatapathError> {
    // What a word of the derived arrays holds: 14 times the Internet of 2024, and no product overflows.
    let most = word::LOW - 1;
    for (what, value, most) in [
        ("the number of slots", config.slots, most),
        ("the room for IPv4 prefixes", config.prefixes4, most),
        ("the room for IPv6 prefixes", config.prefixes6, most),
        ("the number of uplinks", u32::from(config.uplink_rows), limits::MAX_UPLINKS),
    ] {
        if !(1..=most).contains(&value) {
            return Err(DatapathError::Size { what, value: value.into(), most: most.into() });
        }
    }
    Ok(())
}

/// Loads the object: each map is opened by its pin, or made and pinned.
fn load(config: &DatapathConfig, shapes: &[shape::Shape]) -> Result<Ebpf, DatapathError> {
    let level: u8 = match config.kernel_log {
        KernelLogLevel::Off => 0,
        KernelLogLevel::Debug => 4,
    };
    let fast = u32::from(config.fast_path);
    let canary = etm_common::canary::threshold(config.canary.0);
    let table = config.local_output.as_ref().map_or(0, |output| output.table);
    let mut loader = EbpfLoader::new();
    loader
        // No program of ours is relocated against the running kernel's types.
        .btf(None)
        .override_global(names::GLOBAL_SLOTS, &config.slots, true)
        .override_global(names::GLOBAL_FAST, &fast, true)
        .override_global(names::GLOBAL_CANARY, &canary, true)
        .override_global(names::GLOBAL_TABLE, &table, true)
        .override_global(names::GLOBAL_LOG_LEVEL, &level, true);
    for shape in shapes.iter().filter(|shape| ![names::LIVE, names::ROWS].contains(&shape.name)) {
        loader.map_max_entries(shape.name, shape.entries);
        loader.map_pin_path(shape.name, config.pin_root.join(shape.name));
    }
    loader.load(object()).map_err(|cause| DatapathError::Load { cause: Box::new(cause) })
}

fn open_live(pins: &Pins) -> Result<MapData, DatapathError> {
    let pin = pins.root().join(names::LIVE);
    if pin.exists() {
        let open = |cause| DatapathError::Map { doing: "open", map: names::LIVE, cause };
        return MapData::from_pin(&pin).map_err(open);
    }
    let map = Live::create()?;
    map.pin(&pin).map_err(|error| links::pin_failed(&pin, error))?;
    Ok(map)
}

fn handles(
    config: &DatapathConfig,
    mut object: Ebpf,
    live: MapData,
    log: Option<KernelLog>,
    pins: Pins,
) -> Result<Opened, DatapathError> {
    let mut known = Known::new(take(&mut object, names::UPLINKS)?, take(&mut object, names::NEAR)?)?;
    let row_of = rows::bind(config, &pins, &mut known)?;
    let slots = usize::try_from(config.slots).unwrap_or_default();
    let uplinks = usize::from(config.uplink_rows);
    let counted: Rows = map(&mut object, names::COUNT, slots * uplinks)?;
    let uncounted: Rows = map(&mut object, names::UNCOUNTED, uplinks * reasons_per_uplink())?;
    let arrays = if config.fast_path { Some(map_arrays(config, &mut object)?) } else { None };
    let grid = Arc::new(Grid::new(counted, slots, row_of.clone()));
    let capacity = u64::from(config.prefixes4) + u64::from(config.prefixes6);
    let (v4, v6) = (take(&mut object, names::PREFIX4)?, take(&mut object, names::PREFIX6)?);
    let mut table = PrefixTable::new(v4, v6, capacity, Arc::clone(&grid), arrays)?;
    let mut adopted = Adopted { entries: table.adopt()?, ..Adopted::default() };
    let open_totals = |cause| DatapathError::Map { doing: "open", map: names::TOTAL, cause };
    let totals = take(&mut object, names::TOTAL)?.try_into().map_err(open_totals)?;
    let open_redirected = |cause| DatapathError::Map { doing: "open", map: names::XDP_SEEN, cause };
    let redirected = take(&mut object, names::XDP_SEEN)?.try_into().map_err(open_redirected)?;
    let mut counters = Counters::new(grid, uncounted, totals, redirected);
    counters.changed(&mut adopted.rows);
    let (lease, marked) = (take(&mut object, names::LEASE)?, take(&mut object, names::MARKED)?);
    Ok(Opened {
        table,
        counters,
        lease: Lease::new(lease, marked)?,
        off: OffSwitch::new(take(&mut object, names::OFF)?)?,
        local: LocalCounts::new(take(&mut object, names::LOCAL)?)?,
        live: Live::new(live, config.uplinks.clone())?,
        log,
        adopted,
        datapath: Datapath {
            uplinks: known,
            object,
            row_of,
            hook: config.hook,
            egress: local::egress_program(config.local_output.as_ref()),
            no_xdp: None,
            made: Vec::new(),
            kept: false,
            pins,
        },
    })
}

fn reasons_per_uplink() -> usize {
    crate::core::input::Uncounted::ALL.len()
}

fn map_arrays(config: &DatapathConfig, object: &mut Ebpf) -> Result<Arrays<Words>, DatapathError> {
    let mut words = |name, words: u32| {
        let words = usize::try_from(words).unwrap_or_default();
        Lent::new(array(object, name)?, words).map_err(not_mapped)
    };
    Ok(Arrays::new(Tables {
        dir4: words(names::DIR24, word::DIR4_WORDS)?,
        dir6: words(names::DIR6, word::DIR6_WORDS)?,
        node: words(names::NODE, shape::blocks(config) * word::BLOCK_WORDS)?,
        default: words(names::DEFAULT, word::PAIR)?,
    }))
}

/// An mmap-able array as memory.
fn map<T: Shared>(object: &mut Ebpf, name: &'static str, len: usize) -> Result<Mapped<T>, DatapathError> {
    Mapped::map(&array(object, name)?, len).map_err(not_mapped)
}

fn array(object: &mut Ebpf, name: &'static str) -> Result<MapData, DatapathError> {
    match take(object, name)? {
        Map::Array(data) => Ok(data),
        _ => Err(DatapathError::Missing { name }),
    }
}

fn not_mapped(cause: io::Error) -> DatapathError {
    DatapathError::Kernel { doing: "map an array of the programs into memory", cause }
}

fn take(object: &mut Ebpf, name: &'static str) -> Result<Map, DatapathError> {
    object.take_map(name).ok_or(DatapathError::Missing { name })
}

fn classifier<'a>(
    object: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    let program = object.program_mut(name).ok_or(DatapathError::Missing { name })?;
    program.try_into().map_err(|_| DatapathError::Missing { name })
}
