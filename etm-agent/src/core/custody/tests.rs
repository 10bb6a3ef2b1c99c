//! The guardian's rules, by tables of events and times.

use super::*;
use crate::types::{ExitId, RouteAttrs};
use proptest::prelude::*;

const LEASE: Duration = Duration::from_secs(10);

fn terms() -> Terms {
    Terms {
        lease: LEASE,
        patience: Some(Duration::from_secs(5)),
        adopt: Duration::from_secs(30),
        linger: Some(Duration::from_secs(60)),
    }
}

/// A moment in milliseconds after some boot.
fn at(ms: u64) -> Timestamp {
    Timestamp(1_000_000_000_000 + ms * 1_000_000)
}

fn route(number: u8, exit: u16) -> (Prefix, Announcement) {
    let attrs = Arc::new(RouteAttrs::to_next_hop("10.0.1.1".parse().unwrap()));
    (format!("198.18.{number}.0/24").parse().unwrap(), Announcement { exit: ExitId(exit), attrs })
}

fn whole(generation: u64, routes: &[u8]) -> Change {
    Change {
        fresh: true,
        generation: Generation(generation),
        withdrawn: Vec::new(),
        announced: routes.iter().map(|number| route(*number, 0)).collect(),
        complete: true,
    }
}

fn held(until: Timestamp) -> Tenure {
    Tenure::Held { until, decided: true }
}

fn adopting(until: Timestamp) -> Tenure {
    Tenure::Held { until, decided: false }
}

/// A guardian of an agent that decided three routes at 0 and holds its lease until 10 s.
fn guarding() -> (Custody, Epoch) {
    let mut custody = Custody::new(terms());
    let (joined, _) = custody.join(at(0), None).unwrap();
    custody.change(at(0), joined.epoch, whole(7, &[1, 2, 3])).unwrap();
    let orders = custody.renew(at(0), joined.epoch, held(at(0) + LEASE)).unwrap();
    assert_eq!(orders.tell.unwrap().announce.len(), 3);
    (custody, joined.epoch)
}

#[test]
fn a_lease_that_ends_later_than_any_lease_can_is_cut() {
    for tenure in [held, adopting] {
        let (mut custody, epoch) = guarding();
        custody.renew(at(1_000), epoch, tenure(at(3_600_000))).unwrap();
        assert_eq!(custody.until(), at(1_000) + LEASE);
    }
}

/// Looks every `LOOK` from `from` to `to` milliseconds; what was ordered, with its time.
fn look_through(custody: &mut Custody, from: u64, to: u64) -> Vec<(u64, Orders)> {
    let step = usize::try_from(LOOK.as_millis()).unwrap();
    let times = (from..=to).step_by(step);
    times
        .map(|ms| (ms, custody.look(at(ms), false)))
        .filter(|(_, orders)| *orders != Orders::default())
        .collect()
}

fn announced(custody: &Custody) -> usize {
    custody.told().announce.len()
}

#[test]
fn nothing_is_told_before_a_lease_and_nothing_after_it() {
    let mut custody = Custody::new(terms());
    let (joined, _) = custody.join(at(0), None).unwrap();
    custody.change(at(0), joined.epoch, whole(1, &[1])).unwrap();
    assert_eq!(announced(&custody), 0, "without a lease");
    custody.renew(at(0), joined.epoch, held(at(1_000))).unwrap();
    assert_eq!(announced(&custody), 1);
    custody.look(at(999), false);
    assert_eq!(announced(&custody), 1);
    custody.look(at(1_000), false);
    assert_eq!(announced(&custody), 0, "the lease is over");
    custody.renew(at(1_100), joined.epoch, held(at(2_000))).unwrap();
    assert_eq!(announced(&custody), 1, "a late renewal brings back what the same agent decided");
}

#[test]
fn an_agent_that_is_killed_and_comes_back_within_the_lease_changes_nothing() {
    let (mut custody, epoch) = guarding();
    assert_eq!(custody.leave(at(2_000), epoch), Orders::default());
    let (joined, orders) = custody.join(at(3_000), None).unwrap();
    assert_eq!(orders, Orders::default());
    assert_eq!((joined.held, joined.off, joined.keep_until), (3, false, at(40_000)));
    assert_eq!(custody.renew(at(9_000), joined.epoch, adopting(at(19_000))).unwrap(), Orders::default());
    assert_eq!(look_through(&mut custody, 9_000, 15_000), []);
    let orders = custody.change(at(15_000), joined.epoch, whole(1, &[1, 2, 3])).unwrap();
    assert_eq!(orders.takeover, Some(Takeover { kept: 3, changed: 0 }));
    assert_eq!(orders.tell.unwrap().announce.len(), 3, "under the new agent's number");
    custody.renew(at(15_000), joined.epoch, held(at(25_000))).unwrap();
    assert_eq!(look_through(&mut custody, 15_000, 24_750), []);
}

#[test]
fn what_an_undecided_agent_may_keep_ends_however_often_it_restarts() {
    let (mut custody, mut epoch) = guarding();
    let mut last = 0;
    for restart in 0..60 {
        let now = 1_000 * restart + 500;
        custody.leave(at(now), epoch);
        epoch = custody.join(at(now), None).unwrap().0.epoch;
        let _ = custody.renew(at(now + 100), epoch, adopting(at(now + 100) + LEASE));
        custody.look(at(now + 200), false);
        if announced(&custody) > 0 {
            last = now;
        }
    }
    // The deciding agent's lease ended at 10 s; 30 s of adoption follow.
    assert!((30_000..=40_000).contains(&last), "announced until {last} ms");
    assert_eq!(announced(&custody), 0);
}

#[test]
fn a_shorter_promise_of_an_undecided_agent_does_not_cut_the_lease_it_found() {
    let (mut custody, epoch) = guarding();
    custody.leave(at(1_000), epoch);
    let (joined, _) = custody.join(at(1_000), None).unwrap();
    custody.renew(at(1_000), joined.epoch, adopting(at(2_000))).unwrap();
    assert_eq!(custody.until(), at(10_000));
}

#[test]
fn an_observer_that_follows_withdraws_at_once() {
    let (mut custody, epoch) = guarding();
    custody.leave(at(1_000), epoch);
    let (joined, _) = custody.join(at(1_000), None).unwrap();
    let orders = custody.renew(at(1_000), joined.epoch, Tenure::Released).unwrap();
    assert_eq!(orders.tell.unwrap().announce.len(), 0);
}

#[test]
fn an_agent_that_another_one_followed_is_not_heard() {
    let (mut custody, old) = guarding();
    let (joined, orders) = custody.join(at(1_000), None).unwrap();
    assert_eq!(orders.dismiss, Some(old));
    let before = Arc::clone(custody.told());
    assert_eq!(custody.change(at(1_100), old, whole(8, &[9])), Err(Refusal::Superseded));
    assert_eq!(custody.renew(at(1_100), old, held(at(99_000))), Err(Refusal::Superseded));
    assert_eq!(custody.renew(at(1_100), old, Tenure::Released), Err(Refusal::Superseded));
    assert_eq!(custody.on(at(1_100), old), Err(Refusal::Superseded));
    assert_eq!(custody.stop(at(1_100), old), Err(Refusal::Superseded));
    assert_eq!(custody.join(at(1_200), Some(old)).unwrap_err(), Refusal::Superseded, "nor by the back door");
    assert_eq!(custody.leave(at(1_200), old), Orders::default(), "its end says nothing about the other");
    assert_eq!((custody.told(), custody.until()), (&before, at(10_000)));
    assert!(custody.change(at(1_300), joined.epoch, whole(1, &[1])).is_ok());
}

#[test]
fn an_agent_whose_connection_broke_returns_as_itself() {
    let (mut custody, epoch) = guarding();
    custody.leave(at(1_000), epoch);
    let (joined, _) = custody.join(at(1_100), Some(epoch)).unwrap();
    assert!(joined.epoch > epoch);
    // And so it does to a guardian that was started anew.
    assert!(Custody::new(terms()).join(at(1_200), Some(joined.epoch)).is_ok());
}

#[test]
fn a_hung_agent_is_ended_once_and_only_after_its_lease() {
    let (mut custody, epoch) = guarding();
    let orders = look_through(&mut custody, 0, 30_000);
    let withdrawn: Vec<u64> =
        orders.iter().filter(|(_, orders)| orders.tell.is_some()).map(|(ms, _)| *ms).collect();
    let killed: Vec<(u64, Option<Epoch>)> = orders
        .iter()
        .filter(|(_, orders)| orders.kill.is_some())
        .map(|(ms, orders)| (*ms, orders.kill))
        .collect();
    assert_eq!(withdrawn, [10_000]);
    assert_eq!(killed, [(14_750, Some(epoch))]);
}

#[test]
fn who_is_not_ended() {
    let cases: [(&str, Terms, Option<Tenure>); 3] = [
        ("an agent that gave its lease up", terms(), Some(Tenure::Released)),
        ("an agent that never held one", terms(), None),
        (
            "any agent where the operator says so",
            Terms { patience: None, ..terms() },
            Some(Tenure::Held { until: at(1_000), decided: true }),
        ),
    ];
    for (title, terms, tenure) in cases {
        let mut custody = Custody::new(terms);
        let (joined, _) = custody.join(at(0), None).unwrap();
        if let Some(tenure) = tenure {
            custody.renew(at(0), joined.epoch, tenure).unwrap();
        }
        let orders = look_through(&mut custody, 0, 120_000);
        assert!(orders.iter().all(|(_, orders)| orders.kill.is_none() && !orders.end), "{title}");
    }
}

#[test]
fn an_agent_that_renews_is_not_ended() {
    let (mut custody, epoch) = guarding();
    for ms in (0..120_000).step_by(5_000) {
        custody.renew(at(ms), epoch, held(at(ms) + LEASE)).unwrap();
        let orders = look_through(&mut custody, ms, ms + 5_000);
        assert!(orders.iter().all(|(_, orders)| *orders == Orders::default()), "{ms}");
    }
}

#[test]
fn a_machine_that_was_paused_withdraws_at_once_and_gives_its_agent_time() {
    let (mut custody, epoch) = guarding();
    assert_eq!(look_through(&mut custody, 0, 2_000), []);
    // An hour of suspension between two looks.
    let orders = custody.look(at(3_600_000), false);
    assert_eq!(orders.tell.unwrap().announce.len(), 0);
    assert_eq!(orders.kill, None);
    assert_eq!(look_through(&mut custody, 3_600_250, 3_602_000), []);
    custody.renew(at(3_602_000), epoch, held(at(3_612_000))).unwrap();
    assert_eq!(announced(&custody), 3);
    assert_eq!(look_through(&mut custody, 3_602_000, 3_611_000), []);
}

#[test]
fn off_holds_until_the_agent_says_on_and_the_switch_as_long_as_it_is_off() {
    let (mut custody, epoch) = guarding();
    custody.off(at(100));
    assert_eq!(announced(&custody), 0);
    custody.renew(at(200), epoch, held(at(20_000))).unwrap();
    custody.change(at(200), epoch, whole(8, &[1])).unwrap();
    assert_eq!(announced(&custody), 0, "a renewal is not an order to act");
    custody.on(at(300), epoch).unwrap();
    assert_eq!(announced(&custody), 1);
    custody.look(at(400), true);
    assert_eq!(announced(&custody), 0);
    // An operator's `on` may have turned it since we looked.
    assert!(!custody.join(at(500), None).unwrap().0.off, "the switch an agent reads itself");
    custody.look(at(600), false);
    assert_eq!(announced(&custody), 1);
    custody.off(at(700));
    assert!(custody.join(at(800), None).unwrap().0.off);
}

#[test]
fn an_orderly_stop_is_a_decision_of_its_own_and_needs_no_lease_to_end() {
    let (mut custody, epoch) = guarding();
    let orders = custody.stop(at(100), epoch).unwrap();
    let told = orders.tell.unwrap();
    assert_eq!((told.announce.len(), told.generation), (0, Generation(8)));
    assert_eq!(custody.until(), Timestamp(0));
}

#[test]
fn what_an_agent_left_can_be_forgotten_but_not_what_one_stands_for() {
    let (mut custody, epoch) = guarding();
    custody.forget(at(100));
    assert_eq!(announced(&custody), 3);
    custody.leave(at(200), epoch);
    custody.forget(at(300));
    assert_eq!((announced(&custody), custody.until()), (0, Timestamp(0)));
}

#[test]
fn a_change_without_a_base_is_refused_and_parts_take_effect_together() {
    let (mut custody, epoch) = guarding();
    let part = |fresh, complete, number| Change {
        fresh,
        complete,
        generation: Generation(9),
        withdrawn: vec![route(1, 0).0],
        announced: vec![route(number, 1)],
    };
    custody.change(at(10), epoch, part(false, false, 4)).unwrap();
    assert_eq!((announced(&custody), custody.told().generation), (3, Generation(7)), "half a decision");
    custody.change(at(10), epoch, part(false, true, 5)).unwrap();
    let numbers: Vec<Prefix> = custody.told().announce.keys().copied().collect();
    assert_eq!(numbers, [2, 3, 4, 5].map(|number| route(number, 0).0));
    let (joined, _) = custody.join(at(20), None).unwrap();
    let refused = custody.change(at(20), joined.epoch, part(false, true, 6));
    assert_eq!(refused, Err(Refusal::NoBase { generation: Generation(9) }));
    assert_eq!(announced(&custody), 4);
}

#[test]
fn alone_and_without_a_lease_it_ends_if_it_may() {
    for (linger, expected) in [(Some(Duration::from_secs(60)), true), (None, false)] {
        let mut custody = Custody::new(Terms { linger, ..terms() });
        let (joined, _) = custody.join(at(0), None).unwrap();
        custody.renew(at(0), joined.epoch, held(at(10_000))).unwrap();
        custody.leave(at(1_000), joined.epoch);
        let ends: Vec<u64> = look_through(&mut custody, 1_000, 80_000)
            .iter()
            .filter(|(_, orders)| orders.end)
            .map(|(ms, _)| *ms)
            .collect();
        assert_eq!(ends.first().is_some_and(|ms| (69_000..71_000).contains(ms)), expected, "{ends:?}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Join,
    Leave,
    Change(Vec<u8>),
    Renew(u64, bool),
    Release,
    Off,
    On,
    Look(bool),
    OldWrites,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Join),
        Just(Step::Leave),
        prop::collection::vec(0..20_u8, 0..5).prop_map(Step::Change),
        (0..20_000_u64, any::<bool>()).prop_map(|(ms, decided)| Step::Renew(ms, decided)),
        Just(Step::Release),
        Just(Step::Off),
        Just(Step::On),
        any::<bool>().prop_map(Step::Look),
        Just(Step::OldWrites),
    ]
}

proptest! {
    /// Whatever happens in whatever order: nothing is told that is older than the longest promise of a lease plus the
    /// bound of adoption, nothing while off, and an old agent changes nothing.
    #[test]
    fn nothing_outlives_its_lease(steps in prop::collection::vec((step(), 0..8_000_u64), 1..60)) {
        let mut custody = Custody::new(terms());
        let (mut now, mut epoch, mut old) = (0, None::<Epoch>, None::<Epoch>);
        let mut promised = at(0);
        for (step, pause) in steps {
            now += pause;
            match step {
                Step::Join => {
                    old = epoch.or(old);
                    epoch = Some(custody.join(at(now), None).unwrap().0.epoch);
                }
                Step::Leave => if let Some(gone) = epoch.take() {
                    custody.leave(at(now), gone);
                    old = Some(gone);
                },
                Step::Change(routes) => if let Some(epoch) = epoch {
                    custody.change(at(now), epoch, whole(now, &routes)).unwrap();
                },
                Step::Renew(ms, decided) => if let Some(epoch) = epoch {
                    let until = at(now + ms);
                    custody.renew(at(now), epoch, Tenure::Held { until, decided }).unwrap();
                    if decided { promised = until; }
                },
                Step::Release => if let Some(epoch) = epoch {
                    custody.renew(at(now), epoch, Tenure::Released).unwrap();
                    prop_assert_eq!(announced(&custody), 0);
                    promised = at(0);
                },
                Step::Off => { custody.off(at(now)); }
                Step::On => if let Some(epoch) = epoch { custody.on(at(now), epoch).unwrap(); },
                Step::Look(switch) => { custody.look(at(now), switch); }
                Step::OldWrites => if let Some(old) = old.filter(|old| Some(*old) != epoch) {
                    let before = Arc::clone(custody.told());
                    prop_assert!(custody.change(at(now), old, whole(1, &[1])).is_err());
                    prop_assert!(custody.renew(at(now), old, held(at(now + 99_000))).is_err());
                    prop_assert_eq!(custody.told(), &before);
                },
            }
            let switch = custody.switch_off;
            custody.look(at(now), switch);
            prop_assert!(announced(&custody) == 0 || !custody.is_off());
            prop_assert!(announced(&custody) == 0 || at(now) < promised + terms().adopt);
            prop_assert!(announced(&custody) == 0 || at(now) < custody.until());
        }
    }
}
