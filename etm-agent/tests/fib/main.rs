//! The kernel adapter against a real kernel, in network namespaces that each test makes for itself.
//! Never touches the namespace it was started in; without root each test says SKIP and why.

#[cfg(test)]
mod gateways;
#[cfg(test)]
mod links;
#[cfg(test)]
mod main_table;
#[cfg(test)]
mod netns;
#[cfg(test)]
mod overrides;
#[cfg(test)]
mod probe;
#[cfg(test)]
mod routes;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod stats;

/// The next word of the task that keeps the kernel's routes; what it says of other programs' changes is passed over.
#[cfg(test)]
async fn next_installed(
    reports: &mut tokio::sync::mpsc::Receiver<etm_agent::core::input::Input>,
) -> etm_agent::core::input::Installed {
    loop {
        match reports.recv().await.expect("the task reports until it is stopped") {
            etm_agent::core::input::Input::Installed(installed) => return installed,
            etm_agent::core::input::Input::Site(_) => {}
            other => panic!("{other:?}"),
        }
    }
}
