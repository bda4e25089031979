//! Decides at each occasion which faults fire, and keeps count of them.
//! The board is shared with the handle; the controller's own list is brought up to date from it.
use super::{Fault, FaultKind, FaultOp, FaultReport, PowerLoss};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use underpin_dma::rt::sync::Mutex;
use underpin_dma::rt::{Instant, Rng};
use underpin_nvme_spec::{AdminOpcode, NvmOpcode, Sqe};

/// One fault's counters.
#[derive(Debug)]
struct Counters {
    fault: Fault,
    occasions: AtomicU64,
    fired: AtomicU64,
    /// Nanoseconds + 1, so that 0 means never.
    first: AtomicU64,
    last: AtomicU64,
}

/// All faults of an emulator, for the handle.
#[derive(Debug, Default)]
pub(crate) struct FaultBoard {
    all: Mutex<Vec<Arc<Counters>>>,
    /// Moves when a fault is added: the controller looks at it before every fetch.
    version: AtomicU64,
    /// How often held commands were released.
    releases: AtomicU64,
}

impl FaultBoard {
    pub(crate) fn add(&self, fault: Fault) {
        let counters = Counters {
            fault,
            occasions: AtomicU64::new(0),
            fired: AtomicU64::new(0),
            first: AtomicU64::new(0),
            last: AtomicU64::new(0),
        };
        self.all.lock().push(Arc::new(counters));
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn release_held(&self) {
        self.releases.fetch_add(1, Ordering::Release);
    }

    #[inline]
    pub(crate) fn releases(&self) -> u64 {
        self.releases.load(Ordering::Acquire)
    }

    #[inline(always)]
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn reports(&self) -> Vec<FaultReport> {
        let time = |cell: &AtomicU64| {
            let nanos = cell.load(Ordering::Relaxed).checked_sub(1)?;
            Some(Instant::from_nanos(nanos))
        };
        let report = |counters: &Arc<Counters>| FaultReport {
            fault: counters.fault,
            occasions: counters.occasions.load(Ordering::Relaxed),
            fired: counters.fired.load(Ordering::Acquire),
            first_fired: time(&counters.first),
            last_fired: time(&counters.last),
        };
        self.all.lock().iter().map(report).collect()
    }
}

/// Something at which faults may fire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Occasion {
    /// A command was fetched from queue `qid`.
    Command { qid: u16, sqe: Sqe },
    /// CC.EN was set.
    Enable,
    /// CC.EN was cleared.
    Disable,
    /// CC.SHN was set.
    Shutdown,
}

/// What the faults that fired make of one command, or of a change of CC.EN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) status: Option<u16>,
    pub(crate) delay: Option<Duration>,
    pub(crate) drop: bool,
    pub(crate) duplicate: bool,
    pub(crate) corrupt_cid: bool,
    pub(crate) corrupt_sqid: bool,
    pub(crate) corrupt_phase: bool,
    pub(crate) corrupt_sqhd: bool,
    pub(crate) late_dma: Option<Duration>,
    pub(crate) hold: bool,
    pub(crate) never_ready: bool,
    pub(crate) never_disabled: bool,
    pub(crate) fatal: bool,
    pub(crate) removed: bool,
    pub(crate) short_identify: Option<u32>,
    pub(crate) garbage_identify: bool,
    pub(crate) corrupt_cqe: bool,
    pub(crate) never_shut_down: bool,
    pub(crate) removed_zero: bool,
    pub(crate) absurd_identify: bool,
    pub(crate) garbage_log: bool,
    pub(crate) namespace_gone: bool,
    pub(crate) wrong_iova: Option<u32>,
    pub(crate) corrupt_data: bool,
    pub(crate) dma_after_abort: Option<Duration>,
    pub(crate) cq_stall: Option<Duration>,
    pub(crate) power_cut: Option<PowerLoss>,
    pub(crate) irq_lost: bool,
    pub(crate) irq_spurious: bool,
    pub(crate) irq_storm: Option<u32>,
    pub(crate) aer_storm: Option<u32>,
}

impl Plan {
    fn add(&mut self, kind: FaultKind) {
        match kind {
            FaultKind::Status(status) => self.status = Some(status),
            FaultKind::Delay(time) => self.delay = Some(time),
            FaultKind::Drop => self.drop = true,
            FaultKind::Duplicate => self.duplicate = true,
            FaultKind::CorruptCid => self.corrupt_cid = true,
            FaultKind::CorruptSqid => self.corrupt_sqid = true,
            FaultKind::CorruptPhase => self.corrupt_phase = true,
            FaultKind::CorruptSqhd => self.corrupt_sqhd = true,
            FaultKind::LateDma(time) => self.late_dma = Some(time),
            FaultKind::Hold => self.hold = true,
            FaultKind::NeverReady => self.never_ready = true,
            FaultKind::NeverDisabled => self.never_disabled = true,
            FaultKind::ControllerFatal => self.fatal = true,
            FaultKind::Removed => self.removed = true,
            FaultKind::ShortIdentify(len_bytes) => self.short_identify = Some(len_bytes),
            FaultKind::GarbageIdentify => self.garbage_identify = true,
            FaultKind::CorruptCqe => self.corrupt_cqe = true,
            FaultKind::NeverShutDown => self.never_shut_down = true,
            FaultKind::RemovedZero => self.removed_zero = true,
            FaultKind::AbsurdIdentify => self.absurd_identify = true,
            FaultKind::GarbageLog => self.garbage_log = true,
            FaultKind::NamespaceGone => self.namespace_gone = true,
            FaultKind::WrongIova(offset) => self.wrong_iova = Some(offset),
            FaultKind::CorruptData => self.corrupt_data = true,
            FaultKind::DmaAfterAbort(time) => self.dma_after_abort = Some(time),
            FaultKind::CqStall(time) => self.cq_stall = Some(time),
            FaultKind::PowerCut(loss) => self.power_cut = Some(loss),
            FaultKind::IrqLost => self.irq_lost = true,
            FaultKind::IrqSpurious => self.irq_spurious = true,
            FaultKind::IrqStorm(times) => self.irq_storm = Some(times),
            FaultKind::AerStorm(times) => self.aer_storm = Some(times),
        }
    }
}

/// The controller's side: the faults it knows of, and its dice.
#[derive(Debug)]
pub(crate) struct FaultState {
    known: Vec<Arc<Counters>>,
    version: u64,
    rng: Rng,
    /// The time of the last occasion.
    now: Instant,
}

impl FaultState {
    pub(crate) fn new(rng: Rng) -> Self {
        Self {
            known: Vec::new(),
            version: 0,
            rng,
            now: Instant::START,
        }
    }

    /// True when faults were added that this side does not know.
    #[inline(always)]
    pub(crate) fn is_stale(&self, board: &FaultBoard) -> bool {
        self.version != board.version()
    }

    #[cold]
    pub(crate) fn refresh(&mut self, board: &FaultBoard) {
        self.version = board.version();
        self.known.clone_from(&board.all.lock());
    }

    /// True when no fault can ever fire again.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.iter().all(|counters| {
            let fired = counters.fired.load(Ordering::Relaxed);
            counters
                .fault
                .trigger
                .count
                .is_some_and(|count| fired >= count)
        })
    }

    /// True when the power may fail yet, so that what is not flushed must be remembered.
    pub(crate) fn may_cut_power(&self) -> bool {
        self.known.iter().any(|counters| {
            let fired = counters.fired.load(Ordering::Relaxed);
            let count = counters.fault.trigger.count;
            matches!(counters.fault.kind, FaultKind::PowerCut(_))
                && count.is_none_or(|count| fired < count)
        })
    }

    /// The time of the last occasion.
    pub(crate) const fn now(&self) -> Instant {
        self.now
    }

    /// What goes wrong at this occasion.
    pub(crate) fn at(&mut self, occasion: Occasion, now: Instant) -> Plan {
        self.now = now;
        let mut plan = Plan::default();
        for counters in &self.known {
            let Fault { kind, trigger } = counters.fault;
            if !matches(&counters.fault, occasion) {
                continue;
            }
            let occasions = counters.occasions.fetch_add(1, Ordering::Relaxed) + 1;
            let fired = counters.fired.load(Ordering::Relaxed);
            if occasions < trigger.nth || trigger.count.is_some_and(|count| fired >= count) {
                continue;
            }
            if let Some((numerator, denominator)) = trigger.chance
                && !self
                    .rng
                    .chance(u64::from(numerator), u64::from(denominator))
            {
                continue;
            }
            plan.add(kind);
            let mark = now.as_nanos().saturating_add(1);
            if fired == 0 {
                counters.first.store(mark, Ordering::Relaxed);
            }
            counters.last.store(mark, Ordering::Relaxed);
            counters.fired.store(fired + 1, Ordering::Release);
        }
        plan
    }
}

/// True when the occasion meets all conditions but number and chance.
fn matches(fault: &Fault, occasion: Occasion) -> bool {
    let trigger = &fault.trigger;
    let (qid, sqe) = match occasion {
        Occasion::Enable => {
            let any = trigger.op == FaultOp::Any && fault.kind == FaultKind::NeverReady;
            return trigger.op == FaultOp::Enable || any;
        }
        Occasion::Disable => {
            let any = trigger.op == FaultOp::Any && fault.kind == FaultKind::NeverDisabled;
            return trigger.op == FaultOp::Disable || any;
        }
        Occasion::Shutdown => return trigger.op == FaultOp::Shutdown,
        Occasion::Command { qid, sqe } => (qid, sqe),
    };
    let is_admin = qid == 0;
    let opcode = sqe.opcode();
    let admin = |wanted: AdminOpcode| is_admin && opcode == wanted.0;
    let nvm = |wanted: NvmOpcode| !is_admin && opcode == wanted.0;
    let is_identify = admin(AdminOpcode::IDENTIFY);
    let is_log = admin(AdminOpcode::GET_LOG_PAGE);
    let is_transfer = nvm(NvmOpcode::READ) || nvm(NvmOpcode::WRITE);
    let has_data = is_identify || is_log || is_transfer;
    match fault.kind {
        FaultKind::NeverReady | FaultKind::NeverDisabled | FaultKind::NeverShutDown => {
            return false;
        }
        FaultKind::ShortIdentify(_) | FaultKind::GarbageIdentify | FaultKind::AbsurdIdentify
            if !is_identify =>
        {
            return false;
        }
        FaultKind::GarbageLog if !is_log => return false,
        // Without data there is nothing to be late, wrong or misplaced.
        FaultKind::LateDma(_) | FaultKind::WrongIova(_) if !has_data => return false,
        FaultKind::CorruptData | FaultKind::DmaAfterAbort(_) if !is_transfer => return false,
        // All namespaces at once are none of them.
        FaultKind::NamespaceGone if is_admin || matches!(sqe.nsid().0, 0 | u32::MAX) => {
            return false;
        }
        _ => {}
    }
    let op = match trigger.op {
        FaultOp::Any => !admin(AdminOpcode::ASYNC_EVENT_REQUEST),
        FaultOp::Read => nvm(NvmOpcode::READ),
        FaultOp::Write => nvm(NvmOpcode::WRITE),
        FaultOp::Flush => nvm(NvmOpcode::FLUSH),
        FaultOp::Identify => is_identify,
        FaultOp::Io => !is_admin,
        FaultOp::Admin => is_admin && !admin(AdminOpcode::ASYNC_EVENT_REQUEST),
        FaultOp::Log => is_log,
        FaultOp::Enable | FaultOp::Disable | FaultOp::Shutdown => false,
        FaultOp::Opcode(wanted) => opcode == wanted,
    };
    let lba = match trigger.lba {
        None => true,
        Some((first, last)) => {
            let start = u64::from(sqe.cdw10()) | u64::from(sqe.cdw11()) << 32;
            let end = start.saturating_add(u64::from(sqe.cdw12() & 0xffff));
            is_transfer && start <= last && first <= end
        }
    };
    op && lba
        && trigger.queue.is_none_or(|queue| queue == qid)
        && trigger.nsid.is_none_or(|nsid| nsid == sqe.nsid().0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use underpin_nvme_spec::Nsid;

    fn read(qid: u16, lba: u32) -> Occasion {
        let sqe = Sqe::new()
            .with_opcode(NvmOpcode::READ.0)
            .with_nsid(Nsid(1))
            .with_cdw10(lba)
            .with_cdw12(7);
        Occasion::Command { qid, sqe }
    }

    fn state(text: &str) -> (FaultBoard, FaultState) {
        let board = FaultBoard::default();
        Fault::parse_list(text)
            .unwrap()
            .into_iter()
            .for_each(|fault| board.add(fault));
        let mut state = FaultState::new(Rng::seeded(1));
        assert!(state.is_stale(&board));
        state.refresh(&board);
        (board, state)
    }

    /// `nth` counts matching occasions only, `count` limits, and the report says so.
    #[test]
    fn fires_from_the_nth_on_and_count_times() {
        let (board, mut state) = state("drop@op=read+q=1+nth=2+count=2");
        let now = Instant::from_nanos(9);
        let fired: Vec<bool> = [(2, 0), (1, 0), (1, 0), (2, 0), (1, 0), (1, 0)]
            .into_iter()
            .map(|(qid, lba)| state.at(read(qid, lba), now).drop)
            .collect();
        assert_eq!(fired, [false, false, true, false, true, false]);
        assert!(state.is_empty());
        let report = &board.reports()[0];
        assert_eq!(
            (report.occasions, report.fired, report.first_fired),
            (4, 2, Some(now))
        );
    }

    /// A block condition matches every transfer that touches one of the blocks.
    #[test]
    fn blocks_match_by_overlap() {
        let (_, mut state) = state("hold@lba=10-20+count=all");
        let now = Instant::START;
        let fires = |state: &mut FaultState, lba| state.at(read(1, lba), now).hold;
        assert!(!fires(&mut state, 2), "blocks 2 to 9");
        assert!(fires(&mut state, 3), "blocks 3 to 10");
        assert!(fires(&mut state, 20) && !fires(&mut state, 21));
        assert_eq!(state.at(Occasion::Enable, now), Plan::default());
    }

    /// The same seed throws the same dice.
    #[test]
    fn chance_is_repeatable() {
        let go = || {
            let (_, mut state) = state("drop@p=1/3");
            (0..300)
                .map(|_| state.at(read(1, 0), Instant::START).drop)
                .collect::<Vec<_>>()
        };
        let fired = go().iter().filter(|&&fired| fired).count();
        assert!((60..140).contains(&fired), "{fired} of 300");
        assert_eq!(go(), go());
    }
}
