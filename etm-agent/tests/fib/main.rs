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
