//! What an emulator does wrong on request: which fault, when it fires, and how often it did.
//! `language` reads and writes faults as text; `state` decides for each occasion.
mod language;
mod state;

pub use language::FaultParseError;
pub(crate) use state::{FaultBoard, FaultState, Occasion, Plan};

use std::fmt;
use std::time::Duration;
use underpin_dma::rt::{Instant, Rng};

/// What a power cut leaves of writes that were not flushed. Blocks are written whole or not at
/// all, and so are writes within the power fail atomic write unit.
///
/// ```
/// use underpin_emulator::{Fault, FaultKind, PowerLoss};
///
/// let fault: Fault = "power-cut:torn@op=flush".parse()?;
/// assert_eq!(fault.kind, FaultKind::PowerCut(PowerLoss::Torn));
/// # Ok::<(), underpin_emulator::FaultParseError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PowerLoss {
    /// One of the others, drawn from the seed.
    #[default]
    Any,
    /// `power-cut:lost`: nothing.
    Lost,
    /// `power-cut:torn`: the first so many writes, and some blocks of the next.
    Torn,
    /// `power-cut:reordered`: any blocks of any writes, whichever came first.
    Reordered,
}

/// What goes wrong.
///
///
/// ```
/// use std::time::Duration;
/// use underpin_emulator::{Fault, FaultKind};
///
/// let fault: Fault = "late-dma:1ms@op=read".parse()?;
/// assert_eq!(fault.kind, FaultKind::LateDma(Duration::from_millis(1)));
/// assert_eq!(fault.kind.name(), "late-dma");
/// assert!(fault.kind.ordinal() < FaultKind::COUNT);
/// # Ok::<(), underpin_emulator::FaultParseError>(())
/// ```
#[doc = include_str!("../FAULTS.md")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// `status:0x281`: the command is not executed and ends with this status (type in bits 10:8,
    /// code in 7:0; bit 14 is Do Not Retry).
    Status(u16),
    /// `delay:5ms`: the command begins so much later.
    Delay(Duration),
    /// `drop`: the command is executed, its completion never written.
    Drop,
    /// `duplicate`: the completion is written twice.
    Duplicate,
    /// `corrupt-cid`: the completion names another command.
    CorruptCid,
    /// `corrupt-sqid`: the completion names another submission queue.
    CorruptSqid,
    /// `corrupt-phase`: the completion's phase tag is the old one.
    CorruptPhase,
    /// `corrupt-sqhd`: the completion has a head pointer that lies outside the queue.
    CorruptSqhd,
    /// `late-dma:1ms`: the completion is written first, the data moves so much later. A breach
    /// of the protocol that a referee must see.
    LateDma(Duration),
    /// `hold`: nothing happens until [`Emulator::release_held`](crate::Emulator::release_held);
    /// then the data moves and the completion is written.
    Hold,
    /// `never-ready`: after an enable CSTS.RDY stays 0.
    NeverReady,
    /// `never-disabled`: a clearing of CC.EN is ignored; CSTS.RDY stays 1 and commands go on.
    NeverDisabled,
    /// `cfs`: CSTS.CFS is set, and nothing more is done until a reset.
    ControllerFatal,
    /// `removed`: the device is gone: registers read all ones, nothing is completed, for ever.
    Removed,
    /// `short-identify:512`: only so many bytes of an identify page are written.
    ShortIdentify(u32),
    /// `garbage-identify`: an identify page is full of random bytes.
    GarbageIdentify,
    /// `corrupt-cqe`: the completion is random but for its phase.
    CorruptCqe,
    /// `never-shut-down`: a shutdown is ignored; CSTS.SHST stays 0.
    NeverShutDown,
    /// `removed-zero`: the device is gone, and registers read zero.
    RemovedZero,
    /// `absurd-identify`: one field of an identify page is extreme.
    AbsurdIdentify,
    /// `garbage-log`: a log page is full of random bytes.
    GarbageLog,
    /// `ns-vanish`: the namespace that the command names is no longer there.
    NamespaceGone,
    /// `wrong-iova:0x1000`: data move so many bytes further on than the command says.
    WrongIova(u32),
    /// `corrupt-data`: one bit of a read or write is flipped.
    CorruptData,
    /// `dma-after-abort:1ms`: the command waits to be aborted; once it has been, and its
    /// completion was written, its data move all the same, so much later.
    DmaAfterAbort(Duration),
    /// `cq-stall:5ms`: for so long nothing is written to the command's completion queue.
    CqStall(Duration),
    /// `power-cut`, `power-cut:torn`: the power fails: the device is gone, and writes that were
    /// not flushed are lost, torn or reordered. See
    /// [`Emulator::power_on`](crate::Emulator::power_on).
    PowerCut(PowerLoss),
    /// `irq-lost`: the completion is written, its interrupt never raised.
    IrqLost,
    /// `irq-spurious`: the interrupt is raised when the command is fetched, too.
    IrqSpurious,
    /// `irq-storm:1000`: the interrupt is raised so many times.
    IrqStorm(u32),
    /// `aer-storm:16`: so many events are told, whether or not their pages were read: to the
    /// requests that wait, and to each that comes, until all were told.
    AerStorm(u32),
}

impl FaultKind {
    /// How many kinds there are; [`ordinal`](Self::ordinal) counts them from 0.
    pub const COUNT: usize = 31;

    /// The kind's number, the same for all its parameters: for tables.
    pub const fn ordinal(self) -> usize {
        match self {
            Self::Status(_) => 0,
            Self::Delay(_) => 1,
            Self::Drop => 2,
            Self::Duplicate => 3,
            Self::CorruptCid => 4,
            Self::CorruptSqid => 5,
            Self::CorruptPhase => 6,
            Self::CorruptSqhd => 7,
            Self::LateDma(_) => 8,
            Self::Hold => 9,
            Self::NeverReady => 10,
            Self::NeverDisabled => 11,
            Self::ControllerFatal => 12,
            Self::Removed => 13,
            Self::ShortIdentify(_) => 14,
            Self::GarbageIdentify => 15,
            Self::CorruptCqe => 16,
            Self::NeverShutDown => 17,
            Self::RemovedZero => 18,
            Self::AbsurdIdentify => 19,
            Self::GarbageLog => 20,
            Self::NamespaceGone => 21,
            Self::WrongIova(_) => 22,
            Self::CorruptData => 23,
            Self::DmaAfterAbort(_) => 24,
            Self::CqStall(_) => 25,
            Self::PowerCut(_) => 26,
            Self::IrqLost => 27,
            Self::IrqSpurious => 28,
            Self::IrqStorm(_) => 29,
            Self::AerStorm(_) => 30,
        }
    }

    /// The kind's name in the language, without parameters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Status(_) => "status",
            Self::Delay(_) => "delay",
            Self::Drop => "drop",
            Self::Duplicate => "duplicate",
            Self::CorruptCid => "corrupt-cid",
            Self::CorruptSqid => "corrupt-sqid",
            Self::CorruptPhase => "corrupt-phase",
            Self::CorruptSqhd => "corrupt-sqhd",
            Self::LateDma(_) => "late-dma",
            Self::Hold => "hold",
            Self::NeverReady => "never-ready",
            Self::NeverDisabled => "never-disabled",
            Self::ControllerFatal => "cfs",
            Self::Removed => "removed",
            Self::ShortIdentify(_) => "short-identify",
            Self::GarbageIdentify => "garbage-identify",
            Self::CorruptCqe => "corrupt-cqe",
            Self::NeverShutDown => "never-shut-down",
            Self::RemovedZero => "removed-zero",
            Self::AbsurdIdentify => "absurd-identify",
            Self::GarbageLog => "garbage-log",
            Self::NamespaceGone => "ns-vanish",
            Self::WrongIova(_) => "wrong-iova",
            Self::CorruptData => "corrupt-data",
            Self::DmaAfterAbort(_) => "dma-after-abort",
            Self::CqStall(_) => "cq-stall",
            Self::PowerCut(_) => "power-cut",
            Self::IrqLost => "irq-lost",
            Self::IrqSpurious => "irq-spurious",
            Self::IrqStorm(_) => "irq-storm",
            Self::AerStorm(_) => "aer-storm",
        }
    }
}

/// Which occasions a fault looks at.
///
/// ```
/// use underpin_emulator::{Fault, FaultOp};
///
/// let fault: Fault = "drop@op=0x84".parse()?;
/// assert_eq!(fault.trigger.op, FaultOp::Opcode(0x84));
/// # Ok::<(), underpin_emulator::FaultParseError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultOp {
    /// Every command, but for Asynchronous Event Requests, which never end anyway.
    #[default]
    Any,
    /// `op=read`: NVM Read.
    Read,
    /// `op=write`: NVM Write.
    Write,
    /// `op=flush`: NVM Flush.
    Flush,
    /// `op=identify`: Identify.
    Identify,
    /// `op=io`: every command of an I/O queue.
    Io,
    /// `op=admin`: every command of the admin queue.
    Admin,
    /// `op=log`: Get Log Page.
    Log,
    /// `op=enable`: CC.EN is set. For `never-ready`, and what ends the controller (`cfs`,
    /// `removed`, `removed-zero`, `power-cut`).
    Enable,
    /// `op=disable`: CC.EN is cleared. For `never-disabled`, and what ends the controller.
    Disable,
    /// `op=shutdown`: CC.SHN is set. For `never-shut-down`, and what ends the controller.
    Shutdown,
    /// `op=0x84`: this opcode, on whichever queue; name the queue with `q=`.
    Opcode(u8),
}

/// When a fault fires: at occasions that match all of its conditions.
///
/// ```
/// use underpin_emulator::{Fault, FaultKind, FaultOp, Trigger};
///
/// let trigger = Trigger::FIRST.on_queue(1).on(FaultOp::Read).in_blocks(0, 99);
/// let fault = Fault::new(FaultKind::Drop, trigger.from_nth(3).times(2));
/// assert_eq!(fault, "drop@q=1+op=read+lba=0-99+nth=3+count=2".parse()?);
/// let rare = Fault::new(FaultKind::Drop, Trigger::FIRST.with_chance(1, 1000).always());
/// assert_eq!(rare.trigger.chance, Some((1, 1000)));
/// # Ok::<(), underpin_emulator::FaultParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Trigger {
    /// `q=1`: only commands of this submission queue.
    pub queue: Option<u16>,
    /// `op=read`: only such commands.
    pub op: FaultOp,
    /// `nsid=1`: only commands that name this namespace.
    pub nsid: Option<u32>,
    /// `lba=7`, `lba=0-99`: only reads and writes that touch one of these blocks.
    pub lba: Option<(u64, u64)>,
    /// `nth=3`: from the third such occasion on; 1 unless given.
    pub nth: u64,
    /// `count=2`, `count=all`: so many times at most. Unless given, once, or without limit when
    /// `p` is given.
    pub count: Option<u64>,
    /// `p=1/100`: each time with this chance.
    pub chance: Option<(u32, u32)>,
}

impl Trigger {
    /// Fires once, at the first occasion of any kind.
    pub const FIRST: Self = Self {
        queue: None,
        op: FaultOp::Any,
        nsid: None,
        lba: None,
        nth: 1,
        count: Some(1),
        chance: None,
    };

    /// The same at commands of submission queue `queue` only.
    #[must_use]
    pub const fn on_queue(mut self, queue: u16) -> Self {
        self.queue = Some(queue);
        self
    }

    /// The same at occasions of kind `op` only.
    #[must_use]
    pub const fn on(mut self, op: FaultOp) -> Self {
        self.op = op;
        self
    }

    /// The same at reads and writes that touch a block in `first..=last` only.
    #[must_use]
    pub const fn in_blocks(mut self, first: u64, last: u64) -> Self {
        self.lba = Some((first, last));
        self
    }

    /// The same from the `nth` occasion on, counted from 1.
    #[must_use]
    pub const fn from_nth(mut self, nth: u64) -> Self {
        self.nth = nth;
        self
    }

    /// The same, at most `count` times.
    #[must_use]
    pub const fn times(mut self, count: u64) -> Self {
        self.count = Some(count);
        self
    }

    /// The same without a limit.
    #[must_use]
    pub const fn always(mut self) -> Self {
        self.count = None;
        self
    }

    /// The same, each time with a chance of `numerator` in `denominator`.
    #[must_use]
    pub const fn with_chance(mut self, numerator: u32, denominator: u32) -> Self {
        self.chance = Some((numerator, denominator));
        self
    }
}

/// One fault: what goes wrong, and when.
///
/// As text it is `KIND[:PARAMETER][@CONDITION{+CONDITION}]`; several are separated by `;`.
///
/// ```
/// use underpin_emulator::{Fault, FaultKind, FaultOp, Trigger};
///
/// let fault: Fault = "status:0x281@op=read+nth=3+count=2".parse()?;
/// let trigger = Trigger::FIRST.on(FaultOp::Read).from_nth(3).times(2);
/// assert_eq!(fault, Fault::new(FaultKind::Status(0x281), trigger));
/// assert_eq!(fault.to_string().parse::<Fault>()?, fault);
/// let error = "drop@opp=read".parse::<Fault>().unwrap_err();
/// assert!(error.to_string().contains("did you mean `op`"));
/// # Ok::<(), underpin_emulator::FaultParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// When.
    pub trigger: Trigger,
}

impl Fault {
    /// The fault `kind`, when `trigger` says so.
    pub const fn new(kind: FaultKind, trigger: Trigger) -> Self {
        Self { kind, trigger }
    }

    /// Parses several faults, separated by `;`.
    ///
    /// # Errors
    /// [`FaultParseError`] naming the place.
    ///
    /// ```
    /// use underpin_emulator::Fault;
    ///
    /// let faults = Fault::parse_list("drop@nth=3; delay:5ms@op=flush")?;
    /// assert_eq!(faults.len(), 2);
    /// # Ok::<(), underpin_emulator::FaultParseError>(())
    /// ```
    pub fn parse_list(text: &str) -> Result<Vec<Self>, FaultParseError> {
        language::parse_list(text)
    }

    /// A random fault. Every kind is as likely as any other, and its trigger is one that a small
    /// workload (bring-up and a dozen reads and writes) meets.
    ///
    /// ```
    /// use underpin_dma::rt::Rng;
    /// use underpin_emulator::Fault;
    ///
    /// let fault = Fault::random(&mut Rng::seeded(7));
    /// assert_eq!(fault, Fault::random(&mut Rng::seeded(7)));
    /// assert_eq!(fault.to_string().parse::<Fault>()?, fault);
    /// # Ok::<(), underpin_emulator::FaultParseError>(())
    /// ```
    pub fn random(rng: &mut Rng) -> Self {
        let kind = match rng.below(FaultKind::COUNT as u64) {
            0 => {
                const STATUSES: [u16; 8] =
                    [0x002, 0x004, 0x006, 0x080, 0x280, 0x281, 0x284, 0x4002];
                FaultKind::Status(rng.pick(&STATUSES).copied().unwrap_or(0x006))
            }
            1 => FaultKind::Delay(Duration::from_micros(1 + rng.below(50_000))),
            2 => FaultKind::Drop,
            3 => FaultKind::Duplicate,
            4 => FaultKind::CorruptCid,
            5 => FaultKind::CorruptSqid,
            6 => FaultKind::CorruptPhase,
            7 => FaultKind::CorruptSqhd,
            8 => FaultKind::LateDma(Duration::from_micros(1 + rng.below(10_000))),
            9 => FaultKind::Hold,
            10 => FaultKind::NeverReady,
            11 => FaultKind::NeverDisabled,
            12 => FaultKind::ControllerFatal,
            13 => FaultKind::Removed,
            14 => FaultKind::ShortIdentify(8 * rng.below(512) as u32),
            15 => FaultKind::GarbageIdentify,
            16 => FaultKind::CorruptCqe,
            17 => FaultKind::NeverShutDown,
            18 => FaultKind::RemovedZero,
            19 => FaultKind::AbsurdIdentify,
            20 => FaultKind::GarbageLog,
            21 => FaultKind::NamespaceGone,
            22 => FaultKind::WrongIova(0x1000 << (5 * rng.below(4))),
            23 => FaultKind::CorruptData,
            24 => FaultKind::DmaAfterAbort(Duration::from_micros(1 + rng.below(10_000))),
            25 => FaultKind::CqStall(Duration::from_micros(1 + rng.below(50_000))),
            26 => {
                const LOSSES: [PowerLoss; 4] = [
                    PowerLoss::Any,
                    PowerLoss::Lost,
                    PowerLoss::Torn,
                    PowerLoss::Reordered,
                ];
                FaultKind::PowerCut(rng.pick(&LOSSES).copied().unwrap_or_default())
            }
            27 => FaultKind::IrqLost,
            28 => FaultKind::IrqSpurious,
            29 => FaultKind::IrqStorm(1 + rng.below(2000) as u32),
            _ => FaultKind::AerStorm(1 + rng.below(40) as u32),
        };
        let trigger = match kind {
            FaultKind::NeverReady => Trigger::FIRST.on(FaultOp::Enable),
            FaultKind::NeverDisabled => Trigger::FIRST.on(FaultOp::Disable),
            FaultKind::NeverShutDown => Trigger::FIRST.on(FaultOp::Shutdown),
            FaultKind::ShortIdentify(_)
            | FaultKind::GarbageIdentify
            | FaultKind::AbsurdIdentify => Trigger::FIRST
                .on(FaultOp::Identify)
                .from_nth(1 + rng.below(3)),
            FaultKind::GarbageLog => Trigger::FIRST.on(FaultOp::Log),
            FaultKind::NamespaceGone | FaultKind::CorruptData => {
                const OPS: [FaultOp; 3] = [FaultOp::Read, FaultOp::Write, FaultOp::Io];
                let op = rng.pick(&OPS).copied().unwrap_or_default();
                Trigger::FIRST.on(op).from_nth(1 + rng.below(4))
            }
            FaultKind::DmaAfterAbort(_) => Trigger::FIRST
                .on(FaultOp::Io)
                .from_nth(1 + rng.below(8))
                .times(4),
            _ => {
                const OPS: [FaultOp; 6] = [
                    FaultOp::Any,
                    FaultOp::Read,
                    FaultOp::Write,
                    FaultOp::Io,
                    FaultOp::Io,
                    FaultOp::Admin,
                ];
                Trigger::FIRST
                    .on(rng.pick(&OPS).copied().unwrap_or_default())
                    .from_nth(1 + rng.below(4))
                    .times(1 + rng.below(2))
            }
        };
        Self { kind, trigger }
    }
}

/// What became of one fault.
///
/// ```
/// use underpin_emulator::Emulator;
///
/// let emulator = Emulator::new("size=1m,fault=drop@op=read".parse()?)?;
/// let report = &emulator.faults()[0];
/// assert_eq!((report.occasions, report.fired, report.first_fired), (0, 0, None));
/// assert!(report.to_string().ends_with("fired 0 times at 0 occasions"));
/// # Ok::<(), underpin_emulator::EmulatorError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultReport {
    /// The fault.
    pub fault: Fault,
    /// How many occasions matched its conditions.
    pub occasions: u64,
    /// How often it fired.
    pub fired: u64,
    /// When it first fired.
    pub first_fired: Option<Instant>,
    /// When it last fired.
    pub last_fired: Option<Instant>,
}

impl fmt::Display for FaultReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            fault,
            occasions,
            fired,
            ..
        } = self;
        write!(f, "{fault}: fired {fired} times at {occasions} occasions")?;
        match self.first_fired {
            Some(first) => write!(f, ", first at {first}"),
            None => Ok(()),
        }
    }
}
