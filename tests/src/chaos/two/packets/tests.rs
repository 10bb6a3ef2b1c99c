//! Worlds with two borders that are broken, and that the judge must call so; and worlds that are not.

use super::super::Announced;
use super::*;
use crate::chaos::kernel::Kind;

const TERMS: Terms = Terms::of(3, 3);
const TO_A: &str = "10.0.1.1";
const TO_B: &str = "10.0.2.1";
const OUT_A: &str = "10.1.0.1";
const OUT_B: &str = "10.2.0.1";
const A_TO_B: &str = "10.0.3.2";

fn way(gateway: &str) -> Vec<Way> {
    let prefix = "198.18.1.0/24".parse().unwrap();
    let gateway = Some(gateway.parse().unwrap());
    vec![Way { prefix, kind: Kind::Unicast, protocol: 12, metric: 32, gateway, usable: true }]
}

/// Ten seconds in which core sends the prefix to one border, and each border where its gateway says.
fn looks(core: &str, border_a: &str, border_b: &str, own_a: &[&str]) -> Vec<Look> {
    let plain = |gateway: &str| Tables { main: vec![way(gateway)], own: Vec::new() };
    let own = own_a.iter().map(|gateway| way(gateway)).collect();
    let borders = [(Side::A, Tables { own, ..plain(border_a) }), (Side::B, plain(border_b))];
    let look = |at: u64| Look {
        from: at * MS,
        until: at * MS + MS,
        core: plain(core),
        borders: borders.clone().into(),
        lost: false,
    };
    (0..200).map(|i| look(i * 50)).collect()
}

/// Core hears the same for ten seconds: an announcement of `by` that leads to the second border, or none.
fn hears(by: Option<Side>) -> Vec<Heard> {
    let prefix = "198.18.1.0/24".parse().unwrap();
    let routes: Vec<Announced> = by.map(|by| Announced { prefix, by, exit: Side::B }).into_iter().collect();
    let heard =
        |at: u64| Heard { from: at * MS, until: at * MS + MS, routes: routes.clone(), wrong: Vec::new() };
    (0..200).map(|i| heard(i * 50)).collect()
}

fn kinds(
    looks: &[Look],
    heard: &[Heard],
    diary_of_a: Timeline,
    (at, by): (u64, Provider),
) -> Vec<&'static str> {
    let diaries = BTreeMap::from([(Side::A, diary_of_a), (Side::B, Timeline::default())]);
    let hops = hops();
    let case = Case { looks, heard, diaries: &diaries, terms: &TERMS, hops: &hops };
    let window = Window {
        from: at * MS,
        until: (at + 50) * MS,
        sent: BTreeMap::new(),
        arrived: BTreeMap::from([((by, "198.18.1.1".parse().unwrap()), 5)]),
    };
    let mut findings = Findings::new(0);
    case.judge(&window, &mut findings);
    assert_eq!(findings.blind, 0);
    findings.into_list().into_iter().map(|violation| violation.kind).collect()
}

const NONE: &[&str] = &[];
const BY_A: Provider = Provider::TransitA;
const BY_B: Provider = Provider::TransitB;

#[test]
fn plain_routing_and_a_living_override_explain_a_packet_and_nothing_else_does() {
    let plain = looks(TO_A, OUT_A, OUT_B, &[]);
    let moved = looks(TO_B, OUT_A, OUT_B, &[]);
    for (title, looks, by, exit, expected) in [
        ("plain", &plain, None, BY_A, NONE),
        ("a detour of plain routing", &plain, None, BY_B, &["detour"]),
        ("an override", &moved, Some(Side::A), BY_B, NONE),
        ("a detour of an override", &moved, Some(Side::A), BY_A, &["detour"]),
        ("an override that nobody announces", &moved, None, BY_B, &["stale-override"]),
    ] {
        assert_eq!(kinds(looks, &hears(by), Timeline::default(), (1000, exit)), expected, "{title}");
    }
}

#[test]
fn an_override_of_an_agent_that_is_gone_or_off_is_stale_unless_the_other_one_announces_it() {
    let moved = looks(TO_B, OUT_A, OUT_B, &[]);
    let span = vec![Span { from: 1000 * MS, until: u64::MAX }];
    let gone = Timeline { absent: span.clone(), ..Timeline::default() };
    let off = Timeline { off: span, ..Timeline::default() };
    for (title, diary, by, at, expected) in [
        ("within the lease", &gone, Side::A, 5000, NONE),
        ("beyond it", &gone, Side::A, 5600, &["stale-override"][..]),
        ("by the other one", &gone, Side::B, 5600, NONE),
        ("just switched off", &off, Side::A, 1900, NONE),
        ("off for a second", &off, Side::A, 2100, &["stale-override"]),
    ] {
        assert_eq!(kinds(&moved, &hears(Some(by)), diary.clone(), (at, BY_B)), expected, "{title}");
    }
}

#[test]
fn a_border_s_own_table_counts_while_its_agent_may_override() {
    let own = looks(TO_A, OUT_A, OUT_B, &[A_TO_B]);
    let gone = Timeline { absent: vec![Span { from: 1000 * MS, until: u64::MAX }], ..Timeline::default() };
    assert_eq!(kinds(&own, &hears(None), gone.clone(), (4000, BY_B)), NONE);
    assert_eq!(kinds(&own, &hears(None), gone, (4600, BY_B)), ["stale-override"]);
}

#[test]
fn a_border_that_lost_its_provider_sends_to_the_other_and_core_s_table_is_believed_then() {
    let around = looks(TO_A, A_TO_B, OUT_B, &[]);
    assert_eq!(kinds(&around, &hears(None), Timeline::default(), (1000, BY_B)), NONE);
    let direct = looks(TO_B, A_TO_B, OUT_B, &[]);
    let mut lost = Timeline::default();
    lost.lose(BY_A, None, 500 * MS);
    assert_eq!(kinds(&direct, &hears(None), lost, (1000, BY_B)), NONE);
}

#[test]
fn what_core_sends_elsewhere_for_a_moment_is_held_against_nobody_but_a_detour_still_is() {
    let mut looks = looks(TO_A, OUT_A, OUT_B, &[]);
    looks[20].core.main = vec![way(TO_A), way(TO_B), way(TO_A)];
    assert_eq!(kinds(&looks, &hears(None), Timeline::default(), (1000, BY_B)), NONE);
    assert_eq!(kinds(&looks, &hears(None), Timeline::default(), (2000, BY_B)), ["detour"]);
}

#[test]
fn a_window_of_which_changes_were_lost_is_blind() {
    let mut plain = looks(TO_A, OUT_A, OUT_B, &[]);
    plain[20].lost = true;
    let (diaries, hops) = (BTreeMap::new(), hops());
    let case = Case { looks: &plain, heard: &[], diaries: &diaries, terms: &TERMS, hops: &hops };
    let mut findings = Findings::new(0);
    case.judge(&Window { from: 1000 * MS, until: 1050 * MS, ..Window::default() }, &mut findings);
    assert_eq!(findings.blind, 1);
}
