//! One IOMMU context and the devices behind it: a container of type 1 with its groups, or an
//! iommufd's address space. A [`DmaSpace`](underpin_dma::DmaSpace) has one where it can, whatever
//! number of devices it has.
use super::groups::Groups;
use super::info::{self, IommuInfo};
use super::kernel::{self, Request};
use super::sysfs::{Function, Places, Way, refusal};
use crate::PciAddress;
use iommufd_ioctls::{IommuFd, IommufdError};
use rustix::io::Errno;
use rustix::process::Resource;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use underpin_dma::rt::sync::Mutex;
use underpin_dma::{Access, Iova, MapRequest, Mapper, MapperError, SpaceId};
use vfio_bindings::bindings::vfio;
use vfio_ioctls::{VfioContainer, VfioError, VfioIommufd, VfioOps};

/// What is used of an IOMMU that does not say: below the smallest address width in use, without
/// the window that x86 has for interrupts.
const ASSUMED: [RangeInclusive<u64>; 2] = [0..=0xfedf_ffff, 0xfef0_0000..=(1 << 39) - 1];

/// An IOMMU context.
#[derive(Debug)]
pub(super) struct Context {
    name: String,
    space: SpaceId,
    kind: Kind,
    members: Mutex<Members>,
    /// Its last device has left, and with it went every mapping.
    dissolved: AtomicBool,
    mapped_bytes: AtomicU64,
}

enum Kind {
    Type1(VfioContainer),
    Iommufd(VfioIommufd),
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Type1(_) => "Type1",
            Self::Iommufd(_) => "Iommufd",
        })
    }
}

#[derive(Debug, Default)]
struct Members {
    groups: Groups,
    /// The functions that are open.
    open: Vec<PciAddress>,
    usable: Vec<RangeInclusive<u64>>,
    /// Where the first of its devices is attached that is somewhere.
    numa_node: Option<u32>,
}

/// A device's place in its context; to be given back with [`Context::leave`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    group: u32,
    address: PciAddress,
}

impl From<&Function> for Place {
    fn from(function: &Function) -> Self {
        Self {
            group: function.group,
            address: function.address,
        }
    }
}

/// Every context of this process, so that a space's next device finds its own.
static CONTEXTS: Mutex<Vec<Weak<Context>>> = Mutex::new(Vec::new());

/// Opens `function` in the context of `space`, or in a new one where it has none that can take it.
pub(super) fn enter(
    places: &Places,
    function: &Function,
    way: Way,
    space: SpaceId,
) -> Result<(Arc<Context>, File), String> {
    // Held throughout: two devices opened at once shall find the same one.
    let mut contexts = CONTEXTS.lock();
    contexts.retain(|context| context.strong_count() > 0);
    let known: Vec<_> = contexts.iter().filter_map(Weak::upgrade).collect();
    if let Some(context) = known.iter().find(|context| context.has(function.address)) {
        // A container would give it once more, and opening it disables it.
        return Err(format!(
            "this process has it open already (in {}): share that controller, or close it",
            context.name
        ));
    }
    let mut known = known
        .into_iter()
        .filter(|context| context.space == space && context.takes(&way));
    if let Some(context) = known.next() {
        match context.admit(places, function, &way) {
            Ok(file) => {
                tracing::info!(device = %function.address, context = context.name, "opened by VFIO");
                return Ok((context, file));
            }
            // Behind another IOMMU, perhaps, or with other reserved addresses.
            Err(error) => tracing::info!(
                device = %function.address, context = context.name, error,
                "not in the container of the space's other devices; trying one of its own"
            ),
        }
    }
    let context = Context::new(&way, space)?;
    let file = context.admit(places, function, &way)?;
    tracing::info!(device = %function.address, context = context.name, "opened by VFIO");
    let context = Arc::new(context);
    contexts.push(Arc::downgrade(&context));
    Ok((context, file))
}

impl Context {
    fn new(way: &Way, space: SpaceId) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (name, kind) = match way {
            Way::Group => {
                let container = VfioContainer::new(None).map_err(|error| match error {
                    VfioError::VfioExtension => {
                        "this kernel's VFIO has no IOMMU of type 1; load it with `modprobe \
                         vfio_iommu_type1`"
                            .to_owned()
                    }
                    other => format!("no VFIO container can be had: {other}"),
                })?;
                (format!("vfio container {number}"), Kind::Type1(container))
            }
            Way::Iommufd { iommufd, .. } => {
                let file = iommufd.try_clone().map_err(|error| error.to_string())?;
                let iommufd = Arc::new(IommuFd::new_from_fd(file));
                let iommufd = VfioIommufd::new(iommufd, None, None)
                    .map_err(|error| format!("no iommufd address space can be had: {error}"))?;
                (format!("vfio iommufd {number}"), Kind::Iommufd(iommufd))
            }
        };
        Ok(Self {
            name,
            space,
            kind,
            members: Mutex::new(Members::default()),
            dissolved: AtomicBool::new(false),
            mapped_bytes: AtomicU64::new(0),
        })
    }

    fn takes(&self, way: &Way) -> bool {
        let same = matches!(
            (&self.kind, way),
            (Kind::Type1(_), Way::Group) | (Kind::Iommufd(_), Way::Iommufd { .. })
        );
        same && !self.dissolved.load(Ordering::Acquire)
    }

    fn has(&self, address: PciAddress) -> bool {
        self.members.lock().open.contains(&address)
    }

    fn ops(&self) -> &dyn VfioOps {
        match &self.kind {
            Kind::Type1(container) => container,
            Kind::Iommufd(iommufd) => iommufd,
        }
    }

    /// Opens a function behind this context.
    fn admit(&self, places: &Places, function: &Function, way: &Way) -> Result<File, String> {
        let mut members = self.members.lock();
        if self.dissolved.load(Ordering::Acquire) {
            // While we waited for the lock. What this context maps from now on is nowhere.
            return Err("its last device has just left it".to_owned());
        }
        let file = match (&self.kind, way) {
            (Kind::Type1(container), _) => {
                join_group(&mut members.groups, container, places, function)?
            }
            (Kind::Iommufd(iommufd), Way::Iommufd { node, .. }) => {
                let file = super::sysfs::open(node);
                let file = file.map_err(|error| refusal(node, &error, function.address))?;
                attach(&file, iommufd)?;
                members.groups.enter(function.group, None);
                file
            }
            (Kind::Iommufd(_), Way::Group) => {
                return Err("the space's other devices are behind iommufd".to_owned());
            }
        };
        match self.query_usable() {
            Ok(usable) => {
                members.open.push(function.address);
                members.usable = usable;
                members.numa_node = members.numa_node.or(function.numa_node);
                Ok(file)
            }
            Err(error) => {
                drop(members);
                let _ = self.leave(file, function.into());
                Err(format!("the IOMMU's address ranges cannot be had: {error}"))
            }
        }
    }

    /// Closes a device of a group. `Ok` is proof that it reaches nothing of this context any more:
    /// it was the last one of its group, and the group is out of the container, or detached from
    /// the address space.
    pub(super) fn leave(&self, file: File, place: Place) -> io::Result<()> {
        let Place { group, address } = place;
        let mut members = self.members.lock();
        // The lock is held until it is closed.
        members.open.retain(|open| *open != address);
        match &self.kind {
            // The kernel takes the address space from a group with its last device (iommufd's
            // `iommufd_hw_pagetable_detach`). The space and its mappings stay: the next device may
            // come.
            Kind::Iommufd(_) => members.groups.leave(group, |_group, _is_last| {
                let detached = kernel::ask(file.as_fd(), Request::Detach, &[0], 0);
                drop(file);
                detached.map(|_| ())
            }),
            Kind::Type1(_) => {
                // Before the group: it can leave when none of its devices is open. That this one
                // is closed proves nothing by itself: another process may have it, or a mapping.
                drop(file);
                let mut is_refused = false;
                let left = members.groups.leave(group, |file, is_last| {
                    let left = match (file, is_last) {
                        (Some(file), true) => kernel::unset_container(file),
                        _ => Ok(()),
                    };
                    is_refused = left.is_err();
                    left
                });
                if is_refused {
                    // Somebody else has a device of it; its file would be in their way.
                    members.groups.forget(group);
                }
                if members.groups.is_empty() && left.is_ok() {
                    // The kernel takes the IOMMU from a container whose last group goes.
                    self.dissolved.store(true, Ordering::Release);
                }
                left
            }
        }
    }

    fn type1_info(&self, container: &VfioContainer) -> Result<IommuInfo, String> {
        let fd = kernel::container(container);
        let mut room = 256;
        loop {
            let asked = kernel::ask(fd, Request::IommuInfo, &[0], room);
            let (_, bytes) = asked.map_err(|error| error.to_string())?;
            let found = info::iommu(&bytes).map_err(|error| error.to_string())?;
            if found.needed_bytes <= room || found.needed_bytes > 1 << 20 {
                return Ok(found);
            }
            room = found.needed_bytes;
        }
    }

    fn query_usable(&self) -> Result<Vec<RangeInclusive<u64>>, String> {
        let found = match &self.kind {
            Kind::Type1(container) => self.type1_info(container)?.ranges,
            Kind::Iommufd(iommufd) => {
                let asked = kernel::iova_ranges(kernel::iommufd(iommufd), iommufd.ioas().id());
                let ranges = asked.map_err(|error| error.to_string())?;
                ranges
                    .into_iter()
                    .map(|(first, last)| first..=last)
                    .collect()
            }
        };
        Ok(match found.is_empty() {
            true => ASSUMED.to_vec(),
            false => found,
        })
    }

    fn error(&self, what: String) -> MapperError {
        MapperError {
            context: self.name.clone(),
            what,
        }
    }
}

/// Opens a function of a group, which joins the container if it is not there yet.
fn join_group(
    groups: &mut Groups,
    container: &VfioContainer,
    places: &Places,
    function: &Function,
) -> Result<File, String> {
    let number = function.group;
    let name = CString::new(function.address.to_string()).map_err(|error| error.to_string())?;
    let open = |group: &File| {
        kernel::device(group, &name).map_err(|error| {
            let node = places.group_node(number);
            refusal(&node, &error, function.address)
        })
    };
    if let Some(group) = groups.file(number) {
        let file = open(group)?;
        groups.enter(number, None);
        return Ok(file);
    }
    let node = places.group_node(number);
    let group = super::sysfs::open(&node);
    let group = group.map_err(|error| refusal(&node, &error, function.address))?;
    let status = kernel::ask(group.as_fd(), Request::GroupStatus, &[0], 0);
    let (_, status) = status.map_err(|error| format!("{}: {error}", node.display()))?;
    let flags = info::word(&status, 4).map_err(|error| error.to_string())?;
    if flags & vfio::VFIO_GROUP_FLAGS_VIABLE == 0 {
        return Err(places.not_viable(function));
    }
    let fd = kernel::container(container);
    kernel::set_container(&group, fd)
        .map_err(|error| format!("group {number} cannot join the container: {error}"))?;
    let is_first = groups.is_empty();
    let opened = match is_first {
        true => kernel::set_iommu(fd, vfio::VFIO_TYPE1v2_IOMMU)
            .map_err(|error| no_iommu(number, &error)),
        false => Ok(()),
    };
    match opened.and_then(|()| open(&group)) {
        Ok(file) => {
            groups.enter(number, Some(group));
            Ok(file)
        }
        Err(error) => {
            let _ = kernel::unset_container(&group);
            Err(error)
        }
    }
}

fn no_iommu(group: u32, error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        // vfio_iommu_type1 refuses a platform whose devices could forge interrupts.
        Some(Errno::PERM) => format!(
            "the kernel refuses group {group} (EPERM): interrupts are not remapped here, so a \
             device could forge them; switch interrupt remapping on in the firmware's setup, or \
             accept it: `modprobe vfio_iommu_type1 allow_unsafe_interrupts=1`"
        ),
        _ => format!("the IOMMU refuses group {group}: {error}"),
    }
}

/// Binds a function's node to an iommufd and attaches it to its address space.
fn attach(device: &File, iommufd: &VfioIommufd) -> Result<(), String> {
    let number = kernel::iommufd_number(iommufd);
    // flags, iommufd, out_devid.
    let bind = [0, number, 0];
    kernel::ask(device.as_fd(), Request::BindIommufd, &bind, 0).map_err(|error| unbound(&error))?;
    // flags, page table, pasid; the last is not sent, as older kernels take no more.
    let to = [0, iommufd.ioas().id()];
    let attached = kernel::ask(device.as_fd(), Request::Attach, &to, 0);
    attached
        .map_err(|error| format!("the device cannot be attached to its address space: {error}"))?;
    Ok(())
}

/// Why a device cannot be bound to an iommufd, and what grants it.
fn unbound(error: &io::Error) -> String {
    let whose = "another process has this device, or one of its IOMMU group, or another DmaSpace \
                 of this process has";
    match Errno::from_io_error(error) {
        Some(Errno::BUSY | Errno::INVAL) => format!("{whose} ({error}); end it"),
        // The kernel's answer to both.
        Some(Errno::PERM) => format!(
            "{whose} ({error}): end it; or interrupts are not remapped here, so a device could \
             forge them: switch interrupt remapping on in the firmware's setup, or accept it: \
             `modprobe iommufd allow_unsafe_interrupts=1`"
        ),
        _ => format!("the device cannot be bound to iommufd: {error}"),
    }
}

impl Mapper for Context {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn map(&self, request: &MapRequest) -> Result<(), MapperError> {
        // Nobody is left who could reach it.
        if self.dissolved.load(Ordering::Acquire) {
            return Ok(());
        }
        if request.access == Access::ReadOnly {
            return Err(self.error(format!(
                "{:?}: what is mapped here can be written by devices; read-only is not had",
                request.name
            )));
        }
        let mapped = kernel::map(self.ops(), request.iova.get(), &request.memory);
        let mapped_bytes = self.mapped_bytes.load(Ordering::Relaxed);
        match mapped {
            Ok(()) => {
                self.mapped_bytes
                    .fetch_add(request.len_bytes(), Ordering::Relaxed);
                Ok(())
            }
            Err(_) if self.dissolved.load(Ordering::Acquire) => Ok(()),
            Err(error) => {
                let limit = rustix::process::getrlimit(Resource::Memlock).current;
                let what = explain(errno(&error), &error, request, mapped_bytes, limit);
                Err(self.error(what))
            }
        }
    }

    fn unmap(&self, iova: Iova, len_bytes: u64) -> Result<(), MapperError> {
        let ended = || self.dissolved.load(Ordering::Acquire);
        if ended() {
            return Ok(());
        }
        let bytes = usize::try_from(len_bytes).map_err(|error| self.error(error.to_string()))?;
        match self.ops().vfio_dma_unmap(iova.get(), bytes) {
            Ok(()) => {
                let bytes = &self.mapped_bytes;
                let less = |mapped: u64| Some(mapped.saturating_sub(len_bytes));
                let _ = bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
                Ok(())
            }
            // Its last device left while we asked: the same proof.
            Err(_) if ended() => Ok(()),
            Err(error) => Err(self.error(format!("{len_bytes} bytes at {iova}: {error}"))),
        }
    }

    fn usable(&self) -> Vec<RangeInclusive<u64>> {
        self.members.lock().usable.clone()
    }

    fn numa_node(&self) -> Option<u32> {
        self.members.lock().numa_node
    }

    fn mappings_left(&self) -> Option<usize> {
        match &self.kind {
            Kind::Type1(container) => self.type1_info(container).ok()?.mappings_left,
            Kind::Iommufd(_) => None,
        }
    }
}

fn errno(error: &VfioError) -> Option<Errno> {
    match error {
        VfioError::IommuDmaMap(error)
        | VfioError::IommuDmaUnmap(error)
        | VfioError::IommufdIoctlError(
            IommufdError::IommuIoasMap(error) | IommufdError::IommuIoasUnmap(error),
        ) => Some(Errno::from_raw_os_error(error.errno())),
        _ => None,
    }
}

/// Why a region could not be mapped, and what grants it. `limit_bytes` is RLIMIT_MEMLOCK.
fn explain(
    errno: Option<Errno>,
    error: &dyn std::fmt::Display,
    request: &MapRequest,
    mapped_bytes: u64,
    limit_bytes: Option<u64>,
) -> String {
    let (name, len_bytes) = (&request.name, request.len_bytes());
    let needed_bytes = mapped_bytes.saturating_add(len_bytes);
    match (errno, limit_bytes) {
        (Some(Errno::NOMEM), Some(limit_bytes)) if limit_bytes < needed_bytes => format!(
            "{len_bytes} bytes for {name:?} cannot be pinned: memory for devices is locked, and \
             this process may lock {limit_bytes} bytes (RLIMIT_MEMLOCK) but needs {needed_bytes}; \
             raise it with `ulimit -l {}` or more (as root, or in /etc/security/limits.conf), \
             LimitMEMLOCK= of a service, --ulimit memlock={needed_bytes} of a container",
            needed_bytes.div_ceil(1024)
        ),
        (Some(Errno::NOMEM), _) => format!(
            "{len_bytes} bytes for {name:?} cannot be pinned: {error}; is there enough memory, \
             and does this user lock much elsewhere (ulimit -l)?"
        ),
        (Some(Errno::NOSPC), _) => format!(
            "{name:?}: the container takes no more mappings; use fewer and larger regions, or \
             raise /sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
        ),
        _ => format!("{name:?}, {len_bytes} bytes at {}: {error}", request.iova),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use underpin_dma::{Memory, PageSize};

    fn request() -> MapRequest {
        MapRequest {
            iova: Iova::new(1 << 32),
            memory: Memory::new("heap", 2 << 20, PageSize::Small).unwrap(),
            access: Access::ReadWrite,
            name: "heap".to_owned(),
        }
    }

    /// The one message for a limit that is too low has the bytes and the commands in it; a limit
    /// that is high enough is not blamed.
    #[test]
    fn too_little_locked_memory_is_told_with_numbers() {
        let explain = |errno: Errno, limit| explain(Some(errno), &errno, &request(), 4096, limit);
        let said = explain(Errno::NOMEM, Some(65536));
        for part in [
            "65536 bytes",
            "needs 2101248",
            "`ulimit -l 2052`",
            "memlock=2101248",
        ] {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(said.lines().count(), 1);
        for limit in [None, Some(u64::MAX), Some(4096 + (2 << 20))] {
            let said = explain(Errno::NOMEM, limit);
            assert!(!said.contains("RLIMIT_MEMLOCK"), "{said}");
        }
        let said = explain(Errno::NOSPC, None);
        assert!(said.contains("dma_entry_limit"), "{said}");
        for said in [
            no_iommu(7, &Errno::PERM.into()),
            unbound(&Errno::PERM.into()),
        ] {
            assert!(said.contains("allow_unsafe_interrupts"), "{said}");
            assert_eq!(said.lines().count(), 1);
        }
        for errno in [Errno::BUSY, Errno::INVAL, Errno::PERM] {
            let said = unbound(&errno.into());
            assert!(said.contains("another process has this device"), "{said}");
        }
    }
}
