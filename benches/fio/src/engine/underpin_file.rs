//! Underpin's driver and cache: the device reads into and writes from pinned pages of a file,
//! while the file is written back and synced.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use underpin::dma::pin::Cover;
use underpin::dma::rt::{self, Instant};
use underpin::fs::FileError;
use underpin::fs::store::PAGE_BYTES;
use underpin::nvme::{CommandError, DeviceAddress, Error};
use underpin::{Completion, DeviceUrl, Io, Lba, Namespace, QueueOptions, QueuePair, Waiting};

use super::targets::OpenTarget;
use super::underpin::{no_queue_left, note_depth};
use super::{Devices, Done, Engine, EngineError, Geometry, IoBuffer, IoFailure, Note, Op};
use super::{OpenRequest, Refused, Request, Unit};
use crate::clock;
use crate::generate::Region;
use crate::pins::PinUse;
use crate::sys::pinned::Pinned;

/// One I/O of so many has its pins timed: four looks at the clock cost more than a pin does.
const TIMED_EVERY: u32 = 16;

/// How long a job waits for a page while nothing of its own is in flight that might free one.
const PAGE_WAIT: Duration = Duration::from_secs(30);

/// What a unit's I/O goes to: pages of the file, named by the request and pinned while the device
/// has them. Their bytes are at hand only where the job checks or writes them (`verify=`).
#[derive(Debug)]
pub(crate) struct FileBuffer {
    pins: Pinned,
    rest: Box<Rest>,
}

/// What is not the device's.
#[derive(Debug)]
struct Rest {
    bytes: Vec<u8>,
    /// `bytes` are to be in the file before the device reads them there.
    stamped: bool,
    /// What the pins cost, if this one is timed.
    pin_ns: Option<u64>,
}

impl IoBuffer for FileBuffer {
    fn copy_from(&mut self, bytes: &[u8]) {
        if let Some(mine) = self.rest.bytes.get_mut(..bytes.len()) {
            mine.copy_from_slice(bytes);
            self.rest.stamped = true;
        }
    }

    fn copy_to(&self, bytes: &mut [u8]) {
        if let Some(mine) = self.rest.bytes.get(..bytes.len()) {
            bytes.copy_from_slice(mine);
        }
    }
}

/// What travels with the pins through the queue.
type Ticket = (u32, Request, Note, Box<Rest>);

/// The engine.
pub(crate) struct UnderpinFile {
    queue: QueuePair<(Pinned, Ticket)>,
    namespace: Namespace,
    device: DeviceAddress,
    lba_shift: u32,
    target: Arc<OpenTarget>,
    /// The job looks at what is read, or says what is written.
    with_bytes: bool,
    /// The job writes the device.
    writes_device: bool,
    syncer: Syncer,
    in_flight: u32,
    /// Units that were never taken by the driver, with the reason.
    rejected: Vec<Done<FileBuffer>>,
    pins: PinUse,
    turn: u32,
    clock_ns: u64,
}

impl From<FileError> for IoFailure {
    fn from(error: FileError) -> Self {
        Self {
            errno: error.errno(),
            text: error.to_string(),
        }
    }
}

/// Whether a page may be had later, when pins have gone.
fn is_for_later(error: &FileError) -> bool {
    matches!(error, FileError::Busy { .. } | FileError::NoFrames { .. })
}

impl UnderpinFile {
    /// The NVMe command for a request, which lies on whole blocks.
    fn command(&self, request: &Request) -> Result<Io, Error> {
        let lba = Lba(request.offset >> self.lba_shift);
        let blocks = u64::from(request.len_bytes) >> self.lba_shift;
        match request.op {
            Op::Read => self.namespace.read(lba, blocks),
            Op::Write => self.namespace.write(lba, blocks),
            Op::Flush | Op::DataFlush => Ok(self.namespace.flush()),
        }
    }

    fn reject(&mut self, mut unit: Unit<FileBuffer>, failure: IoFailure) {
        unit.buffer.pins.clear();
        self.rejected.push(Done {
            unit,
            result: Err(failure),
        });
    }

    /// Pins the pages of a request; all or none.
    #[inline]
    fn pin(&mut self, request: &Request, buffer: &mut FileBuffer) -> Result<(), FileError> {
        let began = self.turn.is_multiple_of(TIMED_EVERY).then(Instant::now);
        let pinned = self.pin_pages(request, &mut buffer.pins);
        if pinned.is_err() {
            buffer.pins.clear();
            return pinned;
        }
        self.turn = self.turn.wrapping_add(1);
        let passed = |began| nanoseconds(began, Instant::now(), self.clock_ns);
        buffer.rest.pin_ns = began.map(passed);
        let count = buffer.pins.len() as u64;
        match request.op {
            Op::Read => self.pins.write_pins += count,
            _ => self.pins.read_pins += count,
        }
        Ok(())
    }

    #[inline]
    fn pin_pages(&self, request: &Request, pins: &mut Pinned) -> Result<(), FileError> {
        let file = &self.target.file;
        let first = request.offset / PAGE_BYTES;
        let pages = first..first + u64::from(request.len_bytes) / PAGE_BYTES;
        // All are of one cache, in the space of every device here.
        let mut fits = true;
        match request.op {
            Op::Read => {
                for page in pages {
                    fits &= pins.push_write(file.pin_write(page, Cover::Whole)?);
                }
            }
            _ => {
                if pages.end > first + 1 {
                    file.read_ahead(pages.clone());
                }
                for page in pages {
                    fits &= pins.push_read(file.pin_read(page)?);
                }
            }
        }
        match fits {
            true => Ok(()),
            false => Err(FileError::OtherSpace),
        }
    }

    /// Puts what the job wants written into the file, then pins.
    fn prepare(&mut self, request: &Request, buffer: &mut FileBuffer) -> Result<(), FileError> {
        if request.op == Op::Write && buffer.rest.stamped {
            let len = request.len_bytes as usize;
            let bytes = buffer.rest.bytes.get(..len).unwrap_or_default();
            self.target.file.write_at(request.offset, bytes)?;
            buffer.rest.stamped = false;
        }
        self.pin(request, buffer)
    }

    /// The same, while nothing of this job's is in flight that could end meanwhile: others' pins
    /// and the writeback of what is dirty are waited for.
    #[cold]
    fn prepare_alone(
        &mut self,
        request: &Request,
        buffer: &mut FileBuffer,
    ) -> Result<(), FileError> {
        let mut last = None;
        let waited = rt::wait(Some(Instant::now() + PAGE_WAIT), |_now| {
            self.target.cache.poll();
            match self.prepare(request, buffer) {
                Err(error) if is_for_later(&error) => {
                    last = Some(error);
                    None
                }
                other => Some(other),
            }
        });
        match (waited, last) {
            (Ok(result), _) => result,
            (Err(_), Some(error)) => Err(error),
            (Err(_), None) => Ok(()),
        }
    }

    /// Sends a unit whose pages are pinned, or a flush.
    #[inline]
    #[allow(clippy::result_large_err, reason = "it gives the unit back")]
    fn send(&mut self, unit: Unit<FileBuffer>) -> Result<(), Refused<FileBuffer>> {
        let io = match self.command(&unit.request) {
            Ok(io) => io,
            Err(error) => {
                self.reject(unit, invalid(&error));
                return Ok(());
            }
        };
        let Unit {
            tag,
            request,
            note,
            buffer: FileBuffer { pins, rest },
        } = unit;
        match self.queue.submit(io, (pins, (tag, request, note, rest))) {
            Ok(_token) => {
                self.in_flight += 1;
                Ok(())
            }
            Err(refused) => {
                let (pins, ticket) = refused.buffer;
                let mut unit = unit_of(pins, ticket);
                if matches!(refused.error, Error::QueueFull { .. }) {
                    unit.buffer.pins.clear();
                    return Err(Refused::Busy(unit));
                }
                self.reject(unit, invalid(&refused.error));
                Ok(())
            }
        }
    }
}

fn invalid(error: &Error) -> IoFailure {
    IoFailure {
        errno: libc::EINVAL,
        text: error.to_string(),
    }
}

fn unit_of(pins: Pinned, (tag, request, note, rest): Ticket) -> Unit<FileBuffer> {
    Unit {
        tag,
        request,
        note,
        buffer: FileBuffer { pins, rest },
    }
}

/// From `began` to `ended`, without what looking at the clock takes.
fn nanoseconds(began: Instant, ended: Instant, clock_ns: u64) -> u64 {
    let passed = u64::try_from(ended.since(began).as_nanos()).unwrap_or(u64::MAX);
    passed.saturating_sub(clock_ns)
}

/// What two looks at the clock, one after the other, are apart at least.
fn clock_cost_ns() -> u64 {
    let apart = |_| {
        let began = Instant::now();
        nanoseconds(began, Instant::now(), 0)
    };
    (0..1000).map(apart).min().unwrap_or(0)
}

impl Engine for UnderpinFile {
    type Buffer = FileBuffer;
    const COMPLETES_IN_QUEUE: bool = false;

    fn open(request: &OpenRequest<'_>, devices: &Devices) -> Result<Self, EngineError> {
        let url = request.targets.first().map_or("", String::as_str);
        let (controller, namespace) = devices.open(url)?;
        let longest = controller.max_transfer_bytes().max(1);
        let places = u64::from(request.buffer_bytes).div_ceil(longest).max(1);
        let wanted = places.saturating_mul(u64::from(request.depth));
        let queue = controller
            .queue_pair(QueueOptions {
                depth: u16::try_from(wanted).unwrap_or(u16::MAX),
                waiting: Waiting::Poll,
            })
            .map_err(no_queue_left)?;
        note_depth(request, url, queue.depth() as u64, places);
        let Some((target, wish)) = request.file_target else {
            return Err(EngineError::Device {
                errno: libc::EINVAL,
                text: "ioengine=underpin-file needs target=".to_owned(),
            });
        };
        let target = devices.target(target, wish)?;
        let device: Result<DeviceUrl, _> = url.parse();
        Ok(Self {
            lba_shift: namespace.lba_bytes().trailing_zeros(),
            queue,
            device: device
                .map_err(|error| EngineError::Device {
                    errno: libc::EINVAL,
                    text: error.to_string(),
                })?
                .device,
            namespace,
            with_bytes: request.with_bytes,
            writes_device: request.write,
            syncer: Syncer::start(&target).map_err(|source| EngineError::System {
                action: "starting a thread for fsync",
                source,
            })?,
            in_flight: 0,
            rejected: Vec::new(),
            pins: PinUse::new(target.name.clone(), target.cache.stats()),
            turn: 0,
            clock_ns: clock_cost_ns(),
            target,
        })
    }

    fn geometry(&self, _file: usize) -> Result<Geometry, EngineError> {
        let room = self.target.room(&self.device, &self.namespace);
        Ok(Geometry {
            len_bytes: self.namespace.len_bytes().min(room),
            block_bytes: self.namespace.lba_bytes().max(PAGE_BYTES as u32),
        })
    }

    fn limited_by(&self) -> Option<String> {
        let room = self.target.room(&self.device, &self.namespace);
        let name = &self.target.name;
        (room < self.namespace.len_bytes()).then(|| match room < self.target.max_len_bytes {
            true => format!("what lies in front of target={name} on the same namespace"),
            false => format!("target={name}"),
        })
    }

    fn cover(&mut self, regions: &[Region]) -> Result<(), EngineError> {
        let end = |region: &Region| region.start + region.len;
        self.target
            .cover(regions.iter().map(end).max().unwrap_or(0))
    }

    fn buffer(&mut self, len_bytes: u32) -> Result<FileBuffer, EngineError> {
        let len = if self.with_bytes { len_bytes } else { 0 };
        let pages = u64::from(len_bytes).div_ceil(PAGE_BYTES) as usize;
        Ok(FileBuffer {
            pins: Pinned::with_capacity(self.target.space, pages),
            rest: Box::new(Rest {
                bytes: vec![0; len as usize],
                stamped: false,
                pin_ns: None,
            }),
        })
    }

    fn ready(&mut self, units: &mut [Unit<FileBuffer>]) -> Result<(), EngineError> {
        // What other engines write when nobody says what: here the file has something.
        for unit in units {
            unit.buffer.rest.stamped = false;
        }
        Ok(())
    }

    #[inline]
    fn queue(&mut self, mut unit: Unit<FileBuffer>) -> Result<(), Refused<FileBuffer>> {
        if matches!(unit.request.op, Op::Flush | Op::DataFlush) {
            return match self.writes_device {
                true => self.send(unit),
                false => {
                    self.syncer.send(unit, &mut self.rejected);
                    Ok(())
                }
            };
        }
        let request = unit.request;
        let mut prepared = self.prepare(&request, &mut unit.buffer);
        if let Err(error) = &prepared
            && is_for_later(error)
        {
            self.pins.put_off += 1;
            if self.in_flight + self.syncer.in_flight > 0 {
                return Err(Refused::Busy(unit));
            }
            prepared = self.prepare_alone(&request, &mut unit.buffer);
        }
        match prepared {
            Ok(()) => self.send(unit),
            Err(error) => {
                self.reject(unit, error.into());
                Ok(())
            }
        }
    }

    #[inline]
    fn commit(&mut self) -> Result<(), EngineError> {
        self.queue.ring();
        Ok(())
    }

    #[inline]
    fn reap(
        &mut self,
        min: u32,
        max: u32,
        done: &mut Vec<Done<FileBuffer>>,
    ) -> Result<(), EngineError> {
        done.append(&mut self.rejected);
        let (min, max) = (min as usize, max as usize);
        let mut lost = None;
        let Self {
            queue,
            syncer,
            target,
            pins,
            in_flight,
            rejected,
            with_bytes,
            clock_ns,
            ..
        } = self;
        let taker = Taker {
            target,
            with_bytes: *with_bytes,
            clock_ns: *clock_ns,
        };
        let mut poll = || {
            let room = max.saturating_sub(done.len());
            queue.poll(room, |completion| {
                *in_flight -= 1;
                match taker.take(completion, pins) {
                    Ok(None) => {}
                    Ok(Some(Taken::Done(ended))) => done.push(ended),
                    // The device has what was written to it; now the file.
                    Ok(Some(Taken::Sync(unit))) => syncer.send(unit, rejected),
                    Err(error) => lost = Some(error),
                }
            });
            done.append(rejected);
            syncer.poll(done);
            // Whoever waits looks after writeback as well, so that its end is not the flusher's
            // alone to see.
            let enough = done.len() >= min || lost.is_some();
            if !enough {
                target.cache.poll();
            }
            enough
        };
        if !poll() {
            // The driver's own deadlines end a wait for a dead device.
            let _ = rt::wait(None, |_now| poll().then_some(()));
        }
        match lost {
            Some(error) => Err(EngineError::Device {
                errno: libc::EIO,
                text: error.to_string(),
            }),
            None => Ok(()),
        }
    }

    fn pins(&mut self) -> Option<PinUse> {
        self.pins.observe(self.target.cache.stats());
        Some(self.pins.clone())
    }

    fn restart(&mut self) {
        self.pins.restart(self.target.cache.stats());
    }
}

/// What a completion has become.
enum Taken {
    Done(Done<FileBuffer>),
    /// A flush of the device has ended well: the file's turn.
    Sync(Unit<FileBuffer>),
}

/// Turns completions back into units.
struct Taker<'a> {
    target: &'a OpenTarget,
    with_bytes: bool,
    clock_ns: u64,
}

impl Taker<'_> {
    /// Without its pins there is no unit: the controller failed, and the job with it.
    #[inline]
    fn take(
        &self,
        completion: Completion<(Pinned, Ticket)>,
        counted: &mut PinUse,
    ) -> Result<Option<Taken>, CommandError> {
        let (mut unit, result) = match (completion.buffer, completion.result) {
            (Some((pins, ticket)), result) => (unit_of(pins, ticket), result),
            (None, Err(error)) => return Err(error),
            (None, Ok(())) => return Ok(None),
        };
        let request = unit.request;
        let result = result.map_err(|error| IoFailure {
            errno: libc::EIO,
            text: error.to_string(),
        });
        if matches!(request.op, Op::Flush | Op::DataFlush) && result.is_ok() {
            return Ok(Some(Taken::Sync(unit)));
        }
        let result = result.and_then(|()| self.read_out(&mut unit));
        let count = unit.buffer.pins.len() as u64;
        match unit.buffer.rest.pin_ns.take() {
            None => unit.buffer.pins.clear(),
            Some(pin_ns) => {
                let began = Instant::now();
                unit.buffer.pins.clear();
                let unpin_ns = nanoseconds(began, Instant::now(), self.clock_ns);
                counted.cost.record((pin_ns + unpin_ns) / count.max(1));
            }
        }
        // NVMe transfers everything or fails.
        Ok(Some(Taken::Done(Done {
            unit,
            result: result.map(|()| request.len_bytes),
        })))
    }

    /// The device has written the pages: they are the file's. Where the job checks them, what is
    /// checked are the file's bytes.
    #[inline]
    fn read_out(&self, unit: &mut Unit<FileBuffer>) -> Result<(), IoFailure> {
        if unit.request.op != Op::Read {
            return Ok(());
        }
        unit.buffer.pins.set_uptodate();
        if !self.with_bytes {
            return Ok(());
        }
        let len = unit.request.len_bytes as usize;
        let bytes = unit.buffer.rest.bytes.get_mut(..len).unwrap_or_default();
        match self.target.file.read_at(unit.request.offset, bytes)? {
            read if read == len => Ok(()),
            read => Err(IoFailure {
                errno: libc::EIO,
                text: format!("the file has {read} of these bytes"),
            }),
        }
    }
}

/// A thread that makes the file durable while the job goes on: `fsync` waits, and the job's I/O is
/// what it is to run beside.
struct Syncer {
    work: Option<Sender<Unit<FileBuffer>>>,
    ended: Receiver<Done<FileBuffer>>,
    in_flight: u32,
    thread: Option<JoinHandle<()>>,
}

impl Syncer {
    fn start(target: &Arc<OpenTarget>) -> std::io::Result<Self> {
        let (work, todo) = channel::<Unit<FileBuffer>>();
        let (tell, ended) = channel();
        let target = Arc::clone(target);
        let thread = clock::spawn("fsync", move || {
            // A handle of its own, so that an error is told to each job once.
            let file = target.file.reopen();
            for unit in todo {
                let result = file.fsync().map(|()| 0).map_err(IoFailure::from);
                if tell.send(Done { unit, result }).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self {
            work: Some(work),
            ended,
            in_flight: 0,
            thread: Some(thread),
        })
    }

    /// Begins an fsync; a thread that has gone is an error of the unit.
    fn send(&mut self, unit: Unit<FileBuffer>, rejected: &mut Vec<Done<FileBuffer>>) {
        let refused = match &self.work {
            Some(work) => work.send(unit).map_err(|refused| refused.0).err(),
            None => Some(unit),
        };
        match refused {
            None => self.in_flight += 1,
            Some(unit) => rejected.push(Done {
                unit,
                result: Err(IoFailure {
                    errno: libc::EIO,
                    text: "the thread that syncs the file has gone".to_owned(),
                }),
            }),
        }
    }

    /// Takes what has ended.
    fn poll(&mut self, done: &mut Vec<Done<FileBuffer>>) {
        while self.in_flight > 0
            && let Ok(ended) = self.ended.try_recv()
        {
            self.in_flight -= 1;
            done.push(ended);
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            // It has told of its errors.
            let _ = thread.join();
        }
    }
}
