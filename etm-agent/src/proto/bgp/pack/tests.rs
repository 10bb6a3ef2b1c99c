//! Tests of `pack`.
