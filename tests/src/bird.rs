//! One BIRD: start it in a namespace, talk to its control socket. Never parses its log.
//!
//! The control protocol (BIRD manual, "Remote control"): a request is a line; a reply is lines of
//! `CODE-text`, lines with a leading space that continue the same code, and a last `CODE text`.
//! Codes 8xxx are run-time errors, 9xxx parse errors.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use ipnet::IpNet;

use crate::command::cannot_start;
use crate::error::LabError;
use crate::netns::Namespace;
use crate::poll::wait_until;

/// How long BIRD may take to open its control socket.
const START: Duration = Duration::from_secs(10);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// A BIRD of the lab, known by its control socket.
#[derive(Clone, Debug)]
pub struct Bird {
    socket: PathBuf,
}

/// A route as `show route all` prints it, the parts the lab needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub prefix: Option<IpNet>,
    /// Protocol instance it came from.
    pub protocol: String,
    /// Whether BIRD marks it best (`*`).
    pub best: bool,
    /// Whether BIRD calls its next hop unreachable.
    pub unreachable: bool,
    /// Attributes as printed: `BGP.next_hop`, `BGP.local_pref`, `BGP.as_path`, `BGP.community` ...
    pub attributes: BTreeMap<String, String>,
}

impl Bird {
    /// Starts BIRD in `namespace` with `NAME.conf` of `directory`. The process is its own group, so
    /// that a terminal's Ctrl-C reaches the lab and not, out of order, its routers.
    ///
    /// # Errors
    /// BIRD is missing, or does not open its control socket in time.
    pub fn start(name: &str, namespace: &Namespace, directory: &Path) -> Result<(Self, Child), LabError> {
        let what = format!("start bird in {name}");
        let output = directory.join(format!("{name}.out"));
        let file = File::create(&output).map_err(LabError::io(&what))?;
        let bird = Self::existing(name, directory);
        let mut command = namespace.command("bird");
        command
            .arg("-f")
            .arg("-c")
            .arg(directory.join(format!("{name}.conf")))
            .arg("-s")
            .arg(&bird.socket)
            .arg("-P")
            .arg(directory.join(format!("{name}.pid")))
            .stdin(Stdio::null())
            .stderr(file.try_clone().map_err(LabError::io(&what))?)
            .stdout(file)
            .process_group(0);
        let mut child = command.spawn().map_err(|source| cannot_start(&what, "nsenter", source))?;
        wait_until(&format!("bird in {name} to answer"), START, || {
            if let Ok(Some(status)) = child.try_wait() {
                let said = std::fs::read_to_string(&output).unwrap_or_default();
                return Err(format!("it ended with {status}: {}", said.trim()));
            }
            bird.ask("show status").map_err(|error| error.to_string())
        })?;
        Ok((bird, child))
    }

    /// A BIRD that runs already.
    pub fn existing(name: &str, directory: &Path) -> Self {
        Self { socket: directory.join(format!("{name}.ctl")) }
    }

    /// Its control socket, for `birdc -s`.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends one command, returns the text of the answer, codes removed.
    ///
    /// # Errors
    /// The socket is dead, or BIRD refuses the command.
    pub fn ask(&self, request: &str) -> Result<Vec<String>, LabError> {
        let what = || format!("ask bird {request:?} at {}", self.socket.display());
        let stream = UnixStream::connect(&self.socket).map_err(LabError::io(what()))?;
        stream.set_read_timeout(Some(ANSWER)).map_err(LabError::io(what()))?;
        let mut writer = stream.try_clone().map_err(LabError::io(what()))?;
        let mut reader = BufReader::new(stream);
        read_answer(&mut reader).map_err(LabError::io(what()))?;
        writer.write_all(format!("{request}\n").as_bytes()).map_err(LabError::io(what()))?;
        let (code, lines) = read_answer(&mut reader).map_err(LabError::io(what()))?;
        if code >= 8000 {
            return Err(LabError::Bird { request: request.to_owned(), code, text: lines.join("\n") });
        }
        Ok(lines)
    }

    /// Protocols with their state (`up`, `start`, `down`) and information (`Established`, ...).
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn protocols(&self) -> Result<BTreeMap<String, (String, String)>, LabError> {
        let lines = self.ask("show protocols")?;
        Ok(lines.iter().skip(1).filter_map(|line| protocol_line(line)).collect())
    }

    /// Whether a BGP session is established.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn established(&self, protocol: &str) -> Result<bool, LabError> {
        Ok(self.protocols()?.get(protocol).is_some_and(|(_, info)| info == "Established"))
    }

    /// Routes of `show route SELECTION all`, for example `for 198.18.1.1`, `protocol core`, `table master4`.
    ///
    /// # Errors
    /// As [`Self::ask`]; a network that is not in the table is an empty list.
    pub fn routes(&self, selection: &str) -> Result<Vec<Route>, LabError> {
        match self.ask(&format!("show route {selection} all")) {
            Ok(lines) => Ok(parse_routes(&lines)),
            // 8001: network not found.
            Err(LabError::Bird { code: 8001, .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Makes BIRD read its configuration again.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn configure(&self) -> Result<(), LabError> {
        self.ask("configure").map(drop)
    }
}

fn read_answer(reader: &mut impl BufRead) -> std::io::Result<(u16, Vec<String>)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end_matches('\n');
        let code = line.get(..4).and_then(|code| code.parse::<u16>().ok());
        let (text, last) = match (code, line.as_bytes().get(4)) {
            (Some(code), Some(b' ')) => (&line[5..], Some(code)),
            (Some(_), Some(b'-')) => (&line[5..], None),
            _ => (line.strip_prefix(' ').unwrap_or(line), None),
        };
        if last != Some(0) || !text.is_empty() {
            lines.push(text.to_owned());
        }
        if let Some(code) = last {
            return Ok((code, lines));
        }
    }
}

fn protocol_line(line: &str) -> Option<(String, (String, String))> {
    // Name Proto Table State Since-date Since-time Info...
    let mut words = line.split_whitespace();
    let name = words.next()?.to_owned();
    let state = words.nth(2)?.to_owned();
    let info = words.skip(2).collect::<Vec<_>>().join(" ");
    Some((name, (state, info)))
}

/// Reads `show route all`: a line that starts with a prefix or with blanks and a type is a route, an
/// indented line with a colon is an attribute of the route before it.
fn parse_routes(lines: &[String]) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    let mut prefix = None;
    for line in lines {
        if let Some((key, value)) = line.strip_prefix('\t').and_then(|rest| rest.split_once(": ")) {
            if let Some(route) = routes.last_mut() {
                route.attributes.insert(key.trim().to_owned(), value.to_owned());
            }
        } else if let (Some(open), Some(close)) = (line.find('['), line.find(']')) {
            let head = line[..open].trim();
            if let Some(found) = head.split_whitespace().next().and_then(|word| word.parse().ok()) {
                prefix = Some(found);
            }
            let protocol = line[open + 1..close].split_whitespace().next().unwrap_or_default().to_owned();
            let best = line[close..].contains(" * ");
            let unreachable = head.ends_with("unreachable");
            routes.push(Route { prefix, protocol, best, unreachable, attributes: BTreeMap::new() });
        }
    }
    routes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_the_code_that_has_no_dash() {
        let text = "1007-Table master4:\n a\n1008-\tb\n0000 \n";
        let (code, lines) = read_answer(&mut text.as_bytes()).unwrap();
        assert_eq!((code, lines), (0, vec!["Table master4:".into(), "a".into(), "\tb".into()]));
    }

    #[test]
    fn routes_carry_prefix_protocol_mark_and_attributes() {
        let text = [
            "Table master4:",
            "198.18.1.0/24        unicast [transit_a_4 10:00:00.000] * (100) [AS64700i]",
            "\tvia 10.1.0.1 on up-a",
            "\tBGP.as_path: 64501 64700",
            "                     unreachable [etm 10:00:01.000 from 10.0.9.3] (100) [AS64700i]",
            "\tBGP.local_pref: 1000",
        ];
        let routes = parse_routes(&text.map(str::to_owned));
        assert_eq!(routes.len(), 2);
        assert_eq!(routes[0].protocol, "transit_a_4");
        assert!(routes[0].best && !routes[0].unreachable);
        assert_eq!(routes[0].attributes["BGP.as_path"], "64501 64700");
        assert_eq!(routes[1].prefix, routes[0].prefix);
        assert!(!routes[1].best && routes[1].unreachable);
        assert_eq!(routes[1].attributes["BGP.local_pref"], "1000");
    }
}
