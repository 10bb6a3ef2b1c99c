//! The offline format: what is read, what is refused and by which name.

use super::*;
use crate::core::plan::solve::solve;
use serde_json::{Value, json};

fn problem() -> Value {
    let route = |exit: &str, preference: u32, penalty: f64| json!({"exit": exit, "preference": preference, "penalty_per_mbps": penalty});
    let prefix = |at: u32, mbit: u32, current: &str| {
        let routes = [route("a", 200, 0.0), route("b", 100, 0.1), route("c", 100, 0.2)];
        json!({"prefix": format!("198.51.{at}.0/24"), "rate_bps": mbit * 1_000_000, "current": current, "routes": routes})
    };
    let exit = |name: &str, price: f64| {
        let tiers =
            [json!({"up_to_bps": 3e8, "price_per_mbps": price}), json!({"price_per_mbps": price * 2.0})];
        json!({"name": name, "capacity_bps": 1e9, "limit": 0.9, "group": "port", "tiers": tiers})
    };
    let prefixes: Vec<Value> =
        (0..30).map(|at| prefix(at, 20 + 7 * at % 50, if at % 3 == 0 { "a" } else { "b" })).collect();
    json!({
        "exits": [exit("c", 0.5), exit("a", 1.0), exit("b", 0.7)],
        "groups": [{"name": "port", "capacity_bps": 2e9, "limit": 1.0}],
        "prefixes": prefixes,
        "options": {"move_price_per_mbps": 0.05, "hold_price": 0.01},
    })
}

fn planned(problem: &Value) -> Outcome {
    let offline = parse(&problem.to_string()).unwrap();
    let plan = solve(offline.model(), None, None);
    let (vetoes, proved) = offline.check(&plan).unwrap();
    assert_eq!(vetoes, []);
    offline.outcome(&plan, proved, 0.0)
}

#[test]
fn the_order_of_the_input_changes_nothing_but_the_order_of_the_result() {
    let first = planned(&problem());
    let mut turned = problem();
    for list in ["exits", "prefixes"] {
        turned[list].as_array_mut().unwrap().reverse();
    }
    let mut second = planned(&turned);
    second.assignment.reverse();
    second.loads.reverse();
    assert_eq!(first, second);
    assert_eq!(first.assignment[0].prefix.to_string(), "198.51.0.0/24");
}

#[test]
fn what_is_no_problem_is_refused_with_the_name_of_the_entry() {
    let cases: [(&str, Value, &str); 12] = [
        ("/exits/1/tiers/1/price_per_mbps", json!(0.1), "exits[1] (a)"),
        ("/exits/0/tiers/1/up_to_bps", json!(1e9), "exits[0] (c)"),
        ("/exits/0/limit", json!(90), "exits[0] (c)"),
        ("/exits/0/capacity_bps", json!(-1), "exits[0] (c)"),
        ("/exits/2/name", json!("a"), "`a` is there twice"),
        ("/exits/2/group", json!("pport"), "no group `pport`"),
        ("/prefixes/3/routes/1/exit", json!("d"), "prefixes[3] (198.51.3.0/24): there is no exit `d`"),
        ("/prefixes/3/routes/1/exit", json!("a"), "prefixes[3] (198.51.3.0/24): `a` is there twice"),
        ("/prefixes/3/routes", json!([]), "prefixes[3] (198.51.3.0/24): no route"),
        ("/prefixes/3/rate_bps", json!(-5), "prefixes[3] (198.51.3.0/24): its rate"),
        ("/prefixes/3/prefix", json!("198.51.2.0/24"), "prefixes[3]: `198.51.2.0/24` is there twice"),
        ("/options", json!({"overload_price_per_mbps": 0.1}), "relief would not come first"),
    ];
    for (at, value, expected) in cases {
        let mut bent = problem();
        let place = at.rsplit_once('/').unwrap();
        match bent.pointer_mut(place.0).unwrap() {
            Value::Array(list) => list[place.1.parse::<usize>().unwrap()] = value.clone(),
            other => other[place.1] = value.clone(),
        }
        let error = parse(&bent.to_string()).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(expected), "{at}: `{error}` without `{expected}`");
    }
    let wrong_type = problem().to_string().replace("\"rate_bps\":20000000", "\"rate_bps\":\"fast\"");
    assert!(parse(&wrong_type).err().unwrap().to_string().starts_with("prefixes[0] (198.51.0.0/24): "));
    assert!(parse("{").is_err());
}

#[test]
fn without_prefixes_there_is_nothing_to_do() {
    let mut empty = problem();
    empty["prefixes"] = json!([]);
    let outcome = planned(&empty);
    assert_eq!((outcome.objective, outcome.objective_bound, outcome.moved_prefixes), (0.0, 0.0, 0));
}
