//! Which commands there are, and what the controller remembers of them, seen by a host that sends
//! raw entries.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Host, Mode, config, read, write};
use underpin_nvme_spec::admin::{GetLogPage, LogId};
use underpin_nvme_spec::log::{CommandEffectsLog, ErrorLogEntry, SmartLog};
use underpin_nvme_spec::{AdminOpcode, Nsid, NvmOpcode, Sqe, Status};

fn log<const N: usize>(host: &mut Host, lid: LogId) -> Box<[u8; N]> {
    let buf = host.space.alloc(N, 4096).unwrap();
    let get = GetLogPage {
        lid,
        nsid: Nsid::ALL,
        len_bytes: N as u64,
        prp1: buf.iova().get(),
        prp2: if N > 4096 { buf.iova().get() + 4096 } else { 0 },
        ..GetLogPage::default()
    };
    assert_eq!(host.admin(get.to_sqe()).status(), Status::SUCCESS);
    let mut page = Box::new([0; N]);
    buf.copy_to(0, &mut *page).unwrap();
    page
}

/// The effects log and the controller agree on every opcode of both kinds of queue, whatever is
/// configured: what it lists is there, and nothing else is.
#[test]
fn the_effects_log_lists_what_is_there() {
    for text in [
        "size=1m",
        "size=1m,dbbuf=off,format=off",
        "size=1m,step=on",
        "size=1m,oncs=0x5",
        "size=1m,oncs=0xffff",
    ] {
        let mut host = Host::up(config(text), Mode::Thread);
        let effects = CommandEffectsLog::from_bytes(&log(&mut host, LogId::COMMAND_EFFECTS));
        for opcode in (0..=u8::MAX).map(AdminOpcode) {
            let listed = effects.admin(opcode).is_supported();
            // The one would wait, the other would take page 0 for its doorbells.
            if opcode == AdminOpcode::ASYNC_EVENT_REQUEST {
                assert!(listed);
                continue;
            }
            if opcode == AdminOpcode::DOORBELL_BUFFER_CONFIG {
                assert_eq!(listed, !text.contains("dbbuf=off"));
                continue;
            }
            let sqe = Sqe::new().with_opcode(opcode.0);
            let there = host.admin(sqe).status().code() != Status::INVALID_OPCODE.code();
            assert_eq!(there, listed, "{text}: {opcode}");
        }
        let mut pair = host.create(1, 8);
        for opcode in (0..=u8::MAX).map(NvmOpcode) {
            let sqe = Sqe::new().with_opcode(opcode.0);
            let status = host.io(&mut pair, sqe).status();
            let there = status.code() != Status::INVALID_OPCODE.code();
            assert_eq!(there, effects.io(opcode).is_supported(), "{text}: {opcode}");
        }
    }
}

/// Every error is in the log, newest first, with its place; the oldest give way.
#[test]
fn errors_are_remembered() {
    let mut host = Host::up(config("size=1m"), Mode::Thread);
    let mut pair = host.create(1, 8);
    for lba in 0..140 {
        let status = host.io(&mut pair, read(1, 5000 + lba, 1)).status();
        assert_eq!(status.code(), Status::LBA_OUT_OF_RANGE.code());
    }
    let page = log::<8192>(&mut host, LogId::ERROR);
    let entries: Vec<ErrorLogEntry> = ErrorLogEntry::entries(&*page).collect();
    assert_eq!(entries.len(), 128);
    for (entry, nth) in entries.iter().zip((0..140).rev()) {
        assert_eq!(entry.error_count(), nth + 1);
        assert_eq!((entry.first_lba().0, entry.sqid()), (5000 + nth, 1));
        assert_eq!(entry.status().code(), Status::LBA_OUT_OF_RANGE.code());
        assert_eq!(entry.namespace(), Nsid(1));
    }
    let health = SmartLog::from_bytes(&log(&mut host, LogId::SMART));
    assert_eq!(
        (health.num_err_log_entries(), health.media_errors()),
        (140, 0)
    );
}

/// Blocks are counted in thousands of 512 bytes, rounded up: those that hosts read and write, and
/// nothing of the lists and pages that go the same way.
#[test]
fn data_units_are_blocks() {
    let mut host = Host::up(config("size=4m,mdts=0"), Mode::Thread);
    let mut pair = host.create(1, 8);
    let buf = host.space.alloc(2 << 20, 2 << 20).unwrap();
    let lists = host.space.alloc(8192, 4096).unwrap();
    let mut send = |host: &mut Host, sqe: Sqe| {
        let pages: Vec<u64> = (1..500)
            .map(|page| buf.iova().get() + page * 4096)
            .collect();
        let (prp1, prp2) = common::prps(buf.iova().get(), &pages, &lists, 0, 4096);
        let sqe = sqe.with_prp1(prp1).with_prp2(prp2);
        assert_eq!(host.io(&mut pair, sqe).status(), Status::SUCCESS);
    };
    // 500 pages are 4000 blocks: 4 units.
    send(&mut host, write(1, 0, 4000));
    send(&mut host, read(1, 0, 4000));
    send(&mut host, read(1, 0, 4000));
    let health = SmartLog::from_bytes(&log(&mut host, LogId::SMART));
    let units = (health.data_units_read(), health.data_units_written());
    assert_eq!(units, (8, 4));
    assert_eq!((health.host_reads(), health.host_writes()), (2, 1));
}
