//! What keeps a namespace's blocks, and who it says it is: locks, write protection, identifiers,
//! command sets.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use underpin::emulator::EmulatorError;
use underpin::nvme::CommandError;
use underpin::spec::Status;
use underpin::{Controller, ControllerOptions, DmaBuf, DmaSpace, Error, Lba, Nsid, QueueOptions};

fn open(url: &str) -> Result<Controller, Error> {
    Controller::open(url, &DmaSpace::new(), ControllerOptions::default())
}

/// Writes "here" to block 0 and reads it back.
fn write(controller: &Controller) -> Result<(), Error> {
    let namespace = controller.namespace(None)?;
    let mut queue = controller.queue_pair::<DmaBuf>(QueueOptions::default())?;
    let mut block = controller.space().alloc(512, 512)?;
    block.copy_from(0, b"here").unwrap();
    queue.run(namespace.write(Lba(0), 1)?, block).map(drop)
}

fn read(controller: &Controller) -> [u8; 4] {
    let namespace = controller.namespace(None).unwrap();
    let mut queue = controller.queue_pair(QueueOptions::default()).unwrap();
    let block = controller.space().alloc(512, 512).unwrap();
    let block = queue
        .run(namespace.read(Lba(0), 1).unwrap(), block)
        .unwrap();
    let mut text = [0; 4];
    block.copy_to(0, &mut text).unwrap();
    text
}

/// One file is the medium of one emulator that writes, or of many that only read: whoever comes
/// second is told who has it. The end of the first frees it.
#[test]
fn a_file_is_locked_between_emulators() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("disk.img").display().to_string();
    let writer = open(&format!("emu:file={file},size=1m")).unwrap();
    write(&writer).unwrap();
    for options in ["", ",ro=on", ",size=8m"] {
        let error = open(&format!("emu:file={file}{options}")).unwrap_err();
        let Error::Emulator(EmulatorError::InUse { path, holder }) = &error else {
            panic!("{options}: {error}");
        };
        assert_eq!(path.display().to_string(), file);
        if let Some(holder) = holder {
            assert!(
                holder.contains(&format!("process {}", std::process::id())),
                "{holder}"
            );
        }
        assert!(error.to_string().contains("ro=on"), "{error}");
    }
    let len = || std::fs::metadata(&file).unwrap().len();
    assert_eq!(len(), 1 << 20, "who was refused has not extended it");
    writer.close().unwrap();

    let readers = [(); 2].map(|()| open(&format!("emu:file={file},ro=on")).unwrap());
    assert!(readers.iter().all(|reader| read(reader) == *b"here"));
    let error = open(&format!("emu:file={file}")).unwrap_err();
    assert!(
        matches!(error, Error::Emulator(EmulatorError::InUse { .. })),
        "{error}"
    );
    drop(readers);
    open(&format!("emu:file={file}")).unwrap();
}

/// A namespace from a file that is only read says so, refuses writes with the status for it, flushes,
/// and leaves the file alone; it is not made where it is missing, nor extended where it is short.
#[test]
fn a_read_only_file_is_a_write_protected_namespace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    let url = format!("emu:file={},ro=on", path.display());
    assert!(open(&url).is_err());
    assert!(!path.exists());
    std::fs::write(&path, [b'x'; 8192]).unwrap();
    assert!(open(&format!("{url},size=16k")).is_err());
    for more in ["", ",step=on", ",vwc=off"] {
        let controller = open(&format!("{url}{more}")).unwrap();
        let namespace = controller.namespace(None).unwrap();
        assert_eq!(
            (namespace.identify().nsattr() & 1, namespace.len_bytes()),
            (1, 8192)
        );
        let error = write(&controller).unwrap_err();
        let Error::Command(CommandError::Status { status, .. }) = error else {
            panic!("{more}: {error}");
        };
        assert_eq!(
            status,
            Status::NAMESPACE_WRITE_PROTECTED.with_do_not_retry()
        );
        let mut queue = controller
            .queue_pair::<DmaBuf>(QueueOptions::default())
            .unwrap();
        queue.flush(&namespace).unwrap();
        assert_eq!(read(&controller), *b"xxxx");
    }
    assert_eq!(std::fs::read(&path).unwrap(), [b'x'; 8192]);
}

/// Programs tell devices apart by serial number, EUI64 and NGUID: no two emulators share them, and
/// one that keeps its blocks in a file keeps them, too.
#[test]
fn no_two_emulators_have_the_same_identifiers() {
    let folder = tempfile::tempdir().unwrap();
    let file = format!(
        "emu:size=1m,file={}",
        folder.path().join("disk.img").display()
    );
    let ids = |url: &str| {
        let controller = open(url).unwrap();
        let namespace = controller.namespace(None).unwrap();
        let serial = controller.identify().sn().to_string();
        (
            serial,
            namespace.identify().eui64(),
            namespace.identify().nguid(),
        )
    };
    let all = [
        ids("emu:size=1m"),
        ids("emu:size=1m"),
        ids(&file),
        ids("emu:size=1m,serial=A 1"),
    ];
    for (index, one) in all.iter().enumerate() {
        for other in &all[index + 1..] {
            assert!(
                one.0 != other.0 && one.1 != other.1 && one.2 != other.2,
                "{one:?}"
            );
        }
    }
    assert_eq!(ids(&file), all[2]);
    assert_eq!(all[3].0, "A 1");
    assert_eq!(ids("emu:size=1m,serial=A 1"), all[3]);
}

/// A zoned namespace identifies itself like any other (CNS 00h), but is not to be written as one:
/// where the controller has several command sets, namespaces are asked for theirs.
#[test]
fn a_namespace_of_another_command_set_is_unusable() {
    let controller = open("emu:ns=3,size=1m,ns2.csi=2,ns3.csi=9").unwrap();
    assert_ne!(controller.capabilities().css() & 1 << 6, 0);
    let of = |nsid| controller.namespace(Some(Nsid(nsid))).unwrap();
    assert_eq!(of(1).unusable(), None);
    write(&controller).unwrap();
    for (nsid, words) in [(2, "Zoned Namespace command set (CSI 0x2)"), (3, "CSI 0x9")] {
        let namespace = of(nsid);
        let why = namespace.unusable().unwrap();
        assert!(why.contains(words), "{why}");
        assert!(matches!(
            namespace.read(Lba(0), 1),
            Err(Error::Unsupported { .. })
        ));
    }
}

/// A controller that does not end its shutdown, or had failed, says so when it is closed; one that
/// is still used is not closed at all.
#[test]
fn closing_tells_what_dropping_cannot() {
    open("emu:size=1m").unwrap().close().unwrap();
    let error = open("emu:size=1m,to_ms=500,fault=never-disabled@op=disable")
        .unwrap()
        .close()
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::NotInTime {
                state: "disabled",
                ..
            }
        ),
        "{error}"
    );
    let controller = open("emu:size=1m,fault=removed@op=write").unwrap();
    write(&controller).unwrap_err();
    let error = controller.close().unwrap_err();
    assert!(matches!(error, Error::Failed(_)), "{error}");
    let controller = open("emu:size=1m").unwrap();
    let queue = controller
        .queue_pair::<DmaBuf>(QueueOptions::default())
        .unwrap();
    let error = controller.close().unwrap_err();
    assert!(matches!(error, Error::InUse { others: 1, .. }), "{error}");
    drop(queue);
}
