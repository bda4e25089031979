//! Files whose pages devices read and write, shared by job threads: one cache per distinct
//! `target=`, open until the run is over.

#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use underpin::dma::SpaceId;
use underpin::dma::rt::sync::Mutex;
use underpin::fs::store::{Extent, ExtentQueue, HostFile, HostFileError, HostFileOptions};
use underpin::fs::store::{PAGE_BYTES, Store};
use underpin::fs::{Cache, CacheOptions, File, FileError, Policy};
use underpin::nvme::DeviceAddress;
use underpin::{DeviceUrl, Error, Lba, Namespace, Nsid, QueueOptions};

use super::{Devices, EngineError};
use crate::job::Target;

/// Queue pairs of a device that a file's own commands take: one for the job's thread, one for the
/// flusher.
const LANES: usize = 2;

/// What is asked of the cache of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheWish {
    pub(crate) bytes: u64,
    /// Write back from copies always.
    pub(crate) always_copy: bool,
}

/// An open file with its cache.
#[derive(Debug)]
pub(crate) struct OpenTarget {
    pub(crate) name: String,
    pub(crate) cache: Cache,
    pub(crate) file: File,
    /// Where its pages are memory.
    pub(crate) space: SpaceId,
    /// The longest that it can be.
    pub(crate) max_len_bytes: u64,
    /// The blocks that it is, where it is such.
    place: Option<Place>,
    wish: CacheWish,
}

/// A range of a device's bytes.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    device: DeviceAddress,
    nsid: Nsid,
    bytes: Range<u64>,
}

impl Place {
    fn meets(&self, other: &Place) -> bool {
        self.device == other.device
            && self.nsid == other.nsid
            && self.bytes.start < other.bytes.end
            && other.bytes.start < self.bytes.end
    }
}

/// The process-wide registry.
#[derive(Debug, Default)]
pub(crate) struct Targets(Mutex<Vec<(Target, Arc<OpenTarget>)>>);

impl Targets {
    /// The file that `target` names; opened when it is first asked for.
    pub(crate) fn open(
        &self,
        target: &Target,
        wish: CacheWish,
        devices: &Devices,
    ) -> Result<Arc<OpenTarget>, EngineError> {
        // Those who want the same file wait: bringing a device up has deadlines of its own.
        let mut known = self.0.lock();
        if let Some((_, open)) = known.iter().find(|(of, _)| of == target) {
            if open.wish != wish {
                return Err(EngineError::Device {
                    errno: libc::EINVAL,
                    text: format!(
                        "target={target} is open with cache={} and always_copy={}: jobs that share \
                         a file share its cache, so give both the same",
                        open.wish.bytes,
                        u8::from(open.wish.always_copy)
                    ),
                });
            }
            return Ok(Arc::clone(open));
        }
        let open = Arc::new(open(target, wish, devices)?);
        let met = known.iter().find(|(_, other)| {
            let both = open.place.as_ref().zip(other.place.as_ref());
            both.is_some_and(|(mine, theirs)| mine.meets(theirs))
        });
        if let Some((other, _)) = met {
            return Err(EngineError::Device {
                errno: libc::EINVAL,
                text: format!("target={target} has blocks of target={other}; keep them apart"),
            });
        }
        known.push((target.clone(), Arc::clone(&open)));
        Ok(open)
    }

    /// Closes every file, after all job threads have ended; says which did not close well: what was
    /// written to it may be lost.
    pub(crate) fn close(&self) -> Vec<String> {
        let known = std::mem::take(&mut *self.0.lock());
        known
            .into_iter()
            .filter_map(|(target, open)| {
                let why = close(open).err()?;
                Some(format!("closing target={target} failed: {why}"))
            })
            .collect()
    }
}

/// Makes the file durable and looks whether every page of it was given back.
fn close(open: Arc<OpenTarget>) -> Result<(), String> {
    let Some(OpenTarget { cache, file, .. }) = Arc::into_inner(open) else {
        return Err("a job has it open still".to_owned());
    };
    file.close().map_err(|error| error.to_string())?;
    let stats = cache.stats();
    match stats.frames.saturating_sub(stats.free_frames) {
        0 => Ok(()),
        held => Err(format!(
            "{held} pages are pinned or at work still; this is a bug of underpin-fio or the cache"
        )),
    }
}

impl OpenTarget {
    /// Makes it at least so long.
    pub(crate) fn cover(&self, len_bytes: u64) -> Result<(), EngineError> {
        let extended = self.file.extend(len_bytes);
        extended.map_err(|error| EngineError::Device {
            errno: error.errno(),
            text: format!(
                "target={} cannot be {len_bytes} bytes long: {error}",
                self.name
            ),
        })
    }

    /// How many bytes of a namespace, from its first on, have a byte of the file that is not one
    /// of themselves.
    pub(crate) fn room(&self, device: &DeviceAddress, namespace: &Namespace) -> u64 {
        let whole = Place {
            device: device.clone(),
            nsid: namespace.nsid(),
            bytes: 0..u64::MAX,
        };
        match &self.place {
            Some(place) if place.meets(&whole) => self.max_len_bytes.min(place.bytes.start),
            _ => self.max_len_bytes,
        }
    }
}

fn open(target: &Target, wish: CacheWish, devices: &Devices) -> Result<OpenTarget, EngineError> {
    let (store, place) = match target {
        Target::Host(path) => (host_file(target, path)?, None),
        Target::Extent {
            device,
            lba,
            len_bytes,
        } => {
            let (extent, place) = extent(target, device, *lba, *len_bytes, devices)?;
            (extent, Some(place))
        }
    };
    let max_len_bytes = store.max_len_bytes();
    let policy = match wish.always_copy {
        true => Policy::AlwaysCopy,
        false => Policy::Wait,
    };
    let failed = |error: FileError| refuse(target, error.errno(), &error);
    let cache = cache(wish, devices).map_err(failed)?;
    let file = cache.open_with(store, policy).map_err(failed)?;
    Ok(OpenTarget {
        name: target.to_string(),
        cache,
        file,
        space: devices.space().id(),
        max_len_bytes,
        place,
        wish,
    })
}

fn refuse(target: &Target, errno: i32, why: &dyn std::fmt::Display) -> EngineError {
    EngineError::Device {
        errno,
        text: format!("cannot open target={target}: {why}"),
    }
}

/// A file of the host, made if there is none.
fn host_file(target: &Target, path: &str) -> Result<Arc<dyn Store>, EngineError> {
    let options = HostFileOptions {
        create: true,
        ..HostFileOptions::default()
    };
    let file = HostFile::open(path, &options);
    Ok(Arc::new(file.map_err(|error| {
        refuse(target, errno_of(&error), &error)
    })?))
}

fn errno_of(error: &HostFileError) -> i32 {
    match error {
        HostFileError::Os { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        HostFileError::InUse { .. } => libc::EBUSY,
        _ => libc::EINVAL,
    }
}

/// A range of a device's blocks.
fn extent(
    target: &Target,
    device: &DeviceUrl,
    lba: u64,
    len_bytes: Option<u64>,
    devices: &Devices,
) -> Result<(Arc<dyn Store>, Place), EngineError> {
    let (controller, namespace) = devices.open(&device.to_string())?;
    let start = lba.saturating_mul(u64::from(namespace.lba_bytes()));
    let rest = namespace.len_bytes().saturating_sub(start);
    let len_bytes = len_bytes.unwrap_or(rest / PAGE_BYTES * PAGE_BYTES);
    let queue = ExtentQueue::new(&controller, LANES, QueueOptions::default());
    let queue = Arc::new(queue.map_err(|error: Error| refuse(target, libc::EBUSY, &error))?);
    let extent = Extent::existing(&queue, &namespace, Lba(lba), len_bytes)
        .map_err(|error| refuse(target, libc::EINVAL, &error))?;
    let place = Place {
        device: device.device.clone(),
        nsid: namespace.nsid(),
        bytes: start..start.saturating_add(len_bytes),
    };
    Ok((Arc::new(extent), place))
}

fn cache(wish: CacheWish, devices: &Devices) -> Result<Cache, FileError> {
    let options = CacheOptions {
        frames: u32::try_from(wish.bytes / PAGE_BYTES).unwrap_or(u32::MAX),
        // Pins of a job's own may be in the way, which end only when the job looks after its
        // queue: it is told at once, and comes again.
        pin_wait: Duration::ZERO,
        ..CacheOptions::default()
    };
    Cache::new(devices.space(), options)
}
