//! Proof that the shared values have the layout that both compilers must see. Never a value or a function.
#![cfg_attr(feature = "user", allow(unsafe_code))] // `aya::Pod` is an unsafe trait: a promise on layout.

use crate::values::{Count, Lease, LiveKey, LiveValue, MarkSetting, Off, RowOwner, Total, Uplink};
use core::mem::{align_of, offset_of, size_of};

const _: () = {
    // The rows are counted in with atomic adds of 8 bytes, and read through mmap at a stride of 16.
    assert!(size_of::<Count>() == 16 && align_of::<Count>() == 8);
    assert!(offset_of!(Count, bytes) == 0 && offset_of!(Count, packets) == 8);

    assert!(size_of::<Total>() == 32 && align_of::<Total>() == 8);
    assert!(offset_of!(Total, offered) == 0 && offset_of!(Total, excess) == 16);

    assert!(size_of::<Uplink>() == 8 && align_of::<Uplink>() == 4);
    assert!(offset_of!(Uplink, index) == 0 && offset_of!(Uplink, flags) == 4);

    // The kernel copies array values in words of 8 bytes: mark and mask share one, so that a program
    // never sees the mark of one setting with the mask of another.
    assert!(size_of::<Lease>() == 16 && align_of::<Lease>() == 8);
    assert!(offset_of!(Lease, deadline_ns) == 0 && offset_of!(Lease, setting) == 8);
    assert!(size_of::<MarkSetting>() == 8);
    assert!(offset_of!(MarkSetting, mark) == 0 && offset_of!(MarkSetting, mask) == 4);

    assert!(size_of::<Off>() == 4);

    // Their BTF is written by the agent: offsets in bits there are these in bytes.
    assert!(size_of::<LiveKey>() == 72 && align_of::<LiveKey>() == 1);
    assert!(offset_of!(LiveKey, prefix) == 0 && offset_of!(LiveKey, uplink) == 56);
    assert!(size_of::<RowOwner>() == 16 && align_of::<RowOwner>() == 1);
    assert!(size_of::<LiveValue>() == 24 && align_of::<LiveValue>() == 8);
    assert!(offset_of!(LiveValue, bytes) == 0 && offset_of!(LiveValue, packets) == 8);
    assert!(offset_of!(LiveValue, bits_per_second) == 16);
};

#[cfg(feature = "user")]
mod pod {
    use super::{Count, Lease, LiveKey, LiveValue, Off, RowOwner, Total, Uplink};

    // SAFETY: two u64, no padding (asserted above), every bit pattern is a value.
    unsafe impl aya::Pod for Count {}
    // SAFETY: two `Count`, no padding (asserted above), every bit pattern is a value.
    unsafe impl aya::Pod for Total {}
    // SAFETY: octets only, every bit pattern is a value.
    unsafe impl aya::Pod for RowOwner {}
    // SAFETY: two u32, no padding (asserted above), every bit pattern is a value.
    unsafe impl aya::Pod for Uplink {}
    // SAFETY: a u64 and two u32, no padding (asserted above), every bit pattern is a value.
    unsafe impl aya::Pod for Lease {}
    // SAFETY: one u32, every bit pattern is a value.
    unsafe impl aya::Pod for Off {}
    // SAFETY: octets only, every bit pattern is a value.
    unsafe impl aya::Pod for LiveKey {}
    // SAFETY: three u64, no padding (asserted above), every bit pattern is a value.
    unsafe impl aya::Pod for LiveValue {}
}
