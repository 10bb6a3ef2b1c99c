//! Files: compressed, cut, and real ones beside their tables of facts.

use super::*;
use crate::types::{AsPath, Asn, Origin, PathId, RouteAttrs, RouterId};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

fn small() -> Vec<u8> {
    let peer =
        Peer { address: [192, 0, 2, 1].into(), asn: Asn(64601), router_id: RouterId([192, 0, 2, 1].into()) };
    let mut file = Vec::new();
    let mut export = Export::begin(&mut file, 1, RouterId([10, 0, 0, 1].into()), &[peer]).unwrap();
    let attrs = RouteAttrs {
        as_path: AsPath::sequence([64601, 3356]),
        ..RouteAttrs::to_next_hop([192, 0, 2, 1].into())
    };
    for text in ["198.18.0.0/24", "198.18.1.0/24"] {
        export.prefix(text.parse().unwrap(), &[(0, PathId(0), &attrs)]).unwrap();
    }
    assert_eq!(export.end().unwrap(), 0);
    file
}

fn stored(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn all(path: &Path) -> Result<(Vec<Route>, Tally), MrtError> {
    let mut import = Import::open(path)?;
    let mut routes = Vec::new();
    while let Some(more) = import.next_routes()? {
        routes.extend(more);
    }
    Ok((routes, import.tally().clone()))
}

#[test]
fn plain_and_gzip_files_are_read_whatever_their_names() {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&small()).unwrap();
    for bytes in [small(), gz.finish().unwrap()] {
        let file = stored(&bytes);
        let (routes, tally) = all(file.path()).unwrap();
        assert_eq!((routes.len(), tally.records, tally.routes), (2, 3, 2));
        assert_eq!(routes[1].prefix.to_string(), "198.18.1.0/24");
    }
    let bz = stored(b"BZh91AY&SY");
    assert!(all(bz.path()).unwrap_err().to_string().contains("bzcat"));
    assert!(all(Path::new("/nonexistent")).unwrap_err().to_string().starts_with("reading /nonexistent"));
    assert_eq!(all(stored(&[]).path()).unwrap().0, []);
}

#[test]
fn a_file_that_ends_early_or_is_something_else_says_where() {
    let whole = small();
    let cut = stored(&whole[..whole.len() - 1]);
    assert!(matches!(all(cut.path()), Err(MrtError::Cut { .. })));
    let text = stored(b"198.51.100.0/24 20Mbit\n198.51.101.0/24 20Mbit\n");
    assert!(matches!(all(text.path()), Err(MrtError::Length { at: 0, .. })));
}

#[test]
fn bgpdump_reads_what_is_written() {
    let Ok(found) = Command::new("bgpdump").arg("-h").output() else {
        println!("SKIP bgpdump is not installed");
        return;
    };
    assert!(!found.stdout.is_empty() || !found.stderr.is_empty());
    let file = stored(&small());
    let output = Command::new("bgpdump").arg("-m").arg(file.path()).output().unwrap();
    let lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    let line = |prefix: &str| {
        format!("TABLE_DUMP2|1|B|192.0.2.1|64601|{prefix}|64601 3356|IGP|192.0.2.1|100|0||NAG||")
    };
    assert_eq!(lines, [line("198.18.0.0/24"), line("198.18.1.0/24")]);
}

/// The data beside the repository; none, after saying so, where it is not.
fn data(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(name);
    if !path.exists() {
        println!("SKIP {} is not there", path.display());
        return None;
    }
    Some(path)
}

fn zstd(path: &Path) -> String {
    let output = Command::new("zstd").args(["-dc", "-q"]).arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// prefix, peer, AS, AS path, origin, next hop, MED, communities: as the table beside the file has them.
fn row(route: &Route) -> String {
    let attrs = &route.attrs;
    let origin = match attrs.origin {
        Origin::Igp => "IGP",
        Origin::Egp => "EGP",
        Origin::Incomplete => "INCOMPLETE",
    };
    format!(
        "{}\t{}\t{}\t{}\t{origin}\t{}\t{}",
        route.prefix,
        route.peer.address,
        route.peer.asn.0,
        attrs.as_path,
        attrs.next_hop,
        attrs.med.unwrap_or(0)
    )
}

/// A line of facts without its communities, addresses written as Rust writes them.
fn fact(line: &str) -> String {
    let mut cells: Vec<String> = line.split('\t').take(7).map(str::to_owned).collect();
    for at in [1, 5] {
        cells[at] = cells[at].parse::<std::net::IpAddr>().unwrap().to_string();
    }
    let prefix: crate::types::Prefix = cells[0].parse().unwrap();
    cells[0] = prefix.to_string();
    cells.join("\t")
}

#[test]
fn real_tables_are_read_as_the_tables_of_facts_beside_them_say() {
    for name in ["ribs/rv2-2014-05-23-first9k", "ribs/rv6-2015-11-01-first7k"] {
        let Some(mrt) = data(&format!("{name}.mrt.zst")) else { return };
        let Some(facts) = data(&format!("{name}.tsv.zst")) else { return };
        let mut expected: BTreeMap<String, i64> = BTreeMap::new();
        for line in zstd(&facts).lines() {
            *expected.entry(fact(line)).or_default() += 1;
        }
        let rows: i64 = expected.values().sum();
        let (routes, tally) = all(&mrt).unwrap();
        assert_eq!((tally.malformed, tally.unusable), (0, 0), "{name}: {:?}", tally.first_fault);
        assert_eq!(i64::try_from(routes.len()).unwrap(), rows, "{name}");
        for route in &routes {
            *expected.entry(row(route)).or_default() -= 1;
        }
        let differ: Vec<_> = expected.iter().filter(|(_, count)| **count != 0).take(4).collect();
        assert!(differ.is_empty(), "{name}: {differ:?}");
        println!("{name}: {rows} routes agree");
    }
}

#[test]
fn tables_with_path_identifiers_and_oversized_attributes_are_read() {
    // Without a next hop a route is no candidate: so are two of the collector's own, and all of the IPv6 file, whose
    // writer kept none.
    for (name, routes, unusable) in [
        ("ribs/ripe-bview.ipv4_unicast_add_path.gz", 60, 2),
        ("ribs/ripe-bview.ipv6_unicast_add_path.gz", 0, 62),
    ] {
        let Some(path) = data(name) else { return };
        let (seen, tally) = all(&path).unwrap();
        println!("{name}: {tally:?}");
        assert_eq!((seen.len(), tally.unusable, tally.malformed), (routes, unusable, 0), "{name}");
        assert!(seen.is_empty() || seen.iter().any(|route| route.path_id != PathId(0)), "{name}");
    }
    let Some(path) = data("ribs/ripe-bview.64k_stream_overflow.gz") else { return };
    let (_, tally) = all(&path).unwrap();
    println!("oversized attributes: {tally:?}");
    assert!(tally.records > 0);
}

#[test]
fn files_of_updates_hold_no_table_and_say_so() {
    let Some(path) = data("updates/ripe-updates.20160811.1600.gz") else { return };
    let (routes, tally) = all(&path).unwrap();
    assert!(routes.is_empty() && tally.other == tally.records && tally.records > 1_000, "{tally:?}");
    // To the last byte.
    let mut rest = Vec::new();
    let mut file = flate2::read::MultiGzDecoder::new(std::fs::File::open(&path).unwrap());
    file.read_to_end(&mut rest).unwrap();
    assert!(!rest.is_empty());
}
