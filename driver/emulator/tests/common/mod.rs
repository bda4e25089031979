//! A tiny host, driven by hand: rings in a DmaSpace, entries by the specification's structures.
//! It shares nothing with the driver, so that a misunderstanding is not made twice.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, unreachable_pub)]

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use underpin_dma::rt::{self, Instant};
use underpin_dma::{
    Attachment, DmaBuf, DmaSpace, MemoryWatch, Records, SpaceOptions, Word32, barrier,
};
use underpin_emulator::{Emulator, EmulatorConfig, InlineCore};
use underpin_nvme_spec::admin::{
    Cns, CreateIoCq, CreateIoSq, DeleteIoCq, DeleteIoSq, DoorbellBufferConfig, Identify,
};
use underpin_nvme_spec::nvm::{Flush, ReadWrite};
use underpin_nvme_spec::registers::{self, Aqa, Cap, Cc, Csts, offset};
use underpin_nvme_spec::{Cid, Cqe, Lba, Nsid, NvmOpcode, Qid, Sqe, Status};

/// Who steps the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Thread,
    Local,
    Inline,
}

/// One queue pair: rings, indices and doorbells.
pub struct Pair {
    pub qid: u16,
    pub sq: Records<8>,
    pub cq: Records<2>,
    pub sq_buf: DmaBuf,
    pub cq_buf: DmaBuf,
    pub tail: u32,
    pub head: u32,
    pub phase: bool,
    pub next_cid: u16,
    /// What the device was told.
    told_tail: u32,
    told_head: u32,
    shadow: Option<[Word32; 4]>,
    /// Doorbell registers written.
    pub kicks: u64,
}

pub struct Host {
    pub space: DmaSpace,
    pub emu: Emulator,
    inline: RefCell<Option<InlineCore>>,
    pub attachment: Option<Attachment>,
    pub admin: Pair,
    pub dstrd: u8,
    /// Shadow doorbells and EventIdx.
    pub pages: Option<(DmaBuf, DmaBuf)>,
    pub page_bytes: usize,
    /// A wait ends when the controller, stepped by hand, has nothing more to do: what has not
    /// come by then does not come.
    pub hurry: bool,
}

pub fn config(text: &str) -> EmulatorConfig {
    text.parse().unwrap()
}

pub fn deadline() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(20))
}

impl Pair {
    pub fn new(space: &DmaSpace, qid: u16, entries: usize, page: usize) -> Self {
        let ring = |len: usize| space.alloc(len.next_multiple_of(page), page).unwrap();
        let (sq_buf, cq_buf) = (ring(entries * 64), ring(entries * 16));
        Self {
            qid,
            sq: Records::new(sq_buf.slice().unwrap(), entries).unwrap(),
            cq: Records::new(cq_buf.slice().unwrap(), entries).unwrap(),
            sq_buf,
            cq_buf,
            tail: 0,
            head: 0,
            phase: true,
            next_cid: 0,
            told_tail: 0,
            told_head: 0,
            shadow: None,
            kicks: 0,
        }
    }

    /// Writes an entry; the device is not told yet.
    pub fn push(&mut self, sqe: Sqe) -> Cid {
        let cid = Cid(self.next_cid);
        self.next_cid = self.next_cid.wrapping_add(1) & 0x7fff;
        self.sq
            .write(self.tail as usize, sqe.with_cid(cid).as_u64s());
        self.tail = (self.tail + 1) % self.sq.count() as u32;
        cid
    }

    /// The next completion, if there is one; the device is not told yet.
    pub fn pop(&mut self) -> Option<Cqe> {
        let high = self.cq.read_word(self.head as usize, 1);
        if Cqe::from_u64s([0, high]).phase() != self.phase {
            return None;
        }
        barrier::read();
        let cqe = Cqe::from_u64s([self.cq.read_word(self.head as usize, 0), high]);
        self.head += 1;
        if self.head as usize == self.cq.count() {
            self.head = 0;
            self.phase = !self.phase;
        }
        Some(cqe)
    }

    /// Tells the device of the tail.
    pub fn ring(&mut self, emu: &Emulator, dstrd: u8) {
        let (old, new) = (self.told_tail, self.tail);
        if old != new {
            self.told_tail = new;
            self.tell(
                emu,
                registers::doorbell_sq(Qid(self.qid), dstrd),
                0,
                old,
                new,
            );
        }
    }

    /// Tells the device of the head.
    pub fn acknowledge(&mut self, emu: &Emulator, dstrd: u8) {
        let (old, new) = (self.told_head, self.head);
        if old != new {
            self.told_head = new;
            self.tell(
                emu,
                registers::doorbell_cq(Qid(self.qid), dstrd),
                2,
                old,
                new,
            );
        }
    }

    fn tell(&mut self, emu: &Emulator, register: usize, at: usize, old: u32, new: u32) {
        if let Some(words) = &self.shadow {
            words[at].store(new, Ordering::Release);
            barrier::full();
            // Base 2.0, annex B.5, in modulo 2^16: does the step from old to new pass EventIdx?
            let event = words[at + 1].load(Ordering::Acquire) as u16;
            let passed = (new as u16).wrapping_sub(event).wrapping_sub(1);
            if passed >= (new as u16).wrapping_sub(old as u16) {
                return;
            }
        }
        self.kicks += 1;
        emu.write32(register, new);
    }
}

impl Host {
    /// A host and a running controller, disabled still.
    pub fn new(config: EmulatorConfig, mode: Mode) -> Self {
        let watch = config
            .referee
            .clone()
            .map(|referee| referee as Arc<dyn MemoryWatch>);
        let space = DmaSpace::with_options(SpaceOptions {
            watch,
            ..SpaceOptions::default()
        });
        let emu = Emulator::new(config).unwrap();
        let attachment = Some(space.attach(emu.mapper()).unwrap());
        let inline = match mode {
            Mode::Thread => {
                emu.start_thread().unwrap();
                None
            }
            Mode::Local => {
                emu.start_local();
                None
            }
            Mode::Inline => Some(emu.inline_core()),
        };
        let cap = Cap(emu.read64(offset::CAP));
        let page_bytes = cap.page_min_bytes() as usize;
        Self {
            admin: Pair::new(&space, 0, 64, page_bytes),
            space,
            emu,
            inline: RefCell::new(inline),
            attachment,
            dstrd: cap.dstrd(),
            pages: None,
            page_bytes,
            hurry: false,
        }
    }

    /// The same, enabled and ready, with shadow doorbells if the controller has them.
    pub fn up(config: EmulatorConfig, mode: Mode) -> Self {
        let dbbuf = config.dbbuf;
        let mut host = Self::new(config, mode);
        host.enable();
        assert!(host.wait_for(|csts| csts.rdy()), "CSTS.RDY");
        if dbbuf {
            host.shadow_doorbells();
        }
        host
    }

    pub fn take_inline(&self) -> Option<InlineCore> {
        self.inline.borrow_mut().take()
    }

    pub fn csts(&self) -> Csts {
        Csts(self.emu.read32(offset::CSTS))
    }

    pub fn cc(&self, en: bool) -> Cc {
        let mps = (self.page_bytes / 4096).trailing_zeros() as u8;
        Cc(0)
            .with_iosqes(6)
            .with_iocqes(4)
            .with_mps(mps)
            .with_en(en)
    }

    pub fn enable(&mut self) {
        let entries = self.admin.sq.count() as u16;
        let aqa = Aqa(0).with_asqs(entries - 1).with_acqs(entries - 1);
        self.emu.write32(offset::AQA, aqa.0);
        self.emu
            .write64(offset::ASQ, self.admin.sq_buf.iova().get());
        self.emu
            .write64(offset::ACQ, self.admin.cq_buf.iova().get());
        self.emu.write32(offset::CC, self.cc(true).0);
    }

    /// Clears CC.EN and waits for RDY to follow; the admin queue begins anew.
    pub fn disable(&mut self) -> bool {
        self.emu.write32(offset::CC, self.cc(false).0);
        let disabled = self.wait_for(|csts| !csts.rdy());
        self.admin = Pair::new(&self.space, 0, self.admin.sq.count(), self.page_bytes);
        self.pages = None;
        disabled
    }

    /// Lets the controller run while `poll` finds no answer.
    pub fn wait<T>(&self, mut poll: impl FnMut() -> Option<T>) -> Option<T> {
        if self.hurry {
            let mut core = self.inline.borrow_mut();
            let core = core.as_mut().expect("an inline core");
            while core.run_batch() > 0 {}
            return poll();
        }
        rt::wait(deadline(), |_| {
            if let Some(core) = self.inline.borrow_mut().as_mut() {
                core.run_batch();
            }
            poll()
        })
        .ok()
    }

    pub fn wait_for(&self, mut wanted: impl FnMut(Csts) -> bool) -> bool {
        self.wait(|| wanted(self.csts()).then_some(())).is_some()
    }

    /// Lets the controller run for a while.
    pub fn pass(&self, time: Duration) {
        let until = Instant::now() + time;
        let _ = self.wait(|| (Instant::now() >= until).then_some(()));
    }

    pub fn shadow_doorbells(&mut self) {
        let page = || self.space.alloc(self.page_bytes, self.page_bytes).unwrap();
        let (shadow, event_idx) = (page(), page());
        let command = DoorbellBufferConfig {
            shadow: shadow.iova().get(),
            event_idx: event_idx.iova().get(),
        };
        assert_eq!(self.admin(command.to_sqe()).status(), Status::SUCCESS);
        self.pages = Some((shadow, event_idx));
    }

    /// Submits an admin command and waits for its end.
    pub fn admin(&mut self, sqe: Sqe) -> Cqe {
        let cid = self.admin.push(sqe);
        self.admin.ring(&self.emu, self.dstrd);
        let mut admin = std::mem::replace(&mut self.admin, Pair::new(&self.space, 0, 2, 4096));
        let cqe = self.wait(|| admin.pop()).expect("an admin command ends");
        self.admin = admin;
        self.admin.acknowledge(&self.emu, self.dstrd);
        assert_eq!((cqe.cid(), cqe.sqid()), (cid, Qid(0)));
        cqe
    }

    /// Submits an admin command and waits a while for its end, whatever it is.
    pub fn try_admin(&mut self, sqe: Sqe) -> Option<Cqe> {
        self.admin.push(sqe);
        self.admin.ring(&self.emu, self.dstrd);
        let mut admin = std::mem::replace(&mut self.admin, Pair::new(&self.space, 0, 2, 4096));
        let cqe = self.wait(|| admin.pop());
        self.admin = admin;
        self.admin.acknowledge(&self.emu, self.dstrd);
        cqe
    }

    pub fn identify(&mut self, cns: Cns, nsid: u32) -> Result<[u8; 4096], Status> {
        let buf = self.space.alloc(4096, 4096).unwrap();
        let command = Identify {
            cns,
            nsid: Nsid(nsid),
            prp1: buf.iova().get(),
            ..Identify::default()
        };
        let status = self.admin(command.to_sqe()).status();
        let mut page = [0; 4096];
        buf.copy_to(0, &mut page).unwrap();
        match status.is_success() {
            true => Ok(page),
            false => Err(status),
        }
    }

    /// An unmade queue pair with its doorbells.
    pub fn pair(&self, qid: u16, entries: usize) -> Pair {
        let mut pair = Pair::new(&self.space, qid, entries, self.page_bytes);
        if let Some((shadow, event_idx)) = &self.pages {
            let (shadow, event_idx) = (shadow.slice().unwrap(), event_idx.slice().unwrap());
            let stride = 4 << self.dstrd;
            let at = |index: usize| index * stride;
            let (sq, cq) = (at(2 * usize::from(qid)), at(2 * usize::from(qid) + 1));
            let word = |slice, at| Word32::new(slice, at).unwrap();
            let words = [
                word(&shadow, sq),
                word(&event_idx, sq),
                word(&shadow, cq),
                word(&event_idx, cq),
            ];
            words
                .iter()
                .for_each(|word| word.store(0, Ordering::Relaxed));
            pair.shadow = Some(words);
        }
        pair
    }

    pub fn create_cq_of(pair: &Pair) -> CreateIoCq {
        CreateIoCq {
            qid: Qid(pair.qid),
            entries: pair.cq.count() as u32,
            prp1: pair.cq_buf.iova().get(),
            contiguous: true,
            ..CreateIoCq::default()
        }
    }

    pub fn create_sq_of(pair: &Pair) -> CreateIoSq {
        CreateIoSq {
            qid: Qid(pair.qid),
            entries: pair.sq.count() as u32,
            prp1: pair.sq_buf.iova().get(),
            contiguous: true,
            cqid: Qid(pair.qid),
            ..CreateIoSq::default()
        }
    }

    /// Makes an I/O queue pair.
    pub fn create(&mut self, qid: u16, entries: usize) -> Pair {
        let pair = self.pair(qid, entries);
        let status = self.admin(Self::create_cq_of(&pair).to_sqe()).status();
        assert_eq!(status, Status::SUCCESS);
        let status = self.admin(Self::create_sq_of(&pair).to_sqe()).status();
        assert_eq!(status, Status::SUCCESS);
        pair
    }

    pub fn delete(&mut self, qid: u16) {
        let sqe = DeleteIoSq { qid: Qid(qid) }.to_sqe();
        assert_eq!(self.admin(sqe).status(), Status::SUCCESS);
        let sqe = DeleteIoCq { qid: Qid(qid) }.to_sqe();
        assert_eq!(self.admin(sqe).status(), Status::SUCCESS);
    }

    /// Waits for one completion of a pair.
    pub fn complete(&self, pair: &mut Pair) -> Option<Cqe> {
        let cqe = self.wait(|| pair.pop())?;
        pair.acknowledge(&self.emu, self.dstrd);
        Some(cqe)
    }

    /// Submits one command and waits for its end.
    pub fn io(&self, pair: &mut Pair, sqe: Sqe) -> Cqe {
        let cid = pair.push(sqe);
        pair.ring(&self.emu, self.dstrd);
        let cqe = self.complete(pair).expect("a command ends");
        assert_eq!((cqe.cid(), cqe.sqid()), (cid, Qid(pair.qid)));
        assert!((usize::from(cqe.sqhd())) < pair.sq.count());
        cqe
    }

    pub fn flush(&self, pair: &mut Pair, nsid: u32) -> Status {
        self.io(pair, Flush { nsid: Nsid(nsid) }.to_sqe()).status()
    }
}

pub fn rw(opcode: NvmOpcode, nsid: u32, lba: u64, blocks: u32) -> Sqe {
    ReadWrite {
        slba: Lba(lba),
        blocks,
        ..ReadWrite::new(opcode, Nsid(nsid))
    }
    .to_sqe()
}

pub fn read(nsid: u32, lba: u64, blocks: u32) -> Sqe {
    rw(NvmOpcode::READ, nsid, lba, blocks)
}

pub fn write(nsid: u32, lba: u64, blocks: u32) -> Sqe {
    rw(NvmOpcode::WRITE, nsid, lba, blocks)
}

/// Bytes that depend on a seed.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = rt::Rng::seeded(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(rng.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// PRP entries for a transfer over the given pages: the first with an offset, the others whole.
/// Lists are laid into `lists` from `list_at` on, so that chaining begins at that page's end.
pub fn prps(
    first: u64,
    pages: &[u64],
    lists: &DmaBuf,
    list_at: usize,
    page_bytes: usize,
) -> (u64, u64) {
    match pages {
        [] => (first, 0),
        [second] => (first, *second),
        pages => {
            let per_page = page_bytes / 8;
            let mut at = list_at / 8;
            let mut left = pages;
            while let [entry, rest @ ..] = left {
                let last_of_page = at % per_page == per_page - 1;
                let word = if last_of_page && !rest.is_empty() {
                    lists.iova().get() + 8 * (at as u64 + 1)
                } else {
                    left = rest;
                    *entry
                };
                lists.view().copy_from(8 * at, &word.to_le_bytes()).unwrap();
                at += 1;
            }
            (first, lists.iova().get() + list_at as u64)
        }
    }
}
