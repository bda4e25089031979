//! A pin is a buffer: the queue's slot owns it while the device has the page, and lets go of it
//! with the completion, or with proof that the device has (R31).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::Duration;
use support::{Rig, finish, within_limit};
use underpin::dma::frame::{
    Beginning, Blocked, Decision, Frames, Intent, Owner, PageKey, Pin, ReserveError, State,
};
use underpin::dma::pin::{Cover, Fill, ReadPin, WritePin, WritePins};
use underpin::{
    Controller, ControllerOptions, DmaSpace, Lba, Namespace, Payload, QueueOptions, QueuePair,
};

const PAGES: usize = 16;

/// Every page stays where it is; reservations are counted.
#[derive(Default)]
struct Cache {
    reserved: AtomicI64,
}

impl Owner for Cache {
    fn page(&self, frame: u32) -> PageKey {
        PageKey(u64::from(frame))
    }
    fn still_holds(&self, _frame: u32, _generation: u16) -> bool {
        true
    }
    fn reserve(&self, _page: PageKey) -> Result<(), ReserveError> {
        self.reserved.fetch_add(1, SeqCst);
        Ok(())
    }
    fn give_back(&self, _page: PageKey) {
        self.reserved.fetch_sub(1, SeqCst);
    }
    fn enter_dirty(&self, _frame: u32, _page: PageKey) {}
    fn freed(&self, _frame: u32) {}
}

struct Bench {
    rig: Rig,
    controller: Controller,
    namespace: Namespace,
    frames: Frames,
    cache: Arc<Cache>,
    /// The pages' frames and generations.
    pages: Vec<(u32, u16)>,
}

impl Bench {
    /// A device with `known` bytes in its first blocks, and pages that begin so.
    fn new(config: &str, options: ControllerOptions, beginning: Beginning) -> Self {
        let rig = Rig::new(&format!("size=16m{config}"));
        let controller = rig.open(options).unwrap();
        let namespace = controller.namespace(None).unwrap();
        let cache = Arc::new(Cache::default());
        let frames = frames(&rig.space, &cache);
        let pages = (0..PAGES as u32)
            .map(|frame| (frame, frames.alloc(frame, beginning).unwrap()))
            .collect();
        let bench = Self {
            rig,
            controller,
            namespace,
            frames,
            cache,
            pages,
        };
        let mut queue = bench.queue();
        let mut buffer = bench.rig.space.alloc(PAGES * 4096, 4096).unwrap();
        buffer.copy_from(0, &known(0, PAGES)).unwrap();
        let io = bench.namespace.write(Lba(0), blocks(PAGES)).unwrap();
        let token = queue.submit(io, buffer).unwrap();
        queue.ring();
        finish(&mut queue, token).result.unwrap();
        bench
    }

    fn queue<B: Payload>(&self) -> QueuePair<B> {
        self.controller.queue_pair(QueueOptions::default()).unwrap()
    }

    fn page(&self, at: usize) -> underpin::dma::frame::Frame<'_> {
        let (frame, generation) = self.pages[at];
        self.frames.frame(frame, generation)
    }

    fn bytes(&self, at: usize) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let view = self.frames.view(at as u32).unwrap();
        view.copy_to(0, &mut bytes).unwrap();
        bytes
    }

    fn state(&self, at: usize) -> State {
        self.frames.state(at as u32).unwrap()
    }

    #[track_caller]
    fn end(self) {
        let Self {
            rig,
            controller,
            namespace,
            frames,
            cache,
            ..
        } = self;
        drop((namespace, controller, frames));
        assert_eq!(cache.reserved.load(SeqCst), 0, "a reservation is left over");
        rig.end();
    }
}

fn frames(space: &DmaSpace, cache: &Arc<Cache>) -> Frames {
    let memory = space.alloc(PAGES * 4096, 4096).unwrap();
    let owner: Arc<dyn Owner> = Arc::<Cache>::clone(cache);
    Frames::new(memory, owner).unwrap()
}

fn blocks(pages: usize) -> u64 {
    pages as u64 * 4096 / 512
}

/// What the medium has: another number in every eight bytes.
fn known(page: usize, pages: usize) -> Vec<u8> {
    let words = (page * 512..(page + pages) * 512).map(|at| (at as u64) << 8 | 0x5a);
    words.flat_map(u64::to_le_bytes).collect()
}

/// The second way through the house: pinned, read into, unpinned; dirty all the while, and written
/// back from the page itself only when the device is done with it.
#[test]
fn a_device_reads_into_a_pinned_page() {
    let bench = Bench::new("", ControllerOptions::default(), Beginning::Uptodate);
    let mut queue: QueuePair<WritePin> = bench.queue();
    bench.rig.inject("hold@op=read");
    let pin = bench.page(3).pin_write(Cover::Whole).unwrap();
    let io = bench.namespace.read(Lba(blocks(5)), blocks(1)).unwrap();
    let token = queue.submit(io, pin).unwrap();
    queue.ring();
    bench.rig.until_fired(1);
    // The device has it: background leaves it, fsync copies it and it stays dirty (R16, R19).
    assert!(
        bench
            .page(3)
            .begin_writeback(Intent::Background, false)
            .unwrap()
            .is_none()
    );
    let copy = bench
        .page(3)
        .begin_writeback(Intent::Integrity, false)
        .unwrap()
        .unwrap();
    assert_eq!(copy.decision(), Decision::CopyKeep);
    copy.end(true);
    assert!(bench.state(3).has(State::DIRTY));
    bench.rig.emulator.release_held();
    let completion = finish(&mut queue, token);
    completion.result.unwrap();
    assert_eq!(
        bench.state(3).pins(Pin::Write),
        1,
        "the pin came back with the completion"
    );
    drop(completion.buffer);
    assert_eq!(bench.state(3).pins(Pin::Write), 0);
    assert_eq!(bench.bytes(3), known(5, 1));
    let direct = bench
        .page(3)
        .begin_writeback(Intent::Background, false)
        .unwrap()
        .unwrap();
    assert_eq!(direct.decision(), Decision::Direct);
    drop(direct);
    drop(queue);
    bench.end();
}

/// Pages that do not lie side by side are one command's memory, in order.
#[test]
fn several_pinned_pages_are_one_buffer() {
    let bench = Bench::new("", ControllerOptions::default(), Beginning::Uptodate);
    let mut queue: QueuePair<WritePins> = bench.queue();
    let chosen: Vec<usize> = vec![9, 2, 3, 15];
    let pages: Vec<_> = chosen.iter().map(|&at| bench.pages[at]).collect();
    let mut pins = WritePins::with_capacity(4);
    pins.pin(&bench.frames, &pages, Cover::Whole).unwrap();
    let io = bench.namespace.read(Lba(0), blocks(4)).unwrap();
    let token = queue.submit(io, pins).unwrap();
    queue.ring();
    let completion = finish(&mut queue, token);
    completion.result.unwrap();
    drop(completion.buffer);
    for (nth, at) in chosen.into_iter().enumerate() {
        assert_eq!(bench.bytes(at), known(nth, 1), "page {at}");
        assert_eq!(bench.state(at).pins(Pin::Write), 0);
    }
    drop(queue);
    bench.end();
}

/// A fill reads straight into the frame; nobody pins the page before its end, and all can after it.
#[test]
fn a_fill_is_a_buffer() {
    let bench = Bench::new("", ControllerOptions::default(), Beginning::Unknown);
    let mut queue: QueuePair<Fill> = bench.queue();
    let fill = bench.page(1).begin_fill().unwrap();
    let io = bench.namespace.read(Lba(blocks(7)), blocks(1)).unwrap();
    let token = queue.submit(io, fill).unwrap();
    queue.ring();
    let refused = bench.page(1).pin_write(Cover::Whole).unwrap_err();
    assert_eq!(
        refused,
        underpin::dma::frame::PinError::Blocked(Blocked::Fill)
    );
    let completion = finish(&mut queue, token);
    completion.buffer.unwrap().end(completion.result.is_ok());
    assert_eq!(bench.bytes(1), known(7, 1));
    drop(bench.page(1).pin_read().unwrap());
    drop(queue);
    bench.end();
}

/// A page is written out under a read pin, which keeps nobody from cleaning it (R1).
#[test]
fn a_device_writes_from_a_pinned_page() {
    let bench = Bench::new("", ControllerOptions::default(), Beginning::Uptodate);
    let mut queue: QueuePair<ReadPin> = bench.queue();
    let view = bench.frames.view(4).unwrap();
    view.copy_from(0, &known(100, 1)).unwrap();
    let pin = bench.page(4).pin_read().unwrap();
    let io = bench.namespace.write(Lba(blocks(20)), blocks(1)).unwrap();
    let token = queue.submit(io, pin).unwrap();
    queue.ring();
    finish(&mut queue, token).result.unwrap();
    drop(queue);
    let mut queue = bench.queue();
    let buffer = bench.rig.space.alloc(4096, 4096).unwrap();
    let io = bench.namespace.read(Lba(blocks(20)), blocks(1)).unwrap();
    let token = queue.submit(io, buffer).unwrap();
    queue.ring();
    let read = finish(&mut queue, token).buffer.unwrap();
    let mut bytes = vec![0; 4096];
    read.copy_to(0, &mut bytes).unwrap();
    assert_eq!(bytes, known(100, 1));
    drop((read, queue));
    bench.end();
}

/// R31: a command that is late takes its pin with it into quarantine: the page stays pinned, so it
/// is neither cleaned from itself nor reused, until DMA is proven over, although the cache is gone.
#[test]
fn a_late_command_keeps_its_pin_until_proof() {
    let options = ControllerOptions {
        command_timeout: Duration::from_millis(50),
        ..ControllerOptions::default()
    };
    let bench = Bench::new("", options, Beginning::Uptodate);
    let mut queue: QueuePair<WritePin> = bench.queue();
    bench.rig.inject("drop@op=read");
    let pin = bench.page(6).pin_write(Cover::Whole).unwrap();
    let io = bench.namespace.read(Lba(0), blocks(1)).unwrap();
    queue.submit(io, pin).unwrap();
    queue.ring();
    within_limit("the command to be late", || {
        queue.poll(1, |completion| {
            assert!(completion.buffer.is_none(), "given back")
        });
        bench.controller.failure().map(drop)
    });
    assert_eq!(bench.state(6).pins(Pin::Write), 1, "let go without proof");
    let copy = bench
        .page(6)
        .begin_writeback(Intent::Integrity, false)
        .unwrap()
        .unwrap();
    assert_eq!(copy.decision(), Decision::CopyKeep);
    copy.end(true);
    assert_eq!(
        bench.page(6).evict(|| panic!("evicted")),
        Err(Blocked::Dirty)
    );
    drop(queue);
    let Bench {
        rig,
        controller,
        namespace,
        frames,
        cache,
        ..
    } = bench;
    drop(namespace);
    // The controller's end is the proof.
    drop(controller);
    assert_eq!(frames.state(6).unwrap().pins(Pin::Write), 0);
    drop(frames);
    assert_eq!(cache.reserved.load(SeqCst), 0);
    rig.end();
}
