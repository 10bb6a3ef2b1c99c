//! What other programs do to what ETM keeps in the kernel.

use super::*;
use crate::core::input::{ForeignRoutes, SiteEvent};

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

#[test]
fn routes_of_others_in_etms_table_freeze_with_a_name_until_they_are_gone_and_are_said_once() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    let there = |count| {
        Input::Site(SiteEvent::ForeignRoutes(Some(ForeignRoutes {
            count,
            first: p("198.18.2.0/24"),
            protocol: 3,
        })))
    };
    world.give(there(1));
    world.give(there(2));
    assert_eq!(world.holds().iter().map(Hold::name).collect::<Vec<_>>(), ["foreign-routes"]);
    assert_eq!(world.controller.state(), State::Frozen);
    world.give(Input::Site(SiteEvent::ForeignRoutes(None)));
    assert_eq!(world.controller.state(), State::Steering);
    let said =
        |kind: &EventKind| matches!(kind, EventKind::ForeignRoutes { .. } | EventKind::ForeignRoutesGone);
    let events = world.controller.events(0);
    assert_eq!(events.iter().filter(|view| said(&view.event.kind)).count(), 2, "{events:?}");
}

#[test]
fn own_routes_that_others_change_are_counted_and_nothing_stands_still() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    let outcome = world.give(Input::Site(SiteEvent::RoutesTouched { count: 2, first: p("198.18.2.0/24") }));
    assert!(
        outcome.events.iter().any(|event| matches!(event.kind, EventKind::RoutesTouched { routes: 2, .. }))
    );
    assert_eq!(world.controller.status(world.now).site.routes_touched, 2);
    assert!(world.holds().is_empty());
}

#[test]
fn what_speaks_against_acting_is_a_guard_by_name_and_holds_nothing() {
    let mut world = World::ready(two_exits(), &FOUR);
    world.second(&STEP);
    let named = |world: &World| {
        let guards = world.controller.status(world.now).guards;
        guards.into_iter().find(|guard| guard.guard == "would-refuse").map(|guard| guard.detail)
    };
    assert_eq!(named(&world), None);
    world.give(Input::Site(SiteEvent::Refusals(vec!["one".to_owned(), "two".to_owned()])));
    assert_eq!(named(&world).as_deref(), Some("one; two"));
    assert!(world.holds().is_empty());
    world.give(Input::Site(SiteEvent::Refusals(Vec::new())));
    assert_eq!(named(&world), None);
}
