//! `etm-lab lab ...`: up, down, shell, status, traffic.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Subcommand;
use etm_tests::agent::{AgentOptions, Site, write_config};
use etm_tests::command::cannot_start;
use etm_tests::error::LabError;
use etm_tests::lab::{Lab, LabOptions, UPLINK_BPS};
use etm_tests::link;
use etm_tests::poll::pass_time;
use etm_tests::state::{self, State};
use etm_tests::topology::{Provider, Role};
use etm_tests::traffic::{Demand, FRAME, Generator, Sink};
use nix::sys::signal::{SigSet, Signal};

/// Name of a lab when none is given.
const DEFAULT: &str = "play";

#[derive(Subcommand)]
pub(crate) enum LabCommand {
    /// Bring up a lab that stays until `lab down`, and say what to try in it.
    Up {
        /// Name: 1 to 12 of a-z and 0-9.
        #[arg(long, default_value = DEFAULT)]
        name: String,
        /// Capacity of each uplink in Mbit/s; 0 is unlimited.
        #[arg(long, default_value_t = UPLINK_BPS / 1_000_000)]
        uplink_mbit: u64,
    },
    /// Remove a lab: namespaces, processes, files, pins. Also clears what a crash left.
    Down {
        /// Name of the lab.
        #[arg(long, default_value = DEFAULT, conflicts_with = "all")]
        name: String,
        /// Remove every lab of this machine, also those that tests run in right now.
        #[arg(long)]
        all: bool,
    },
    /// A shell inside a namespace of the lab; commands after `--` run instead.
    Shell {
        /// Which namespace.
        role: Role,
        /// Name of the lab.
        #[arg(long, default_value = DEFAULT)]
        name: String,
        /// Command to run instead of a shell.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// List the labs of this machine.
    Status,
    /// Take the carrier from an uplink, from the provider's end.
    Cut {
        /// transit-a, transit-b or ix.
        provider: Role,
        /// Name of the lab.
        #[arg(long, default_value = DEFAULT)]
        name: String,
    },
    /// Give the carrier back.
    Mend {
        /// transit-a, transit-b or ix.
        provider: Role,
        /// Name of the lab.
        #[arg(long, default_value = DEFAULT)]
        name: String,
    },
    /// Bring up a lab that lasts as long as this command: until Ctrl-C or any other end of it.
    Hold,
    /// Send traffic through a lab and print each second how much arrived by which provider.
    Traffic {
        /// Name of the lab.
        #[arg(long, default_value = DEFAULT)]
        name: String,
        /// Mbit/s towards destinations whose best provider is transit-a, transit-b, ix.
        #[arg(long, num_args = 3, value_names = ["A", "B", "IX"], default_values_t = [36.0, 10.0, 6.0])]
        mbit: Vec<f64>,
        /// How long, in seconds.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
}

pub(crate) fn run(command: LabCommand) -> Result<ExitCode, LabError> {
    match command {
        LabCommand::Up { name, uplink_mbit } => up(name, uplink_mbit),
        LabCommand::Down { name, all } => down(&name, all),
        LabCommand::Shell { role, name, command } => shell(role, &name, &command),
        LabCommand::Status => status(),
        LabCommand::Cut { provider, name } => cut(provider, &name),
        LabCommand::Mend { provider, name } => mend(provider, &name),
        LabCommand::Hold => hold(),
        LabCommand::Traffic { name, mbit, seconds } => traffic(&name, &mbit, seconds),
    }
}

fn up(name: String, uplink_mbit: u64) -> Result<ExitCode, LabError> {
    let start = Instant::now();
    let options = LabOptions { id: Some(name), uplink_bps: uplink_mbit * 1_000_000, ..LabOptions::default() };
    let lab = Lab::up(options)?;
    let config = write_config(&lab, &AgentOptions::default())?;
    let hints = hints(&lab, &config);
    let id = lab.id().to_owned();
    lab.detach()?;
    println!("lab {id} is up after {:.1} s. Things to try:\n", start.elapsed().as_secs_f64());
    for (about, command) in hints {
        println!("  {about}\n    {command}");
    }
    Ok(ExitCode::SUCCESS)
}

/// What to try in a lab: what it shows, and the command.
fn hints(lab: &Lab, config: &Path) -> Vec<(&'static str, String)> {
    let (id, programs) = (lab.id(), programs());
    let (border, socket) = (lab.namespace(Role::Border), Site::of(lab).control_socket());
    let (directory, pins) = (lab.directory(), lab.pin_root());
    let (directory, config, pins) = (directory.display(), config.display(), pins.display());
    vec![
        (
            "what the border knows of one address, from every provider",
            format!("birdc -s {directory}/border.ctl show route for 198.18.37.1 all"),
        ),
        (
            "the kernel routes that BIRD made of it",
            format!("nsenter --net={} ip route", border.path().display()),
        ),
        (
            "traffic, and by which provider it arrives (in a second terminal)",
            format!("{programs}etm-lab lab traffic --name {id} --seconds 600"),
        ),
        (
            "ETM on the border (in a third; it acts, mode enforce)",
            format!("nsenter --net={} {programs}etm-agent run --config {config}", border.path().display()),
        ),
        ("what ETM sees and does", format!("{programs}etm -s {} status", socket.display())),
        (
            "the same with more traffic than transit-a carries: what moves, and why",
            format!("{programs}etm-lab lab traffic --name {id} --mbit 56 7 6 --seconds 600"),
        ),
        (
            "its live counters in the kernel, without ETM's tools",
            format!("ls {pins}; bpftool map dump pinned {pins}/etm_live"),
        ),
        ("what core hears of it", format!("birdc -s {directory}/core.ctl show route protocol etm_inject")),
        (
            "cut the link to transit-b from its end, and mend it",
            format!(
                "{programs}etm-lab lab cut transit-b --name {id}; {programs}etm-lab lab mend transit-b --name {id}"
            ),
        ),
        (
            "a shell where the servers are (or border, transit-a, transit-b, ix, core, sink)",
            format!("{programs}etm-lab lab shell content --name {id}"),
        ),
        ("remove the lab", format!("{programs}etm-lab lab down --name {id}")),
    ]
}

/// Directory of the running program and a slash: the commands shown work from any shell.
fn programs() -> String {
    let own = std::env::current_exe().ok();
    own.as_deref()
        .and_then(Path::parent)
        .map_or_else(String::new, |directory| format!("{}/", directory.display()))
}

fn down(name: &str, all: bool) -> Result<ExitCode, LabError> {
    if !all {
        state::tear_down(name)?;
        println!("lab {name} is gone");
        return Ok(ExitCode::SUCCESS);
    }
    for id in state::ids() {
        state::tear_down(&id)?;
        println!("lab {id} is gone");
    }
    Ok(ExitCode::SUCCESS)
}

fn shell(role: Role, name: &str, command: &[String]) -> Result<ExitCode, LabError> {
    let lab = Lab::attach(name)?;
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/bash".to_owned());
    let (program, arguments) =
        command.split_first().map_or((shell.as_str(), &[][..]), |(p, a)| (p.as_str(), a));
    let status = lab
        .namespace(role)
        .command(program)
        .args(arguments)
        .env("PS1", format!("[{name} {role}] \\w # "))
        .status()
        .map_err(|source| cannot_start("open a shell in the lab", "nsenter", source))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn cut(role: Role, name: &str) -> Result<ExitCode, LabError> {
    Lab::attach(name)?.cut(provider(role)?)?;
    Ok(ExitCode::SUCCESS)
}

fn mend(role: Role, name: &str) -> Result<ExitCode, LabError> {
    Lab::attach(name)?.mend(provider(role)?)?;
    Ok(ExitCode::SUCCESS)
}

fn provider(role: Role) -> Result<Provider, LabError> {
    Provider::ALL.into_iter().find(|provider| provider.role() == role).ok_or_else(|| LabError::Malformed {
        what: format!("provider {role}"),
        detail: "take transit-a, transit-b or ix".into(),
    })
}

fn hold() -> Result<ExitCode, LabError> {
    let lab = Lab::up(LabOptions::default())?;
    // Only now, for what is blocked here would be blocked in the lab's processes too. Waited for, because a shell
    // starts background commands with SIGINT ignored.
    let end = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    end.thread_block().map_err(LabError::errno("block signals"))?;
    println!("lab {} is up until this command ends", lab.id());
    let signal = end.wait().map_err(LabError::errno("wait for a signal"))?;
    drop(lab);
    println!("{signal}: the lab is gone");
    Ok(ExitCode::FAILURE)
}

fn status() -> Result<ExitCode, LabError> {
    let ids = state::ids();
    if ids.is_empty() {
        println!("no lab; `etm-lab lab up` makes one");
    }
    for id in ids {
        let kind = match State::load(&id) {
            Ok(state) if state.detached => "detached, yours to play in",
            Ok(state) if state.is_stale() => "left by a crash; remove it by `etm-lab lab down`",
            Ok(_) => "in use by a running program",
            Err(_) => "incomplete; remove it by `etm-lab lab down`",
        };
        println!("{id}: {} processes, {kind}", state::processes(&id).len());
    }
    Ok(ExitCode::SUCCESS)
}

fn traffic(name: &str, mbit: &[f64], seconds: u64) -> Result<ExitCode, LabError> {
    let lab = Lab::attach(name)?;
    let [transit_a, transit_b, ix] = mbit else {
        return Err(LabError::Malformed { what: "--mbit".into(), detail: "three figures are needed".into() });
    };
    let flows = Demand::by_home(*transit_a, *transit_b, *ix).flows(lab.table(), FRAME);
    let sink = Sink::start(&lab.namespace(Role::Sink))?;
    let mut generator = Generator::start(&lab.namespace(Role::Content), &flows, FRAME)?;
    println!("{:>4} {:>12} {:>12} {:>12} {:>10}", "s", "transit-a", "transit-b", "ix", "Mbit/s, qdisc drops");
    let mut before = [0_u64; 3];
    for second in 1..=seconds {
        pass_time(Duration::from_secs(1));
        let mut line = format!("{second:>4}");
        let received = sink.received();
        let mut drops = 0;
        for (i, provider) in Provider::ALL.into_iter().enumerate() {
            let bytes: u64 = received
                .iter()
                .filter(|((p, _), _)| *p == provider)
                .map(|(_, r)| r.ledger.total.wire_bytes)
                .sum();
            line += &format!(" {:>12.2}", Duration::from_micros((bytes - before[i]) * 8).as_secs_f64());
            before[i] = bytes;
            drops +=
                link::qdisc_counters(&lab.namespace(Role::Border), provider.uplink()).map_or(0, |q| q.drops);
        }
        println!("{line} {drops:>10}");
    }
    generator.stop();
    let lost = sink.drain(&generator, Duration::from_secs(10))?;
    let sent: u64 = generator.sent().values().map(|ledger| ledger.total.packets).sum();
    println!("sent {sent} packets, lost {lost}, refused {}, foreign {}", generator.refused(), sink.foreign());
    Ok(ExitCode::SUCCESS)
}
