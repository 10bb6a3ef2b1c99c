//! The data: candidate routes of several providers for the same prefixes, and traffic matrices over time. Only reads.

use std::collections::BTreeMap;
use std::path::Path;

use etm_agent::types::Prefix;

use crate::command;
use crate::error::LabError;

/// A prefix as several providers announce it.
pub(super) struct Row {
    pub(super) prefix: Prefix,
    /// Length of the AS path by provider; none where it announces no route.
    pub(super) hops: Vec<Option<u32>>,
    /// The AS that originates it, by the first provider that has it.
    pub(super) origin: String,
}

/// One moment of several providers' tables.
pub(super) struct View {
    pub(super) providers: Vec<String>,
    pub(super) rows: Vec<Row>,
}

impl View {
    /// Lines `prefix`, then one AS path or `-` per provider; the first line names the providers.
    pub(super) fn read(path: &Path) -> Result<View, LabError> {
        let text = unpack(path, "zstd")?;
        let mut lines = text.lines();
        let head = lines.next().unwrap_or_default();
        let providers: Vec<String> = head.split('\t').skip(1).map(str::to_owned).collect();
        let rows = lines.map(|line| row(line, providers.len()).ok_or_else(|| malformed(path, line)));
        let rows: Vec<Row> = rows.collect::<Result<_, _>>()?;
        Ok(View { providers, rows })
    }

    /// The provider that plain BGP takes: the shortest path, of equals the first.
    pub(super) fn home(&self, row: usize, without: Option<usize>) -> Option<usize> {
        let hops = self.rows[row].hops.iter().enumerate();
        let live = hops.filter(|(exit, _)| Some(*exit) != without);
        live.filter_map(|(exit, hops)| Some(((*hops)?, exit))).min().map(|(_, exit)| exit)
    }

    /// Rows by origin, the origin with the most prefixes first.
    pub(super) fn origins(&self) -> Vec<Vec<usize>> {
        let mut by_origin: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (row, entry) in self.rows.iter().enumerate() {
            by_origin.entry(&entry.origin).or_default().push(row);
        }
        let mut all: Vec<(&str, Vec<usize>)> = by_origin.into_iter().collect();
        all.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then(a.0.cmp(b.0)));
        all.into_iter().map(|(_, rows)| rows).collect()
    }
}

fn row(line: &str, providers: usize) -> Option<Row> {
    let mut cells = line.split('\t');
    let prefix = cells.next()?.parse().ok()?;
    let paths: Vec<&str> = cells.collect();
    let hops =
        |path: &&str| (*path != "-").then(|| u32::try_from(path.split(' ').count()).unwrap_or(u32::MAX));
    let origin = paths.iter().find(|path| **path != "-")?.rsplit(' ').next()?.to_owned();
    (paths.len() == providers).then(|| Row { prefix, hops: paths.iter().map(hops).collect(), origin })
}

/// Rates of origin-destination pairs over time, as given; the first column is the time.
pub(super) fn series(path: &Path) -> Result<Vec<Vec<f64>>, LabError> {
    let text = unpack(path, "gzip")?;
    let rates = |line: &str| -> Option<Vec<f64>> {
        line.split(',')
            .skip(1)
            .map(|cell| cell.trim().parse::<f64>().ok().map(|rate| rate.max(0.0)))
            .collect()
    };
    text.lines().skip(1).map(|line| rates(line).ok_or_else(|| malformed(path, line))).collect()
}

fn unpack(path: &Path, program: &str) -> Result<String, LabError> {
    command::run("unpack the data", program, &["-dcq", &path.display().to_string()], None)
}

fn malformed(path: &Path, line: &str) -> LabError {
    let shown: String = line.chars().take(60).collect();
    LabError::Malformed { what: path.display().to_string(), detail: format!("line {shown:?}") }
}
