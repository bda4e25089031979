//! Data: what is written is read back, whatever the blocks, the pages and the lists.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod common;

use common::*;
use underpin_dma::rt::Rng;
use underpin_emulator::{Emulator, EmulatorConfig};
use underpin_nvme_spec::{Nsid, NvmOpcode, Sqe, Status};

const MODES: [Mode; 3] = [Mode::Thread, Mode::Local, Mode::Inline];

/// Random transfers of 1 to 32 pages, at any dword of a page, with lists that begin anywhere,
/// on both block sizes, against a plain copy of the medium.
fn transfers(config: EmulatorConfig, mode: Mode, rounds: usize) {
    let mut host = Host::up(config, mode);
    let mut pair = host.create(1, 8);
    let page = host.page_bytes;
    let data = host.space.alloc(34 * page, page).unwrap();
    let lists = host.space.alloc(2 * page, page).unwrap();
    let mut rng = Rng::seeded(5);
    let mut models: Vec<Vec<u8>> = vec![vec![0; 1 << 20]; 2];
    for round in 0..rounds {
        let nsid = 1 + rng.below(2) as u32;
        let lba_bytes = if nsid == 1 { 512 } else { 4096 };
        let model = &mut models[nsid as usize - 1];
        let max_blocks = (32 * page / lba_bytes).min(model.len() / lba_bytes) as u64;
        let blocks = match rng.below(4) {
            0 => 1,
            1 => 1 + rng.below(max_blocks.min(3)),
            _ => 1 + rng.below(max_blocks),
        };
        let lba = rng.below((model.len() / lba_bytes) as u64 - blocks + 1);
        let len = blocks as usize * lba_bytes;
        let offset = 4 * rng.below(page as u64 / 4) as usize;
        // The pages behind the first, in disorder.
        let more = (offset + len).div_ceil(page) - 1;
        let mut order: Vec<usize> = (1..34).collect();
        for at in 0..more {
            let with = at + rng.below((order.len() - at) as u64) as usize;
            order.swap(at, with);
        }
        let base = data.iova().get();
        let pages: Vec<u64> = order[..more]
            .iter()
            .map(|at| base + (at * page) as u64)
            .collect();
        let list_at = 8 * rng.below(page as u64 / 8) as usize;
        let (prp1, prp2) = prps(base + offset as u64, &pages, &lists, list_at, page);
        // Runs of the buffer, in transfer order.
        let mut runs = vec![(offset, len.min(page - offset))];
        let mut left = len - runs[0].1;
        for at in &order[..more] {
            runs.push((at * page, left.min(page)));
            left -= left.min(page);
        }
        let range = lba as usize * lba_bytes..lba as usize * lba_bytes + len;
        let is_write = rng.chance(1, 2);
        let bytes = pattern(round as u64, len);
        let mut done = 0;
        for &(at, len) in &runs {
            let fill: &[u8] = if is_write {
                &bytes[done..done + len]
            } else {
                &[0xee; 65536][..len]
            };
            data.view().copy_from(at, fill).unwrap();
            done += len;
        }
        let opcode = if is_write {
            NvmOpcode::WRITE
        } else {
            NvmOpcode::READ
        };
        let sqe = rw(opcode, nsid, lba, blocks as u32)
            .with_prp1(prp1)
            .with_prp2(prp2);
        assert_eq!(
            host.io(&mut pair, sqe).status(),
            Status::SUCCESS,
            "round {round}"
        );
        if is_write {
            model[range].copy_from_slice(&bytes);
        } else {
            let mut seen = Vec::new();
            for &(at, len) in &runs {
                let mut part = vec![0; len];
                data.copy_to(at, &mut part).unwrap();
                seen.extend(part);
            }
            assert!(
                seen == model[range],
                "round {round}: LBA {lba}, {blocks} blocks"
            );
        }
    }
    assert_eq!(host.emu.iommu_faults(), []);
}

const SIZES: &str = "size=1m,ns2.lba=4096,mdts=5";

#[test]
fn what_is_written_is_read_back_in_every_mode() {
    for mode in MODES {
        transfers(config(SIZES), mode, 300);
    }
}

#[test]
fn it_is_so_step_by_step() {
    transfers(config(&format!("{SIZES},step=on")), Mode::Inline, 60);
    transfers(
        config(&format!("{SIZES},step=on,chunk=100,seed=4")),
        Mode::Local,
        30,
    );
}

/// What identify promises to be atomic is so, though it is moved in pieces between which others
/// come: of two writes of the same blocks one is seen as a whole. What is longer may be torn.
#[test]
fn atomic_writes_are_not_torn_step_by_step() {
    for (awun, blocks, whole) in [(0, 1, true), (3, 4, true), (0, 4, false)] {
        let text = format!("size=64k,lba=4096,awun={awun},step=on,chunk=256,mdts=5");
        let mut torn = 0;
        for seed in 0..20 {
            let mut host = Host::up(config(&text).with_seed(seed), Mode::Inline);
            let mut pair = host.create(1, 8);
            let len = blocks as usize * 4096;
            let bufs: Vec<_> = (1..=3_u8)
                .map(|byte| {
                    let mut buf = host.space.alloc(len, 4096).unwrap();
                    buf.fill(byte);
                    buf
                })
                .collect();
            let lists = host.space.alloc(3 * 4096, 4096).unwrap();
            for (nth, sqe) in [write(1, 0, blocks), write(1, 0, blocks), read(1, 0, blocks)]
                .into_iter()
                .enumerate()
            {
                let base = bufs[nth].iova().get();
                let pages: Vec<u64> = (1..u64::from(blocks)).map(|at| base + 4096 * at).collect();
                let (prp1, prp2) = prps(base, &pages, &lists, 4096 * nth, 4096);
                pair.push(sqe.with_prp1(prp1).with_prp2(prp2));
            }
            pair.ring(&host.emu, host.dstrd);
            for _ in 0..3 {
                assert_eq!(host.complete(&mut pair).unwrap().status(), Status::SUCCESS);
            }
            let mut seen = vec![0; len];
            bufs[2].copy_to(0, &mut seen).unwrap();
            torn += usize::from(seen.iter().any(|byte| *byte != seen[0]));
        }
        assert_eq!(torn == 0, whole, "{torn} of 20 torn with awun={awun}");
    }
}

/// Larger pages, doorbells far apart, and registers instead of shadow doorbells.
#[test]
fn it_is_so_with_other_geometry() {
    transfers(
        config(&format!("{SIZES},mpsmin=2,mpsmax=2,dstrd=3")),
        Mode::Inline,
        60,
    );
    transfers(
        config(&format!("{SIZES},dbbuf=off,dstrd=1")),
        Mode::Thread,
        60,
    );
}

#[test]
fn it_is_so_on_files() {
    let dir = std::env::temp_dir().join(format!("underpin-emulator-io-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = |name: &str| dir.join(name).display().to_string();
    let text = format!("{SIZES},file={},ns2.file={}", path("a"), path("b"));
    transfers(config(&text), Mode::Thread, 100);
    for name in ["a", "b"] {
        assert_eq!(std::fs::metadata(path(name)).unwrap().len(), 1 << 20);
    }
    // What was written is in the file: a second controller finds it.
    let mut host = Host::up(config(&text), Mode::Inline);
    let mut pair = host.create(1, 4);
    let buf = host.space.alloc(4096, 4096).unwrap();
    buf.view().copy_from(0, &pattern(77, 4096)).unwrap();
    let sqe = write(2, 3, 1)
        .with_prp1(buf.iova().get())
        .with_cdw12(1 << 30);
    assert_eq!(host.io(&mut pair, sqe).status(), Status::SUCCESS);
    assert_eq!(host.flush(&mut pair, 2), Status::SUCCESS);
    assert_eq!(host.flush(&mut pair, Nsid::ALL.0), Status::SUCCESS);
    let file = std::fs::read(path("b")).unwrap();
    assert_eq!(file[3 * 4096..4 * 4096], pattern(77, 4096));
    std::fs::remove_dir_all(&dir).unwrap();
}

/// One file cannot keep two namespaces, by whatever names; and what is no regular file keeps none.
#[test]
fn files_that_cannot_be_a_medium() {
    let dir = std::env::temp_dir().join(format!("underpin-emulator-no-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = |name: &str| dir.join(name).display().to_string();
    std::fs::write(dir.join("a"), [0; 4096]).unwrap();
    std::os::unix::fs::symlink("a", dir.join("b")).unwrap();
    for (text, hint) in [
        (format!("file={},ns2.file={}", path("a"), path("b")), "ns2"),
        (format!("file={}", path("")), "regular"),
        ("file=/dev/null".to_owned(), "regular"),
    ] {
        let error = Emulator::new(config(&text)).unwrap_err();
        assert!(error.to_string().contains(hint), "{text}: {error}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

/// A null medium moves nothing, but walks and checks every address.
#[test]
fn a_null_medium_moves_nothing_and_checks_all() {
    let mut host = Host::up(config("media=null,size=1m"), Mode::Thread);
    let mut pair = host.create(1, 4);
    let buf = host.space.alloc(8192, 4096).unwrap();
    buf.view().copy_from(0, &[7; 8192]).unwrap();
    let (prp1, prp2) = (buf.iova().get(), buf.iova().get() + 4096);
    let sqe = read(1, 0, 16).with_prp1(prp1).with_prp2(prp2);
    assert_eq!(host.io(&mut pair, sqe).status(), Status::SUCCESS);
    let mut seen = [0; 8192];
    buf.copy_to(0, &mut seen).unwrap();
    assert!(seen.iter().all(|&byte| byte == 7));
    let sqe = read(1, 0, 16).with_prp1(prp1).with_prp2(0xdead_0000);
    assert_eq!(
        host.io(&mut pair, sqe).status(),
        Status::DATA_TRANSFER_ERROR
    );
    assert_eq!(host.emu.iommu_faults()[0].iova.get(), 0xdead_0000);
}

/// Every command that cannot be has the status that the specification gives it.
#[test]
fn commands_that_cannot_be() {
    let mut host = Host::up(config("size=1m,lba=512,mdts=1,ns2.lba=4096"), Mode::Inline);
    let mut pair = host.create(1, 8);
    let buf = host.space.alloc(3 * 4096, 4096).unwrap();
    let (prp1, prp2) = (buf.iova().get(), buf.iova().get() + 4096);
    let mut go = |sqe: Sqe| host.io(&mut pair, sqe).status().code();
    let full = |sqe: Sqe| sqe.with_prp1(prp1).with_prp2(prp2);
    for (sqe, status, why) in [
        (
            full(read(1, 0, 16)),
            Status::SUCCESS,
            "as long as MDTS allows",
        ),
        (
            full(read(1, 0, 17)),
            Status::INVALID_FIELD,
            "longer than MDTS",
        ),
        (
            full(read(2, 0, 3)),
            Status::INVALID_FIELD,
            "longer than MDTS",
        ),
        (full(read(1, 2047, 1)), Status::SUCCESS, "the last block"),
        (
            full(read(1, 2047, 2)),
            Status::LBA_OUT_OF_RANGE,
            "past the end",
        ),
        (
            full(read(1, 2048, 1)),
            Status::LBA_OUT_OF_RANGE,
            "past the end",
        ),
        (
            full(write(1, u64::MAX, 2)),
            Status::LBA_OUT_OF_RANGE,
            "wraps",
        ),
        (
            full(read(2, 256, 1)),
            Status::LBA_OUT_OF_RANGE,
            "larger blocks, fewer",
        ),
        (
            full(read(0, 0, 1)),
            Status::INVALID_NAMESPACE_OR_FORMAT,
            "no namespace 0",
        ),
        (
            full(read(3, 0, 1)),
            Status::INVALID_NAMESPACE_OR_FORMAT,
            "no namespace 3",
        ),
        (
            full(read(!0, 0, 1)),
            Status::INVALID_NAMESPACE_OR_FORMAT,
            "no broadcast reads",
        ),
        (
            full(read(1, 0, 1)).with_psdt(2),
            Status::INVALID_FIELD,
            "no SGLs for metadata",
        ),
        (
            full(read(1, 0, 1)).with_fuse(1),
            Status::INVALID_FIELD,
            "no fused commands",
        ),
        (
            full(read(1, 0, 1)).with_opcode(0x7e),
            Status::INVALID_OPCODE,
            "unknown",
        ),
        (
            read(1, 0, 1).with_prp1(prp1 + 2),
            Status::PRP_OFFSET_INVALID,
            "not a dword",
        ),
        (
            read(1, 0, 16).with_prp1(prp1).with_prp2(prp2 + 512),
            Status::PRP_OFFSET_INVALID,
            "offset",
        ),
    ] {
        assert_eq!(go(sqe), status.code(), "{why}");
    }
    assert_eq!(
        host.flush(&mut pair, 3).code(),
        Status::INVALID_NAMESPACE_OR_FORMAT.code()
    );
    let stats = host.emu.stats();
    assert_eq!(
        (stats.reads, stats.writes, stats.flushes, stats.io_other),
        (14, 1, 1, 1)
    );
    assert_eq!(stats.errors, 15);
}

/// The controller sums the entries that it read: a host that wrote none is found out.
#[test]
fn the_sum_of_entries_is_that_of_what_was_written() {
    let mut host = Host::up(config("media=null,size=1m"), Mode::Inline);
    let mut pair = host.create(1, 8);
    let buf = host.space.alloc(4096, 4096).unwrap();
    let before = host.emu.stats();
    let mut sum = 0_u64;
    for lba in 0..100 {
        let sqe = read(1, lba, 8).with_prp1(buf.iova().get());
        let cid = underpin_nvme_spec::Cid(pair.next_cid);
        for word in sqe.with_cid(cid).as_u64s() {
            sum = sum.wrapping_add(word);
        }
        host.io(&mut pair, sqe);
    }
    let after = host.emu.stats();
    assert_eq!(after.sqes - before.sqes, 100);
    assert_eq!(after.sqe_sum.wrapping_sub(before.sqe_sum), sum);
}

/// A completion queue that nobody reads stalls its submission queue and never overflows.
#[test]
fn a_full_completion_queue_stalls() {
    for mode in MODES {
        let mut host = Host::up(config("size=1m"), mode);
        let mut pair = host.pair(1, 16);
        let small = host.pair(1, 4);
        let create = Host::create_cq_of(&small).to_sqe();
        assert_eq!(host.admin(create).status(), Status::SUCCESS);
        let create = Host::create_sq_of(&pair).to_sqe();
        assert_eq!(host.admin(create).status(), Status::SUCCESS);
        (pair.cq, pair.cq_buf) = (small.cq, small.cq_buf);
        for _ in 0..10 {
            pair.push(underpin_nvme_spec::nvm::Flush { nsid: Nsid(1) }.to_sqe());
        }
        pair.ring(&host.emu, host.dstrd);
        host.wait(|| (host.emu.stats().cq_stalls > 0).then_some(()))
            .unwrap();
        host.pass(std::time::Duration::from_millis(2));
        let mut ended: Vec<_> = std::iter::from_fn(|| pair.pop()).collect();
        assert_eq!(ended.len(), 3, "as many as fit, with one entry left free");
        pair.acknowledge(&host.emu, host.dstrd);
        ended.extend((3..10).map(|_| host.complete(&mut pair).unwrap()));
        assert!(ended.iter().all(|cqe| cqe.status() == Status::SUCCESS));
        let mut cids: Vec<_> = ended.iter().map(|cqe| cqe.cid().0).collect();
        cids.sort_unstable();
        assert!(cids.into_iter().eq(0..10), "each once");
        assert!(pair.pop().is_none());
    }
}
