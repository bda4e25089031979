//! What the controller may touch: the IOMMU blocks the rest, and the referee sees what is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod common;

use common::*;
use std::sync::Arc;
use std::time::Duration;
use underpin_dma::{Access, Iova, MapRequest, Memory, MemoryWatch, PageSize, PoolOptions};
use underpin_emulator::{Direction, Referee, ViolationKind};
use underpin_nvme_spec::registers::offset;
use underpin_nvme_spec::{Sqe, Status};

/// Data and lists outside any mapping, and writes to a read-only one, are blocked and recorded,
/// and the command says so.
#[test]
fn unmapped_and_read_only_memory_is_out_of_reach() {
    let mut host = Host::up(config("size=1m"), Mode::Thread);
    let mut pair = host.create(1, 8);
    let buf = host.space.alloc(4096, 4096).unwrap();
    let mapper = host.emu.mapper();
    let readable = Memory::new("ro", 4096, PageSize::Small).unwrap();
    readable.view().copy_from(0, &[3; 4096]).unwrap();
    let request = MapRequest {
        iova: Iova::new(0x70_0000_0000),
        memory: Arc::clone(&readable),
        access: Access::ReadOnly,
        name: "ro".to_owned(),
    };
    mapper.map(&request).unwrap();
    let good = buf.iova().get();
    let (ro, hole) = (0x70_0000_0000, 0x71_0000_0000);
    let mut go = |sqe: Sqe| host.io(&mut pair, sqe).status();
    assert_eq!(
        go(write(1, 0, 8).with_prp1(ro)),
        Status::SUCCESS,
        "reading it is allowed"
    );
    let error = Status::DATA_TRANSFER_ERROR;
    assert_eq!(go(read(1, 0, 8).with_prp1(ro)), error);
    assert_eq!(go(read(1, 0, 8).with_prp1(hole)), error);
    assert_eq!(go(write(1, 0, 8).with_prp1(hole)), error);
    assert_eq!(
        go(read(1, 0, 16).with_prp1(good).with_prp2(hole + 4096)),
        error
    );
    assert_eq!(
        go(read(1, 0, 24).with_prp1(good).with_prp2(hole + 8192)),
        error,
        "the list"
    );
    assert_eq!(
        go(read(1, 0, 8).with_prp1(u64::MAX - 3)),
        error,
        "the end of the world"
    );
    let faults = host.emu.iommu_faults();
    let seen: Vec<_> = faults
        .iter()
        .map(|f| (f.iova.get(), f.direction, f.qid))
        .collect();
    let (to, from) = (Direction::ToHost, Direction::FromHost);
    let wanted = [
        (ro, to, 1),
        (hole, to, 1),
        (hole, from, 1),
        (hole + 4096, to, 1),
        (hole + 8192, from, 1),
        (u64::MAX - 3, to, 1),
    ];
    assert_eq!(seen, wanted);
    assert!(faults.iter().all(|fault| fault.cid.is_some()));
    assert_eq!(host.emu.stats().blocked_dma, 6);
    let mut bytes = [0; 4096];
    readable.view().copy_to(0, &mut bytes).unwrap();
    assert_eq!(bytes, [3; 4096]);
}

/// A range over two adjacent mappings is one range.
#[test]
fn a_page_may_lie_in_two_mappings() {
    let mut host = Host::up(config("size=1m,mpsmin=1,mpsmax=1"), Mode::Thread);
    let mut pair = host.create(1, 8);
    let mapper = host.emu.mapper();
    let base = 0x70_0000_0000;
    let halves = [0, 4096].map(|at| {
        let memory = Memory::new("half", 4096, PageSize::Small).unwrap();
        let request = MapRequest {
            iova: Iova::new(base + at),
            memory: Arc::clone(&memory),
            access: Access::ReadWrite,
            name: "half".to_owned(),
        };
        mapper.map(&request).unwrap();
        memory
    });
    let bytes = pattern(1, 8192);
    halves[0].view().copy_from(0, &bytes[..4096]).unwrap();
    halves[1].view().copy_from(0, &bytes[4096..]).unwrap();
    assert_eq!(
        host.io(&mut pair, write(1, 0, 16).with_prp1(base)).status(),
        Status::SUCCESS
    );
    let buf = host.space.alloc(8192, 8192).unwrap();
    let sqe = read(1, 0, 16).with_prp1(buf.iova().get());
    assert_eq!(host.io(&mut pair, sqe).status(), Status::SUCCESS);
    let mut seen = vec![0; 8192];
    buf.copy_to(0, &mut seen).unwrap();
    assert!(seen == bytes);
}

/// Rings and doorbell pages that are not mapped, or no longer, are the controller's end until a
/// reset.
#[test]
fn unmapped_rings_are_fatal() {
    for what in ["sq", "cq", "sq later", "cq later", "shadow"] {
        let mut host = Host::up(config("size=1m"), Mode::Thread);
        let mut pair = host.pair(1, 8);
        let region = host.space.region("ring", 4096).unwrap();
        let iova = region.iova().get();
        let later = what.ends_with("later");
        let (mut cq, mut sq) = (Host::create_cq_of(&pair), Host::create_sq_of(&pair));
        match what {
            "sq" => sq.prp1 = 0x70_0000_0000,
            "cq" => cq.prp1 = 0x70_0000_0000,
            "sq later" => sq.prp1 = iova,
            "cq later" => cq.prp1 = iova,
            _ => {}
        }
        assert_eq!(host.admin(cq.to_sqe()).status(), Status::SUCCESS);
        assert_eq!(host.admin(sq.to_sqe()).status(), Status::SUCCESS);
        if what == "sq later" {
            // One command from the region, so that its memory was in use.
            let flush = underpin_nvme_spec::nvm::Flush {
                nsid: underpin_nvme_spec::Nsid(1),
            };
            pair.push(flush.to_sqe());
            let words = pair.sq.read(0);
            let ring = underpin_dma::MemSlice::new(region.memory(), 0, 4096).unwrap();
            underpin_dma::Records::<8>::new(ring, 8)
                .unwrap()
                .write(0, words);
            pair.ring(&host.emu, host.dstrd);
            assert!(host.complete(&mut pair).is_some());
        }
        if later {
            drop(region);
        }
        if what == "shadow" {
            host.pages = None;
            let far = host.space.region("pages", 8192).unwrap();
            let command = underpin_nvme_spec::admin::DoorbellBufferConfig {
                shadow: far.iova().get(),
                event_idx: far.iova().get() + 4096,
            };
            assert_eq!(host.admin(command.to_sqe()).status(), Status::SUCCESS);
            assert!(!host.csts().cfs());
            drop(far);
        }
        pair.push(read(1, 0, 1));
        pair.ring(&host.emu, host.dstrd);
        assert!(host.wait_for(|csts| csts.cfs()), "{what}");
        let fault = *host.emu.iommu_faults().last().unwrap();
        assert_eq!((fault.qid, fault.cid), (1, None), "{what}");
        assert!(host.disable(), "{what}");
        host.enable();
        assert!(host.wait_for(|csts| csts.rdy()), "{what}");
    }
}

/// When an unmapping has returned no DMA follows, whatever is in flight; and the memory is let go
/// of even by a controller that sleeps.
#[test]
fn unmapping_is_the_end_of_dma() {
    for mode in [Mode::Thread, Mode::Local] {
        let mut host = Host::up(config("size=1m,fault=hold@op=read"), mode);
        let mut pair = host.create(1, 8);
        let region = host.space.region("data", 2 << 20).unwrap();
        let memory = Arc::clone(region.memory());
        let sqe = read(1, 0, 8).with_prp1(region.iova().get());
        pair.push(sqe);
        pair.ring(&host.emu, host.dstrd);
        host.wait(|| (host.emu.faults()[0].fired > 0).then_some(()))
            .unwrap();
        drop(region);
        memory.view().copy_from(0, &[0xaa; 4096]).unwrap();
        assert_eq!(Arc::strong_count(&memory), 1, "nobody else keeps it");
        host.emu.release_held();
        let cqe = host.complete(&mut pair).unwrap();
        assert_eq!(cqe.status(), Status::DATA_TRANSFER_ERROR);
        let mut bytes = [0; 4096];
        memory.view().copy_to(0, &mut bytes).unwrap();
        assert_eq!(bytes, [0xaa; 4096]);
    }
}

/// The memory of a ring that was unmapped is let go of, though the controller used it and sleeps.
#[test]
fn unmapped_rings_are_let_go_of() {
    let mut host = Host::up(config("size=1m"), Mode::Thread);
    let mut pair = host.pair(1, 8);
    let region = host.space.region("ring", 4096).unwrap();
    let memory = Arc::clone(region.memory());
    let (cq, mut sq) = (Host::create_cq_of(&pair), Host::create_sq_of(&pair));
    sq.prp1 = region.iova().get();
    assert_eq!(host.admin(cq.to_sqe()).status(), Status::SUCCESS);
    assert_eq!(host.admin(sq.to_sqe()).status(), Status::SUCCESS);
    let ring = underpin_dma::MemSlice::new(&memory, 0, 512).unwrap();
    pair.sq = underpin_dma::Records::new(ring, 8).unwrap();
    assert_eq!(host.flush(&mut pair, 1), Status::SUCCESS);
    let slept = host.emu.stats().sleeps;
    host.wait(|| (host.emu.stats().sleeps > slept).then_some(()));
    let slice = underpin_dma::MemSlice::new(&memory, 0, 512).unwrap();
    pair.sq = underpin_dma::Records::new(pair.sq_buf.slice().unwrap(), 8).unwrap();
    drop((region, slice));
    let released = host.wait(|| (Arc::strong_count(&memory) == 1).then_some(()));
    assert!(released.is_some());
}

/// `stop` while DMA is under way: afterwards memory is as it was at its return.
#[test]
fn stop_in_the_midst_of_dma() {
    for round in 0..30 {
        let mut host = Host::up(config("size=1m,mdts=5"), Mode::Thread);
        let mut pair = host.create(1, 64);
        let buf = host.space.alloc(128 << 10, 4096).unwrap();
        let lists = host.space.alloc(4096, 4096).unwrap();
        let pages: Vec<u64> = (1..32).map(|at| buf.iova().get() + 4096 * at).collect();
        let (prp1, prp2) = prps(buf.iova().get(), &pages, &lists, 0, 4096);
        for _ in 0..60 {
            pair.push(read(1, 0, 256).with_prp1(prp1).with_prp2(prp2));
        }
        pair.ring(&host.emu, host.dstrd);
        if round % 2 == 0 {
            host.wait(|| pair.pop()).unwrap();
        }
        host.emu.stop().unwrap();
        buf.view().copy_from(0, &vec![0xaa; 128 << 10]).unwrap();
        host.pass(Duration::from_micros(300));
        let mut bytes = vec![0; 128 << 10];
        buf.copy_to(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0xaa), "round {round}");
        assert_eq!(host.emu.read32(offset::CSTS), u32::MAX);
    }
}

#[test]
fn the_number_of_mappings_is_limited() {
    let host = Host::new(config("size=1m,mappings=3"), Mode::Thread);
    let kept: Vec<_> = (0..2)
        .map(|_| host.space.region("r", 4096).unwrap())
        .collect();
    let error = host
        .space
        .region("one too many", 4096)
        .unwrap_err()
        .to_string();
    assert!(error.contains("mappings"), "{error}");
    drop(kept);
    host.space.region("r", 4096).unwrap();
}

fn refereed(fault: &str) -> (Host, Pair, Arc<Referee>) {
    let referee = Referee::new();
    let mut config = config(&format!("size=1m,{fault}"));
    config.referee = Some(Arc::clone(&referee));
    let mut host = Host::up(config, Mode::Thread);
    let pair = host.create(1, 8);
    (host, pair, referee)
}

/// A host that keeps to the rules is never blamed, and what it does is really judged.
#[test]
fn an_honest_host_is_not_blamed() {
    let (host, mut pair, referee) = refereed("mdts=5");
    let options = PoolOptions {
        buf_bytes: 8192,
        count: 4,
    };
    let pool = host.space.pool("data", options).unwrap();
    for nth in 0..200 {
        let buf = pool.alloc().unwrap();
        let (prp1, prp2) = (buf.iova().get(), buf.iova().get() + 4096);
        let sqe = if nth % 2 == 0 {
            write(1, 0, 16)
        } else {
            read(1, 0, 16)
        };
        let cqe = host.io(&mut pair, sqe.with_prp1(prp1).with_prp2(prp2));
        assert_eq!(cqe.status(), Status::SUCCESS);
    }
    assert_eq!(referee.violations(), []);
    assert!(referee.checks() > 600, "data, entries and completions");
}

/// A buffer given back while a command still owns it: seen as soon as the device touches it.
#[test]
fn a_buffer_given_back_too_early_is_seen() {
    let (host, mut pair, referee) = refereed("fault=hold@op=read");
    let options = PoolOptions {
        buf_bytes: 4096,
        count: 4,
    };
    let pool = host.space.pool("data", options).unwrap();
    let buf = pool.alloc().unwrap();
    let iova = buf.iova();
    pair.push(read(1, 0, 8).with_prp1(iova.get()));
    pair.ring(&host.emu, host.dstrd);
    drop(buf);
    host.emu.release_held();
    host.wait(|| {
        host.emu.release_held();
        pair.pop()
    });
    let violations = referee.violations();
    assert_eq!(violations[0].iova, iova);
    let all = violations.iter().all(|violation| {
        let whose = (violation.qid, violation.cid);
        violation.kind == ViolationKind::GivenBack && whose == (1, Some(0))
    });
    let len_bytes: u64 = violations.iter().map(|violation| violation.len_bytes).sum();
    assert!(all && len_bytes == 4096, "{violations:?}");
}

/// Memory of which nobody told the referee, and rings that are gone.
#[test]
fn memory_that_nobody_lent_is_seen() {
    let (host, mut pair, referee) = refereed("seed=2");
    // Past the space, so that nobody tells of it.
    let own = MapRequest {
        iova: Iova::new(0x70_0000_0000),
        memory: Memory::new("own", 4096, PageSize::Small).unwrap(),
        access: Access::ReadWrite,
        name: "own".to_owned(),
    };
    host.emu.mapper().map(&own).unwrap();
    let sqe = write(1, 0, 1).with_prp1(own.iova.get());
    assert_eq!(host.io(&mut pair, sqe).status(), Status::SUCCESS);
    let kinds = |referee: &Referee| -> Vec<_> {
        referee
            .violations()
            .iter()
            .map(|v| (v.kind, v.cid))
            .collect()
    };
    assert_eq!(kinds(&referee), [(ViolationKind::NeverLent, Some(0))]);
    referee.lent(own.iova, 4096);
    assert_eq!(host.io(&mut pair, sqe).status(), Status::SUCCESS);
    assert_eq!(referee.violation_count(), 1, "told, it is fine");
    // The completion ring is given back while its queue lives.
    let other = host.space.alloc(4096, 4096).unwrap();
    drop(std::mem::replace(&mut pair.cq_buf, other));
    host.io(&mut pair, sqe);
    // A completion can be seen before it is judged.
    host.wait(|| (referee.violation_count() > 1).then_some(()));
    assert_eq!(kinds(&referee)[1..], [(ViolationKind::GivenBack, None)]);
}
