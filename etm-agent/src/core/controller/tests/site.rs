//! What other programs do to what ETM keeps in the kernel.

use super::*;
use crate::core::input::SiteEvent;

#[test]
fn a_rule_that_is_put_back_is_said_and_counted_and_one_that_is_given_up_stands_still_with_a_name() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    let outcome = world.give(Input::Site(SiteEvent::RulesPutBack(1)));
    assert!(outcome.events.iter().any(|event| event.kind == EventKind::RulesPutBack { rules: 1 }));
    assert!(world.holds().is_empty());
    assert_eq!(world.controller.status(world.now).site.rules_put_back, 1);
    world.give(Input::Site(SiteEvent::RuleMissing(Some("removed 4 times".to_owned()))));
    assert_eq!(world.holds().iter().map(Hold::name).collect::<Vec<_>>(), ["rule-missing"]);
    assert_eq!(world.controller.state(), State::Frozen);
    assert_eq!(world.overridden(), ["198.18.2.0/24"], "what stands stays");
    world.give(Input::Site(SiteEvent::RuleMissing(None)));
    assert_eq!(world.controller.state(), State::Steering);
}
