//! Which programs are on the hooks of which interfaces, ETM's and others', as the kernel tells it.
//! Never changes anything. What takes more privilege than the process has is left out, never an error.
//! Standard: rtnetlink(7), linux/if_link.h, linux/pkt_cls.h, bpf(2).

use super::clsact::{
    NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, RTM_GETTFILTER, RTM_NEWTFILTER, message, request,
};
use super::place::Direction;
use super::sys;
use crate::types::IfIndex;
use aya::programs::loaded_programs;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
/// Lengths of ifinfomsg and tcmsg.
const LINK_HEADER: usize = 16;
const FILTER_HEADER: usize = 20;
// linux/if_link.h
const IFLA_IFNAME: u16 = 3;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
/// The program's id, and those of the modes where several are attached.
const IFLA_XDP_IDS: [u16; 4] = [4, 5, 6, 7];
// linux/rtnetlink.h, linux/pkt_cls.h
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_ID: u16 = 11;
/// NLA_F_NESTED and NLA_F_NET_BYTEORDER are flags in the type.
const TYPE_MASK: u16 = 0x3fff;
// linux/bpf.h
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
/// Name of libxdp's dispatcher.
pub(super) const DISPATCHER: &str = "xdp_dispatcher";
/// Names of ETM's programs begin with this.
const OURS: &str = "etm_";

/// A program on a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OnHook {
    /// Such as "tcx egress", "clsact ingress", "xdp driver".
    pub hook: String,
    /// The kernel's number of the program.
    pub id: Option<u32>,
    /// Its name; none where it takes more privilege to know.
    pub name: Option<String>,
    /// Whether it is ETM's, by its name.
    pub ours: bool,
}

/// An interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Programs in the order in which packets meet them.
    pub programs: Vec<OnHook>,
}

/// What is known of a loaded program.
#[derive(Clone, Debug, Default)]
pub(super) struct Loaded {
    pub(super) name: String,
    pub(super) maps: Vec<u32>,
}

/// All loaded programs by id; none without CAP_SYS_ADMIN, which the kernel asks for that.
pub(super) fn programs() -> Option<BTreeMap<u32, Loaded>> {
    let mut programs = BTreeMap::new();
    for info in loaded_programs() {
        let Ok(info) = info else {
            // One that ended in between is no reason; the first failure is.
            if programs.is_empty() {
                return None;
            }
            continue;
        };
        let name = info.name_as_str().unwrap_or_default().to_owned();
        let maps = info.map_ids().ok().flatten().unwrap_or_default();
        programs.insert(info.id(), Loaded { name, maps });
    }
    Some(programs)
}

/// All interfaces of this network namespace, with what is on their hooks.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let names = programs();
    let mut found = Vec::new();
    for (ifindex, name, xdp) in links(None)? {
        let mut on_hooks = xdp;
        for direction in [Direction::Ingress, Direction::Egress] {
            on_hooks.extend(tcx(ifindex, direction));
            on_hooks.extend(filters(ifindex, direction));
        }
        for on_hook in &mut on_hooks {
            let known = on_hook.id.and_then(|id| names.as_ref()?.get(&id));
            if let Some(known) = known {
                on_hook.name = Some(known.name.clone());
            }
            on_hook.ours = on_hook.name.as_ref().is_some_and(|name| name.starts_with(OURS));
        }
        found.push(Interface { ifindex: ifindex.get(), name, programs: on_hooks });
    }
    Ok(found)
}

/// What is on the XDP hook of one interface.
pub(super) fn xdp(ifindex: IfIndex) -> io::Result<Vec<OnHook>> {
    Ok(links(Some(ifindex))?.into_iter().flat_map(|(_, _, xdp)| xdp).collect())
}

fn on_hook(hook: String, id: Option<u32>, name: Option<String>) -> OnHook {
    OnHook { hook, id, name, ours: false }
}

fn tcx(ifindex: IfIndex, direction: Direction) -> Vec<OnHook> {
    let attach_type = match direction {
        Direction::Ingress => TCX_INGRESS,
        Direction::Egress => TCX_EGRESS,
    };
    // Kernels without tcx say EINVAL, and without CAP_NET_ADMIN all of them EPERM.
    let ids = sys::query_tcx(ifindex, attach_type).unwrap_or_default();
    ids.into_iter().map(|id| on_hook(format!("tcx {}", direction.as_str()), Some(id), None)).collect()
}

fn filters(ifindex: IfIndex, direction: Direction) -> Vec<OnHook> {
    // TC_H_CLSACT with TC_H_MIN_INGRESS, and with TC_H_MIN_EGRESS.
    let parent = match direction {
        Direction::Ingress => 0xffff_fff2,
        Direction::Egress => 0xffff_fff3,
    };
    let mut found = Vec::new();
    let each = |body: &[u8]| {
        let options = attribute(body.get(FILTER_HEADER..).unwrap_or_default(), TCA_OPTIONS);
        let Some(options) = options else { return };
        let name = attribute(options, TCA_BPF_NAME).map(text);
        let id = attribute(options, TCA_BPF_ID).and_then(number);
        // Priorities without a program are listed too.
        if name.is_some() || id.is_some() {
            found.push(on_hook(format!("clsact {}", direction.as_str()), id, name));
        }
    };
    // An interface without the qdisc has no such filters.
    let asked = request(RTM_GETTFILTER, NLM_F_DUMP, ifindex, 0, parent)
        .and_then(|request| dump(&request, RTM_NEWTFILTER, each));
    if asked.is_err() {
        found.clear();
    }
    found
}

/// Index, name and XDP programs of one interface or of all.
fn links(ifindex: Option<IfIndex>) -> io::Result<Vec<(IfIndex, String, Vec<OnHook>)>> {
    let flags = NLM_F_REQUEST | if ifindex.is_none() { NLM_F_DUMP } else { 0 };
    let mut request = Vec::with_capacity(32);
    request.extend(32_u32.to_ne_bytes());
    request.extend(RTM_GETLINK.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    // Sequence and port, then family, padding and type: one request on a socket of its own needs none of them.
    request.extend([0; 12]);
    request.extend(ifindex.map_or(0, IfIndex::get).to_ne_bytes());
    request.extend([0; 8]);
    let mut found = Vec::new();
    dump(&request, RTM_NEWLINK, |body| {
        let attributes = body.get(LINK_HEADER..).unwrap_or_default();
        let (Some(index), Some(name)) = (body.get(4..).and_then(number), attribute(attributes, IFLA_IFNAME))
        else {
            return;
        };
        let xdp = attribute(attributes, IFLA_XDP).map(xdp_programs).unwrap_or_default();
        found.push((IfIndex(index), text(name), xdp));
    })?;
    Ok(found)
}

fn xdp_programs(xdp: &[u8]) -> Vec<OnHook> {
    let mode = match attribute(xdp, IFLA_XDP_ATTACHED).and_then(<[u8]>::first) {
        Some(1) => "driver",
        Some(2) => "generic",
        Some(3) => "hardware",
        Some(4) => "several modes",
        _ => return Vec::new(),
    };
    let mut ids: Vec<u32> = IFLA_XDP_IDS.iter().filter_map(|&id| number(attribute(xdp, id)?)).collect();
    ids.dedup();
    ids.into_iter().map(|id| on_hook(format!("xdp {mode}"), Some(id), None)).collect()
}

/// Sends a request and gives the body of each message of type `wanted` to `each`, to the end of the answer.
fn dump(request: &[u8], wanted: u16, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let dumped = request
        .get(6..)
        .and_then(<[u8]>::first_chunk)
        .is_some_and(|flags| u16::from_ne_bytes(*flags) & NLM_F_DUMP != 0);
    let mut socket = File::from(sys::route_socket()?);
    socket.write_all(request)?;
    // The kernel fills at most this in one go (netlink(7)).
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let len = socket.read(&mut buffer)?;
        let mut rest = buffer.get(..len).unwrap_or_default();
        while let Some((kind, body, next)) = message(rest) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                kind if kind == wanted => each(body),
                _ => {}
            }
            rest = next;
        }
        if !dumped {
            return Ok(());
        }
    }
}

/// The payload of the first attribute of a type.
fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = bytes;
    loop {
        let len = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let payload = rest.get(4..len)?;
        if kind & TYPE_MASK == wanted {
            return Some(payload);
        }
        rest = rest.get(len.next_multiple_of(4)..)?;
    }
}

fn number(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// Up to the closing zero.
fn text(payload: &[u8]) -> String {
    let end = payload.iter().position(|&byte| byte == 0).unwrap_or(payload.len());
    String::from_utf8_lossy(payload.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(kind: u16, payload: &[u8]) -> Vec<u8> {
        let len = u16::try_from(payload.len() + 4).unwrap();
        let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn attributes_are_found_behind_others_and_never_beyond_the_end() {
        let mut bytes = encoded(1, b"odd");
        bytes.extend(encoded(IFLA_XDP | 0x8000, &7_u32.to_ne_bytes()));
        assert_eq!(attribute(&bytes, IFLA_XDP).and_then(number), Some(7), "a flag is no part of the type");
        assert_eq!(attribute(&bytes, 9), None);
        assert_eq!(attribute(&bytes[..10], IFLA_XDP), None, "cut short");
        assert_eq!(attribute(&[0, 0, 0, 0], 1), None, "shorter than its own header");
    }

    #[test]
    fn an_interface_without_program_has_none() {
        let attached = encoded(IFLA_XDP_ATTACHED, &[0]);
        assert_eq!(xdp_programs(&attached), []);
        let mut attached = encoded(IFLA_XDP_ATTACHED, &[2]);
        attached.extend(encoded(4, &5_u32.to_ne_bytes()));
        attached.extend(encoded(6, &5_u32.to_ne_bytes()));
        assert_eq!(xdp_programs(&attached), [on_hook("xdp generic".into(), Some(5), None)]);
    }

    #[test]
    fn the_loopback_interface_is_found_without_any_privilege() {
        assert!(
            interfaces().unwrap().iter().any(|interface| interface.name == "lo" && interface.ifindex == 1)
        );
    }
}
