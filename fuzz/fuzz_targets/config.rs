//! Texts that operators write: the configuration, and problems for `etm plan --input` (an input that begins with `{`).
//!
//! Found wrong: a panic; a fault whose report cannot be shown.
#![no_main]

use etm_agent::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if text.starts_with('{') {
        if let Err(error) = config::offline::parse(text) {
            assert!(!error.to_string().is_empty());
        }
    } else if let Err(error) = config::parse("etm.toml", text) {
        assert!(!error.to_string().is_empty());
    }
});
