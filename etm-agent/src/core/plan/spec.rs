//! A problem as its owner states it: exits, groups, prices, rules, prefixes; and why it may be refused. Only words and
//! their rules, never a calculation.

/// Why something is no model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// Cheaper with more traffic: the optimum could not be proved.
    #[error("`{name}`: tier {tier} costs {price} after {before}; order tiers so that prices never fall")]
    PricesFall {
        /// Exit or group.
        name: String,
        /// Position, from 1.
        tier: usize,
        /// Its price.
        price: f64,
        /// Price of the tier before it.
        before: f64,
    },
    /// Tiers without an order.
    #[error(
        "`{name}`: tier {tier} must end above the one before it, and only the last has no end; give `up_to_bps` in ascending order"
    )]
    TierEnds {
        /// Exit or group.
        name: String,
        /// Position, from 1.
        tier: usize,
    },
    /// Not a finite number, or below zero.
    #[error("`{name}`: {what} is {value}; give a number that is not negative")]
    Number {
        /// Exit, group, prefix or option.
        name: String,
        /// What the number is.
        what: &'static str,
        /// The number.
        value: f64,
    },
    /// A group inside itself, or one that does not exist.
    #[error("`{name}`: its group does not exist or lies inside itself; let groups be a tree")]
    Group {
        /// Exit or group.
        name: String,
    },
    /// More exits or rows than the arrays hold.
    #[error("{count} {what} are more than {most}; split the problem")]
    TooMany {
        /// Exits or routes.
        what: &'static str,
        /// How many.
        count: usize,
        /// Limit.
        most: usize,
    },
    /// A prefix that names an exit that does not exist, or one exit twice.
    #[error(
        "prefix number {index}: exit number {exit} does not exist or is named twice; name each exit once"
    )]
    Exit {
        /// Position of the prefix, from 0.
        index: usize,
        /// Position of the exit, from 0.
        exit: usize,
    },
    /// A prefix that nothing may carry.
    #[error("prefix number {index}: no route is left that it may use; leave the prefix out or allow a route")]
    NoRoute {
        /// Position of the prefix, from 0.
        index: usize,
    },
    /// Overload would be cheaper than a detour.
    #[error(
        "an overload price of {price} per Mbit/s is less than 10 times the largest price spread, {spread}: relief would not come first; give at least {}",
        10.0 * spread
    )]
    OverloadPrice {
        /// As given.
        price: f64,
        /// Largest difference of price between two exits of one prefix, as far as it counts.
        spread: f64,
    },
}

/// One step of a contract.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tier {
    /// Where it ends, bit/s; none for the last.
    pub up_to_bps: Option<f64>,
    /// Currency per Mbit/s and month inside it.
    pub price_per_mbps: f64,
}

/// An exit, or a group of exits and groups (port, provider).
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// For messages.
    pub name: String,
    /// Load above this, bit/s, is overload; infinite where nothing limits.
    pub limit_bps: f64,
    /// Load that may never be exceeded, bit/s; infinite where nothing forbids.
    pub ceiling_bps: f64,
    /// Load that is no prefix's of this model, bit/s.
    pub base_bps: f64,
    /// Contract; empty costs nothing.
    pub tiers: Vec<Tier>,
    /// The group it is in.
    pub group: Option<usize>,
}

/// Prices that are not in contracts, currency per month.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Prices {
    /// Per Mbit/s of overload; none is 10 times the largest price spread.
    pub overload_per_mbps: Option<f64>,
    /// Per Mbit/s that leaves another way than now.
    pub move_per_mbps: f64,
    /// Per prefix that leaves another way than now.
    pub move_per_prefix: f64,
    /// Per prefix that leaves another way than plain routing says.
    pub hold_per_prefix: f64,
}

/// What a plan may do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rules {
    /// Without overload to relieve, less saving than this (currency per month) changes nothing.
    pub min_saving: f64,
    /// The same as a share of what staying costs.
    pub min_saving_share: f64,
    /// A prefix may be divided over exits by weights.
    pub allow_split: bool,
    /// Most prefixes that may change their exit.
    pub max_moves: Option<usize>,
    /// Most traffic that may change its exit, bit/s.
    pub max_moved_bps: Option<f64>,
}

/// One exit that a prefix may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Route {
    /// Position of the exit.
    pub exit: usize,
    /// Currency per Mbit/s and month for using a less preferred route.
    pub penalty_per_mbps: f64,
}

/// One prefix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand<'a> {
    /// Offered traffic, bit/s.
    pub rate_bps: f64,
    /// Exit now; none if it has none.
    pub current: Option<usize>,
    /// Exit that plain routing chooses.
    pub home: usize,
    /// The only exit that the operator allows, if one.
    pub pin: Option<usize>,
    /// Exits with a live route.
    pub routes: &'a [Route],
    /// Exits that the operator forbids.
    pub excluded: &'a [usize],
}

/// A node with numbers that can be, and prices that never fall.
pub(super) fn check_node(node: &Node) -> Result<(), ModelError> {
    let number = |what, value: f64, good: bool| {
        if good { Ok(()) } else { Err(ModelError::Number { name: node.name.clone(), what, value }) }
    };
    number("its limit", node.limit_bps, node.limit_bps >= 0.0)?;
    number("its ceiling", node.ceiling_bps, node.ceiling_bps >= 0.0)?;
    number("its base load", node.base_bps, node.base_bps >= 0.0 && node.base_bps.is_finite())?;
    let mut before: Option<Tier> = None;
    for (at, tier) in node.tiers.iter().enumerate() {
        let price = tier.price_per_mbps;
        number("a price", price, price >= 0.0 && price.is_finite())?;
        let end_of_last = before.map_or(Some(0.0), |before| before.up_to_bps);
        let last = at + 1 == node.tiers.len();
        let ascends = match (end_of_last, tier.up_to_bps) {
            (Some(begin), Some(end)) => !last && end > begin && end.is_finite(),
            (Some(_), None) => last,
            (None, _) => false,
        };
        if !ascends {
            return Err(ModelError::TierEnds { name: node.name.clone(), tier: at + 1 });
        }
        if let Some(before) = before.map(|before| before.price_per_mbps).filter(|before| *before > price) {
            return Err(ModelError::PricesFall { name: node.name.clone(), tier: at + 1, price, before });
        }
        before = Some(*tier);
    }
    Ok(())
}

/// Prices and rules that can be.
pub(super) fn check_prices(prices: &Prices, rules: &Rules) -> Result<(), ModelError> {
    for (what, value) in [
        ("the price of overload", prices.overload_per_mbps.unwrap_or(0.0)),
        ("the price of moving per Mbit/s", prices.move_per_mbps),
        ("the price of moving per prefix", prices.move_per_prefix),
        ("the price of holding", prices.hold_per_prefix),
        ("the least saving", rules.min_saving),
        ("the least saving as a share", rules.min_saving_share),
        ("the most traffic moved", rules.max_moved_bps.unwrap_or(0.0)),
    ] {
        if !(value.is_finite() && value >= 0.0) {
            return Err(ModelError::Number { name: "options".to_owned(), what, value });
        }
    }
    Ok(())
}
