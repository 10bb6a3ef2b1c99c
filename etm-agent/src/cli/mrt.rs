//! `etm mrt`: routes of MRT files, shown or made into a planning problem. Asks no agent, changes nothing.

use crate::config::{self, ConfigError};
use crate::runtime::{Given, Import, MrtError, MrtRoute, ProblemError, problem};
use crate::types::{BitRate, Prefix, UnitError};
use clap::Subcommand;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// What is done with a file.
#[derive(Debug, Subcommand)]
pub(super) enum MrtCommand {
    /// The routes in it. With --json one object a line.
    Show {
        /// TABLE_DUMP or TABLE_DUMP_V2, plain, gzip or Zstandard; `-` reads standard input.
        file: PathBuf,
        /// Only this prefix.
        prefix: Option<Prefix>,
        /// All prefixes inside PREFIX too.
        #[arg(long, requires = "prefix")]
        longer: bool,
        /// Only routes of this peer.
        #[arg(long, value_name = "ADDRESS")]
        peer: Option<IpAddr>,
    },
    /// A problem for `etm plan`: its routes through the exits of a configuration, with given rates.
    Convert {
        /// As for `show`.
        file: PathBuf,
        /// Configuration with interfaces, providers and exits.
        #[arg(long, short, value_name = "FILE", default_value = "/etc/etm/etm.toml")]
        config: PathBuf,
        /// Routes of this peer, or with this next hop, use this exit. Without, next hops must be gateways of exits.
        #[arg(long, value_name = "ADDRESS=EXIT", value_parser = mapping)]
        map: Vec<(IpAddr, String)>,
        /// Lines of PREFIX and RATE (`198.51.100.0/24 20Mbit`); prefixes without a line are left out.
        #[arg(long, value_name = "FILE", required_unless_present = "rate")]
        rates: Option<PathBuf>,
        /// Rate of every prefix that `--rates` does not name.
        #[arg(long, value_name = "RATE")]
        rate: Option<BitRate>,
    },
}

/// Why there is no, or no complete, answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum MrtCommandError {
    /// The file.
    #[error(transparent)]
    Mrt(#[from] MrtError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No problem in it.
    #[error(transparent)]
    Problem(#[from] ProblemError),
    /// Another file.
    #[error("reading {}: {source}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A line of the rates.
    #[error("{}:{line}: write PREFIX and RATE, like `198.51.100.0/24 20Mbit`", path.display())]
    Rates {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
    },
    /// Our side.
    #[error("writing the answer: {source}")]
    Write {
        /// The system's answer.
        #[from]
        source: io::Error,
    },
    /// No JSON.
    #[error("writing the answer: {source}")]
    Form {
        /// Why.
        source: serde_json::Error,
    },
}

fn mapping(text: &str) -> Result<(IpAddr, String), String> {
    let bad = || format!("`{text}` is no mapping; write it like 192.0.2.1=transit-a");
    let (address, exit) = text.split_once('=').ok_or_else(bad)?;
    Ok((address.parse().map_err(|_| bad())?, exit.to_owned()))
}

/// Does it, writing to `out`, with remarks to `notes`.
pub(super) fn run(
    command: &MrtCommand,
    json: bool,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<(), MrtCommandError> {
    match command {
        MrtCommand::Show { file, prefix, longer, peer } => {
            let wanted = |route: &MrtRoute| {
                let inside =
                    |prefix: Prefix| prefix == route.prefix || *longer && prefix.covers(route.prefix);
                prefix.is_none_or(inside) && peer.is_none_or(|peer| peer == route.peer.address)
            };
            show(&mut Import::open(file)?, wanted, json, out, notes)
        }
        MrtCommand::Convert { file, config, map, rates, rate } => {
            let read = |path: &Path| {
                let failed = |source| MrtCommandError::Read { path: path.to_owned(), source };
                std::fs::read_to_string(path).map_err(failed)
            };
            let settings = config::parse(&config.display().to_string(), &read(config)?)?;
            let given = Given {
                map: map.iter().cloned().collect(),
                rates: match rates {
                    Some(path) => self::rates(path, &read(path)?)?,
                    None => BTreeMap::new(),
                },
                default_rate: *rate,
            };
            let mut import = Import::open(file)?;
            let problem = problem(&settings, &mut import, &given)?;
            remark(&import, notes)?;
            writeln!(notes, "etm: {} prefixes to place", problem.prefixes())?;
            line(&problem, out)
        }
    }
}

/// A route as one line of JSON.
#[derive(Serialize)]
struct Shown<'a> {
    prefix: Prefix,
    peer: IpAddr,
    peer_as: u32,
    path_id: u32,
    as_path: String,
    communities: Vec<String>,
    attributes: &'a crate::types::RouteAttrs,
}

fn show(
    import: &mut Import,
    wanted: impl Fn(&MrtRoute) -> bool,
    json: bool,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<(), MrtCommandError> {
    if !json {
        writeln!(
            out,
            "{:<20} {:<16} {:>10} {:>6} {:<16} {:>7} {:>6}  AS PATH",
            "PREFIX", "PEER", "AS", "PATH", "NEXT HOP", "LPREF", "MED"
        )?;
    }
    while let Some(routes) = import.next_routes()? {
        for route in routes.iter().filter(|route| wanted(route)) {
            let attrs = &route.attrs;
            let communities: Vec<String> = attrs.communities.iter().map(ToString::to_string).collect();
            if json {
                let shown = Shown {
                    prefix: route.prefix,
                    peer: route.peer.address,
                    peer_as: route.peer.asn.0,
                    path_id: route.path_id.0,
                    as_path: attrs.as_path.to_string(),
                    communities,
                    attributes: attrs,
                };
                line(&shown, out)?;
                continue;
            }
            let tail =
                if communities.is_empty() { String::new() } else { format!(" [{}]", communities.join(" ")) };
            writeln!(
                out,
                "{:<20} {:<16} {:>10} {:>6} {:<16} {:>7} {:>6}  {}{tail}",
                route.prefix,
                route.peer.address.to_string(),
                route.peer.asn.0,
                route.path_id.0,
                attrs.next_hop.to_string(),
                attrs.local_pref,
                attrs.med.map_or_else(|| "-".to_owned(), |med| med.to_string()),
                attrs.as_path
            )?;
        }
    }
    remark(import, notes)
}

/// What of the file was not used, if anything.
fn remark(import: &Import, notes: &mut impl Write) -> Result<(), MrtCommandError> {
    let tally = import.tally();
    if tally.malformed + tally.unusable > 0 {
        writeln!(
            notes,
            "etm: left out {} malformed records and {} routes that cannot be used; the first: {}",
            tally.malformed,
            tally.unusable,
            tally.first_fault.as_deref().unwrap_or("")
        )?;
    }
    if tally.other > 0 {
        writeln!(notes, "etm: left out {} records that hold no table (UPDATEs, multicast ...)", tally.other)?;
    }
    Ok(())
}

fn rates(path: &Path, text: &str) -> Result<BTreeMap<Prefix, BitRate>, MrtCommandError> {
    let mut rates = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim();
        if line.is_empty() {
            continue;
        }
        let bad = || MrtCommandError::Rates { path: path.to_owned(), line: at + 1 };
        let (prefix, rate) = line.split_once(|c: char| c.is_whitespace() || c == ',').ok_or_else(bad)?;
        let rate: Result<BitRate, UnitError> = rate.trim().parse();
        rates.insert(prefix.parse().map_err(|_| bad())?, rate.map_err(|_| bad())?);
    }
    Ok(rates)
}

fn line(value: &impl Serialize, out: &mut impl Write) -> Result<(), MrtCommandError> {
    let text = serde_json::to_string(value).map_err(|source| MrtCommandError::Form { source })?;
    Ok(writeln!(out, "{text}")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_a_prefix_and_a_rate_a_line() {
        let path = Path::new("rates");
        let read = rates(path, "# demand\n198.51.100.0/24 20Mbit\n\n2001:db8::/32,5000 # bit/s\n").unwrap();
        let values: Vec<u64> = read.values().map(|rate| rate.0).collect();
        assert_eq!(values, [20_000_000, 5_000]);
        assert!(matches!(rates(path, "\nnonsense 1\n"), Err(MrtCommandError::Rates { line: 2, .. })));
        assert!(rates(path, "198.51.100.0/24\n").is_err());
        assert!(mapping("192.0.2.1=a").is_ok() && mapping("192.0.2.1").is_err() && mapping("x=a").is_err());
    }
}
