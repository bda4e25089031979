//! Faults of data, registers and power: each does what the table in FAULTS.md says.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod common;

use common::*;
use std::collections::HashSet;
use std::time::Duration;
use underpin_dma::DmaBuf;
use underpin_emulator::{Fault, Referee, ViolationKind};
use underpin_nvme_spec::admin::{Abort, Cns, DeleteIoSq};
use underpin_nvme_spec::registers::offset;
use underpin_nvme_spec::{Cid, Qid, Sqe, Status};

const BLOCK: usize = 512;

fn rig(options: &str, fault: &str) -> (Host, Pair, DmaBuf) {
    let mut host = Host::up(config(&format!("size=1m,step=off{options}")), Mode::Thread);
    let pair = host.create(1, 8);
    let buf = host.space.alloc(8192, 4096).unwrap();
    let faults = Fault::parse_list(fault).unwrap();
    faults.into_iter().for_each(|fault| host.emu.inject(fault));
    (host, pair, buf)
}

fn fired(host: &Host) -> Vec<u64> {
    host.emu
        .faults()
        .iter()
        .map(|report| report.fired)
        .collect()
}

fn fill(buf: &DmaBuf, byte: u8) {
    buf.view()
        .copy_from(0, &vec![byte; buf.len_bytes()])
        .unwrap();
}

fn bytes(buf: &DmaBuf, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    buf.copy_to(0, &mut bytes).unwrap();
    bytes
}

fn submit(host: &Host, pair: &mut Pair, sqe: Sqe) -> Cid {
    let cid = pair.push(sqe);
    pair.ring(&host.emu, host.dstrd);
    cid
}

/// The first byte of each of the first `blocks` blocks.
fn blocks(host: &Host, pair: &mut Pair, buf: &DmaBuf, blocks: u32) -> Vec<u8> {
    let sqe = read(1, 0, blocks)
        .with_prp1(buf.iova().get())
        .with_prp2(buf.iova().get() + 4096);
    assert_eq!(host.io(pair, sqe).status(), Status::SUCCESS);
    let all = bytes(buf, blocks as usize * BLOCK);
    let mut blocks = all.chunks(BLOCK);
    assert!(
        blocks
            .clone()
            .all(|block| block.iter().all(|byte| *byte == block[0])),
        "whole blocks"
    );
    blocks.by_ref().map(|block| block[0]).collect()
}

fn store(
    host: &Host,
    pair: &mut Pair,
    buf: &DmaBuf,
    (lba, count): (u64, u32),
    byte: u8,
    fua: bool,
) {
    fill(buf, byte);
    let sqe = write(1, lba, count)
        .with_prp1(buf.iova().get())
        .with_prp2(buf.iova().get() + 4096);
    // CDW12 bit 30: Force Unit Access.
    let sqe = sqe.with_cdw12(sqe.cdw12() | u32::from(fua) << 30);
    assert_eq!(host.io(pair, sqe).status(), Status::SUCCESS);
}

#[test]
fn a_completion_of_garbage_has_the_right_phase() {
    let (host, mut pair, _buf) = rig("", "corrupt-cqe@op=flush");
    let sqe = underpin_nvme_spec::nvm::Flush {
        nsid: underpin_nvme_spec::Nsid(1),
    }
    .to_sqe();
    let cid = submit(&host, &mut pair, sqe);
    let cqe = host
        .complete(&mut pair)
        .expect("seen, for its phase is right");
    assert!(
        cqe.cid() != cid || cqe.sqid() != Qid(1) || cqe.sqhd() >= 8,
        "{cqe:?}"
    );
    assert_eq!(
        host.flush(&mut pair, 1),
        Status::SUCCESS,
        "the ring goes on"
    );
    assert_eq!(fired(&host), [1]);
}

/// Nothing is written to the queue while it is stalled, and nothing is lost.
#[test]
fn a_stalled_queue_gives_everything_later() {
    let (host, mut pair, buf) = rig("", "cq-stall:30ms@op=read");
    let begin = underpin_dma::rt::Instant::now();
    let sqe = read(1, 0, 1).with_prp1(buf.iova().get());
    let wanted = [submit(&host, &mut pair, sqe), submit(&host, &mut pair, sqe)];
    let got = [(); 2].map(|()| host.complete(&mut pair).unwrap().cid());
    assert_eq!(got, wanted);
    let waited = underpin_dma::rt::Instant::now().since(begin);
    assert!(waited >= Duration::from_millis(30), "{waited:?}");
    assert_eq!(fired(&host), [1]);
}

#[test]
fn one_bit_is_flipped_once() {
    let (host, mut pair, buf) = rig("", "corrupt-data@op=read;corrupt-data@op=write+nth=2");
    let differing = |bytes: &[u8], wanted: u8| -> u32 {
        bytes.iter().map(|byte| (byte ^ wanted).count_ones()).sum()
    };
    let get = |pair: &mut Pair| {
        let sqe = read(1, 0, 8).with_prp1(buf.iova().get());
        assert_eq!(host.io(pair, sqe).status(), Status::SUCCESS);
        bytes(&buf, 4096)
    };
    store(&host, &mut pair, &buf, (0, 8), 7, false);
    assert_eq!(differing(&get(&mut pair), 7), 1, "on its way to the host");
    assert_eq!(differing(&get(&mut pair), 7), 0, "the medium is whole");
    store(&host, &mut pair, &buf, (0, 8), 9, false);
    assert_eq!(differing(&get(&mut pair), 9), 1, "on its way to the medium");
    assert_eq!(differing(&get(&mut pair), 9), 1);
    assert_eq!(fired(&host), [1, 1]);
}

#[test]
fn data_go_astray() {
    let referee = Referee::new();
    let mut config = config("size=1m,step=off");
    config.referee = Some(referee.clone());
    let mut host = Host::up(config, Mode::Thread);
    let mut pair = host.create(1, 8);
    let buf = host.space.alloc(8192, 4096).unwrap();
    fill(&buf, 0xaa);
    host.emu.inject("wrong-iova@op=read".parse().unwrap());
    host.emu
        .inject("wrong-iova:0x40000000@op=read+nth=2".parse().unwrap());
    let sqe = read(1, 0, 8).with_prp1(buf.iova().get());
    assert_eq!(host.io(&mut pair, sqe).status(), Status::SUCCESS);
    let all = bytes(&buf, 8192);
    assert!(all[..4096].iter().all(|&byte| byte == 0xaa) && all[4096..] == [0; 4096]);
    assert_eq!(
        host.io(&mut pair, sqe).status(),
        Status::DATA_TRANSFER_ERROR
    );
    assert_eq!(host.emu.iommu_faults().len(), 1, "the IOMMU blocked it");
    assert_eq!(host.io(&mut pair, sqe).status(), Status::SUCCESS);
    assert_eq!(fired(&host), [1, 1]);
}

/// Aborted, by an Abort or with its queue, and told so: then the data move.
#[test]
fn dma_after_an_abort_is_seen_by_the_referee() {
    for delete in [false, true] {
        let referee = Referee::new();
        let mut config = config("size=1m,step=off,fault=dma-after-abort:5ms@op=read");
        config.referee = Some(referee.clone());
        let mut host = Host::up(config, Mode::Thread);
        let mut pair = host.create(1, 8);
        let buf = host.space.alloc(4096, 4096).unwrap();
        fill(&buf, 0xaa);
        let sqe = read(1, 0, 8).with_prp1(buf.iova().get());
        let cid = submit(&host, &mut pair, sqe);
        host.wait(|| (fired(&host) == [1]).then_some(())).unwrap();
        host.pass(Duration::from_millis(10));
        assert!(pair.pop().is_none(), "it waits to be aborted");
        if delete {
            let cqe = host.admin(DeleteIoSq { qid: Qid(1) }.to_sqe());
            assert_eq!(cqe.status(), Status::SUCCESS);
        } else {
            let abort = Abort { sqid: Qid(1), cid };
            assert_eq!(host.admin(abort.to_sqe()).dw0() & 1, 0);
        }
        assert_eq!(host.complete(&mut pair).unwrap().cid(), cid);
        host.wait(|| (bytes(&buf, 4096) == [0; 4096]).then_some(()))
            .expect("late DMA");
        host.wait(|| (referee.violation_count() > 0).then_some(()))
            .unwrap();
        let violations = referee.violations();
        assert!(
            violations
                .iter()
                .all(|v| v.kind == ViolationKind::AfterCompletion)
        );
    }
}

#[test]
fn a_namespace_vanishes_and_others_stay() {
    let (mut host, mut pair, buf) = rig(",ns=2", "ns-vanish@nsid=1");
    let to = buf.iova().get();
    let status = host.io(&mut pair, read(1, 0, 1).with_prp1(to)).status();
    assert_eq!(
        status,
        Status::INVALID_NAMESPACE_OR_FORMAT.with_do_not_retry()
    );
    assert_eq!(
        host.io(&mut pair, read(2, 0, 1).with_prp1(to)).status(),
        Status::SUCCESS
    );
    assert!(!host.flush(&mut pair, 1).is_success() && host.flush(&mut pair, 2).is_success());
    let list = host.identify(Cns::ACTIVE_NAMESPACES, 0).unwrap();
    assert_eq!((list[0], list[4]), (2, 0));
    assert!(host.identify(Cns::NAMESPACE, 1).is_err());
    assert_eq!(fired(&host), [1]);
}

#[test]
fn logs_of_garbage_and_absurd_pages() {
    let (mut host, _pair, buf) = rig("", "garbage-log");
    let mut log = || {
        fill(&buf, 0);
        let sqe = Sqe::new()
            .with_opcode(0x02)
            .with_cdw10(0x7f_0002)
            .with_prp1(buf.iova().get());
        assert_eq!(
            host.admin(sqe.with_nsid(underpin_nvme_spec::Nsid::ALL))
                .status(),
            Status::SUCCESS
        );
        bytes(&buf, 512)
    };
    let garbage = log();
    let right = log();
    let same = garbage.iter().zip(&right).filter(|(a, b)| a == b).count();
    assert!(same < 64, "{same} bytes are as they should be");
    let mut fields = HashSet::new();
    for _ in 0..60 {
        for (cns, nsid) in [(Cns::CONTROLLER, 0), (Cns::NAMESPACE, 1)] {
            let right = host.identify(cns, nsid).unwrap();
            host.emu.inject("absurd-identify".parse().unwrap());
            let absurd = host.identify(cns, nsid).unwrap();
            let differs = right.iter().zip(&absurd).position(|(a, b)| a != b);
            fields.extend(differs.map(|at| (cns.0, at)));
        }
    }
    assert!(fields.len() > 12, "few fields only: {fields:?}");
}

#[test]
fn never_shuts_down_and_reads_zero() {
    let (host, _pair, _buf) = rig("", "never-shut-down");
    host.emu.write32(offset::CC, host.cc(true).with_shn(1).0);
    host.wait(|| (fired(&host)[0] > 0).then_some(())).unwrap();
    host.pass(Duration::from_millis(5));
    assert_eq!(host.csts().shst(), 0);
    host.emu.write32(offset::CC, host.cc(true).with_shn(1).0);
    assert!(
        host.wait_for(|csts| csts.shst() == 2),
        "the next one is not ignored"
    );

    let (host, mut pair, buf) = rig("", "removed-zero@op=read");
    submit(&host, &mut pair, read(1, 0, 1).with_prp1(buf.iova().get()));
    host.wait(|| (host.emu.read64(offset::CAP) == 0).then_some(()))
        .unwrap();
    assert_eq!(host.emu.read32(offset::CSTS), 0);
    assert!(!host.emu.power_on(), "power was not what it lacked");
}

/// Brings a controller up again whose power had failed.
fn power_on(host: &mut Host) -> Pair {
    host.wait_for(|csts| csts.0 == u32::MAX);
    host.wait(|| host.emu.power_on().then_some(()))
        .expect("the power had failed");
    assert!(
        host.disable(),
        "a reset, and the host's own rings begin anew"
    );
    host.enable();
    assert!(host.wait_for(|csts| csts.rdy()));
    host.create(1, 8)
}

/// Writes 1 to 16 blocks before the power fails: what was flushed, and what had Force Unit
/// Access, is there; what was not is lost, torn or reordered by whole blocks; an atomic write is
/// there or not. The same seed loses the same.
fn cut(seed: u64, loss: &str, media: &str) -> Vec<u8> {
    let fault = format!("power-cut{loss}@op=flush+nth=2");
    let options = format!(",seed={seed},awun=3,awupf=3,dbbuf=off,fault={fault}{media}");
    let (mut host, mut pair, buf) = rig(&options, "");
    store(&host, &mut pair, &buf, (0, 16), 1, false);
    assert_eq!(host.flush(&mut pair, 1), Status::SUCCESS);
    store(&host, &mut pair, &buf, (0, 8), 2, false);
    store(&host, &mut pair, &buf, (6, 2), 3, true);
    store(&host, &mut pair, &buf, (8, 4), 4, false);
    store(&host, &mut pair, &buf, (12, 2), 5, false);
    store(&host, &mut pair, &buf, (12, 2), 6, false);
    let flush = underpin_nvme_spec::nvm::Flush {
        nsid: underpin_nvme_spec::Nsid(1),
    }
    .to_sqe();
    submit(&host, &mut pair, flush);
    let mut pair = power_on(&mut host);
    let left = blocks(&host, &mut pair, &buf, 16);
    assert_eq!(left[14..], [1, 1], "flushed");
    assert_eq!(left[6..8], [3, 3], "force unit access");
    assert!(
        left[..6].iter().all(|&byte| byte == 1 || byte == 2),
        "{left:?}"
    );
    assert!(
        [[1; 4], [4; 4]].iter().any(|all| left[8..12] == *all),
        "atomic: {left:?}"
    );
    assert!(
        [[1; 2], [5; 2], [6; 2]]
            .iter()
            .any(|all| left[12..14] == *all),
        "{left:?}"
    );
    left
}

#[test]
fn power_cuts_lose_tear_and_reorder() {
    let mut seen: [HashSet<Vec<u8>>; 4] = Default::default();
    for seed in 0..24 {
        for (at, loss) in [":lost", ":torn", ":reordered", ""].iter().enumerate() {
            let left = cut(seed, loss, "");
            if seed < 4 {
                assert_eq!(cut(seed, loss, ""), left, "the same seed loses the same");
            }
            seen[at].insert(left);
        }
    }
    let [lost, torn, reordered, any] = seen;
    let nothing = [vec![1; 6], vec![3; 2], vec![1; 8]].concat();
    assert_eq!(lost, HashSet::from([nothing.clone()]));
    assert!(torn.len() > 4 && reordered.len() > 8 && any.len() > 6);
    let later_kept_earlier_lost = |left: &Vec<u8>| left[0] == 1 && left[8] == 4;
    assert!(reordered.iter().any(later_kept_earlier_lost));
    let torn_inside = |left: &Vec<u8>| left[..6].contains(&1) && left[..6].contains(&2);
    assert!(torn.iter().any(torn_inside));
    let in_order = |left: &Vec<u8>| left[8] == 1 || !left[..6].contains(&1);
    assert!(
        torn.iter().all(in_order),
        "what is torn is the last that was kept"
    );
}

/// What is left in a file is what the next emulator finds there.
#[test]
fn a_file_is_left_as_the_power_cut_left_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display();
    let mut states = HashSet::new();
    for seed in 0..6 {
        let left = cut(seed, "", &format!(",file={path}"));
        let on_disk = std::fs::read(file.path()).unwrap();
        let firsts: Vec<u8> = on_disk
            .chunks(BLOCK)
            .take(16)
            .map(|block| block[0])
            .collect();
        assert_eq!(firsts, left);
        states.insert(left);
    }
    assert!(states.len() > 1);
}

/// Without a volatile write cache a completed write is durable.
#[test]
fn without_a_write_cache_nothing_is_lost() {
    let (mut host, mut pair, buf) = rig(",vwc=off,dbbuf=off,fault=power-cut:lost@op=flush", "");
    store(&host, &mut pair, &buf, (0, 16), 1, false);
    let flush = underpin_nvme_spec::nvm::Flush {
        nsid: underpin_nvme_spec::Nsid(1),
    }
    .to_sqe();
    submit(&host, &mut pair, flush);
    let mut pair = power_on(&mut host);
    assert_eq!(blocks(&host, &mut pair, &buf, 16), [1; 16]);
}

/// Lost: the completion without its interrupt. Spurious: the interrupt before the completion. A
/// storm: as many as it says.
#[test]
fn interrupts_are_lost_spurious_and_many() {
    let event = underpin_dma::rt::Event::new().unwrap();
    let mut host = Host::up(config("size=1m,step=off"), Mode::Inline);
    assert!(host.emu.set_vector(0, Some(event.clone())));
    host.identify(Cns::CONTROLLER, 0).unwrap();
    assert!(event.clear(), "an admin command raises vector 0");
    host.emu.inject("irq-lost@op=identify".parse().unwrap());
    host.identify(Cns::CONTROLLER, 0).unwrap();
    assert!(!event.clear(), "lost");
    host.emu.inject("irq-spurious@op=identify".parse().unwrap());
    host.emu.inject("drop@op=identify".parse().unwrap());
    let buf = host.space.alloc(4096, 4096).unwrap();
    let identify = underpin_nvme_spec::admin::Identify {
        cns: Cns::CONTROLLER,
        prp1: buf.iova().get(),
        ..Default::default()
    };
    host.hurry = true;
    assert!(host.try_admin(identify.to_sqe()).is_none());
    assert!(event.clear(), "raised for a completion that never comes");
    host.hurry = false;
    host.emu
        .inject("irq-storm:500@op=identify".parse().unwrap());
    let before = host.emu.stats().interrupts;
    host.identify(Cns::CONTROLLER, 0).unwrap();
    assert_eq!(host.emu.stats().interrupts - before, 500);
    assert_eq!(fired(&host), [1; 4]);
}

/// A storm ends every request that waits, and each that comes, until all its events were told.
#[test]
fn events_come_in_storms() {
    let mut host = Host::up(config("size=1m,step=off"), Mode::Inline);
    let request = Sqe::new().with_opcode(0x0c);
    host.hurry = true;
    assert!(host.try_admin(request).is_none() && host.try_admin(request).is_none());
    host.hurry = false;
    host.emu.inject("aer-storm:5@op=flush".parse().unwrap());
    let mut pair = host.create(1, 8);
    assert_eq!(host.flush(&mut pair, 1), Status::SUCCESS);
    let mut told = 0;
    while let Some(cqe) = host.admin.pop() {
        assert!(cqe.status().is_success() && cqe.dw0() != 0);
        told += 1;
    }
    assert_eq!(told, 2);
    for _ in 0..3 {
        assert_ne!(host.admin(request).dw0(), 0, "more are told at once");
    }
    host.hurry = true;
    assert!(host.try_admin(request).is_none(), "it was the last");
    assert_eq!((host.emu.stats().events, fired(&host)), (5, vec![1]));
}
