//! What a caller may choose about a controller and its queues; defaults suit most.
//! What the device grants may be less.
use crate::Waiting;
use std::time::Duration;

/// Choices about a controller.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// How many I/O queue pairs to ask for. The device may grant fewer.
    pub io_queues: u16,
    /// The longest transfer to send as one command; the device's MDTS may be shorter. Longer
    /// requests are split. Each slot of a queue owns PRP list memory for this length.
    pub max_transfer_bytes: u64,
    /// How commands name memory.
    pub data_pointers: DataPointers,
    /// How many runs of memory, none adjacent to another, one command shall be able to have where
    /// PRPs cannot name them and the device takes SGLs. Each slot of a queue owns list memory for
    /// so many, and what is left of the last page.
    pub max_runs: u16,
    /// A command not completed in this time fails the controller. It is for the polls to notice:
    /// they look at the clock once in 64 times, so who polls seldom is told late. A host that did
    /// not look for a while (a process that was stopped, a suspended machine) may have had its
    /// device away with it: the device then has up to 200 ms more, once.
    pub command_timeout: Duration,
    /// The same for admin commands.
    pub admin_timeout: Duration,
    /// Use shadow doorbells where the device offers them.
    pub shadow_doorbells: bool,
    /// The most namespaces to identify; a device may claim four billion.
    pub max_namespaces: usize,
}

impl Default for ControllerOptions {
    fn default() -> Self {
        Self {
            io_queues: 64,
            max_transfer_bytes: 1 << 20,
            data_pointers: DataPointers::default(),
            max_runs: 128,
            command_timeout: Duration::from_secs(30),
            admin_timeout: Duration::from_secs(30),
            shadow_doorbells: true,
            max_namespaces: 1024,
        }
    }
}

/// How commands name memory: by physical region pages, which every device takes, or by scatter
/// gather lists, where the device takes them (Identify Controller, SGLS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataPointers {
    /// Where the device takes SGLs, a command has one if PRPs cannot name its memory, or if its
    /// list is no longer than that of the PRPs: always so for one run of memory over more than two
    /// pages, which then needs no list at all. Up to two pages, PRPs need none either.
    #[default]
    ByRule,
    /// PRPs always: for a device whose SGLs are slow, or wrong.
    Prp,
    /// SGLs wherever they can be. It is for tests: short transfers become slower.
    Sgl,
}

/// Choices about a queue pair.
#[derive(Clone, Copy, Debug)]
pub struct QueueOptions {
    /// Commands in flight at once. The device's limit (CAP.MQES) may be lower;
    /// [`QueuePair::depth`](crate::QueuePair::depth) says what was granted.
    pub depth: u16,
    /// How its owner waits for completions.
    pub waiting: Waiting,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            depth: 128,
            waiting: Waiting::Poll,
        }
    }
}
