//! A namespace in a file full of known bytes, so that a test can look at the medium itself.
use crate::support::{Rig, finish, stamped};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use underpin::nvme::{CommandError, Status};
use underpin::spec::admin::FormatNvm;
use underpin::{Controller, DmaBuf, Io, Lba, Namespace, QueueOptions, QueuePair};

pub(crate) const SIZE: usize = 1 << 20;
/// What is read and written at a time.
const PIECE: usize = 64 << 10;

/// A controller over a file, its first namespace, and a queue.
pub(crate) struct Bench {
    pub(crate) queue: QueuePair<DmaBuf>,
    pub(crate) ns: Namespace,
    pub(crate) controller: Controller,
    pub(crate) rig: Rig,
    file: Option<File>,
    _folder: Option<tempfile::TempDir>,
}

impl Bench {
    /// Over a file of 1 MiB; `more` is what else the emulator's URL says.
    pub(crate) fn on_file(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blocks");
        let mut bench = Self::new(&format!("file={},size=1m{more}", path.display()));
        bench.file = Some(File::open(&path).unwrap());
        bench._folder = Some(folder);
        bench.fill();
        bench
    }

    /// In memory.
    pub(crate) fn in_memory(more: &str) -> Self {
        let mut bench = Self::new(&format!("size=1m{more}"));
        bench.fill();
        bench
    }

    pub(crate) fn new(config: &str) -> Self {
        let rig = Rig::new(config);
        let controller = rig.controller();
        Self {
            queue: controller
                .queue_pair(QueueOptions {
                    depth: 32,
                    ..QueueOptions::default()
                })
                .unwrap(),
            ns: controller.namespace(None).unwrap(),
            controller,
            rig,
            file: None,
            _folder: None,
        }
    }

    /// Every block is what [`filling`](Self::filling) says.
    fn fill(&mut self) {
        let filling = Self::filling();
        for (nth, piece) in filling.chunks(PIECE).enumerate() {
            let mut buffer = self.rig.space.alloc(PIECE, 4096).unwrap();
            buffer.copy_from(0, piece).unwrap();
            let (lba, blocks) = self.piece(nth);
            self.run(self.ns.write(lba, blocks).unwrap(), buffer);
        }
        self.queue.flush(&self.ns).unwrap();
    }

    /// Where piece `nth` of the namespace lies.
    fn piece(&self, nth: usize) -> (Lba, u64) {
        let blocks = (PIECE / self.ns.lba_bytes() as usize) as u64;
        (Lba(nth as u64 * blocks), blocks)
    }

    /// What the medium holds at first.
    pub(crate) fn filling() -> Vec<u8> {
        stamped(SIZE, 1)
    }

    /// The file's bytes.
    #[track_caller]
    pub(crate) fn medium(&self) -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        let file = self.file.as_ref().expect("a bench on a file");
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// Room that the file takes on its filesystem.
    pub(crate) fn room(&self) -> u64 {
        self.file.as_ref().unwrap().metadata().unwrap().blocks() * 512
    }

    /// All blocks, as a read has them.
    pub(crate) fn read_all(&mut self) -> Vec<u8> {
        let mut all = Vec::with_capacity(SIZE);
        for nth in 0..SIZE / PIECE {
            let buffer = self.rig.space.alloc(PIECE, 4096).unwrap();
            let (lba, blocks) = self.piece(nth);
            let read = self.ns.read(lba, blocks).unwrap();
            all.extend(crate::support::bytes(&self.run(read, buffer)));
        }
        all
    }

    #[track_caller]
    pub(crate) fn run(&mut self, io: Io, buffer: DmaBuf) -> DmaBuf {
        let token = self.queue.submit(io, buffer).unwrap();
        let ended = finish(&mut self.queue, token);
        ended.result.unwrap();
        ended.buffer.unwrap()
    }

    /// Runs a request without data.
    pub(crate) fn run_bare(&mut self, io: Io) -> Result<(), CommandError> {
        let token = self.queue.submit_bare(io).unwrap();
        finish(&mut self.queue, token).result
    }

    /// The same, formatted: with another queue, as there may be none meanwhile.
    pub(crate) fn formatted(self, command: &FormatNvm) -> Self {
        let Self {
            queue,
            controller,
            rig,
            file,
            _folder,
            ..
        } = self;
        drop(queue);
        let minute = std::time::Duration::from_secs(60);
        controller.format(command, minute).unwrap();
        Self {
            queue: controller
                .queue_pair(QueueOptions {
                    depth: 32,
                    ..QueueOptions::default()
                })
                .unwrap(),
            ns: controller.namespace(None).unwrap(),
            controller,
            rig,
            file,
            _folder,
        }
    }

    #[track_caller]
    pub(crate) fn end(self) {
        let Self {
            queue,
            ns,
            controller,
            rig,
            ..
        } = self;
        drop((queue, ns, controller));
        assert_eq!(rig.space.stats().heap_used_bytes, 0, "the heap leaks");
        rig.end();
    }
}

/// The status that a command ended with.
#[track_caller]
pub(crate) fn status(result: Result<(), CommandError>) -> Status {
    match result {
        Err(CommandError::Status { status, .. }) => Status(status.code()),
        other => panic!("{other:?}"),
    }
}

/// Counts commands from now on: as a fault does that changes nothing, at once when one is fetched.
/// (An emulator's figures are published a little later.)
pub(crate) struct Counter(usize);

impl Counter {
    pub(crate) fn new(rig: &Rig, condition: &str) -> Self {
        rig.inject(&format!("delay:1us@{condition}+count=all"));
        Self(rig.emulator.faults().len() - 1)
    }

    /// How many there were.
    pub(crate) fn count(&self, rig: &Rig) -> u64 {
        rig.emulator.faults()[self.0].occasions
    }
}
