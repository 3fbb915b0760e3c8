//! Names and numbers of virtio-balloon (VIRTIO 1.3, 5.5).

/// Feature bits (5.5.3).
pub(super) mod feature {
    /// There is a queue for statistics.
    pub const STATS_VQ: u64 = 1 << 1;
    /// The driver takes pages back by itself before it runs out of memory.
    pub const DEFLATE_ON_OOM: u64 = 1 << 2;
    /// The driver says what it fills free pages with.
    pub const PAGE_POISON: u64 = 1 << 4;
    /// There is a queue on which the driver reports free pages.
    pub const PAGE_REPORTING: u64 = 1 << 5;
}

/// Where in the configuration space (5.5.4) what the driver writes is: how many pages are in the balloon, and what it
/// fills free pages with.
pub(super) const ACTUAL: usize = 4;
pub(super) const POISON: usize = 12;
/// Bytes of the configuration space.
pub(super) const CONFIG: usize = 16;

/// Bytes of a page's number in the queues for inflating and deflating (5.5.6).
pub(super) const PAGE_NUMBER: usize = 4;
/// A page is of 4 KiB, whatever the guest's pages are (5.5.6).
pub(super) const PAGE_SHIFT: u32 = 12;

/// Bytes of a statistic: its tag, its value (5.5.6.3).
pub(super) const STATISTIC: usize = 10;

/// Tags of statistics (5.5.6.4).
pub(super) mod tag {
    pub const SWAP_IN: u16 = 0;
    pub const SWAP_OUT: u16 = 1;
    pub const MAJFLT: u16 = 2;
    pub const MINFLT: u16 = 3;
    pub const MEMFREE: u16 = 4;
    pub const MEMTOT: u16 = 5;
    pub const AVAIL: u16 = 6;
    pub const CACHES: u16 = 7;
    pub const HTLB_PGALLOC: u16 = 8;
    pub const HTLB_PGFAIL: u16 = 9;
    pub const OOM_KILL: u16 = 10;
}

/// Which queue is which (5.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Pages go into the balloon.
    Inflate,
    /// Pages come out of it.
    Deflate,
    /// Statistics.
    Statistics,
    /// Free pages.
    Reporting,
}

impl Role {
    /// How many queues there are. The last is reported on by drivers that number the queues as the specification does;
    /// Linux leaves out those that are not offered (there is none for free-page hints), and reports on the one before.
    pub const QUEUES: u16 = 5;

    /// The role of queue `index` after these features were negotiated.
    pub const fn of(index: u16, features: u64) -> Self {
        match index {
            0 => Self::Inflate,
            1 => Self::Deflate,
            2 if features & feature::STATS_VQ != 0 => Self::Statistics,
            _ => Self::Reporting,
        }
    }
}
