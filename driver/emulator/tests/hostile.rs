//! A host that does whatever comes to its mind: registers, doorbells and entries at random.
//! The controller neither panics nor hangs, and touches nothing that is not mapped.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod common;

use common::*;
use std::time::Duration;
use underpin_dma::rt::{self, Instant, Rng};
use underpin_dma::{DmaBuf, DmaSpace};
use underpin_emulator::{Emulator, Fault};
use underpin_nvme_spec::admin::{CreateIoCq, CreateIoSq};
use underpin_nvme_spec::registers::{Cc, Csts, offset};
use underpin_nvme_spec::{Qid, SglDescriptor, SglType, Sqe};

/// One page of memory that the host may name, at any offset, and then some that it may not.
struct Chaos {
    rng: Rng,
    /// Acts until the host stops being sensible.
    setup: u32,
    arena: DmaBuf,
}

impl Chaos {
    fn address(&mut self) -> u64 {
        let base = self.arena.iova().get();
        let len = self.arena.len_bytes() as u64;
        match self.rng.below(8) {
            0 => self.rng.next_u64(),
            1 => u64::MAX - self.rng.below(4096),
            2 => base + self.rng.below(len),
            3 => base + len - self.rng.below(64),
            4 => base + self.rng.below(len) / 8 * 8,
            _ => base + self.rng.below(len) / 4096 * 4096,
        }
    }

    fn number(&mut self) -> u32 {
        match self.rng.below(6) {
            0 => self.rng.next_u64() as u32,
            1 => u32::MAX - self.rng.below(3) as u32,
            2 => 1 << self.rng.below(32),
            _ => self.rng.below(9) as u32,
        }
    }

    /// A descriptor of a list: likely of a type that there is, of a length near what is right.
    fn descriptor(&mut self) -> SglDescriptor {
        let kind = SglType(self.rng.below(5) as u8);
        let len = match self.rng.below(4) {
            0 => self.number(),
            1 => 512 * self.rng.below(9) as u32,
            _ => 16 * self.rng.below(40) as u32,
        };
        SglDescriptor::new(kind, self.address(), len)
    }

    fn entry(&mut self, admin: bool) -> Sqe {
        const ADMIN: [u8; 12] = [0, 1, 4, 5, 6, 8, 9, 10, 12, 2, 0x7c, 0x7f];
        let opcode = match (self.rng.below(8), admin) {
            (0, _) => self.rng.next_u64() as u8,
            (_, true) => ADMIN[self.rng.below(12) as usize],
            (_, false) => self.rng.below(3) as u8,
        };
        let mut sqe = Sqe::new()
            .with_opcode(opcode)
            .with_cid(underpin_nvme_spec::Cid(self.rng.below(16) as u16))
            .with_nsid(underpin_nvme_spec::Nsid(self.number()))
            .with_prp1(self.address())
            .with_prp2(self.address())
            .with_cdw10(self.number())
            .with_cdw11(self.number())
            .with_cdw12(self.number());
        if self.rng.chance(1, 2) {
            // Likely to be right: a small queue, contiguous, with interrupts or without.
            let qid = self.rng.below(4) as u32;
            sqe = sqe
                .with_nsid(underpin_nvme_spec::Nsid(1))
                .with_cdw10(if admin {
                    7 << 16 | qid
                } else {
                    self.rng.below(9) as u32
                })
                .with_cdw11(if admin { qid << 16 | 1 } else { 0 });
        }
        if self.rng.chance(1, 6) {
            let sgl1 = self.descriptor();
            sqe = sqe.with_psdt(1).with_sgl1(sgl1);
        }
        sqe
    }

    /// One act of the host.
    fn act(&mut self, emu: &Emulator) {
        if self.setup > 0 {
            self.setup -= 1;
            if self.setup % 10 == 9 {
                emu.write32(0x1000, 6);
            }
            return;
        }
        match self.rng.below(100) {
            // Entries and lists and whatever else lies in the arena.
            0..=39 => {
                let admin = self.rng.chance(1, 2);
                let entry = self.entry(admin).to_bytes();
                let at = self.rng.below(self.arena.len_bytes() as u64 / 64) * 64;
                self.arena.copy_from(at as usize, &entry).unwrap();
            }
            40..=42 => {
                let [low, high] = self.descriptor().as_u64s();
                let at = self.rng.below(self.arena.len_bytes() as u64 / 16) * 16;
                for (place, word) in [(at, low), (at + 8, high)] {
                    self.arena
                        .copy_from(place as usize, &word.to_le_bytes())
                        .unwrap();
                }
            }
            43..=44 => {
                let address = self.address();
                let at = self.rng.below(self.arena.len_bytes() as u64 / 8) * 8;
                self.arena
                    .copy_from(at as usize, &address.to_le_bytes())
                    .unwrap();
            }
            45..=85 => {
                let value = self.number() % 16;
                emu.write32(0x1000 + 4 * self.rng.below(10) as usize, value);
            }
            86 => {
                let (at, value) = (self.rng.below(0x1100) as usize, self.number());
                emu.write32(at, value);
                emu.write64(at & !7, self.rng.next_u64());
            }
            87 if self.rng.chance(1, 4) => self.enable(emu),
            88 if self.rng.chance(1, 20) => {
                emu.write32(offset::CC, self.rng.next_u64() as u32);
            }
            89 => {
                let at = self.rng.below(0x2000) as usize;
                let _ = (emu.read32(at), emu.read64(at));
            }
            _ => {
                let value = self.number();
                emu.write32(0x1000 + 4 * self.rng.below(10) as usize, value);
            }
        }
    }

    fn enable(&mut self, emu: &Emulator) {
        let base = self.arena.iova().get();
        emu.write32(offset::CC, 0);
        emu.write32(offset::AQA, 0x000f_000f);
        if self.rng.chance(1, 4) {
            emu.write64(offset::ASQ, base + 4096 * self.rng.below(4));
            emu.write64(offset::ACQ, base + 4096 * self.rng.below(4));
            emu.write32(
                offset::CC,
                Cc(0).with_iosqes(6).with_iocqes(4).with_en(true).0,
            );
            return;
        }
        self.set_up(emu);
    }

    /// As it should be: three queue pairs, rings in the first pages.
    fn set_up(&mut self, emu: &Emulator) {
        let base = self.arena.iova().get();
        emu.write32(offset::CC, 0);
        emu.write32(offset::AQA, 0x000f_000f);
        emu.write64(offset::ASQ, base);
        emu.write64(offset::ACQ, base + 4096);
        let cc = Cc(0).with_iosqes(6).with_iocqes(4).with_en(true);
        emu.write32(offset::CC, cc.0);
        for qid in 1..=3_u16 {
            let prp1 = base + 4096 * u64::from(2 * qid);
            let cq = CreateIoCq {
                qid: Qid(qid),
                entries: 16,
                prp1,
                contiguous: true,
                ..CreateIoCq::default()
            };
            let sq = CreateIoSq {
                qid: Qid(qid),
                entries: 16,
                prp1: prp1 + 4096,
                contiguous: true,
                cqid: Qid(qid),
                ..CreateIoSq::default()
            };
            for (nth, sqe) in [cq.to_sqe(), sq.to_sqe()].into_iter().enumerate() {
                let at = 64 * (2 * usize::from(qid - 1) + nth);
                self.arena.copy_from(at, &sqe.to_bytes()).unwrap();
            }
        }
        // The first doorbell that exists makes them, if the controller is that far.
        self.setup = 100;
    }
}

fn chaos(space: &DmaSpace, seed: u64) -> Chaos {
    Chaos {
        rng: Rng::seeded(seed),
        setup: 0,
        arena: space.alloc(16 * 4096, 4096).unwrap(),
    }
}

/// Seeded, stepped by hand, both ways of stepping, with and without faults. What the host did
/// not map stays whole.
#[test]
fn whatever_the_host_does_step_by_step() {
    let until = Instant::now() + Duration::from_secs(4);
    let (mut commands, mut transfers, mut blocked, mut seeds) = (0, 0, 0, 0);
    for seed in 0..if rt::sim::is_simulated() {
        300
    } else {
        u64::MAX
    } {
        if seeds >= 40 && Instant::now() >= until {
            break;
        }
        let mut config = config("size=64k,queues=3,mqes=64,ns2.lba=4096,mdts=0");
        config.stepped = seed % 2 == 0;
        config.seed = seed;
        let mut rng = Rng::seeded(seed ^ 0xabc);
        if seed % 3 == 0 {
            config.faults.push(Fault::random(&mut rng));
        }
        let space = DmaSpace::new();
        let emu = Emulator::new(config).unwrap();
        let _attachment = space.attach(emu.mapper()).unwrap();
        let mut core = emu.inline_core();
        let mut chaos = chaos(&space, seed);
        chaos.enable(&emu);
        for _ in 0..3000 {
            chaos.act(&emu);
            if chaos.rng.chance(1, 3) {
                core.run_batch();
            }
            if chaos.rng.chance(1, 50) {
                core.before_sleep();
            }
        }
        // It comes to rest when the host does.
        let rest = (0..200_000).find(|_| core.run_batch() == 0);
        assert!(rest.is_some(), "seed {seed}: it never comes to rest");
        let stats = emu.stats();
        commands += stats.sqes;
        transfers += stats.reads + stats.writes;
        blocked += stats.blocked_dma;
        seeds += 1;
    }
    // The chaos reaches all parts: otherwise it proves little.
    let figures =
        format!("{seeds} seeds: {commands} commands, {transfers} transfers, {blocked} blocked");
    println!("{figures}");
    let enough = commands > 50 * seeds && transfers > 20 * seeds && blocked > seeds / 2;
    assert!(enough, "{figures}");
}

/// On a thread, against a host that writes while the controller reads.
#[test]
fn whatever_the_host_does_at_the_same_time() {
    if rt::sim::is_simulated() {
        return;
    }
    let until = Instant::now() + Duration::from_secs(3);
    for seed in 1000.. {
        if Instant::now() >= until {
            break;
        }
        let space = DmaSpace::new();
        let emu = Emulator::new(config("size=64k,queues=3,mqes=64,mdts=0")).unwrap();
        let attachment = space.attach(emu.mapper()).unwrap();
        emu.start_thread().unwrap();
        let mut chaos = chaos(&space, seed);
        chaos.enable(&emu);
        for nth in 0..20_000 {
            chaos.act(&emu);
            if nth % 5000 == 4999 {
                // Regions come and go meanwhile.
                drop(space.region("passing", 2 << 20).unwrap());
            }
        }
        // A host that comes to its senses can bring it up again.
        emu.write32(offset::CC, 0);
        let csts = || Csts(emu.read32(offset::CSTS));
        let disabled = rt::wait(deadline(), |_| (!csts().rdy()).then_some(()));
        assert!(disabled.is_ok(), "seed {seed}: {:?}", csts());
        chaos.set_up(&emu);
        let ready = Csts(0).with_rdy(true);
        let up = rt::wait(deadline(), |_| (csts() == ready).then_some(()));
        assert!(up.is_ok(), "seed {seed}: {:?}", csts());
        drop(attachment);
        emu.stop().unwrap();
    }
}
