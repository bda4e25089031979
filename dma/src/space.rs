//! One IOVA address space: its regions, the IOMMU contexts that reach them, and a heap for rings.
//! A region has one IOVA, the same for every device, so nothing is mapped or translated per I/O.
use crate::buffer::{Home, HomeKind};
use crate::heap::{self, Heap, Piece};
use crate::pool::{Pool, PoolOptions};
use crate::ranges::{RangeAllocator, merged};
use crate::region::Share;
use crate::rt::sync::Mutex;
use crate::{
    Access, DmaBuf, Error, Iova, MapRequest, Mapper, MapperError, Memory, MemoryWatch, PageSize,
    Region,
};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// IOVAs are given out from 4 GiB up, above the 32-bit holes of every platform (interrupt
/// windows, reserved ranges) ...
const FIRST_IOVA: u64 = 1 << 32;
/// ... and below 2^39, the smallest address width of IOMMUs in use, so that late joiners fit.
const LAST_IOVA: u64 = (1 << 39) - 1;
/// Regions start on 2 MiB, so that an IOMMU can use large pages for them.
const REGION_ALIGN: u64 = 2 << 20;

/// Tells one space from another: an IOVA means something only in its own.
///
/// ```
/// use underpin_dma::DmaSpace;
///
/// let (space, other) = (DmaSpace::new(), DmaSpace::new());
/// assert_eq!(space.id(), space.clone().id());
/// assert_ne!(space.id(), other.id());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpaceId(u32);

impl SpaceId {
    /// No space's: the first has number 1.
    pub(crate) const NONE: Self = Self(0);

    pub(crate) const fn number(self) -> u32 {
        self.0
    }

    pub(crate) const fn from_number(number: u32) -> Self {
        Self(number)
    }
}

/// What a space is made of.
///
/// ```
/// use underpin_dma::{DmaSpace, Error, SpaceOptions};
///
/// let options = SpaceOptions { limit_bytes: 16 << 20, ..SpaceOptions::default() };
/// let space = DmaSpace::with_options(options);
/// assert!(matches!(space.region("cache", 1 << 30), Err(Error::Limit { .. })));
/// assert!(space.region("cache", 8 << 20).is_ok());
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SpaceOptions {
    /// Which pages back its regions.
    pub pages: PageSize,
    /// How much memory all regions together may take, registered and given up ones included.
    pub limit_bytes: u64,
    /// Refuse the caller's own memory: devices reach rings and pools, nothing else.
    pub isolated: bool,
    /// Who is told of memory lent and returned; for referees in tests.
    pub watch: Option<Arc<dyn MemoryWatch>>,
}

impl Default for SpaceOptions {
    fn default() -> Self {
        Self {
            pages: PageSize::Small,
            limit_bytes: u64::MAX,
            isolated: false,
            watch: None,
        }
    }
}

/// Figures about a space.
///
/// ```
/// let space = underpin_dma::DmaSpace::new();
/// let region = space.region("cache", 4 << 20)?;
/// let stats = space.stats();
/// assert_eq!((stats.regions, stats.region_bytes), (1, 4 << 20));
/// drop(region);
/// assert_eq!((space.stats().region_bytes, space.stats().peak_region_bytes), (0, 4 << 20));
/// assert!(stats.to_json().starts_with("{\"regions\":1,"));
/// # Ok::<(), underpin_dma::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpaceStats {
    /// Regions alive.
    pub regions: usize,
    /// Bytes of all regions alive: what every attached context has mapped.
    pub region_bytes: u64,
    /// The most that [`region_bytes`](Self::region_bytes) has been.
    pub peak_region_bytes: u64,
    /// IOMMU contexts attached.
    pub contexts: usize,
    /// Bytes of the heap that are handed out.
    pub heap_used_bytes: u64,
    /// Bytes of IOVA space, and of memory, given up because a context could not prove an
    /// unmapping.
    pub iova_lost_bytes: u64,
    /// Bytes of IOVA space in use: of regions alive, and those given up.
    pub iova_used_bytes: u64,
}

impl SpaceStats {
    /// As JSON text: one object, numbers by the names of the fields.
    #[must_use]
    pub fn to_json(&self) -> String {
        crate::JsonObject::new()
            .number("regions", self.regions as u64)
            .number("region_bytes", self.region_bytes)
            .number("peak_region_bytes", self.peak_region_bytes)
            .number("contexts", self.contexts as u64)
            .number("heap_used_bytes", self.heap_used_bytes)
            .number("iova_lost_bytes", self.iova_lost_bytes)
            .number("iova_used_bytes", self.iova_used_bytes)
            .finish()
    }
}

/// One IOVA address space, shared by the devices attached to it. Clones are the same space.
///
/// What a device can *touch* is its whole space: give a device that you do not trust a space of
/// its own, made with [`DmaSpace::isolated`].
///
/// ```
/// use underpin_dma::{DmaSpace, PoolOptions};
///
/// let space = DmaSpace::new();
/// // Three ways to memory: a region of one's own, a pool of equal buffers, one buffer.
/// let region = space.region("cache", 4 << 20)?;
/// let pool = space.pool("pages", PoolOptions { buf_bytes: 4096, count: 64 })?;
/// let list = space.alloc(4096, 4096)?;
/// assert_ne!(region.iova(), list.iova());
/// assert_eq!(pool.region().space_id(), space.id());
/// assert_eq!(space.page_bytes(), 4096);
/// assert_eq!(space.stats().heap_used_bytes, 4096);
/// # Ok::<(), underpin_dma::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct DmaSpace(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    id: SpaceId,
    options: SpaceOptions,
    /// Never taken while `heap` is held.
    topology: Mutex<Topology>,
    /// A lock of its own, so that rings come and go while a slow context maps.
    pub(crate) heap: Mutex<Heap>,
}

/// Which regions there are, who can reach them, and which IOVAs are left.
#[derive(Debug, Default)]
struct Topology {
    /// What is free and every context can use.
    iovas: RangeAllocator,
    contexts: Vec<Context>,
    next_context: u64,
    /// By first IOVA.
    mapped: BTreeMap<Iova, Mapped>,
    /// First IOVA and length of regions that a device may reach though they are gone.
    lost: Vec<(u64, u64)>,
    region_bytes: u64,
    peak_region_bytes: u64,
    lost_bytes: u64,
}

#[derive(Debug)]
struct Mapped {
    request: MapRequest,
    /// A context that is attached no more could not prove that it has let go.
    stuck: bool,
}

#[derive(Debug)]
struct Context {
    id: u64,
    mapper: Arc<dyn Mapper>,
    usable: Vec<RangeInclusive<u64>>,
    /// Attachments: one for each device behind it.
    users: usize,
}

/// Keeps a context attached to a space; detaches it on drop.
///
/// How a context is attached and detached is shown at [`Mapper`].
#[derive(Debug)]
#[must_use = "dropping the attachment detaches the context"]
pub struct Attachment {
    space: DmaSpace,
    context: u64,
    /// Counted once, by `detach` or by `drop`.
    ended: AtomicBool,
}

impl Default for DmaSpace {
    fn default() -> Self {
        Self::new()
    }
}

impl DmaSpace {
    /// A space whose devices share all that is put into it.
    pub fn new() -> Self {
        Self::with_options(SpaceOptions::default())
    }

    /// A space for devices that are not trusted with memory of the application: it holds rings
    /// and pools, and refuses the caller's own memory.
    ///
    /// ```
    /// use underpin_dma::{DmaSpace, Error};
    ///
    /// let space = DmaSpace::isolated();
    /// assert!(space.is_isolated());
    /// let file = tempfile::tempfile_in("/dev/shm").unwrap();
    /// file.set_len(4096).unwrap();
    /// let refused = space.register_file("table", file, 0, 4096);
    /// assert!(matches!(refused, Err(Error::Isolated { .. })));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn isolated() -> Self {
        Self::with_options(SpaceOptions {
            isolated: true,
            ..SpaceOptions::default()
        })
    }

    /// A space made to measure.
    pub fn with_options(options: SpaceOptions) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let topology = Topology {
            iovas: RangeAllocator::new(FIRST_IOVA..=LAST_IOVA),
            ..Topology::default()
        };
        Self(Arc::new(Inner {
            id: SpaceId(NEXT.fetch_add(1, Ordering::Relaxed)),
            options,
            topology: Mutex::new(topology),
            heap: Mutex::new(Heap::default()),
        }))
    }

    /// Which space this is.
    pub fn id(&self) -> SpaceId {
        self.0.id
    }

    /// True when the space refuses the caller's own memory.
    pub fn is_isolated(&self) -> bool {
        self.0.options.isolated
    }

    /// The size of the pages behind its regions.
    pub fn page_bytes(&self) -> u64 {
        self.0.options.pages.bytes()
    }

    /// Figures about the space.
    pub fn stats(&self) -> SpaceStats {
        let heap_used_bytes = self.0.heap.lock().used_bytes();
        let topology = self.0.topology.lock();
        SpaceStats {
            regions: topology.mapped.len(),
            region_bytes: topology.region_bytes,
            peak_region_bytes: topology.peak_region_bytes,
            contexts: topology.contexts.len(),
            heap_used_bytes,
            iova_lost_bytes: topology.lost_bytes,
            iova_used_bytes: topology.region_bytes + topology.lost_bytes,
        }
    }

    /// Makes a region of zeroed memory and maps it in every context.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a length that is no multiple of the page size, [`Error::Limit`],
    /// [`Error::IovaExhausted`], [`Error::Memory`] and [`Error::Mapper`].
    pub fn region(&self, name: &str, len_bytes: u64) -> Result<Arc<Region>, Error> {
        self.make(name, len_bytes, self.whole(len_bytes))
    }

    /// A region that a pool or the heap lends in pieces.
    pub(crate) fn pieces(&self, name: &str, len_bytes: u64) -> Result<Arc<Region>, Error> {
        self.make(name, len_bytes, Share::Pieces)
    }

    fn make(&self, name: &str, len_bytes: u64, share: Share) -> Result<Arc<Region>, Error> {
        self.check_limit(name, len_bytes)?;
        let memory = Memory::new(name, len_bytes, self.0.options.pages)?;
        if let Some(node) = self.numa_node()
            && let Err(error) = memory.prefer_node(node)
        {
            // Slower than it could be, and right all the same.
            tracing::debug!(region = name, node, %error, "not placed on the devices' NUMA node");
        }
        self.add(name, memory, share)
    }

    /// All of a region is lent to whoever has it.
    pub(crate) fn whole(&self, len_bytes: u64) -> Share {
        Share::Whole {
            free: Mutex::new(
                len_bytes
                    .checked_sub(1)
                    .map_or_else(RangeAllocator::empty, |last| RangeAllocator::new(0..=last)),
            ),
            watch: self.0.options.watch.clone(),
        }
    }

    /// Makes a pool of equal buffers in a region of its own.
    ///
    /// # Errors
    /// As [`region`](Self::region).
    pub fn pool(&self, name: &str, options: PoolOptions) -> Result<Pool, Error> {
        Pool::new(self, name, options)
    }

    /// Takes `len_bytes` of zeroed memory from the heap, starting at a multiple of `align_bytes`
    /// (a power of two of at most 2 MiB): for rings, lists and identify pages. Control path only.
    ///
    /// # Errors
    /// As [`region`](Self::region); [`Error::BadRequest`] for a length or alignment of none.
    ///
    /// ```
    /// use underpin_dma::DmaSpace;
    ///
    /// let space = DmaSpace::new();
    /// let rings = space.alloc(64 << 10, 4096)?;
    /// assert!(rings.iova().is_aligned(4096));
    /// let mut word = [1; 8];
    /// rings.copy_to(0, &mut word)?;
    /// assert_eq!(word, [0; 8]);
    /// assert!(space.alloc(0, 64).is_err() && space.alloc(64, 3).is_err());
    /// # Ok::<(), underpin_dma::Error>(())
    /// ```
    pub fn alloc(&self, len_bytes: usize, align_bytes: usize) -> Result<DmaBuf, Error> {
        if len_bytes == 0 || !align_bytes.is_power_of_two() || align_bytes as u64 > REGION_ALIGN {
            return Err(Error::BadRequest {
                name: "heap".to_owned(),
                what: format!("{len_bytes} bytes aligned to {align_bytes} cannot be had"),
            });
        }
        let align = (align_bytes as u64).max(heap::GRAIN_BYTES);
        let growth = heap::GROWTH_BYTES.max(self.page_bytes());
        let sizes = (len_bytes as u64)
            .checked_next_multiple_of(heap::GRAIN_BYTES)
            .and_then(|len| Some((len, len.checked_next_multiple_of(growth)?)));
        let exhausted = || Error::IovaExhausted {
            name: "heap".to_owned(),
            len_bytes: len_bytes as u64,
        };
        let (len, growth) = sizes.ok_or_else(exhausted)?;
        let there = self.0.heap.lock().take(len, align);
        let taken = match there {
            Some(taken) => Some(taken),
            None => {
                let region = self.pieces("heap", growth)?;
                let mut heap = self.0.heap.lock();
                // Somebody else may have grown it meanwhile; then this region goes again.
                heap.take(len, align)
                    .or_else(|| heap.grow(Arc::clone(&region), len, align))
            }
        };
        let (region, offset) = taken.ok_or_else(exhausted)?;
        let piece = Piece::new(Arc::clone(&self.0), region, offset, len);
        let iova = piece.iova();
        let home = Home::new(len_bytes, self.id(), HomeKind::Heap(piece));
        let mut buf = DmaBuf::new(iova, Arc::new(home));
        buf.fill(0);
        Ok(buf)
    }

    /// Where the first device that is somewhere is attached.
    fn numa_node(&self) -> Option<u32> {
        let topology = self.0.topology.lock();
        let mut contexts = topology.contexts.iter();
        contexts.find_map(|context| context.mapper.numa_node())
    }

    /// Attaches an IOMMU context: every region there is and every later one is mapped in it. One
    /// that is attached already, for another device behind it, is not mapped again; it may say
    /// anew what it can use, and leaves the space with its last attachment.
    ///
    /// # Errors
    /// [`Error::Unreachable`] naming the region that the context cannot reach; [`Error::Mapper`]
    /// when it refuses one. It is not attached then, and nothing stays mapped in it.
    pub fn attach(&self, mapper: Arc<dyn Mapper>) -> Result<Attachment, Error> {
        let usable = merged(&mapper.usable());
        let mut topology = self.0.topology.lock();
        let unreachable = |request: &MapRequest, why: String| Error::Unreachable {
            context: mapper.name(),
            name: request.name.clone(),
            iova: request.iova,
            len_bytes: request.len_bytes(),
            why,
        };
        let same = |context: &Context| {
            std::ptr::addr_eq(Arc::as_ptr(&context.mapper), Arc::as_ptr(&mapper))
        };
        let known = topology.contexts.iter().position(same);
        let left = match known {
            Some(_) => usize::MAX,
            None => mapper.mappings_left().unwrap_or(usize::MAX),
        };
        for (index, Mapped { request, .. }) in topology.mapped.values().enumerate() {
            let first = request.iova.get();
            let last = first + (request.len_bytes() - 1);
            let fits =
                |range: &RangeInclusive<u64>| range.contains(&first) && range.contains(&last);
            if !usable.iter().any(fits) {
                let why = format!("it can use only {}", show(&usable));
                return Err(unreachable(request, why));
            }
            if index >= left {
                let why = format!("it takes only {left} more mappings");
                return Err(unreachable(request, why));
            }
        }
        if let Some(context) = known.and_then(|at| topology.contexts.get_mut(at)) {
            context.users += 1;
            context.usable.clone_from(&usable);
            let id = context.id;
            topology.iovas.restrict(&usable);
            return Ok(Attachment {
                space: self.clone(),
                context: id,
                ended: AtomicBool::new(false),
            });
        }
        let mut refused = None;
        for (index, Mapped { request, .. }) in topology.mapped.values().enumerate() {
            if let Err(error) = mapper.map(request) {
                refused = Some((index, error));
                break;
            }
        }
        if let Some((mapped, error)) = refused {
            let _ = topology.leave(&*mapper, mapped);
            return Err(error.into());
        }
        let id = topology.next_context;
        topology.next_context += 1;
        let regions = topology.mapped.len();
        tracing::debug!(context = %mapper.name(), regions, "attached to space");
        topology.iovas.restrict(&usable);
        let users = 1;
        topology.contexts.push(Context {
            id,
            mapper,
            usable,
            users,
        });
        Ok(Attachment {
            space: self.clone(),
            context: id,
            ended: AtomicBool::new(false),
        })
    }

    /// Puts memory into the space: gives it an IOVA and maps it in every context.
    pub(crate) fn add(
        &self,
        name: &str,
        memory: Arc<Memory>,
        share: Share,
    ) -> Result<Arc<Region>, Error> {
        let len_bytes = memory.len_bytes() as u64;
        let mut topology = self.0.topology.lock();
        topology.check_limit(name, len_bytes, self.0.options.limit_bytes)?;
        let iova = topology.iovas.alloc(len_bytes, REGION_ALIGN).map(Iova::new);
        let iova = iova.ok_or_else(|| Error::IovaExhausted {
            name: name.to_owned(),
            len_bytes,
        })?;
        let request = MapRequest {
            iova,
            memory: Arc::clone(&memory),
            access: Access::ReadWrite,
            name: name.to_owned(),
        };
        for (index, context) in topology.contexts.iter().enumerate() {
            if let Err(error) = context.mapper.map(&request) {
                let proven = unmapped_by_all(&topology.contexts[..index], &request);
                topology.give_up_or_free(request, proven);
                return Err(error.into());
            }
        }
        topology.region_bytes += len_bytes;
        topology.peak_region_bytes = topology.peak_region_bytes.max(topology.region_bytes);
        let contexts = topology.contexts.len();
        tracing::debug!(region = name, %iova, len_bytes, contexts, "mapped");
        let stuck = false;
        topology.mapped.insert(iova, Mapped { request, stuck });
        drop(topology);
        Ok(Arc::new(Region::new(name, iova, memory, &self.0, share)))
    }

    /// Who is told of memory lent and returned, if anybody is.
    #[inline]
    pub fn watch(&self) -> Option<&Arc<dyn MemoryWatch>> {
        self.0.watch()
    }

    /// Whether a region of `len_bytes` would be within the space's limit now.
    pub(crate) fn check_limit(&self, name: &str, len_bytes: u64) -> Result<(), Error> {
        let limit_bytes = self.0.options.limit_bytes;
        let topology = self.0.topology.lock();
        topology.check_limit(name, len_bytes, limit_bytes)
    }
}

impl Inner {
    pub(crate) const fn id(&self) -> SpaceId {
        self.id
    }

    #[inline]
    pub(crate) fn watch(&self) -> Option<&Arc<dyn MemoryWatch>> {
        self.options.watch.as_ref()
    }

    /// Takes the region at `iova` out of every context. The caller still holds its memory.
    pub(crate) fn remove(&self, iova: Iova) {
        let mut topology = self.topology.lock();
        let Some(Mapped { request, stuck }) = topology.mapped.remove(&iova) else {
            return;
        };
        topology.region_bytes -= request.len_bytes();
        let proven = unmapped_by_all(&topology.contexts, &request);
        tracing::debug!(region = request.name, %iova, len_bytes = request.len_bytes(), proven, "unmapped");
        topology.give_up_or_free(request, proven && !stuck);
    }
}

impl Topology {
    fn check_limit(&self, name: &str, len_bytes: u64, limit_bytes: u64) -> Result<(), Error> {
        let used_bytes = self.region_bytes.saturating_add(self.lost_bytes);
        if used_bytes.saturating_add(len_bytes) > limit_bytes {
            return Err(Error::Limit {
                name: name.to_owned(),
                len_bytes,
                used_bytes,
                limit_bytes,
            });
        }
        Ok(())
    }

    /// R32: an IOVA that a device may still reach is not given out again, and what lies behind
    /// it, which may be the caller's own, is never freed.
    fn give_up_or_free(&mut self, request: MapRequest, proven: bool) {
        let (first, len_bytes) = (request.iova.get(), request.len_bytes());
        if proven {
            self.iovas.free(first, len_bytes);
            return;
        }
        tracing::error!(region = request.name, iova = %request.iova, len_bytes, "given up");
        self.lost.push((first, len_bytes));
        self.lost_bytes += len_bytes;
        Memory::keep_for_ever(request.memory);
    }

    /// Takes the first `count` regions out of a context that is not, or no longer, attached.
    fn leave(&mut self, mapper: &dyn Mapper, count: usize) -> Result<(), MapperError> {
        let mut result = Ok(());
        for Mapped { request, stuck } in self.mapped.values_mut().take(count) {
            if let Err(error) = mapper.unmap(request.iova, request.len_bytes()) {
                tracing::warn!(%error, region = request.name, "a mapping may be left behind");
                // For ever, now: the space itself may end before the region does.
                if !std::mem::replace(stuck, true) {
                    Memory::keep_for_ever(Arc::clone(&request.memory));
                }
                result = result.and(Err(error));
            }
        }
        result
    }

    /// Finds what is free for the contexts that are left.
    fn rebuild_iovas(&mut self) {
        let mut iovas = RangeAllocator::new(FIRST_IOVA..=LAST_IOVA);
        for context in &self.contexts {
            iovas.restrict(&context.usable);
        }
        for Mapped { request, .. } in self.mapped.values() {
            iovas.exclude(request.iova.get(), request.len_bytes());
        }
        for &(first, len_bytes) in &self.lost {
            iovas.exclude(first, len_bytes);
        }
        self.iovas = iovas;
    }
}

/// Takes a region out of all `contexts`; true when each has proven it.
fn unmapped_by_all(contexts: &[Context], request: &MapRequest) -> bool {
    let mut proven = true;
    for context in contexts {
        if let Err(error) = context.mapper.unmap(request.iova, request.len_bytes()) {
            tracing::error!(%error, region = request.name, "a mapping may be left behind");
            proven = false;
        }
    }
    proven
}

fn show(ranges: &[RangeInclusive<u64>]) -> String {
    let show = |range: &RangeInclusive<u64>| format!("{:#x}-{:#x}", range.start(), range.end());
    ranges.iter().map(show).collect::<Vec<_>>().join(", ")
}

impl Attachment {
    /// The space that it attaches to.
    pub const fn space(&self) -> &DmaSpace {
        &self.space
    }

    /// Detaches the context: takes every mapping out of it.
    ///
    /// # Errors
    /// The first mapping that may still be there. The context is detached all the same, but the
    /// regions concerned are given up, not freed, when they end.
    pub fn detach(self) -> Result<(), MapperError> {
        self.end()
    }

    fn end(&self) -> Result<(), MapperError> {
        if self.ended.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let mut topology = self.space.0.topology.lock();
        let this = |context: &Context| context.id == self.context;
        let Some(at) = topology.contexts.iter().position(this) else {
            return Ok(());
        };
        if let Some(context) = topology.contexts.get_mut(at)
            && context.users > 1
        {
            context.users -= 1;
            return Ok(());
        }
        let context = topology.contexts.remove(at);
        tracing::debug!(context = %context.mapper.name(), "detached from space");
        let result = topology.leave(&*context.mapper, usize::MAX);
        topology.rebuild_iovas();
        drop(topology);
        // After the lock: the mapper may own regions of this space itself.
        drop(context);
        result
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
