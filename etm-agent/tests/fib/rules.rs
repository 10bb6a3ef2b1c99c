//! Rules in the kernel.

use crate::netns::{in_netns, run};
use etm_agent::fib::{FibError, MarkRule, OwnTable, ensure_rules, remove_rules};

const OWN: OwnTable = OwnTable { table: 179, protocol: 179 };
const RULE: MarkRule = MarkRule { mark: 0x0e00_0000, mask: 0x0f00_0000, priority: 1790 };

fn rules() -> String {
    run("ip -4 rule; ip -6 rule")
}

#[test]
fn the_rule_is_made_once_replaced_when_the_numbers_change_and_removed() {
    in_netns(async || {
        let before = rules();
        ensure_rules(OWN, RULE).await.unwrap();
        ensure_rules(OWN, RULE).await.unwrap();
        let with = rules();
        assert_eq!(with.matches("fwmark 0xe000000/0xf000000 lookup 179 proto 179").count(), 2, "{with}");
        let other = MarkRule { mark: 0x0100_0000, priority: 900, ..RULE };
        ensure_rules(OWN, other).await.unwrap();
        let with = rules();
        assert_eq!(with.matches("lookup 179").count(), 2, "{with}");
        assert_eq!(with.matches("900:\tfrom all fwmark 0x1000000/0xf000000").count(), 2, "{with}");
        assert_eq!(remove_rules(OWN).await.unwrap(), 2);
        assert_eq!(remove_rules(OWN).await.unwrap(), 0);
        assert_eq!(rules(), before);
    });
}

#[test]
fn rules_of_others_are_refused_with_their_text_and_left_alone() {
    for (foreign, says) in [
        ("ip rule add from 192.0.2.0/24 lookup 100 priority 1790", "priority"),
        ("ip rule add fwmark 0xe000000/0xf000000 lookup 100 priority 50", "mark"),
        ("ip -6 rule add fwmark 0xe000000 lookup 100 priority 50", "mark"),
    ] {
        in_netns(async move || {
            run(foreign);
            let before = rules();
            let error = ensure_rules(OWN, RULE).await.unwrap_err();
            assert!(matches!(error, FibError::RuleConflict { .. }), "{error}");
            assert!(error.to_string().contains(says) && error.to_string().contains("lookup 100"), "{error}");
            assert_eq!(rules(), before);
            assert_eq!(remove_rules(OWN).await.unwrap(), 0);
            assert_eq!(rules(), before);
        });
    }
}

#[test]
fn a_rule_behind_main_is_refused() {
    in_netns(async || {
        let error = ensure_rules(OWN, MarkRule { priority: 40_000, ..RULE }).await.unwrap_err();
        assert!(matches!(error, FibError::RulePriority { .. }), "{error}");
    });
}
