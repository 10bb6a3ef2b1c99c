//! The figures of a run and what has to be true of them.

use serde::Serialize;
use serde_json::{Value, json};

/// Most time from the first overloaded sample to the first moved packet, in milliseconds.
const SHIFT_LIMIT_MS: f64 = 3000.0;
/// Most time from the first overloaded sample to core's best route, in milliseconds.
const BGP_LIMIT_MS: f64 = 4000.0;
/// Most time from the loss of carrier to the last affected destination elsewhere, in milliseconds.
const LINK_LIMIT_MS: f64 = 2000.0;
/// Most time from `etm off` to the last effect gone, in milliseconds.
const OFF_LIMIT_MS: f64 = 1000.0;
/// Most relative error of the conservation identity in bytes.
const CONSERVATION_LIMIT: f64 = 0.001;

/// What a run measured; `None` (`null`) is a figure that never came to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Demand step to the first sample that ETM calls overloaded.
    pub step_to_overload_ms: Option<f64>,
    /// Demand step to the arrival of the first moved packet.
    pub step_to_shift_ms: Option<f64>,
    /// First overloaded sample to the arrival of the first moved packet.
    pub overload_to_shift_ms: Option<f64>,
    /// First overloaded sample to core's first best route from ETM.
    pub overload_to_bgp_ms: Option<f64>,
    /// First overloaded sample to the last move of the relief.
    pub overload_to_relieved_ms: Option<f64>,
    /// Loss of carrier to the last affected destination arriving by another provider.
    pub link_down_to_moved_ms: Option<f64>,
    /// Loss of carrier to no uplink above its limit again.
    pub link_down_to_relieved_ms: Option<f64>,
    /// Start of `etm off` to the last effect of ETM gone, in the kernel and at core.
    pub off_ms: Option<f64>,
    /// Run time of the command `etm off` itself.
    pub off_command_ms: Option<f64>,
    /// Bytes: worst 10 s window without qdisc drops, as ETM's own books say.
    pub conservation_error_ratio: Option<f64>,
    /// Packets, drops and backlog included: worst window of the whole run.
    pub conservation_packet_error: Option<u64>,
    /// Windows that these two come from.
    pub conservation_windows: Option<u64>,
    /// How often ETM's decisions stood still after its start, drops or not.
    pub times_frozen: Option<u64>,
    /// Share of packets lost in the steady state.
    pub loss_ratio_steady: Option<f64>,
    /// Share of packets lost from the demand step to the first moved packet.
    pub loss_ratio_before_shift: Option<f64>,
    /// Share of packets lost from the first moved packet until the queue of the relieved uplink has drained.
    pub loss_ratio_during_shift: Option<f64>,
    /// Share of packets lost after the relief, until the link is cut.
    pub loss_ratio_after_shift: Option<f64>,
    /// Share of packets lost after the second relief, with transit-b gone.
    pub loss_ratio_after_link_down: Option<f64>,
    /// Highest load of an uplink after the relief, as a share of its limit.
    pub worst_uplink_after_shift: Option<f64>,
    /// Highest load of an uplink after the second relief, as a share of its limit.
    pub worst_uplink_after_link_down: Option<f64>,
    /// The same after `etm off`: what plain routing makes of this demand.
    pub loss_ratio_after_off: Option<f64>,
    /// Overrides before the demand step.
    pub overrides_before_step: Option<u64>,
    /// Overrides after the relief.
    pub overrides_after_shift: Option<u64>,
    /// Overrides that core's BIRD did not show.
    pub overrides_not_at_core: Option<u64>,
    /// Packets that the kernel sent to ETM's table while the relieved state was watched.
    pub packets_marked: Option<u64>,
    /// Packets that the kernel sent there after `etm off` returned.
    pub packets_marked_after_off: Option<u64>,
    /// Packets sent after `etm off` returned that still took an override.
    pub kernel_effect_left: Option<u64>,
    /// Routes from ETM left at core after `etm off`.
    pub bgp_routes_left: Option<u64>,
    /// Routes and rules of ETM left in the kernel after the agent ended.
    pub kernel_objects_left: Option<u64>,
    /// Exit status of the agent after SIGTERM.
    pub agent_exit_status: Option<i32>,
    /// Why the run was cut short, if it was.
    pub error: Option<String>,
    /// Length of the run after set-up.
    pub duration_s: Option<f64>,
}

impl Figures {
    /// What a reader wants to know first, as text; `-` is a figure that never came to be.
    pub(crate) fn headlines(&self) -> Vec<(&'static str, String)> {
        let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.0} ms"));
        let percent =
            |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{:.2} %", v * 100.0));
        vec![
            ("first overloaded sample to first moved packet", ms(self.overload_to_shift_ms)),
            ("first overloaded sample to core's best route", ms(self.overload_to_bgp_ms)),
            ("first overloaded sample to last move", ms(self.overload_to_relieved_ms)),
            ("carrier lost to last affected destination elsewhere", ms(self.link_down_to_moved_ms)),
            ("`etm off` to its last effect gone", ms(self.off_ms)),
            ("lost from the demand step to the shift", percent(self.loss_ratio_before_shift)),
            ("lost from the first to the last move", percent(self.loss_ratio_during_shift)),
            ("lost after the shift", percent(self.loss_ratio_after_shift)),
            ("lost after `etm off`, by plain routing", percent(self.loss_ratio_after_off)),
        ]
    }
}

/// Whether everything held.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The figures judged.
    pub figures: Figures,
    /// One entry per condition: its name, and whether it held.
    pub conditions: Vec<(&'static str, bool)>,
}

impl Verdict {
    /// Judges a run. A figure that is missing has not held.
    pub fn of(figures: Figures) -> Self {
        let f = &figures;
        let within = |value: Option<f64>, limit: f64| value.is_some_and(|v| (0.0..=limit).contains(&v));
        let zero = |value: Option<f64>| within(value, 0.0);
        let none = |value: Option<u64>| value == Some(0);
        let conditions = vec![
            (
                "in the steady state nothing is overridden and nothing lost",
                none(f.overrides_before_step) && zero(f.loss_ratio_steady),
            ),
            (
                "plain routing alone loses packets of this demand",
                // With ETM the first packets are moved before the queue is full, or after.
                f.loss_ratio_after_off.is_some_and(|loss| loss > 0.0),
            ),
            (
                "the kernel forwards the first moved packet within 3 s of the first overloaded sample",
                within(f.overload_to_shift_ms, SHIFT_LIMIT_MS),
            ),
            (
                "core routes by ETM's announcement within 4 s of it",
                within(f.overload_to_bgp_ms, BGP_LIMIT_MS),
            ),
            (
                "core shows every override",
                f.overrides_after_shift.is_some_and(|n| n > 0) && none(f.overrides_not_at_core),
            ),
            ("after the shift no uplink is above its limit", within(f.worst_uplink_after_shift, 1.0)),
            ("after the shift nothing is lost", zero(f.loss_ratio_after_shift)),
            ("traffic leaves a dead link within 2 s", within(f.link_down_to_moved_ms, LINK_LIMIT_MS)),
            (
                "without transit-b no uplink is above its limit and nothing is lost",
                within(f.worst_uplink_after_link_down, 1.0) && zero(f.loss_ratio_after_link_down),
            ),
            ("bytes are conserved within 0.1 %", within(f.conservation_error_ratio, CONSERVATION_LIMIT)),
            ("packets are conserved exactly", none(f.conservation_packet_error)),
            ("saturation does not freeze the agent", none(f.times_frozen)),
            ("`etm off` returns everything to plain routing within 1 s", within(f.off_ms, OFF_LIMIT_MS)),
            (
                "after `etm off` no packet takes an override",
                none(f.kernel_effect_left)
                    && none(f.packets_marked_after_off)
                    && f.packets_marked.is_some_and(|n| n > 0),
            ),
            ("after `etm off` core has no route from ETM", none(f.bgp_routes_left)),
            (
                "after SIGTERM the agent ends with success and leaves no route and no rule",
                none(f.kernel_objects_left) && f.agent_exit_status == Some(0),
            ),
        ];
        Self { figures, conditions }
    }

    /// Whether every condition held.
    pub fn held(&self) -> bool {
        self.conditions.iter().all(|(_, held)| *held)
    }

    /// The object that ends a JSON run: every figure, and the conditions that failed.
    pub fn to_json(&self) -> Value {
        let mut object = serde_json::to_value(&self.figures).unwrap_or_else(|_| json!({}));
        object["held"] = json!(self.held());
        object["failed"] =
            self.conditions.iter().filter(|(_, held)| !held).map(|(name, _)| json!(name)).collect();
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Figures {
        Figures {
            step_to_overload_ms: Some(1000.0),
            step_to_shift_ms: Some(1500.0),
            overload_to_shift_ms: Some(500.0),
            overload_to_bgp_ms: Some(520.0),
            overload_to_relieved_ms: Some(600.0),
            link_down_to_moved_ms: Some(40.0),
            link_down_to_relieved_ms: Some(2000.0),
            off_ms: Some(30.0),
            off_command_ms: Some(20.0),
            conservation_error_ratio: Some(0.0),
            conservation_packet_error: Some(0),
            conservation_windows: Some(9),
            times_frozen: Some(0),
            loss_ratio_steady: Some(0.0),
            loss_ratio_before_shift: Some(0.0),
            loss_ratio_during_shift: Some(0.0),
            loss_ratio_after_off: Some(0.1),
            loss_ratio_after_shift: Some(0.0),
            loss_ratio_after_link_down: Some(0.0),
            worst_uplink_after_shift: Some(0.97),
            worst_uplink_after_link_down: Some(0.99),
            overrides_before_step: Some(0),
            overrides_after_shift: Some(3),
            overrides_not_at_core: Some(0),
            packets_marked: Some(1000),
            packets_marked_after_off: Some(0),
            kernel_effect_left: Some(0),
            bgp_routes_left: Some(0),
            kernel_objects_left: Some(0),
            agent_exit_status: Some(0),
            error: None,
            duration_s: Some(60.0),
        }
    }

    #[test]
    fn a_run_holds_only_when_every_figure_is_there_and_good() {
        assert!(Verdict::of(good()).held());
        assert!(!Verdict::of(Figures::default()).conditions.iter().any(|(_, held)| *held));
        let check = |title: &str, spoil: fn(&mut Figures)| {
            let mut figures = good();
            spoil(&mut figures);
            assert!(!Verdict::of(figures).held(), "{title}");
        };
        check("too slow", |f| f.overload_to_shift_ms = Some(3001.0));
        check("a move before the overload", |f| f.overload_to_shift_ms = Some(-1.0));
        check("an overload that was none", |f| f.loss_ratio_after_off = Some(0.0));
        check("one packet too many after off", |f| f.kernel_effect_left = Some(1));
        check("a limit passed", |f| f.worst_uplink_after_shift = Some(1.001));
        check("no override at all", |f| f.overrides_after_shift = Some(0));
    }
}
