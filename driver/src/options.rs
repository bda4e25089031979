//! What a caller may choose about a controller and its queues; defaults suit most.
//! What the device grants may be less.
use crate::Waiting;
use std::time::Duration;

/// Choices about a controller.
///
/// ```
/// use std::time::Duration;
/// use underpin_dma::DmaSpace;
/// use underpin_nvme::{Controller, ControllerOptions};
///
/// let options = ControllerOptions {
///     io_queues: 4,
///     max_transfer_bytes: 64 << 10,
///     command_timeout: Duration::from_secs(5),
///     shadow_doorbells: false,
///     ..ControllerOptions::default()
/// };
/// let controller = Controller::open("emu:size=1m", &DmaSpace::new(), options)?;
/// assert_eq!(controller.granted_queues(), 4);
/// assert_eq!(controller.max_transfer_bytes(), 64 << 10);
/// assert!(!controller.has_shadow_doorbells());
/// # Ok::<(), underpin_nvme::Error>(())
/// ```
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
///
/// ```
/// use underpin_nvme::{ControllerOptions, DataPointers, Lba, QueueOptions};
/// # use underpin_nvme::{Controller, dma::DmaSpace};
///
/// # let space = DmaSpace::new();
/// for (data_pointers, sgls) in [(DataPointers::ByRule, 1), (DataPointers::Prp, 0)] {
///     let options = ControllerOptions { data_pointers, ..ControllerOptions::default() };
///     let controller = Controller::open("emu:size=1m", &space, options)?;
///     let ns = controller.namespace(None)?;
///     let mut queue = controller.queue_pair(QueueOptions::default())?;
///     // Four pages in one run: one SGL descriptor, or a list of PRPs.
///     queue.run(ns.read(Lba(0), 32)?, space.alloc(16384, 4096)?)?;
///     assert_eq!(queue.stats().sgls, sgls);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
///
/// ```
/// use underpin_nvme::{QueueOptions, QueuePair, Waiting};
///
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m,mqes=64", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// let options = QueueOptions { depth: 1000, waiting: Waiting::ADAPTIVE };
/// let queue: QueuePair<DmaBuf> = controller.queue_pair(options)?;
/// assert!(queue.depth() < 64, "a ring of 64 entries is never full");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
