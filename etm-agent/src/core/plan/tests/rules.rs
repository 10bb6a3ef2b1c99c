//! Rules of plans: the least saving, caps, budgets of time, prices that would not come first; and calm under noise.

use super::*;

#[test]
fn a_plan_that_saves_less_than_the_least_saving_is_not_applied() {
    let mut roomy = case(Kind::Plain, 300, 4, 12);
    roomy.exits.iter_mut().for_each(|exit| exit.limit_bps *= 10.0);
    roomy.prefixes.iter_mut().for_each(|one| one.current = one.current.or(Some(one.home)));
    roomy.prefixes.iter_mut().for_each(|one| {
        if !one.routes.iter().any(|route| Some(route.exit) == one.current) {
            one.current = Some(one.routes[0].exit);
        }
    });
    let free = solve(&roomy.model(), None, None);
    assert_eq!(free.verdict, Verdict::Apply);
    let saving = free.certificate.stay - free.certificate.costs.objective;
    assert!(saving > 0.0);
    for (share, verdict) in [(0.5, Verdict::Apply), (1.5, Verdict::TooLittle)] {
        roomy.rules.min_saving = saving * share;
        let plan = solve(&roomy.model(), None, None);
        assert_eq!(plan.verdict, verdict);
        assert_eq!(plan.certificate.costs.moved_prefixes > 0, verdict == Verdict::Apply);
        let model = roomy.model();
        roomy.judged(&model, &plan, "min saving");
    }
}

/// Rounds like a controller's, with demand that wavers: how often a prefix made a move that it had made before,
/// and how many moves there were, in the first half and in the second.
fn wavering(mut case: Case, headroom: f64, rounds: usize, seed: u64) -> (usize, [usize; 2]) {
    let spread = case.model().spread_per_mbps();
    let calm = Prices {
        overload_per_mbps: Some(100.0 * spread),
        move_per_mbps: 0.024,
        move_per_prefix: 0.0,
        hold_per_prefix: 0.001,
    };
    // Relief moves as little as it can; money does not matter then.
    let haste = 10.0 * (spread + calm.move_per_mbps);
    let relief = Prices { overload_per_mbps: Some(100.0 * haste), move_per_mbps: haste, ..calm };
    case.rules.min_saving_share = 0.005;
    for one in &mut case.prefixes {
        one.current = Some(one.home);
    }
    let rates: Vec<f64> = case.prefixes.iter().map(|one| one.rate).collect();
    let limits: Vec<f64> = case.exits.iter().map(|exit| exit.limit_bps).collect();
    let mut dice = Dice::new(seed);
    let mut made: Vec<Vec<(Option<usize>, usize)>> = rates.iter().map(|_| Vec::new()).collect();
    let (mut warm, mut again, mut moves) = (None, 0, [0; 2]);
    for round in 0..rounds {
        for (one, rate) in case.prefixes.iter_mut().zip(&rates) {
            one.rate = (rate * (0.97 + 0.06 * dice.unit())).round();
        }
        let mut stay = vec![0.0; limits.len()];
        for one in &case.prefixes {
            stay[one.current.unwrap()] += one.rate;
        }
        let over = stay.iter().zip(&limits).any(|(stay, limit)| stay > limit);
        case.prices = if over { relief } else { calm };
        // Receivers are filled to limit minus headroom only; who is above it already may stay there.
        for ((exit, limit), stay) in case.exits.iter_mut().zip(&limits).zip(&stay) {
            exit.ceiling_bps = (limit * (1.0 - headroom)).max(*stay);
        }
        let model = case.model();
        // So many looks at the clock: what a round may cost, and enough for all but the last of the gap.
        let looks = Cell::new(0_u64);
        let elapsed = || {
            looks.set(looks.get() + 1);
            Duration::from_millis(looks.get())
        };
        let budget = Budget { elapsed: &elapsed, limit: Duration::from_millis(1_000) };
        let plan = solve(&model, warm.as_ref(), Some(budget));
        case.judged(&model, &plan, "noise");
        warm = Some(plan.warm.clone());
        for ((one, exit), made) in case.prefixes.iter_mut().zip(&plan.exits).zip(&mut made) {
            let exit = usize::from(*exit);
            if one.current != Some(exit) {
                let step = (one.current, exit);
                again += usize::from(made.contains(&step));
                moves[2 * round / rounds] += 1;
                made.push(step);
                one.current = Some(exit);
            }
        }
    }
    (again, moves)
}

/// Each is a problem solved and judged.
const ROUNDS: usize = 1_000;

#[test]
fn noise_makes_no_prefix_go_back_and_forth() {
    let mut all = 0;
    // The last has no room to spare: all limits together, less headroom, are just above the traffic.
    for (prefixes, room, headroom, seed) in
        [(200, 1.1, 0.07, 4711), (60, 1.0, 0.03, 42), (60, 0.98, 0.07, 43)]
    {
        let mut case = case(Kind::Plain, prefixes, 3, seed);
        case.exits.iter_mut().for_each(|exit| exit.limit_bps *= room);
        let (again, moves) = wavering(case, headroom, ROUNDS, seed);
        assert_eq!(again, 0, "{prefixes} prefixes, room {room}, headroom {headroom}: {moves:?} moves");
        assert!(moves[1] <= 8, "in the end hardly anything moves: {moves:?}");
        all += moves[0];
    }
    assert!(all > 0, "something moves at first");
}

#[test]
fn a_budget_that_is_spent_gives_the_best_plan_so_far_with_an_honest_gap() {
    let case = case(Kind::Groups, 6_000, 5, 21);
    let model = case.model();
    let free = solve(&model, None, None);
    assert!(!free.certificate.expired);
    let mut last = 0;
    for most in [0, 1, 5, 20, 40] {
        let asked = Cell::new(0_u64);
        let elapsed = || {
            asked.set(asked.get() + 1);
            Duration::from_millis(asked.get())
        };
        let budget = Budget { elapsed: &elapsed, limit: Duration::from_millis(most) };
        let plan = solve(&model, None, Some(budget));
        case.judged(&model, &plan, &format!("{most} looks at the clock"));
        assert!(plan.certificate.expired);
        assert!(plan.certificate.bound <= free.certificate.costs.objective * (1.0 + 1e-9));
        assert!(asked.get() >= last, "more time is used where there is more");
        assert!(asked.get() <= most + 40, "{} looks for {most}", asked.get());
        last = asked.get();
    }
}

#[test]
fn an_overload_price_that_would_not_come_first_is_refused_by_name() {
    let mut case = case(Kind::Plain, 50, 3, 8);
    let all = case.exits.iter().flat_map(|exit| &exit.tiers).map(|tier| tier.price_per_mbps);
    let (low, high) =
        all.fold((f64::INFINITY, 0.0_f64), |(low, high), price| (low.min(price), high.max(price)));
    for (price, good) in
        [(0.5 * (high - low), false), (5.0 * (high - low), false), (11.0 * (high - low), true)]
    {
        case.prices.overload_per_mbps = Some(price);
        let mut model = Model::new(case.exits.clone(), Vec::new(), case.prices, case.rules).unwrap();
        let routes: Vec<Route> = (0..3).map(|exit| Route { exit, penalty_per_mbps: 0.0 }).collect();
        let demand =
            Demand { rate_bps: 1e6, current: None, home: 0, pin: None, routes: &routes, excluded: &[] };
        model.push(&demand).unwrap();
        let made = model.finish();
        assert_eq!(made.is_ok(), good, "{price} for a spread of {}", high - low);
        if let Err(error) = made {
            assert!(error.to_string().contains("relief would not come first"), "{error}");
        }
    }
}

#[test]
fn caps_on_moves_and_moved_traffic_hold_and_the_most_useful_moves_come_first() {
    for seed in 0..10 {
        let mut capped = case(Kind::Plain, 200, 4, 60 + seed);
        let free = solve(&capped.model(), None, None);
        assert!(free.certificate.costs.moved_prefixes > 40);
        let mut last = f64::INFINITY;
        for cap in [0, 10, 40] {
            capped.rules.max_moves = Some(cap);
            let model = capped.model();
            let plan = solve(&model, None, None);
            capped.judged(&model, &plan, &format!("seed {seed} cap {cap}"));
            assert!(plan.certificate.costs.objective <= last);
            last = plan.certificate.costs.objective;
        }
        capped.rules.max_moves = None;
        capped.rules.max_moved_bps = Some(0.1 * capped.prefixes.iter().map(|one| one.rate).sum::<f64>());
        let model = capped.model();
        let plan = solve(&model, None, None);
        capped.judged(&model, &plan, &format!("seed {seed} cap on traffic"));
    }
}
