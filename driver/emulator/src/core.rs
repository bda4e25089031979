//! The controller as a pure state machine: all its state, and what one step does with it.
//! Batches for speed, single micro-operations drawn from a seed for simulation, one set of parts.
use crate::EmulatorError;
use crate::abilities::Abilities;
use crate::admin::{Events, Features, Reaction};
use crate::bus::{Bus, Who};
use crate::config::EmulatorConfig;
use crate::emulator::Shared;
use crate::faults::{FaultState, Occasion};
use crate::health::Health;
use crate::identify::Identity;
use crate::intake::Intake;
use crate::iommu::Mappings;
use crate::job::{Begun, Job, Outgoing};
use crate::model::Model;
use crate::namespace::Namespace;
use crate::nvm::{self, Limits, Transfer};
use crate::plain::{Done, PlainRead};
use crate::queues::{Cq, Look, Sq};
use crate::sgl::SglSupport;
use crate::shadow::ShadowPages;
use crate::stats::EmulatorStats;
use std::collections::VecDeque;
use std::time::Duration;
use underpin_dma::barrier;
use underpin_dma::rt::{Instant, Rng};
use underpin_nvme_spec::registers::{Cc, Csts};
use underpin_nvme_spec::{Cid, Cqe, Nsid, NvmOpcode, Qid, Sqe, Status};

/// What a step works with: the shared parts, the IOMMU's table (locked), and the time.
#[derive(Clone, Copy)]
pub(crate) struct Cx<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) map: &'a Mappings,
    /// Meaningless unless `timed`.
    pub(crate) now: Instant,
    /// The clock was read. Without it only the fast way is open: whatever wants the time waits
    /// for the next batch.
    pub(crate) timed: bool,
}

/// What the controller can do, fixed when it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Supports {
    pub(crate) dbbuf: bool,
    pub(crate) vwc: bool,
    /// I/O queue pairs.
    pub(crate) queues: u16,
    pub(crate) queue_entries: u32,
    /// MDTS in bytes.
    max_bytes: u64,
    pub(crate) abilities: Abilities,
    /// CAP.MPSMIN, in which limits are counted.
    pub(crate) smallest_page_bytes: u64,
    sgl: SglSupport,
    enable_time: Duration,
    stepped: bool,
    chunk_bytes: u64,
}

/// Where the controller is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Disabled,
    /// Enabled, and ready at this time; `None`: never.
    Enabling(Option<Instant>),
    Ready,
    /// Shut down: commands are not processed until a reset.
    ShutDown,
    /// CSTS.CFS is set: only a reset helps.
    Failed,
    /// Gone from the bus, for ever.
    Gone,
}

/// Completions written at a time, so that those of a burst share their cache lines' way.
const BURST: usize = 8;
/// Bytes moved for one queue in one batch, before others have their turn and the IOMMU's table is
/// let go. A single command may exceed it.
const BATCH_BYTES: u64 = 4 << 20;

/// The controller.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) supports: Supports,
    pub(crate) identity: Identity,
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) limits: Limits,
    pub(crate) features: Features,
    pub(crate) shadow: Option<ShadowPages>,
    pub(crate) events: Events,
    pub(crate) health: Health,
    pub(crate) sqs: Vec<Option<Box<Sq>>>,
    pub(crate) cqs: Vec<Option<Box<Cq>>>,
    /// The submission queues there are, in no order.
    live: Vec<u16>,
    /// Whose turn it is.
    turn: usize,
    #[allow(
        clippy::vec_box,
        reason = "jobs in the middle come and go; a job is large"
    )]
    pub(crate) jobs: Vec<Box<Job>>,
    pub(crate) outbox: VecDeque<Outgoing>,
    /// Completion queues that a fault holds up, and until when.
    pub(crate) stalls: Vec<(u16, Instant)>,
    pub(crate) bus: Bus,
    pub(crate) faults: FaultState,
    /// How long commands take, if they do.
    pub(crate) model: Option<Model>,
    pub(crate) rng: Rng,
    pub(crate) stats: EmulatorStats,
    phase: Phase,
    /// What was last seen of the registers.
    control: u32,
    resets: u32,
    /// Commands go through jobs: faults may fire, or some are under way.
    slow: bool,
    /// Something wants the time, which the last batch had not.
    wants_time: bool,
    /// `before_sleep` found nothing to do, and no step was made since.
    asleep: bool,
}

impl Machine {
    pub(crate) fn new(config: &EmulatorConfig, bus: Bus) -> Result<Self, EmulatorError> {
        let mut namespaces: Vec<Namespace> = Vec::new();
        for (nsid, namespace) in (1..).zip(&config.namespaces) {
            let opened = Namespace::open(config, nsid, namespace)?;
            let twin = namespaces
                .iter()
                .find(|other| opened.medium.shares_file(&other.medium));
            if let Some(twin) = twin {
                return Err(EmulatorError::Option {
                    option: format!("ns{nsid}"),
                    what: format!(
                        "its file is also that of ns{}; give ns{nsid}.file=PATH",
                        twin.nsid
                    ),
                });
            }
            opened.medium.claim()?;
            namespaces.push(opened);
        }
        let max_bytes = match config.mdts {
            0 => u64::MAX,
            mdts => 4096 << (u32::from(config.mpsmin) + u32::from(mdts)),
        };
        let supports = Supports {
            dbbuf: config.dbbuf,
            vwc: config.vwc,
            queues: config.queues,
            queue_entries: config.max_queue_entries,
            max_bytes,
            abilities: config.abilities,
            smallest_page_bytes: 4096 << config.mpsmin,
            sgl: config.sgl,
            enable_time: config.enable_time,
            stepped: config.stepped,
            chunk_bytes: config.chunk_bytes as u64,
        };
        let queues = usize::from(config.queues) + 1;
        let mut rng = Rng::seeded(config.seed);
        let faults = FaultState::new(Rng::seeded(rng.next_u64()));
        let model = Model::new(config.latency, config.bytes_per_s);
        Ok(Self {
            identity: Identity::new(config, namespaces.iter().find_map(|ns| ns.medium.inode())),
            namespaces,
            limits: limits(&supports, 4096),
            features: Features::new(config.queues, config.vwc),
            supports,
            shadow: None,
            events: Events::default(),
            health: Health::default(),
            sqs: (0..queues).map(|_| None).collect(),
            cqs: (0..queues).map(|_| None).collect(),
            live: Vec::with_capacity(queues),
            turn: 0,
            jobs: Vec::new(),
            outbox: VecDeque::new(),
            stalls: Vec::new(),
            bus,
            faults,
            rng,
            stats: EmulatorStats::default(),
            phase: Phase::Disabled,
            control: 0,
            resets: 0,
            slow: model.is_some(),
            model,
            wants_time: false,
            asleep: false,
        })
    }

    // Queues, by number.

    pub(crate) fn sq(&mut self, qid: u16) -> Option<&mut Sq> {
        self.sqs.get_mut(usize::from(qid))?.as_deref_mut()
    }

    pub(crate) fn cq(&mut self, qid: u16) -> Option<&mut Cq> {
        self.cqs.get_mut(usize::from(qid))?.as_deref_mut()
    }

    pub(crate) fn put_sq(&mut self, sq: Box<Sq>) {
        let qid = sq.qid;
        if let Some(place) = self.sqs.get_mut(usize::from(qid)) {
            *place = Some(sq);
            if !self.live.contains(&qid) {
                self.live.push(qid);
            }
        }
    }

    pub(crate) fn put_cq(&mut self, cq: Box<Cq>) {
        if let Some(place) = self.cqs.get_mut(usize::from(cq.qid)) {
            *place = Some(cq);
        }
    }

    pub(crate) fn take_sq(&mut self, qid: u16) -> Option<Box<Sq>> {
        let sq = self.sqs.get_mut(usize::from(qid))?.take()?;
        self.live.retain(|live| *live != qid);
        Some(sq)
    }

    pub(crate) fn drop_cq(&mut self, qid: u16) {
        if let Some(place) = self.cqs.get_mut(usize::from(qid)) {
            *place = None;
        }
        self.outbox.retain(|out| out.cqid != qid);
    }

    pub(crate) fn has_io_queues(&self) -> bool {
        let any_cq = self.cqs.iter().skip(1).any(Option::is_some);
        any_cq || self.live.iter().any(|&qid| qid != 0)
    }

    /// Forgets the rings' and doorbell pages' memory; it is looked up again when it is needed.
    pub(crate) fn close_rings(&mut self) {
        self.sqs.iter_mut().flatten().for_each(|sq| sq.close());
        self.cqs.iter_mut().flatten().for_each(|cq| cq.close());
    }

    // The controller's life.

    pub(crate) fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Looks at the registers. True when something has changed.
    #[inline(always)]
    fn look_at_control(&mut self, cx: &Cx<'_>) -> bool {
        let control = cx.shared.bar.control();
        if control == self.control {
            return false;
        }
        if !cx.timed {
            self.wants_time = true;
            return true;
        }
        self.control = control;
        self.follow_control(cx);
        cx.shared.bar.set_followed(control);
        true
    }

    #[cold]
    #[inline(never)]
    fn follow_control(&mut self, cx: &Cx<'_>) {
        let bar = &cx.shared.bar;
        if bar.is_removed() {
            return match self.phase {
                Phase::Gone => (),
                _ => self.remove(cx),
            };
        }
        if self.phase == Phase::Gone {
            // Power is back: the registers are as they are after a reset.
            self.phase = Phase::Disabled;
            self.resets = bar.resets();
        }
        self.refresh_faults(cx);
        self.hear_notices(cx);
        let resets = bar.resets();
        if resets != self.resets {
            self.resets = resets;
            let plan = self.faults.at(Occasion::Disable, cx.now);
            if self.ended_by(cx, &plan) {
                return;
            }
            if !plan.never_disabled {
                self.reset(cx);
            }
        }
        let cc = bar.cc();
        if cc.en() && self.phase == Phase::Disabled {
            self.enable(cx, cc);
        }
        let done = bar.csts().shst() == Csts::SHST_COMPLETE;
        if cc.shn() != Cc::SHN_NONE && !done && self.phase != Phase::Gone {
            self.shut_down(cx);
        }
    }

    fn enable(&mut self, cx: &Cx<'_>, cc: Cc) {
        let plan = self.faults.at(Occasion::Enable, cx.now);
        if self.ended_by(cx, &plan) {
            return;
        }
        if plan.never_ready {
            self.phase = Phase::Enabling(None);
            return;
        }
        let bar = &cx.shared.bar;
        let (cap, aqa) = (bar.cap(), bar.aqa());
        // Base 2.0, 3.5.1: what the host must have set up before it enables.
        let right = (cap.mpsmin()..=cap.mpsmax()).contains(&cc.mps())
            && (cc.css() == 0 || cc.css() == 0b110 && cap.css() & 1 << 6 != 0)
            && cc.ams() == 0
            && cc.iosqes() == 6
            && cc.iocqes() == 4
            && !cc.crime()
            && aqa.asqs() >= 1
            && aqa.acqs() >= 1;
        let page_bytes = 4096_u64 << cc.mps();
        let aligned = (bar.asq() | bar.acq()) & (page_bytes - 1) == 0;
        if !right || !aligned {
            return self.fail(cx, "CC, AQA, ASQ or ACQ with values that cannot be");
        }
        self.limits = limits(&self.supports, page_bytes);
        let Supports { queues, vwc, .. } = self.supports;
        self.features = self.features.after_reset(queues, vwc);
        // The admin queue has interrupts, at vector 0 (Base 2.0, 3.1.3.10).
        let entries = u32::from(aqa.acqs()) + 1;
        self.put_cq(Cq::new(0, bar.acq(), entries, Some(0)));
        self.put_sq(Sq::new(0, 0, bar.asq(), u32::from(aqa.asqs()) + 1));
        bar.set_live(0, true);
        bar.set_live(1, true);
        self.phase = Phase::Enabling(Some(cx.now + self.supports.enable_time));
        self.become_ready(cx);
    }

    /// An enabled controller becomes ready when its time has come.
    fn become_ready(&mut self, cx: &Cx<'_>) -> bool {
        match self.phase {
            Phase::Enabling(Some(ready_at)) if ready_at <= cx.now => {
                self.phase = Phase::Ready;
                cx.shared.bar.set_csts(Csts(0).with_rdy(true));
                true
            }
            _ => false,
        }
    }

    /// A Controller Level Reset (Base 2.0, 3.7.2). RDY is cleared last: no DMA follows.
    fn reset(&mut self, cx: &Cx<'_>) {
        self.stats.resets += 1;
        self.stop_all();
        cx.shared.bar.kill_doorbells();
        self.phase = Phase::Disabled;
        cx.shared.bar.set_csts(Csts(0));
    }

    fn stop_all(&mut self) {
        self.bus.command_failed(None, None);
        self.jobs.clear();
        self.outbox.clear();
        self.stalls.clear();
        self.sqs.iter_mut().for_each(|sq| *sq = None);
        self.cqs.iter_mut().for_each(|cq| *cq = None);
        self.live.clear();
        self.shadow = None;
        self.events.reset();
    }

    fn shut_down(&mut self, cx: &Cx<'_>) {
        let plan = self.faults.at(Occasion::Shutdown, cx.now);
        if self.ended_by(cx, &plan) || plan.never_shut_down {
            return;
        }
        let flushed = self.flush_all();
        if !flushed.is_success() {
            tracing::error!(status = %flushed, "the flush at shutdown failed");
        }
        if self.phase == Phase::Ready {
            self.phase = Phase::ShutDown;
        }
        let csts = cx.shared.bar.csts();
        cx.shared.bar.set_csts(csts.with_shst(Csts::SHST_COMPLETE));
    }

    /// Fatal status: nothing more is done until a reset.
    #[cold]
    pub(crate) fn fail(&mut self, cx: &Cx<'_>, why: &str) {
        tracing::debug!(emulator = %cx.shared.name, why, "CSTS.CFS");
        self.phase = Phase::Failed;
        let csts = cx.shared.bar.csts();
        cx.shared.bar.set_csts(csts.with_cfs(true));
    }

    /// Gone from the bus.
    #[cold]
    pub(crate) fn remove(&mut self, cx: &Cx<'_>) {
        cx.shared.bar.remove();
        self.stop_all();
        self.phase = Phase::Gone;
    }

    pub(crate) fn flush_all(&mut self) -> Status {
        nvm::flush(&mut self.namespaces, Nsid::ALL)
    }

    pub(crate) fn count_invalid(&mut self, look: Look) {
        self.stats.invalid_doorbells += u64::from(look == Look::Invalid);
    }

    #[inline(always)]
    fn refresh_faults(&mut self, cx: &Cx<'_>) {
        if self.faults.is_stale(&cx.shared.faults) {
            self.faults.refresh(&cx.shared.faults);
            self.cache_writes();
            self.slow = true;
        }
    }

    // Steps.

    /// What every step begins with. False when there is no more to do: the controller is gone.
    #[inline(always)]
    fn begin(&mut self, cx: &Cx<'_>) -> bool {
        if self.asleep {
            self.asleep = false;
            self.stats.wakeups += 1;
        }
        if cx.timed {
            self.wants_time = false;
        }
        if self.bus.revalidate(cx.map) {
            self.close_rings();
        }
        !cx.map.severed
    }

    /// Does all there is to do, up to `budget` commands. Returns how much was done.
    #[inline(always)]
    pub(crate) fn batch(&mut self, cx: &Cx<'_>, budget: usize) -> usize {
        if !self.begin(cx) {
            return 0;
        }
        if self.supports.stepped {
            return usize::from(self.micro_step(cx));
        }
        let mut done = usize::from(self.look_at_control(cx));
        if self.phase != Phase::Ready {
            return done + usize::from(self.become_ready(cx));
        }
        if self.slow && cx.timed {
            done += self.run_jobs(cx) + self.drain_outbox(cx);
            let rests = self.jobs.is_empty() && self.outbox.is_empty() && self.faults.is_empty();
            self.slow = !rests || self.model.is_some();
            if !self.slow {
                self.cache_writes();
            }
        }
        let queues = self.live.len();
        for _ in 0..queues {
            self.turn += 1;
            if self.turn >= self.live.len() {
                self.turn = 0;
            }
            let Some(&qid) = self.live.get(self.turn) else {
                break;
            };
            done += self.serve(cx, qid, budget);
            if self.phase != Phase::Ready {
                return done;
            }
        }
        if self.slow && cx.timed {
            done += self.run_jobs(cx) + self.drain_outbox(cx);
        }
        done + usize::from(self.wants_time)
    }

    /// Executes up to `budget` commands of one submission queue.
    #[inline(always)]
    fn serve(&mut self, cx: &Cx<'_>, qid: u16, budget: usize) -> usize {
        // Out of the list while it is served: no command deletes the queue that it came through.
        let Some(mut sq) = self.sqs.get_mut(usize::from(qid)).and_then(Option::take) else {
            return 0;
        };
        let done = self.serve_taken(cx, &mut sq, budget);
        if self.phase != Phase::Gone
            && let Some(place) = self.sqs.get_mut(usize::from(qid))
        {
            *place = Some(sq);
        }
        done
    }

    /// Looks at a queue's tail. True when there is something to fetch, and it can be.
    #[inline(always)]
    fn look_at_tail(&mut self, cx: &Cx<'_>, sq: &mut Sq) -> bool {
        match sq.look(&mut self.bus, cx.map, &cx.shared.bar, self.shadow.as_ref()) {
            Ok(Look::Same | Look::Moved) => {}
            Ok(look) => self.count_invalid(look),
            Err(_) => {
                self.fail(cx, "a doorbell page that is not mapped");
                return false;
            }
        }
        if sq.is_empty() {
            return false;
        }
        // Entries are read after the doorbell that announced them, and faults that were injected
        // before it are known.
        barrier::read();
        if self.faults.is_stale(&cx.shared.faults) {
            self.refresh_faults(cx);
            if !cx.timed {
                self.wants_time = true;
                return false;
            }
        }
        if sq.open(&mut self.bus, cx.map).is_err() {
            self.fail(cx, "a submission queue that is not mapped");
            return false;
        }
        true
    }

    #[inline(always)]
    fn count_entry(&mut self, words: &[u64; 8]) {
        self.stats.sqes += 1;
        let sum = words
            .iter()
            .fold(0_u64, |sum, word| sum.wrapping_add(*word));
        self.stats.sqe_sum = self.stats.sqe_sum.wrapping_add(sum);
    }

    /// Executes what plain reads there are at the head of a queue. Both queues are open. Returns
    /// how many.
    #[inline(always)]
    fn execute_plain(&mut self, cx: &Cx<'_>, sq: &mut Sq, cq: &mut Cq, most: usize) -> usize {
        let (bus, limits) = (&self.bus, &self.limits);
        let plain = PlainRead::like_next(sq, bus, cx.map, &self.namespaces, limits);
        let Some(plain) = plain else { return 0 };
        let Done { reads, bytes, sum } = plain.run(sq, cq, most);
        self.bus.bytes_to_host += bytes;
        let stats = &mut self.stats;
        stats.sqes += reads as u64;
        stats.sqe_sum = stats.sqe_sum.wrapping_add(sum);
        stats.reads += reads as u64;
        stats.completions += reads as u64;
        reads
    }

    #[inline(always)]
    fn serve_taken(&mut self, cx: &Cx<'_>, sq: &mut Sq, budget: usize) -> usize {
        if !self.look_at_tail(cx, sq) {
            return 0;
        }
        if self.slow {
            if !cx.timed {
                self.wants_time = true;
                return 0;
            }
            return self.accept_all(cx, sq, budget);
        }
        let place = usize::from(sq.cqid);
        let Some(mut cq) = self.cqs.get_mut(place).and_then(Option::take) else {
            return 0;
        };
        let done = self.execute_all(cx, sq, &mut cq, budget);
        if let Some(vector) = cq.vector
            && done > 0
        {
            cx.shared.vectors.raise(vector);
        }
        if self.phase != Phase::Gone
            && let Some(place) = self.cqs.get_mut(place)
        {
            *place = Some(cq);
        }
        done
    }

    /// Fetches commands and makes jobs of them.
    #[inline(never)]
    fn accept_all(&mut self, cx: &Cx<'_>, sq: &mut Sq, budget: usize) -> usize {
        let mut done = 0;
        while !sq.is_empty() && done < budget && self.takes_more(sq.qid) {
            let Some(words) = sq.fetch(&self.bus) else {
                break;
            };
            self.count_entry(&words);
            done += 1;
            self.accept(cx, sq.qid, sq.cqid, Sqe::from_u64s(words));
            if self.phase != Phase::Ready {
                break;
            }
        }
        done
    }

    /// Fetches and executes commands, and writes their completions in bursts.
    #[inline(always)]
    fn execute_all(&mut self, cx: &Cx<'_>, sq: &mut Sq, cq: &mut Cq, budget: usize) -> usize {
        if cq.open(&mut self.bus, cx.map).is_err() {
            self.fail(cx, "a completion queue that is not mapped");
            return 0;
        }
        let mut done = 0;
        let enough = self.bytes_moved().wrapping_add(BATCH_BYTES);
        while !sq.is_empty() && done < budget && self.bytes_moved() < enough {
            if cq.room() == 0 && !self.look_for_room(cx, cq) {
                break;
            }
            cq.waiting = false;
            let plain = self.execute_plain(cx, sq, cq, budget - done);
            if plain != 0 {
                done += plain;
                continue;
            }
            // Admin commands one by one: each may change what the next one meets.
            let most = if sq.qid == 0 { 1 } else { BURST };
            let burst = (cq.room() as usize).min(most).min(budget - done);
            // What a burst reads and writes comes from the host's processor; all of it is on its
            // way before the first of it is needed. Later bursts' entries were asked for already.
            if done == 0 {
                sq.expect(burst as u32);
            }
            cq.expect(burst as u32);
            let mut ended = [(Cid(0), Status::SUCCESS, 0_u32); BURST];
            let (mut fetched, mut count) = (0, 0);
            while fetched < burst && !sq.is_empty() {
                let Some(words) = sq.fetch(&self.bus) else {
                    break;
                };
                fetched += 1;
                self.count_entry(&words);
                let sqe = Sqe::from_u64s(words);
                if let Some((status, dw0)) = self.execute(cx, sq.qid, &sqe)
                    && let Some(place) = ended.get_mut(count)
                {
                    *place = (sqe.cid(), status, dw0);
                    count += 1;
                }
            }
            done += fetched;
            if fetched == 0 {
                break;
            }
            sq.expect(burst as u32);
            for &(cid, status, dw0) in ended.iter().take(count) {
                cq.post(&self.bus, false, |phase| {
                    Cqe::new(dw0, 0, sq.head as u16, Qid(sq.qid), cid, phase, status)
                });
                self.stats.errors += u64::from(!status.is_success());
            }
            self.stats.completions += count as u64;
            if self.phase != Phase::Ready {
                break;
            }
        }
        done
    }

    #[inline(always)]
    fn bytes_moved(&self) -> u64 {
        self.bus
            .bytes_from_host
            .wrapping_add(self.bus.bytes_to_host)
    }

    /// Looks whether the host has read completions. While it has not, the queue stalls: a
    /// completion queue never overflows.
    #[cold]
    fn look_for_room(&mut self, cx: &Cx<'_>, cq: &mut Cq) -> bool {
        match cq.look(&mut self.bus, cx.map, &cx.shared.bar, self.shadow.as_ref()) {
            Ok(look) => self.count_invalid(look),
            Err(_) => self.fail(cx, "a completion doorbell page that is not mapped"),
        }
        let full = cq.room() == 0;
        self.stats.cq_stalls += u64::from(full && !cq.waiting);
        cq.waiting = full;
        !full
    }

    /// Executes one command to its end. `None` when it stays without one.
    #[inline(always)]
    fn execute(&mut self, cx: &Cx<'_>, qid: u16, sqe: &Sqe) -> Option<(Status, u32)> {
        let who = Who {
            qid,
            cid: Some(sqe.cid().0),
            told: false,
        };
        if qid != 0
            && let Some(opcode) = transfer_opcode(sqe)
        {
            self.count_transfer(opcode);
            let (bus, namespaces) = (&mut self.bus, &mut self.namespaces);
            let moved = nvm::at_once(bus, cx.map, namespaces, &self.limits, sqe, who);
            return match moved {
                Ok(()) => Some((Status::SUCCESS, 0)),
                Err(status) => {
                    self.note_error(qid, sqe, status);
                    Some((status, 0))
                }
            };
        }
        self.execute_other(cx, qid, sqe, who)
    }

    /// The same for a command that is no transfer.
    #[inline(never)]
    fn execute_other(
        &mut self,
        cx: &Cx<'_>,
        qid: u16,
        sqe: &Sqe,
        who: Who,
    ) -> Option<(Status, u32)> {
        let mut begun = self.react(cx, qid, sqe);
        if let Begun::Reaction(Reaction::Take(mut intake)) = begun {
            let came = intake.advance(&mut self.bus, cx.map, who, usize::MAX);
            begun = Begun::Reaction(match came {
                Ok(_) => self.data_came(qid, sqe, intake),
                Err(status) => status.into(),
            });
        }
        let moved = match begun {
            Begun::Transfer(mut transfer) => {
                transfer.advance(&mut self.bus, cx.map, &mut self.namespaces, who, u64::MAX)
            }
            Begun::Reaction(Reaction::Done(status, dw0)) => {
                if !status.is_success() {
                    self.note_error(qid, sqe, status);
                }
                return Some((status, dw0));
            }
            Begun::Reaction(Reaction::Reply(mut reply)) => {
                reply.advance(&mut self.bus, cx.map, who, usize::MAX)
            }
            Begun::Reaction(Reaction::Held) => return None,
            Begun::Reaction(Reaction::Take(_)) => Err(Status::INTERNAL_ERROR),
        };
        let status = moved.err().unwrap_or(Status::SUCCESS);
        if !status.is_success() {
            self.note_error(qid, sqe, status);
        }
        Some((status, 0))
    }

    /// What a command makes of its data.
    pub(crate) fn data_came(&mut self, qid: u16, sqe: &Sqe, intake: Intake) -> Reaction {
        let bytes = intake.into_bytes();
        match qid {
            0 => self.admin_data(sqe, &bytes),
            _ => self.io_data(sqe, &bytes),
        }
    }

    /// Something waits in the outbox, or is to go through jobs.
    pub(crate) fn go_slowly(&mut self) {
        self.slow = true;
    }

    #[inline(always)]
    fn count_transfer(&mut self, opcode: NvmOpcode) {
        match opcode {
            NvmOpcode::READ => self.stats.reads += 1,
            _ => self.stats.writes += 1,
        }
    }

    /// Looks at a command of an I/O queue.
    pub(crate) fn nvm(&mut self, sqe: &Sqe) -> Begun {
        if let Some(opcode) = transfer_opcode(sqe) {
            self.count_transfer(opcode);
            return match Transfer::begin(&self.namespaces, &self.limits, sqe) {
                Ok(transfer) => Begun::Transfer(transfer),
                Err(status) => Begun::Reaction(status.into()),
            };
        }
        let opcode = NvmOpcode(sqe.opcode());
        if opcode != NvmOpcode::FLUSH {
            return Begun::Reaction(self.other_io(sqe));
        }
        self.stats.flushes += 1;
        Begun::Reaction(nvm::flush(&mut self.namespaces, sqe.nsid()).into())
    }

    // Single micro-operations.

    /// Does one micro-operation drawn from those that could happen now. True when there was one.
    #[inline(never)]
    fn micro_step(&mut self, cx: &Cx<'_>) -> bool {
        let mut could: Vec<Micro> = Vec::new();
        if cx.shared.bar.control() != self.control {
            could.push(Micro::Control);
        }
        match self.phase {
            Phase::Enabling(Some(at)) if at <= cx.now => could.push(Micro::Ready),
            Phase::Ready => {
                for qid in self.live.clone() {
                    let Some(mut sq) = self.sqs.get_mut(usize::from(qid)).and_then(Option::take)
                    else {
                        continue;
                    };
                    let fetch = self.look_at_tail(cx, &mut sq) && self.takes_more(qid);
                    if let Some(place) = self.sqs.get_mut(usize::from(qid)) {
                        *place = Some(sq);
                    }
                    if fetch {
                        could.push(Micro::Fetch(qid));
                    }
                }
                let jobs = (0..self.jobs.len()).filter(|&index| self.is_runnable(cx, index));
                could.extend(jobs.map(Micro::Advance));
                could.extend(self.postable(cx).into_iter().map(Micro::Post));
            }
            _ => {}
        }
        let Some(&chosen) = self.rng.pick(&could) else {
            return false;
        };
        match chosen {
            Micro::Control => {
                self.look_at_control(cx);
            }
            Micro::Ready => {
                self.become_ready(cx);
            }
            Micro::Fetch(qid) => {
                let Some(mut sq) = self.sqs.get_mut(usize::from(qid)).and_then(Option::take) else {
                    return false;
                };
                self.accept_all(cx, &mut sq, 1);
                if self.phase != Phase::Gone
                    && let Some(place) = self.sqs.get_mut(usize::from(qid))
                {
                    *place = Some(sq);
                }
            }
            Micro::Advance(index) => {
                self.advance_job(cx, index, self.supports.chunk_bytes);
            }
            Micro::Post(index) => {
                if let Some(out) = self.outbox.remove(index) {
                    self.post(cx, &out);
                }
            }
        }
        true
    }

    // Sleep.

    /// When to step again though nobody wakes the controller.
    pub(crate) fn next_time(&self) -> Option<Instant> {
        match self.phase {
            Phase::Enabling(ready_at) => ready_at,
            Phase::Ready => self.next_job_time(),
            _ => None,
        }
    }

    /// True when a command ends so soon that sleeping until then would make it late.
    pub(crate) fn ends_soon(&self, now: Instant) -> bool {
        const SOON: Duration = Duration::from_micros(200);
        self.model.is_some() && self.next_job_time().is_some_and(|next| next < now + SOON)
    }

    /// True when commands take the fast way: nothing looks at the clock.
    pub(crate) fn is_fast(&self) -> bool {
        let plain = !self.slow && !self.supports.stepped && !self.wants_time;
        plain && self.phase == Phase::Ready
    }

    /// Publishes what shall wake the controller, and looks again. True when it can sleep.
    ///
    /// The host writes its index, then reads EventIdx; here EventIdx is written, then the index
    /// is read. With full fences between, one of the two sees the other (Base 2.0, annex B.5).
    pub(crate) fn before_sleep(&mut self, cx: &Cx<'_>) -> bool {
        if cx.map.severed {
            return true;
        }
        if self.bus.revalidate(cx.map) {
            // The next step opens the pages again; only then can EventIdx be written.
            self.close_rings();
            return false;
        }
        if self.phase == Phase::Ready {
            let (bar, shadow) = (&cx.shared.bar, self.shadow.as_ref());
            for sq in self.sqs.iter_mut().flatten() {
                if sq.look(&mut self.bus, cx.map, bar, shadow) == Ok(Look::Moved) {
                    return false;
                }
                sq.publish();
            }
            for cq in self.cqs.iter_mut().flatten() {
                if cq.look(&mut self.bus, cx.map, bar, shadow) == Ok(Look::Moved) && cq.waiting {
                    return false;
                }
                cq.publish();
            }
        }
        barrier::full();
        if self.has_news(cx) {
            return false;
        }
        self.asleep = true;
        self.stats.sleeps += 1;
        true
    }

    fn has_news(&mut self, cx: &Cx<'_>) -> bool {
        if cx.shared.bar.control() != self.control {
            return true;
        }
        if self.phase != Phase::Ready {
            return false;
        }
        let (bar, shadow) = (&cx.shared.bar, self.shadow.as_ref());
        for sq in self.sqs.iter_mut().flatten() {
            // A page that is not mapped is for the next step to complain of.
            match sq.look(&mut self.bus, cx.map, bar, shadow) {
                Ok(Look::Same) if sq.is_empty() => {}
                Ok(Look::Same) => {
                    let cq = self.cqs.get(usize::from(sq.cqid)).and_then(Option::as_ref);
                    let at_once = !self.slow && !self.supports.stepped;
                    if at_once && cq.is_none_or(|cq| !cq.waiting) {
                        return true;
                    }
                }
                Ok(Look::Moved) => return true,
                Ok(Look::Invalid) => self.stats.invalid_doorbells += 1,
                Err(_) => return true,
            }
        }
        for cq in self.cqs.iter_mut().flatten().filter(|cq| cq.waiting) {
            match cq.look(&mut self.bus, cx.map, bar, shadow) {
                Ok(Look::Same) => {}
                Ok(Look::Invalid) => self.stats.invalid_doorbells += 1,
                Ok(Look::Moved) | Err(_) => return true,
            }
        }
        (0..self.jobs.len()).any(|index| self.is_runnable(cx, index))
    }

    /// Publishes the figures.
    #[inline]
    pub(crate) fn publish(&mut self, shared: &Shared) {
        self.stats.bytes_from_host = self.bus.bytes_from_host;
        self.stats.bytes_to_host = self.bus.bytes_to_host;
        shared.stats.publish(&self.stats);
    }
}

/// Read and Write, which transfer data.
#[inline(always)]
fn transfer_opcode(sqe: &Sqe) -> Option<NvmOpcode> {
    let opcode = NvmOpcode(sqe.opcode());
    (opcode == NvmOpcode::READ || opcode == NvmOpcode::WRITE).then_some(opcode)
}

/// One of the things that could happen next.
#[derive(Clone, Copy, Debug)]
enum Micro {
    Control,
    Ready,
    Fetch(u16),
    Advance(usize),
    Post(usize),
}

fn limits(supports: &Supports, page_bytes: u64) -> Limits {
    Limits {
        page_bytes,
        max_bytes: supports.max_bytes,
        write_through: false,
        sgl: supports.sgl,
        in_pieces: supports.stepped,
    }
}
