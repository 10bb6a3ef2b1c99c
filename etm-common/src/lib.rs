//! What the kernel program and the agent must agree on.
#![no_std]
