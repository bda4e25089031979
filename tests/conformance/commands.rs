//! Commands beyond reading and writing: logs, features, and raw ones of both kinds.
use crate::harness::Verdict::Done;
use crate::harness::{Device, Open, Test, Verdict, contents, lacks, pattern};
use underpin::nvme::spec::admin::{EventMask, FeatureId, LogId, TemperatureThreshold};
use underpin::nvme::spec::{AdminOpcode, NvmOpcode, Status};
use underpin::nvme::{
    BlockRange, FeatureRequest, LogRequest, Passthrough, PassthroughData, WriteCache,
};
use underpin::{CommandError, Error, Lba, Nsid};

pub(crate) const TESTS: &[Test] = &[
    ("commands::error_log", error_log),
    ("commands::smart_log", smart_log),
    ("commands::firmware_log", firmware_log),
    ("commands::unknown_log_is_refused", unknown_log_is_refused),
    ("commands::number_of_queues", number_of_queues),
    ("commands::temperature_threshold", temperature_threshold),
    ("commands::write_cache_switches", write_cache_switches),
    (
        "commands::unknown_feature_is_refused",
        unknown_feature_is_refused,
    ),
    ("commands::raw_read_and_write", raw_read_and_write),
    ("commands::compare", compare),
    ("commands::write_zeroes", write_zeroes),
    ("commands::deallocate", deallocate),
    ("commands::verify", verify),
    ("commands::format", format),
    ("commands::asked_by_name", asked_by_name),
    ("commands::abort_in_flight", abort_in_flight),
    ("commands::events_are_asked_for", events_are_asked_for),
    (
        "commands::namespaces_are_found_again",
        namespaces_are_found_again,
    ),
    ("commands::unknown_io_is_refused", unknown_io_is_refused),
    (
        "commands::unknown_admin_is_refused",
        unknown_admin_is_refused,
    ),
    ("commands::abort_of_nothing", abort_of_nothing),
    ("commands::harm_is_refused", harm_is_refused),
];

#[track_caller]
fn admin_status(result: Result<impl std::fmt::Debug, Error>) -> Status {
    match result {
        Err(Error::Admin { status, .. }) => status,
        other => panic!("not an error of the device: {other:?}"),
    }
}

fn error_log(device: &Device) -> Verdict {
    let controller = device.open();
    let entries = controller.error_log().unwrap();
    assert!(entries.len() <= usize::from(controller.identify().elpe()) + 1);
    let raw = controller
        .log_page(&LogRequest::new(LogId::ERROR, 64))
        .unwrap();
    assert_eq!(raw.len(), 64);
    Done
}

/// What was read and written is counted, in units of 1000 blocks of 512 bytes.
fn smart_log(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    let before = open.controller.smart_log().unwrap();
    let blocks = (64 << 10) / open.lba_bytes();
    for tag in 0..20 {
        open.write(0, blocks, tag);
        open.expect(0, blocks, tag);
    }
    let after = open.controller.smart_log().unwrap();
    assert!(
        after.host_reads() >= before.host_reads() && after.host_writes() >= before.host_writes()
    );
    assert!(after.data_units_written() >= before.data_units_written());
    assert!(after.avail_spare() <= 100);
    Done
}

fn firmware_log(device: &Device) -> Verdict {
    let controller = device.open();
    controller.firmware_log().unwrap();
    Done
}

fn unknown_log_is_refused(device: &Device) -> Verdict {
    let controller = device.open();
    let status = admin_status(controller.log_page(&LogRequest::new(LogId(0xbf), 64)));
    let either = [
        Status::INVALID_LOG_PAGE.code(),
        Status::INVALID_FIELD.code(),
    ];
    assert!(either.contains(&status.code()), "{status}");
    Done
}

fn number_of_queues(device: &Device) -> Verdict {
    let controller = device.open();
    let request = FeatureRequest::new(FeatureId::NUMBER_OF_QUEUES);
    let dword = controller.feature(&request).unwrap().dword;
    let (submission, completion) = (dword & 0xffff, dword >> 16);
    assert!(submission.min(completion) + 1 >= u32::from(controller.granted_queues()));
    Done
}

fn temperature_threshold(device: &Device) -> Verdict {
    let controller = device.open();
    let before = controller.temperature_threshold(0, false).unwrap();
    let other = TemperatureThreshold {
        kelvins: before.kelvins ^ 3,
        ..before
    };
    controller.set_temperature_threshold(other).unwrap();
    assert_eq!(controller.temperature_threshold(0, false).unwrap(), other);
    controller.set_temperature_threshold(before).unwrap();
    assert_eq!(controller.temperature_threshold(0, false).unwrap(), before);
    Done
}

fn write_cache_switches(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    let before = open.controller.write_cache();
    if before == WriteCache::Absent {
        return lacks("a volatile write cache (VWC)");
    }
    for (on, state) in [(false, WriteCache::Disabled), (true, WriteCache::Enabled)] {
        open.controller.set_write_cache(on).unwrap();
        assert_eq!(open.controller.write_cache(), state);
        open.write(0, 3, u64::from(on));
        open.queue.flush(&open.namespace).unwrap();
        open.expect(0, 3, u64::from(on));
    }
    open.controller
        .set_write_cache(before == WriteCache::Enabled)
        .unwrap();
    Done
}

fn unknown_feature_is_refused(device: &Device) -> Verdict {
    let controller = device.open();
    let status = admin_status(controller.feature(&FeatureRequest::new(FeatureId(0x7a))));
    assert_eq!(status.code(), Status::INVALID_FIELD.code(), "{status}");
    Done
}

/// A raw command for `blocks` blocks from `lba` on.
fn of_blocks(opcode: NvmOpcode, lba: u64, blocks: u32) -> Passthrough {
    Passthrough {
        opcode: opcode.0,
        cdw10: lba as u32,
        cdw11: (lba >> 32) as u32,
        cdw12: blocks - 1,
        ..Passthrough::default()
    }
}

/// Runs it with these bytes as its data; the bytes after it, or the device's status.
fn raw(open: &mut Open, command: &Passthrough, data: &[u8]) -> Result<Vec<u8>, Status> {
    let len = data.len();
    let raw = open.namespace.passthrough(command, len as u64).unwrap();
    let token = match len {
        0 => open.queue.submit_raw_bare(raw).unwrap(),
        _ => {
            let mut buffer = open.space.alloc(len, 4096).unwrap();
            buffer.copy_from(0, data).unwrap();
            open.queue.submit_raw(raw, buffer).unwrap()
        }
    };
    let ended = open.queue.wait_for(token);
    match ended.result {
        Ok(()) => Ok(ended
            .buffer
            .map_or_else(Vec::new, |buffer| contents(&buffer))),
        Err(CommandError::Status { status, .. }) => Err(status),
        Err(error) => panic!("{error}"),
    }
}

fn oncs(open: &Open, bit: u16) -> bool {
    open.controller.identify().oncs() & 1 << bit != 0
}

fn raw_read_and_write(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    let len = 4 * open.lba_bytes();
    raw(
        &mut open,
        &of_blocks(NvmOpcode::WRITE, 20, 4),
        &pattern(len, 1),
    )
    .unwrap();
    open.expect(20, 4, 1);
    let read = raw(&mut open, &of_blocks(NvmOpcode::READ, 20, 4), &vec![0; len]).unwrap();
    assert!(read == pattern(len, 1));
    Done
}

fn compare(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    if !oncs(&open, 0) {
        return lacks("Compare (ONCS bit 0)");
    }
    open.write(20, 4, 2);
    let mut bytes = pattern(4 * open.lba_bytes(), 2);
    raw(&mut open, &of_blocks(NvmOpcode::COMPARE, 20, 4), &bytes).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let status = raw(&mut open, &of_blocks(NvmOpcode::COMPARE, 20, 4), &bytes).unwrap_err();
    assert_eq!(status.code(), Status::COMPARE_FAILURE.code(), "{status}");
    Done
}

fn write_zeroes(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    if !oncs(&open, 3) {
        return lacks("Write Zeroes (ONCS bit 3)");
    }
    open.write(20, 10, 3);
    raw(&mut open, &of_blocks(NvmOpcode::WRITE_ZEROES, 23, 4), &[]).unwrap();
    let lba = open.lba_bytes();
    let mut expected = pattern(10 * lba, 3);
    expected[3 * lba..7 * lba].fill(0);
    assert!(open.read(20, 10) == expected);
    Done
}

/// Deallocated blocks read as the device says; those beside them stay.
fn deallocate(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    if !oncs(&open, 2) {
        return lacks("Dataset Management (ONCS bit 2)");
    }
    open.write(20, 24, 4);
    // Context attributes, length in blocks, first block (NVM Command Set 1.0, 3.2.3).
    let mut range = vec![0; 16];
    range[4..8].copy_from_slice(&8_u32.to_le_bytes());
    range[8..16].copy_from_slice(&28_u64.to_le_bytes());
    let command = Passthrough {
        opcode: NvmOpcode::DATASET_MANAGEMENT.0,
        cdw10: 0,
        cdw11: 1 << 2,
        ..Passthrough::default()
    };
    raw(&mut open, &command, &range).unwrap();
    let lba = open.lba_bytes();
    let (read, old) = (open.read(20, 24), pattern(24 * lba, 4));
    assert!(read[..8 * lba] == old[..8 * lba] && read[16 * lba..] == old[16 * lba..]);
    let freed = &read[8 * lba..16 * lba];
    // DLFEAT bits 2:0: 1 zeroes, 2 ones, 0 not reported.
    match open.namespace.identify().dlfeat() & 0b111 {
        1 => assert!(freed.iter().all(|&byte| byte == 0) || freed == &old[8 * lba..16 * lba]),
        2 => assert!(freed.iter().all(|&byte| byte == 0xff) || freed == &old[8 * lba..16 * lba]),
        _ => {}
    }
    open.write(28, 8, 5);
    open.expect(28, 8, 5);
    Done
}

fn verify(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    if !oncs(&open, 7) {
        return lacks("Verify (ONCS bit 7)");
    }
    open.write(20, 8, 6);
    raw(&mut open, &of_blocks(NvmOpcode::VERIFY, 20, 8), &[]).unwrap();
    let end = open.namespace.len_bytes() / open.lba_bytes() as u64;
    let status = raw(&mut open, &of_blocks(NvmOpcode::VERIFY, end, 1), &[]).unwrap_err();
    assert_eq!(status.code(), Status::LBA_OUT_OF_RANGE.code(), "{status}");
    Done
}

/// The last namespace, to the format that it has: it works afterwards, and the others are whole.
fn format(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    if open.controller.identify().oacs() & 1 << 1 == 0 {
        return lacks("Format NVM (OACS bit 1)");
    }
    open.write(40, 3, 8);
    let namespaces = open.controller.namespaces().to_vec();
    // FNA bit 0: a format is one of all namespaces.
    let all = open.controller.identify().fna() & 1 != 0 || namespaces.len() == 1;
    let last = namespaces.last().unwrap().clone();
    let command = Passthrough {
        opcode: AdminOpcode::FORMAT_NVM.0,
        nsid: last.nsid(),
        cdw10: u32::from(last.identify().flbas() & 0xf),
        overrule_driver: true,
        ..Passthrough::default()
    };
    open.controller.admin_passthrough(&command).unwrap();
    if !all {
        open.expect(40, 3, 8);
    }
    open.namespace = last;
    open.write(40, 3, 9);
    open.expect(40, 3, 9);
    Done
}

/// The same by the driver's own calls, which know what the device lacks.
fn asked_by_name(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    let lba = open.lba_bytes();
    let lacking = |error: Error| {
        assert!(matches!(error, Error::NotSupported { .. }), "{error}");
    };
    open.write(60, 16, 1);
    match open.namespace.compare(Lba(60), 16) {
        Ok(io) => {
            let mut buffer = open.blocks(16);
            buffer.copy_from(0, &pattern(16 * lba, 1)).unwrap();
            let mut buffer = open.queue.run(io, buffer).unwrap();
            buffer.fill(0);
            let token = open.queue.submit(io, buffer).unwrap();
            let ended = open.queue.wait_for(token);
            let Err(CommandError::Status { status, .. }) = ended.result else {
                panic!("{:?}", ended.result);
            };
            assert_eq!(status.code(), Status::COMPARE_FAILURE.code());
            assert!(ended.buffer.is_some());
        }
        Err(error) => lacking(error),
    }
    match open.namespace.verify(Lba(60), 16) {
        Ok(io) => {
            let token = open.queue.submit_bare(io).unwrap();
            open.queue.wait_for(token).result.unwrap();
        }
        Err(error) => lacking(error),
    }
    match open.namespace.write_zeroes(Lba(62), 5) {
        Ok(io) => {
            let token = open.queue.submit_bare(io).unwrap();
            open.queue.wait_for(token).result.unwrap();
            let mut expected = pattern(16 * lba, 1);
            expected[2 * lba..7 * lba].fill(0);
            assert!(open.read(60, 16) == expected);
        }
        Err(error) => lacking(error),
    }
    let range = |lba, blocks| BlockRange {
        lba: Lba(lba),
        blocks,
    };
    match open.namespace.deallocate(&[range(70, 2), range(74, 1)]) {
        Ok(request) => {
            open.queue.deallocate(&request).unwrap();
            let (read, old) = (open.read(72, 2), pattern(16 * lba, 1));
            assert!(read == old[12 * lba..14 * lba], "between the ranges");
        }
        Err(error) => lacking(error),
    }
    Done
}

/// Whether or not the device is quick enough, each request ends once and gives its buffer back.
fn abort_in_flight(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    for round in 0..10 {
        let tokens: Vec<_> = (0..12)
            .map(|nth| {
                let io = open.namespace.read(Lba(nth), 1).unwrap();
                let buffer = open.blocks(1);
                open.queue.submit(io, buffer).unwrap()
            })
            .collect();
        let answer = open.queue.abort(tokens[round]).unwrap();
        assert!(answer.commands <= 1 && answer.aborted <= answer.commands);
        for token in tokens {
            let ended = open.queue.wait_for(token);
            assert!(ended.buffer.is_some());
            match ended.result {
                Ok(()) => {}
                Err(CommandError::Status { status, .. }) => {
                    assert_eq!(status.code(), Status::ABORT_REQUESTED.code(), "{status}");
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(open.queue.in_flight(), 0);
    }
    Done
}

/// With requests for events posted, everything else goes on, and so does the end.
fn events_are_asked_for(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    let wanted = EventMask::CRITICAL_WARNINGS.with(EventMask::NAMESPACES);
    let events = open.controller.events(wanted).unwrap();
    for tag in 0..20 {
        open.write(tag, 2, tag);
        open.expect(tag, 2, tag);
        open.controller.smart_log().unwrap();
        events.poll().unwrap();
    }
    assert_eq!(events.lost(), 0);
    drop(events);
    let Open {
        queue,
        namespace,
        controller,
        ..
    } = open;
    drop((queue, namespace));
    controller.close().unwrap();
    Done
}

fn namespaces_are_found_again(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    let before: Vec<_> = open.controller.namespaces().to_vec();
    open.controller.rescan().unwrap();
    let after = open.controller.namespaces().to_vec();
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(
            (before.nsid(), before.len_bytes()),
            (after.nsid(), after.len_bytes())
        );
    }
    // The old handle is as good as the new one.
    open.write(0, 1, 1);
    open.namespace = after[0].clone();
    open.expect(0, 1, 1);
    Done
}

fn unknown_io_is_refused(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    for opcode in [0x7c, 0x64] {
        let command = Passthrough {
            opcode,
            overrule_driver: true,
            ..Passthrough::default()
        };
        let status = raw(&mut open, &command, &[]).unwrap_err();
        assert_eq!(
            status.code(),
            Status::INVALID_OPCODE.code(),
            "{opcode:#x}: {status}"
        );
    }
    open.write(0, 1, 1);
    open.expect(0, 1, 1);
    Done
}

fn unknown_admin_is_refused(device: &Device) -> Verdict {
    let controller = device.open();
    let unknown = Passthrough {
        opcode: 0x3c,
        overrule_driver: true,
        ..Passthrough::default()
    };
    let status = admin_status(controller.admin_passthrough(&unknown));
    assert_eq!(status.code(), Status::INVALID_OPCODE.code(), "{status}");
    let no_page = Passthrough {
        opcode: AdminOpcode::IDENTIFY.0,
        cdw10: 0x7f,
        data: PassthroughData::In(4096),
        ..Passthrough::default()
    };
    let status = admin_status(controller.admin_passthrough(&no_page));
    assert_eq!(status.code(), Status::INVALID_FIELD.code(), "{status}");
    let nobody = Passthrough {
        cdw10: 0,
        nsid: Nsid(0xffff_fff0),
        ..no_page
    };
    let status = admin_status(controller.admin_passthrough(&nobody));
    assert_eq!(
        status.code(),
        Status::INVALID_NAMESPACE_OR_FORMAT.code(),
        "{status}"
    );
    assert_eq!(controller.failure(), None);
    Done
}

/// Dword 0, bit 0: the command was not aborted; there is none.
fn abort_of_nothing(device: &Device) -> Verdict {
    let open: Open = Open::new(device);
    let command = Passthrough {
        opcode: AdminOpcode::ABORT.0,
        cdw10: 0x1234 << 16 | u32::from(open.queue.qid().0),
        ..Passthrough::default()
    };
    match open.controller.admin_passthrough(&command) {
        Ok(answer) => assert_eq!(answer.dw0 & 1, 1),
        Err(Error::Admin { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    Done
}

fn harm_is_refused(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    for opcode in [AdminOpcode::DELETE_IO_SQ, AdminOpcode::FORMAT_NVM] {
        let command = Passthrough {
            opcode: opcode.0,
            nsid: Nsid(1),
            cdw10: 1,
            ..Passthrough::default()
        };
        let error = open.controller.admin_passthrough(&command).unwrap_err();
        assert!(matches!(error, Error::WouldBreakDriver { .. }), "{error}");
    }
    open.write(0, 1, 1);
    open.expect(0, 1, 1);
    Done
}
