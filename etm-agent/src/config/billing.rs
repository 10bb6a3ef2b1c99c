//! On what basis each uplink's rates are: what the providers behind it say, who must agree. Never converts anything.

use super::raw;
use super::report::Fault;
use crate::core::billing::{Billing, Layer};
use crate::core::policy::Uplink;
use std::collections::BTreeMap;

/// More tags than this no frame has that ETM looks through.
const MOST_TAGS: i8 = 2;

/// Gives each uplink the basis of its providers; returns what is wrong with it.
pub(super) fn settle(providers: &[raw::Provider], uplinks: &mut [Uplink]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut settled: BTreeMap<&str, (Billing, &str)> = BTreeMap::new();
    for provider in providers {
        let billing = of_provider(provider, &mut faults);
        for exit in provider.exits.get_ref() {
            let (name, ours) = (exit.interface.get_ref().as_str(), provider.name.get_ref().as_str());
            let (before, theirs) = *settled.entry(name).or_insert((billing, ours));
            if before != billing {
                let message = format!(
                    "interface `{name}` is billed as {billing} by `{ours}` and as {before} by `{theirs}`: no rate could be \
                     compared with its capacity"
                );
                let help = "give all providers of one interface the same `billing` and `billed_tags`";
                let span = Some(exit.interface.span());
                faults.push(Fault { span, message, help: Some(help.to_owned()) });
            }
            if let Some(uplink) = uplinks.iter_mut().find(|uplink| uplink.name == name) {
                uplink.billing = before;
            }
        }
    }
    faults
}

fn of_provider(provider: &raw::Provider, faults: &mut Vec<Fault>) -> Billing {
    let mut fault = |span, message| faults.push(Fault { span: Some(span), message, help: None });
    let mut layer = Layer::default();
    if let Some(text) = &provider.billing {
        match text.get_ref().parse() {
            Ok(found) => layer = found,
            Err(error) => fault(text.span(), format!("{error}")),
        }
    }
    let Some(tags) = &provider.billed_tags else { return Billing::new(layer, 0) };
    if !(-MOST_TAGS..=MOST_TAGS).contains(tags.get_ref()) {
        fault(tags.span(), format!("billed_tags must be between -{MOST_TAGS} and {MOST_TAGS}"));
    } else if layer == Layer::Packet && *tags.get_ref() > 0 {
        fault(
            tags.span(),
            "with billing = \"l3\" no tag is billed; billed_tags must not be above zero".into(),
        );
    }
    Billing::new(layer, *tags.get_ref())
}
