//! Fingerprints of values: FNV-1a of 64 bits over the compact form. Never meant against an adversary: they tell
//! whether two computations agree.

use serde::Serialize;

const OFFSET: u64 = 0xCBF2_9CE4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01B3;

/// Of bytes.
pub fn of_bytes(bytes: &[u8]) -> u64 {
    bytes.iter().fold(OFFSET, |digest, byte| (digest ^ u64::from(*byte)).wrapping_mul(PRIME))
}

/// Takes what postcard writes.
#[derive(Clone, Copy)]
struct Sum(u64);

impl Extend<u8> for Sum {
    fn extend<T: IntoIterator<Item = u8>>(&mut self, bytes: T) {
        self.0 =
            bytes.into_iter().fold(self.0, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(PRIME));
    }
}

/// Of a value; zero where it has no compact form, which no value of ETM lacks.
pub fn of(value: &impl Serialize) -> u64 {
    postcard::to_extend(value, Sum(OFFSET)).map_or(0, |sum| sum.0)
}
