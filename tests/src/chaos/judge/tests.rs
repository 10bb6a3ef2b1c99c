//! Worlds that are broken, and that the judge must call so; and worlds that are not.

use super::*;
use crate::chaos::timeline::Span;

const TERMS: Terms = Terms::of(3, 3);
const A: &str = "10.1.0.1";
const B: &str = "10.2.0.1";

fn way(prefix: &str, gateway: &str, protocol: u8) -> Way {
    Way {
        prefix: prefix.parse().unwrap(),
        kind: Kind::Unicast,
        protocol,
        metric: 32,
        gateway: Some(gateway.parse().unwrap()),
        usable: true,
    }
}

fn expected() -> Expected {
    let gateways = [(A, Provider::TransitA), (B, Provider::TransitB)];
    Expected {
        baseline: vec![way("198.18.100.0/24", A, 12)],
        table: Table::standard(),
        gateways: gateways.map(|(text, provider)| (text.parse().unwrap(), provider)).into_iter().collect(),
        community: "(64500,179)".to_owned(),
    }
}

fn heard(prefix: &str, communities: &str) -> Heard {
    Heard {
        prefix: Some(prefix.parse().unwrap()),
        session: crate::traces::CORE_SESSION.to_owned(),
        communities: communities.to_owned(),
    }
}

/// Looks each 50 ms of ten seconds, all alike.
fn looks((look, hearing): &Seen) -> (Vec<Look>, Vec<Hearing>) {
    let at = |i: u64| (i * 50 * MS, i * 50 * MS + MS);
    (0..200)
        .map(|i| {
            let (from, until) = at(i);
            (Look { from, until, ..look.clone() }, Hearing { from, until, ..hearing.clone() })
        })
        .unzip()
}

type Seen = (Look, Hearing);

fn window(at: Moment, by: Provider, sent: u64, arrived: u64) -> Window {
    let destination = "198.18.100.1".parse().unwrap();
    Window {
        from: at,
        until: at + 50 * MS,
        sent: BTreeMap::from([(destination, sent)]),
        arrived: BTreeMap::from([((by, destination), arrived)]),
    }
}

fn kinds(
    (looks, hearings): &(Vec<Look>, Vec<Hearing>),
    windows: &[Window],
    timeline: &Timeline,
) -> Vec<&'static str> {
    let mut findings = Findings::new(0);
    Case { looks, hearings, windows, timeline, terms: &TERMS, expected: &expected() }.judge(&mut findings);
    assert_eq!(findings.blind, 0);
    let mut kinds: Vec<&str> = findings.into_list().into_iter().map(|violation| violation.kind).collect();
    kinds.dedup();
    kinds
}

fn steered() -> Seen {
    let look = Look {
        main: vec![way("198.18.100.0/24", A, 12)],
        own: vec![way("198.18.100.0/24", B, 179)],
        ..Look::default()
    };
    (look, hearing(vec![heard("198.18.100.0/24", "(64500,179) (65535,65281)")]))
}

fn hearing(core: Vec<Heard>) -> Hearing {
    Hearing { core: Some(core), ..Hearing::default() }
}

fn plain() -> Seen {
    (Look { own: Vec::new(), ..steered().0 }, hearing(Vec::new()))
}

#[test]
fn an_override_that_the_table_explains_is_none() {
    let windows = [window(1000 * MS, Provider::TransitB, 5, 5), window(1050 * MS, Provider::TransitA, 5, 5)];
    assert_eq!(kinds(&looks(&steered()), &windows, &Timeline::default()), Vec::<&str>::new());
}

#[test]
fn a_packet_that_neither_table_sends_there_is_a_detour() {
    let windows = [window(1000 * MS, Provider::TransitB, 5, 5)];
    assert_eq!(kinds(&looks(&plain()), &windows, &Timeline::default()), ["detour"]);
}

#[test]
fn an_override_that_outlives_its_lease_is_found_in_kernel_and_core() {
    let absent = vec![Span { from: 1000 * MS, until: u64::MAX }];
    let timeline = Timeline { absent, ..Timeline::default() };
    let within = [window(4000 * MS, Provider::TransitB, 5, 5)];
    let beyond = [window(4600 * MS, Provider::TransitB, 5, 5)];
    let quiet = (steered().0, hearing(Vec::new()));
    assert_eq!(kinds(&looks(&quiet), &within, &timeline), Vec::<&str>::new());
    assert_eq!(kinds(&looks(&quiet), &beyond, &timeline), ["stale-override"]);
    assert_eq!(kinds(&looks(&steered()), &within, &timeline), ["stale-announcement"]);
}

#[test]
fn nothing_is_in_effect_a_second_after_off() {
    let off = vec![Span { from: 1000 * MS, until: u64::MAX }];
    let timeline = Timeline { off, ..Timeline::default() };
    let windows = [window(2100 * MS, Provider::TransitB, 5, 5)];
    assert_eq!(kinds(&looks(&steered()), &windows, &timeline), ["stale-announcement", "stale-override"]);
}

#[test]
fn announcements_without_no_export_or_outside_the_rib_and_leaks_are_found() {
    let check = |core: Heard, expected: &[&str]| {
        let seen = (steered().0, hearing(vec![core]));
        assert_eq!(kinds(&looks(&seen), &[], &Timeline::default()), expected);
    };
    check(heard("198.18.100.0/24", "(64500,179) (65535,65281)"), &[]);
    check(heard("198.18.100.0/24", "(64500,179)"), &["announcement"]);
    check(heard("198.18.100.0/25", "(64500,179) (65535,65281)"), &["announcement"]);
    let leaks = vec!["transit-a has 198.18.100.0/24".to_owned()];
    let leaking = (steered().0, Hearing { leaks, ..hearing(Vec::new()) });
    assert_eq!(kinds(&looks(&leaking), &[], &Timeline::default()), ["leak"]);
}

#[test]
fn a_route_of_etm_or_of_nobody_in_the_main_table_is_found() {
    let check = |strange: Way, expected: &[&str]| {
        let seen = (Look { main: vec![way("198.18.100.0/24", A, 12), strange], ..steered().0 }, steered().1);
        assert_eq!(kinds(&looks(&seen), &[], &Timeline::default()), expected);
    };
    check(way("198.18.101.0/24", A, 12), &[]);
    check(way("198.18.101.0/24", A, 179), &["main-touched"]);
    check(way("198.18.101.0/24", "10.9.9.9", 12), &["main-strange"]);
    check(way("203.0.113.0/24", A, 4), &["main-strange"]);
}

#[test]
fn an_override_without_a_candidate_is_found_once_the_agent_had_time_to_act() {
    let mut timeline = Timeline::default();
    timeline.lose(Provider::TransitB, None, 9800 * MS);
    assert_eq!(kinds(&looks(&steered()), &[], &timeline), Vec::<&str>::new());
    timeline.lose(Provider::TransitB, None, 5000 * MS);
    assert_eq!(kinds(&looks(&steered()), &[], &timeline), ["no-candidate"]);
    let nobodys = (Look { own: vec![way("198.18.100.0/24", "10.9.9.9", 179)], ..steered().0 }, steered().1);
    assert_eq!(kinds(&looks(&nobodys), &[], &Timeline::default()), ["no-candidate"]);
}

#[test]
fn loss_is_a_violation_unless_a_fault_or_a_missing_route_explains_it() {
    let lossy = [window(5000 * MS, Provider::TransitA, 5, 3)];
    assert_eq!(kinds(&looks(&steered()), &lossy, &Timeline::default()), ["loss"]);
    let mut timeline = Timeline::default();
    timeline.excuse(4900 * MS, 500 * MS);
    assert_eq!(kinds(&looks(&steered()), &lossy, &timeline), Vec::<&str>::new());
    let routeless = (Look { main: Vec::new(), ..plain().0 }, plain().1);
    let lost = [Window { arrived: BTreeMap::new(), ..lossy[0].clone() }];
    assert_eq!(kinds(&looks(&routeless), &lost, &Timeline::default()), Vec::<&str>::new());
}
