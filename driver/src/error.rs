//! What can go wrong between a caller and a device, with names, numbers and what to do.
//! A device that breaks the protocol is a [`Failure`] of its controller, told to every waiter.
use crate::{DeviceUrlError, TransportError};
use std::time::Duration;
use underpin_nvme_spec::{AdminOpcode, Lba, Nsid, NvmOpcode, Qid, Status};

/// Why a controller is of no use any more. Every command in flight is told; its memory stays in
/// quarantine until the device's DMA has provably ended.
///
/// ```
/// use underpin_nvme::{CommandError, Failure};
///
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m,fault=removed@op=read", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
/// let token = queue.submit(ns.read(Lba(0), 8)?, space.alloc(4096, 4096)?)?;
/// let ended = queue.wait_for(token);
/// match ended.result {
///     Err(CommandError::Lost(Failure::Gone { register, value })) => {
///         println!("{register} reads {value:#x}: plug it in again");
///     }
///     other => panic!("{other:?}"),
/// }
/// assert!(ended.buffer.is_none(), "in quarantine: who knows what the device still does");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// A command was not completed in time.
    #[error("a command ({opcode}) on queue {qid} was not completed within {timeout:?}")]
    Timeout {
        /// Its queue.
        qid: Qid,
        /// Its opcode, by name.
        opcode: String,
        /// The deadline it had.
        timeout: Duration,
    },
    /// The controller set CSTS.CFS (NVMe Base 2.0, 9.5).
    #[error("the controller reports a fatal status (CSTS {csts:#x}); reset it or replace it")]
    Fatal {
        /// The register as read.
        csts: u32,
    },
    /// The controller is not ready any more, though nobody here disabled it: its function was
    /// reset from elsewhere. What was in flight never completes.
    #[error("the device was reset by somebody else (CSTS {csts:#x}); open it again")]
    Reset {
        /// The register as read.
        csts: u32,
    },
    /// The device's registers read as all ones, or as zero where that cannot be.
    #[error(
        "the device is gone, or somebody resets its function just now: {register} reads {value:#x}"
    )]
    Gone {
        /// Which register was read.
        register: &'static str,
        /// What it read as.
        value: u64,
    },
    /// The device wrote something that the specification does not allow.
    #[error("the device broke the protocol on queue {qid}: {what}")]
    Protocol {
        /// The queue on which it was seen.
        qid: Qid,
        /// What was wrong.
        what: String,
    },
    /// The kernel asked for the device: somebody unbinds it from `vfio-pci`, or it is being taken
    /// out. It has been let go; the kernel had to wait until then.
    #[error("the kernel wants the device back: it is being unbound, or taken out; it was let go")]
    Reclaimed,
    /// The kernel reported an error on the device's PCI Express link that cannot be corrected.
    #[error(
        "the device's PCI Express link failed (AER); the kernel's log says how; reset the device or replace it"
    )]
    Link,
    /// The transport lost the device.
    #[error("{0}")]
    Transport(String),
    /// The controller was closed by its owner.
    #[error("the controller was closed")]
    Closed,
}

/// How a command ended, other than well.
///
/// ```
/// use underpin_nvme::{CommandError, Lba, Status};
///
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m,fault=status:0x281@op=read+lba=7", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
/// let token = queue.submit(ns.read(Lba(0), 8)?, space.alloc(4096, 4096)?)?;
/// let ended = queue.wait_for(token);
/// match ended.result {
///     Err(CommandError::Status { status, lba: Lba(0), .. })
///         if status == Status::UNRECOVERED_READ_ERROR => {}
///     other => panic!("{other:?}"),
/// }
/// assert!(ended.buffer.is_some(), "an error gives the buffer back");
/// assert!(controller.failure().is_none(), "and does no harm to others");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The device completed it with an error status.
    #[error("{opcode} of namespace {nsid}, {lba} for {len_bytes} bytes: {status}")]
    Status {
        /// The status as the device gave it.
        status: Status,
        /// The command's opcode.
        opcode: NvmOpcode,
        /// Its namespace.
        nsid: Nsid,
        /// Its first block; 0 for commands without one.
        lba: Lba,
        /// How much it was to transfer.
        len_bytes: u64,
    },
    /// The controller failed while the command was in flight: whether it was carried out is not
    /// known, and its buffer is in quarantine.
    #[error("lost with its controller: {0}")]
    Lost(#[from] Failure),
}

/// What can go wrong with a controller, a namespace or a queue.
///
/// ```
/// use underpin_nvme::{CommandError, Error, Lba};
///
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m,fault=status:0x281@op=read", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
/// // Before anything is sent: the numbers are in the error.
/// match ns.read(Lba(2040), 16) {
///     Err(Error::OutOfRange { lba, blocks, namespace_blocks, .. }) => {
///         assert_eq!((lba, blocks, namespace_blocks), (Lba(2040), 16, 2048));
///     }
///     other => panic!("{other:?}"),
/// }
/// // By the device.
/// match queue.run(ns.read(Lba(0), 8)?, space.alloc(4096, 4096)?) {
///     Err(Error::Command(CommandError::Status { status, .. })) => assert!(!status.is_success()),
///     Err(Error::Failed(failure)) => panic!("the controller is of no use any more: {failure}"),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device's URL could not be read.
    #[error(transparent)]
    Url(#[from] DeviceUrlError),
    /// The embedded controller could not be made.
    #[error(transparent)]
    Emulator(#[from] underpin_emulator::EmulatorError),
    /// DMA memory could not be had.
    #[error(transparent)]
    Dma(#[from] underpin_dma::Error),
    /// The device could not be reached.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The controller has failed.
    #[error("the controller has failed: {0}")]
    Failed(#[from] Failure),
    /// The controller is still in use, so that it is not closed here.
    #[error(
        "{device} is in use by {others} other handles or queues; drop them first, the last one closes it"
    )]
    InUse {
        /// The device.
        device: String,
        /// Clones of the [`Controller`](crate::Controller), its queues, and what else holds it.
        others: usize,
    },
    /// A command ended in an error.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// An admin command ended with an error status.
    #[error("admin command {opcode}: {status}")]
    Admin {
        /// Which command.
        opcode: AdminOpcode,
        /// What the device said.
        status: Status,
    },
    /// The controller cannot be driven, in words.
    #[error("{device} cannot be driven: {why}")]
    Unsupported {
        /// The device.
        device: String,
        /// Which of its properties is in the way.
        why: String,
    },
    /// The controller did not reach a state within the time that it states itself (CAP.TO, CRTO).
    #[error("{device} did not become {state} within {timeout:?}, the time it gives itself")]
    NotInTime {
        /// The device.
        device: String,
        /// `ready` or `disabled`.
        state: &'static str,
        /// CAP.TO, or CRTO where it counts.
        timeout: Duration,
    },
    /// The device's answer to an admin command makes no sense.
    #[error("{device} gave a bad answer to {what}: {why}")]
    BadAnswer {
        /// The device.
        device: String,
        /// Which command.
        what: &'static str,
        /// What is wrong with the answer.
        why: String,
    },
    /// There is no such namespace.
    #[error("{device} has no namespace {nsid}; it has {available}")]
    NoNamespace {
        /// The device.
        device: String,
        /// What was asked for.
        nsid: Nsid,
        /// The namespaces that there are.
        available: String,
    },
    /// The range does not lie within the namespace.
    #[error(
        "{blocks} blocks from {lba} do not lie within namespace {nsid} of {namespace_blocks} blocks"
    )]
    OutOfRange {
        /// The namespace.
        nsid: Nsid,
        /// The first block asked for.
        lba: Lba,
        /// How many.
        blocks: u64,
        /// How many the namespace has.
        namespace_blocks: u64,
    },
    /// All I/O queues that the device granted are in use.
    #[error("all {granted} I/O queues that {device} grants are in use; drop one first")]
    NoQueue {
        /// The device.
        device: String,
        /// How many it grants.
        granted: u16,
    },
    /// The queue has no room for the command now.
    #[error(
        "the queue holds {depth} commands at most and has no room for {needed} more now; poll it first"
    )]
    QueueFull {
        /// How many commands it holds.
        depth: u16,
        /// How many the request needs after splitting.
        needed: usize,
    },
    /// The request needs more commands than the queue could ever hold.
    #[error(
        "{len_bytes} bytes are more than one request may have on this queue, {max_bytes} bytes; split it or make the queue deeper"
    )]
    TooLong {
        /// How long the request was.
        len_bytes: u64,
        /// How long it may be.
        max_bytes: u64,
    },
    /// The device does not have the command, or not in this form.
    #[error("{device} does not support {command}: {why}")]
    NotSupported {
        /// The device, or the namespace.
        device: String,
        /// Which command, by name.
        command: String,
        /// Where it says so.
        why: String,
    },
    /// The command would change the device behind the driver's back.
    #[error(
        "{command} is not sent to {device}: {why}; Passthrough::overrule_driver sends it all the same"
    )]
    WouldBreakDriver {
        /// The device.
        device: String,
        /// Which command, by name.
        command: String,
        /// What it would break, and what to use instead.
        why: &'static str,
    },
    /// Blocks are about to have another size, and requests for the old one may be in flight.
    #[error(
        "{device} has {queues} I/O queues in use, whose requests know blocks of the old size; drop them first"
    )]
    QueuesInUse {
        /// The device.
        device: String,
        /// How many.
        queues: usize,
    },
    /// The request makes no sense.
    #[error("the request cannot be made: {0}")]
    Request(String),
    /// The buffer does not suit the command.
    #[error("the buffer does not suit: {0}")]
    Buffer(String),
    /// The queue that a request was sent to is gone: its thread has dropped it, or has ended.
    #[error("the queue was closed by its thread; send the request to another queue")]
    QueueClosed,
    /// The request was made for another controller, or before blocks got another size.
    #[error(
        "the request was made for a namespace of another controller, or before a format: get the namespace again"
    )]
    WrongController,
}

/// A refused submission: why, and the buffer back.
///
/// ```
/// use underpin_nvme::{Error, Refused};
///
/// # use underpin_nvme::{*, dma::{DmaBuf, DmaSpace}};
/// # let space = DmaSpace::new();
/// # let controller = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// # let ns = controller.namespace(None)?;
/// # let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
/// let short = space.alloc(512, 512)?;
/// let Err(Refused { error, buffer }) = queue.submit(ns.read(Lba(0), 8)?, short) else {
///     panic!("eight blocks in the room of one")
/// };
/// assert!(matches!(error, Error::Buffer(_)));
/// // The buffer is the caller's again, for a request that suits it.
/// queue.run(ns.read(Lba(0), 1)?, buffer)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Refused<B> {
    /// Why.
    pub error: Error,
    /// The caller's buffer, untouched.
    pub buffer: B,
}

impl<B> From<Refused<B>> for Error {
    fn from(refused: Refused<B>) -> Self {
        refused.error
    }
}

impl<B> std::fmt::Display for Refused<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl<B: std::fmt::Debug> std::error::Error for Refused<B> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
