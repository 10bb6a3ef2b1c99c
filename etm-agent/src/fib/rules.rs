//! The `ip rule` that leads marked packets to ETM's own table, IPv4 and IPv6.
//! Never changes or removes a rule that does not carry ETM's protocol and table.

use crate::fib::OwnTable;
use crate::fib::error::FibError;
use crate::types::Family;
use futures::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteHeader, RouteProtocol};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::{Handle, IpVersion};

/// Priority of the kernel's rule for the main table.
const MAIN_PRIORITY: u32 = 32_766;

/// Which packets look into ETM's table, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkRule {
    /// The mark, within `mask`.
    pub mark: u32,
    /// Bits of the packet mark that are ETM's.
    pub mask: u32,
    /// Priority of the rule; lower is looked at first, and main is at 32766.
    pub priority: u32,
}

/// A rule, as far as ETM needs to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rule {
    priority: u32,
    mark: u32,
    /// 0 where the rule has no fwmark.
    mask: u32,
    table: u32,
    protocol: u8,
    /// Looks up `table`, and selects by nothing but the mark.
    plain: bool,
    inverted: bool,
}

/// Makes the rules exist, exactly once per family. Rules of an earlier run with other numbers are removed. Returns how
/// many were not there.
///
/// Refuses where another program's rule has the same priority or matches the same mark.
pub async fn ensure_rules(own: OwnTable, wanted: MarkRule) -> Result<usize, FibError> {
    if wanted.priority >= MAIN_PRIORITY {
        return Err(FibError::RulePriority { priority: wanted.priority });
    }
    ask(async |handle| {
        let mut present = Vec::new();
        for family in Family::ALL {
            let rules = read(&handle, family).await?;
            // Nothing is changed before both families are known to be free.
            for rule in rules.iter().filter(|rule| !is_own(rule, own)) {
                if let Some(conflict) = conflict(rule, wanted) {
                    return Err(FibError::RuleConflict { family, rule: describe(rule), conflict });
                }
            }
            present.push((family, rules));
        }
        let mut added = 0;
        for (family, rules) in present {
            let exact = |rule: &&Rule| is_own(rule, own) && is_wanted(rule, wanted);
            if !rules.iter().any(|rule| exact(&rule)) {
                add(&handle, family, own, wanted).await?;
                added += 1;
            }
            let keep = rules.iter().position(|rule| exact(&rule));
            for (_, rule) in rules.iter().enumerate().filter(|(at, r)| is_own(r, own) && Some(*at) != keep) {
                delete(&handle, family, own, rule).await?;
            }
        }
        Ok(added)
    })
    .await
}

/// How many families have no such rule.
pub(super) async fn missing_rules(own: OwnTable, wanted: MarkRule) -> Result<usize, FibError> {
    ask(async |handle| {
        let mut missing = 0;
        for family in Family::ALL {
            let rules = read(&handle, family).await?;
            let there = rules.iter().any(|rule| is_own(rule, own) && is_wanted(rule, wanted));
            missing += usize::from(!there);
        }
        Ok(missing)
    })
    .await
}

/// Removes every rule of ETM's protocol and table. Returns how many there were.
pub async fn remove_rules(own: OwnTable) -> Result<usize, FibError> {
    ask(async |handle| {
        let mut removed = 0;
        for family in Family::ALL {
            for rule in read(&handle, family).await?.iter().filter(|rule| is_own(rule, own)) {
                delete(&handle, family, own, rule).await?;
                removed += 1;
            }
        }
        Ok(removed)
    })
    .await
}

/// Rules of other programs between ETM's and the main table, as `ip rule` writes them: for marked packets that an
/// override carries they are not looked at any more.
pub(super) async fn rules_behind(own: OwnTable, priority: u32) -> Result<Vec<(Family, String)>, FibError> {
    ask(async |handle| {
        let mut found = Vec::new();
        for family in Family::ALL {
            let rules = read(&handle, family).await?;
            let behind = rules.iter().filter(|rule| !is_own(rule, own) && is_behind(rule, priority));
            found.extend(behind.map(|rule| (family, describe(rule))));
        }
        Ok(found)
    })
    .await
}

/// Runs `work` with a connection that lives no longer than it, so that no task is left behind.
async fn ask<T>(work: impl AsyncFnOnce(Handle) -> Result<T, FibError>) -> Result<T, FibError> {
    let (connection, handle, _notifications) =
        rtnetlink::new_connection().map_err(|source| FibError::Open { source })?;
    tokio::select! {
        result = work(handle) => result,
        () = connection => Err(FibError::Malformed { what: "the netlink connection ended while reading rules" }),
    }
}

async fn read(handle: &Handle, family: Family) -> Result<Vec<Rule>, FibError> {
    let version = match family {
        Family::V4 => IpVersion::V4,
        Family::V6 => IpVersion::V6,
    };
    let messages: Result<Vec<RuleMessage>, rtnetlink::Error> =
        handle.rule().get(version).execute().try_collect().await;
    let library = |source| FibError::Library { what: "reading the routing rules", source };
    Ok(messages.map_err(library)?.iter().map(parse).collect())
}

async fn add(handle: &Handle, family: Family, own: OwnTable, rule: MarkRule) -> Result<(), FibError> {
    let mut request = handle.rule().add();
    *request.message_mut() = message(family, own, rule.priority, rule.mark, rule.mask);
    let library = |source| FibError::Library { what: "adding ETM's routing rule", source };
    request.execute().await.map_err(library)
}

async fn delete(handle: &Handle, family: Family, own: OwnTable, rule: &Rule) -> Result<(), FibError> {
    let message = message(family, own, rule.priority, rule.mark, rule.mask);
    match handle.rule().del(message).execute().await {
        // Gone in the meantime.
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENOENT => Ok(()),
        result => result.map_err(|source| FibError::Library { what: "removing ETM's routing rule", source }),
    }
}

fn message(family: Family, own: OwnTable, priority: u32, mark: u32, mask: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    message.header.action = RuleAction::ToTable;
    message.header.table = u8::try_from(own.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes = vec![
        RuleAttribute::Table(own.table),
        RuleAttribute::Priority(priority),
        RuleAttribute::Protocol(RouteProtocol::from(own.protocol)),
    ];
    if mask != 0 {
        message.attributes.push(RuleAttribute::FwMark(mark));
        message.attributes.push(RuleAttribute::FwMask(mask));
    }
    message
}

fn parse(message: &RuleMessage) -> Rule {
    let header = &message.header;
    let mut rule = Rule {
        table: u32::from(header.table),
        plain: header.action == RuleAction::ToTable && header.src_len == 0 && header.dst_len == 0,
        inverted: header.flags.contains(RuleFlags::Invert),
        ..Rule::default()
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::FwMark(mark) => rule.mark = *mark,
            RuleAttribute::FwMask(mask) => rule.mask = *mask,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Protocol(protocol) => rule.protocol = u8::from(*protocol),
            // Sent with every rule, -1 where not set.
            RuleAttribute::SuppressPrefixLen(_) | RuleAttribute::SuppressIfGroup(_) => {}
            RuleAttribute::Iifname(_) | RuleAttribute::Oifname(_) => rule.plain = false,
            _ => {}
        }
    }
    rule
}

fn is_own(rule: &Rule, own: OwnTable) -> bool {
    rule.protocol == own.protocol && rule.table == own.table
}

fn is_wanted(rule: &Rule, wanted: MarkRule) -> bool {
    rule.plain
        && !rule.inverted
        && (rule.priority, rule.mark, rule.mask) == (wanted.priority, wanted.mark, wanted.mask)
}

fn is_behind(rule: &Rule, priority: u32) -> bool {
    rule.priority > priority && rule.priority < MAIN_PRIORITY
}

/// Why a rule of another program and ETM's cannot stand together.
fn conflict(rule: &Rule, wanted: MarkRule) -> Option<&'static str> {
    if rule.priority == wanted.priority {
        return Some("has the same priority as ETM's");
    }
    if rule.mask == 0 || rule.inverted {
        return None;
    }
    let takes_ours = wanted.mark & rule.mask == rule.mark && rule.mark != 0;
    let ours_takes = rule.mark & wanted.mask == wanted.mark;
    (takes_ours || ours_takes).then_some("matches the same packet mark as ETM's")
}

fn describe(rule: &Rule) -> String {
    let mark = match rule.mask {
        0 => String::new(),
        mask => format!(" fwmark {:#x}/{mask:#x}", rule.mark),
    };
    format!("{}: from all{mark} lookup {} proto {}", rule.priority, rule.table, rule.protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: MarkRule = MarkRule { mark: 0x0e00_0000, mask: 0x0f00_0000, priority: 1790 };

    #[test]
    fn rules_conflict_by_priority_and_by_mark() {
        let rule = |priority, mark, mask| Rule { priority, mark, mask, table: 100, ..Rule::default() };
        for (title, rule, expected) in [
            ("same priority", rule(1790, 0, 0), true),
            ("same mark", rule(100, 0x0e00_0000, 0x0f00_0000), true),
            ("a wider mask that our mark alone matches", rule(100, 0x0e00_0000, 0xffff_ffff), true),
            ("a bit of our mark", rule(100, 0x0200_0000, 0x0200_0000), true),
            ("a mark that has ours inside", rule(100, 0x0e00_0001, 0xffff_ffff), true),
            ("other bits", rule(100, 0x1, 0xff), false),
            ("another mark of all bits", rule(100, 0xca6c, 0xffff_ffff), false),
            ("no mark", rule(100, 0, 0), false),
            ("everything but a mark", Rule { inverted: true, ..rule(100, 0x0e00_0000, 0x0f00_0000) }, false),
        ] {
            assert_eq!(conflict(&rule, WANTED).is_some(), expected, "{title}");
        }
    }

    #[test]
    fn only_rules_between_ours_and_the_main_table_are_passed_by() {
        let rule = |priority| Rule { priority, table: 50, ..Rule::default() };
        let behind: Vec<bool> =
            [0, 1790, 1791, 20_000, 32_766, 32_767].map(|priority| is_behind(&rule(priority), 1790)).to_vec();
        assert_eq!(behind, [false, false, true, true, false, false]);
    }

    #[test]
    fn what_is_written_is_read_as_own_and_as_wanted() {
        let own = OwnTable::default();
        for family in Family::ALL {
            let rule = parse(&message(family, own, WANTED.priority, WANTED.mark, WANTED.mask));
            assert!(is_own(&rule, own) && is_wanted(&rule, WANTED), "{rule:?}");
        }
    }
}
