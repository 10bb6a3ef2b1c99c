//! Addresses, AS numbers and prefixes of a [`crate::pair`]. Pure data, nothing here acts.

/// ETM's address on the link to the router.
pub const ETM_V4: &str = "10.77.0.1";
/// The router's address on that link.
pub const ROUTER_V4: &str = "10.77.0.2";
/// IPv6 counterpart of [`ETM_V4`].
pub const ETM_V6: &str = "fd77::1";
/// IPv6 counterpart of [`ROUTER_V4`].
pub const ROUTER_V6: &str = "fd77::2";
/// The customer's address on its link to the router.
pub const CUSTOMER_V4: &str = "10.78.0.1";
/// The router's end of that link.
pub const ROUTER_CUSTOMER_V4: &str = "10.78.0.2";
/// The customer's AS.
pub const CUSTOMER_AS: u32 = 64999;
/// ETM's AS.
pub const ETM_AS: u32 = 64500;
/// Prefixes the router originates, per family.
pub const PREFIXES: u32 = 40;

/// IPv4 prefix `i` that the router originates.
pub fn prefix_v4(i: u32) -> String {
    format!("198.18.{i}.0/24")
}

/// IPv6 prefix `i` that the router originates.
pub fn prefix_v6(i: u32) -> String {
    format!("2001:db8:{:x}::/48", i + 1)
}
