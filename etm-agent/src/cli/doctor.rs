//! `etm doctor`: what was found, what is used, what is in the way, and what the agent that runs may do. Never finds anything
//! of the machine out itself.

use super::client::{complain, json, on_this_thread, show as print};
use crate::control::schema::{PrivilegesView, Status};
use crate::control::{self, ClientError};
use crate::runtime::{self, Findings, Interface};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

/// Everything that is shown.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    found: &'a Findings,
    /// Of the agent that answers; none where none does.
    agent: Option<PrivilegesView>,
}

/// Examines the machine and asks the agent, if one runs.
pub(super) fn run(pin_root: &Path, socket: &Path, as_json: bool) -> ExitCode {
    let found = runtime::examine(pin_root);
    let asked: Option<Result<Status, ClientError>> = on_this_thread(control::get(socket, "/v1/status"));
    let agent = asked.and_then(Result::ok).map(|status| status.agent.privileges);
    let text = if as_json {
        json(&Report { found: &found, agent })
    } else {
        Ok(render(&found) + &render_agent(agent.as_ref()))
    };
    match text {
        Ok(text) => {
            let shown = print(&text);
            if found.problems.is_empty() { shown } else { ExitCode::FAILURE }
        }
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn render_agent(agent: Option<&PrivilegesView>) -> String {
    let Some(view) = agent else {
        return "\nagent\n  none answers here: run as root or as its user, or name its socket (-s)\n"
            .to_owned();
    };
    let yes = |true_of_it: bool| if true_of_it { "yes" } else { "no" };
    let list = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(" ") };
    format!(
        "\nagent\n  user               {} ({})\n  capabilities       {}\n  bounding set       {}\n  \
         no new privileges  {}\n  root is nobody     {}\n",
        view.user.as_deref().unwrap_or("-"),
        view.uid,
        list(&view.capabilities),
        list(&view.bounding),
        yes(view.no_new_privileges),
        yes(view.root_is_nobody)
    )
}

/// The findings, for people.
fn render(found: &Findings) -> String {
    let mut text = format!("kernel {}\n\ncapabilities of this process\n", found.kernel);
    // Writing to a String cannot fail.
    for capability in &found.capabilities {
        let held = if capability.held { "yes" } else { "no" };
        let _ = writeln!(text, "  {:<14} {held:<8} {}", capability.name, capability.purpose);
    }
    text.push_str("\nfeatures\n");
    for feature in &found.features {
        let works = match feature.works {
            Some(true) => "yes",
            Some(false) => "no",
            None => "unknown",
        };
        let _ = writeln!(text, "  {:<18} {works:<8} {}", feature.name, feature.detail);
    }
    text.push_str("\nused by ETM\n");
    lines(&mut text, &found.used, "  nothing is attached in this network namespace\n");
    text.push_str("\nprograms on the hooks, in the order in which packets meet them\n");
    if found.interfaces.is_empty() {
        text.push_str("  none\n");
    }
    found.interfaces.iter().for_each(|interface| show(&mut text, interface));
    let _ = writeln!(text, "\npins in {}", found.pin_root.display());
    if found.pins.is_empty() {
        text.push_str("  none\n");
    }
    for pin in &found.pins {
        let _ = writeln!(text, "  {:<16} {}", pin.name, pin.shape);
    }
    text.push_str("\nproblems\n");
    lines(&mut text, &found.problems, "  none\n");
    text
}

fn lines(text: &mut String, lines: &[String], none: &str) {
    if lines.is_empty() {
        text.push_str(none);
    }
    for line in lines {
        let _ = writeln!(text, "  {line}");
    }
}

fn show(text: &mut String, interface: &Interface) {
    for program in &interface.programs {
        let id = program.id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        let name = program.name.as_deref().unwrap_or("(name needs CAP_SYS_ADMIN)");
        let whose = if program.ours { "  ETM" } else { "" };
        let _ = writeln!(text, "  {:<15} {:<15} id {id:<7} {name}{whose}", interface.name, program.hook);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Feature, OnHook};

    #[test]
    fn everything_found_is_shown_and_nothing_found_is_said() {
        let mut found = Findings { kernel: "6.1".into(), ..Findings::default() };
        let text = render(&found);
        assert!(text.contains("nothing is attached") && text.ends_with("problems\n  none\n"), "{text}");
        let program = OnHook { hook: "tcx egress".into(), id: Some(7), name: None, ours: false };
        found.interfaces = vec![Interface { ifindex: 3, name: "wan0".into(), programs: vec![program] }];
        found.features = vec![Feature { name: "tcx".into(), works: None, detail: "not tried".into() }];
        found.problems = vec!["CAP_BPF is missing".into()];
        let text = render(&found);
        for shown in
            ["wan0", "id 7", "(name needs CAP_SYS_ADMIN)", "unknown  not tried", "CAP_BPF is missing"]
        {
            assert!(text.contains(shown), "{shown}: {text}");
        }
    }
}
