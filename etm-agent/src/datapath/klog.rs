//! Debug lines of the kernel programs, passed on to `tracing`. Never on unless asked for at load.

use aya::Ebpf;
use aya_log::EbpfLogger;
use std::os::fd::{AsFd, BorrowedFd};

/// Reader of the programs' debug lines.
pub struct KernelLog {
    logger: EbpfLogger<ToTracing>,
}

impl KernelLog {
    pub(super) fn open(object: &mut Ebpf) -> Option<KernelLog> {
        EbpfLogger::init_with_logger(object, ToTracing).ok().map(|logger| KernelLog { logger })
    }

    /// Passes on the lines that came since the last call; what did not fit the buffer is lost.
    pub fn flush(&mut self) {
        self.logger.flush();
    }
}

impl AsFd for KernelLog {
    /// Readable when there are lines.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.logger.as_fd()
    }
}

struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::debug!(target: "etm::kernel", level = %record.level(), "{}", record.args());
    }

    fn flush(&self) {}
}
