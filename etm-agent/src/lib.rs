//! ETM's user space: everything but the program in the kernel.
