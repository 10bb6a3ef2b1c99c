//! Asks BIRD what only it knows: whether a kernel protocol learns routes that others put into the kernel.
//! Never changes BIRD: the session is restricted before anything is asked.
//!
//! BIRD shows its `learn` option nowhere. What shows is its effect (2.0.12): the Kernel protocol is the only
//! importer of kernel routes, and without `learn` it imports none, so "imported" above zero means `learn`.
//! With `learn` and nothing yet to learn the answer is the same as without; ask again once overrides stand.

use crate::fib::OwnTable;
use crate::fib::error::FibError;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// BIRD answers between its own jobs; a full table keeps it busy for a second or two.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read, in bytes.
const LONGEST: usize = 4 << 20;

/// What BIRD says about kernel routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BirdReport {
    /// The greeting, such as "BIRD 2.0.12 ready."
    pub greeting: String,
    /// Its Kernel protocols.
    pub kernel: Vec<KernelProtocol>,
    /// Routes of ETM's protocol number that BIRD took over.
    pub own_learnt: u64,
}

/// A Kernel protocol of BIRD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelProtocol {
    /// Its name in BIRD's configuration.
    pub name: String,
    /// BIRD's table it imports to.
    pub table: String,
    /// Routes it imported: more than none means that `learn` is on.
    pub imported: u64,
}

/// Asks the BIRD behind the control socket `path`. Nothing where there is no such socket.
pub async fn ask_bird(path: &Path, own: OwnTable) -> Result<Option<BirdReport>, FibError> {
    let asked = timeout(PATIENCE, converse(path, own)).await;
    match asked.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut))) {
        Ok(report) => Ok(Some(report)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FibError::Bird { path: path.display().to_string(), source }),
    }
}

async fn converse(path: &Path, own: OwnTable) -> io::Result<BirdReport> {
    let mut stream = UnixStream::connect(path).await?;
    let greeting = answer(&mut stream).await?;
    ask(&mut stream, "restrict").await?;
    let kernel = kernel_protocols(&ask(&mut stream, "show protocols all").await?);
    let mut own_learnt = 0;
    // Only then: counting walks all of BIRD's routes.
    if kernel.iter().any(|protocol| protocol.imported > 0) {
        let command = format!("show route table all count where krt_source = {}", own.protocol);
        own_learnt = total(&ask(&mut stream, &command).await?);
    }
    let greeting = greeting.trim_start_matches(|c: char| c.is_ascii_digit()).trim().to_owned();
    Ok(BirdReport { greeting, kernel, own_learnt })
}

async fn ask(stream: &mut UnixStream, command: &str) -> io::Result<String> {
    stream.write_all(format!("{command}\n").as_bytes()).await?;
    let text = answer(stream).await?;
    match last_code(&text) {
        Some(code) if code >= 8_000 => Err(io::Error::other(format!("`{command}`: {}", text.trim()))),
        _ => Ok(text),
    }
}

/// Reads until the line that ends an answer.
async fn answer(stream: &mut UnixStream) -> io::Result<String> {
    let mut text = Vec::new();
    let mut part = [0_u8; 16 << 10];
    loop {
        let read = stream.read(&mut part).await?;
        if read == 0 || text.len() + read > LONGEST {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        text.extend_from_slice(&part[..read]);
        let so_far = String::from_utf8_lossy(&text);
        if last_code(&so_far).is_some() {
            return Ok(so_far.into_owned());
        }
    }
}

/// The code of the last line, where that line is whole and ends the answer: four digits and a space.
fn last_code(text: &str) -> Option<u16> {
    let line = text.strip_suffix('\n')?.rsplit('\n').next()?;
    let (code, rest) = line.split_at_checked(4)?;
    rest.starts_with(' ').then(|| code.parse().ok())?
}

fn kernel_protocols(text: &str) -> Vec<KernelProtocol> {
    const PROTOCOL: &str = "1002-";
    let mut protocols = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(head) = line.strip_prefix(PROTOCOL) {
            let mut words = head.split_whitespace();
            let (name, kind) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            inside = kind == "Kernel";
            if inside {
                let table = words.next().unwrap_or_default().to_owned();
                protocols.push(KernelProtocol { name: name.to_owned(), table, imported: 0 });
            }
        }
        let routes = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-').trim();
        if let (true, Some(counts), Some(last)) =
            (inside, routes.strip_prefix("Routes:"), protocols.last_mut())
        {
            let imported = counts.split(',').find_map(|count| count.trim().strip_suffix(" imported"));
            last.imported += imported.and_then(|count| count.parse().ok()).unwrap_or(0);
        }
    }
    protocols
}

/// The number in "Total: 1 of 4 routes ..." or, with a single table, "1 of 4 routes ...".
fn total(text: &str) -> u64 {
    let mut counts = text.lines().rev().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let of = words.iter().position(|word| *word == "of")?;
        let number = words.get(of.checked_sub(1)?)?.rsplit('-').next()?;
        number.parse().ok()
    });
    counts.next().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOCOLS: &str = "2002-Name       Proto      Table      State  Since         Info\n\
1002-device1    Device     ---        up     08:49:02.971  \n\
1006-\n\
1002-k4         Kernel     master4    up     08:49:02.971  \n\
1006-  Channel ipv4\n     State:          UP\n     Table:          master4\n\
\x20    Routes:         0 imported, 2 exported, 0 preferred\n \n\
1002-k179       Kernel     t179       up     08:49:02.971  \n\
1006-  Channel ipv4\n     State:          UP\n\
\x20    Routes:         3 imported, 1 filtered, 0 exported, 1 preferred\n \n\
1002-transit    BGP        ---        up     08:49:02.971  Established\n\
1006-  Channel ipv4\n     Routes:         900000 imported, 0 exported, 1 preferred\n\
0000 \n";

    #[test]
    fn imports_of_kernel_protocols_are_read_and_no_others() {
        let protocols = kernel_protocols(PROTOCOLS);
        let read: Vec<_> =
            protocols.iter().map(|p| (p.name.as_str(), p.table.as_str(), p.imported)).collect();
        assert_eq!(read, [("k4", "master4", 0), ("k179", "t179", 3)]);
    }

    #[test]
    fn an_answer_ends_with_its_last_code() {
        assert_eq!(last_code("0001 BIRD 2.0.12 ready.\n"), Some(1));
        assert_eq!(last_code("9001 syntax error\n"), Some(9_001));
        assert_eq!(last_code(PROTOCOLS), Some(0));
        for unfinished in ["", "0000 ", "1002-k4  Kernel\n", " 0000 \n", "1006-\n     Table: t\n"] {
            assert_eq!(last_code(unfinished), None, "{unfinished:?}");
        }
    }

    #[test]
    fn counts_are_summed_by_bird() {
        assert_eq!(
            total("1007-0 of 2 routes for 2 networks in table master4\n0014 Total: 1 of 4 routes\n"),
            1
        );
        assert_eq!(total("0014 7 of 9 routes for 9 networks in table master4\n"), 7);
        assert_eq!(total("0000 \n"), 0);
    }
}
