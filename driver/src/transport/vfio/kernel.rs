//! The kernel's VFIO calls, each with its result as `io::Result`. One of the two modules here with
//! `unsafe`: system calls whose argument is memory.
//!
//! `vfio-ioctls` has wrappers for most of them, inside types that cannot be used here: its
//! `VfioDevice` reads sysfs in `Drop`, after it has let go of the device, and unwraps, at the very
//! moment when the kernel takes a removed device's files away; its `reset`, `region_read` and
//! `region_write` drop their errors, and group errors lose their number. Its `VfioContainer` and
//! `VfioIommufd` have none of that: contexts and mappings are theirs.
#![allow(unsafe_code)]
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};
use std::ffi::{CStr, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};
use underpin_dma::Memory;
use vfio_bindings::bindings::vfio;
use vfio_ioctls::{VfioContainer, VfioError, VfioIommufd, VfioOps};

/// A call whose argument is a structure with nothing but values: its size comes first, and the
/// kernel touches no more than that.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    GroupStatus,
    DeviceInfo,
    RegionInfo,
    IrqInfo,
    SetIrqs,
    IommuInfo,
    BindIommufd,
    Attach,
    Detach,
}

impl Request {
    const fn number(self) -> u8 {
        match self {
            Self::GroupStatus => 3,
            Self::DeviceInfo => 7,
            Self::RegionInfo => 8,
            Self::IrqInfo => 9,
            Self::SetIrqs => 10,
            Self::IommuInfo => 12,
            Self::BindIommufd => 18,
            Self::Attach => 19,
            Self::Detach => 20,
        }
    }
}

const SET_IOMMU: u8 = 2;
const SET_CONTAINER: u8 = 4;
const UNSET_CONTAINER: u8 = 5;
const GET_DEVICE: u8 = 6;
const RESET: u8 = 11;
/// `IOMMUFD_CMD_IOAS_IOVA_RANGES`: iommufd's numbers begin at 0x80, under VFIO's letter.
const IOVA_RANGES: u8 = 0x84;

/// The shortest argument that is sent: more than the fixed part of any of these structures, which
/// the kernel reads whatever size is stated.
const LEAST_BYTES: usize = 64;

struct Call {
    opcode: Opcode,
    argument: *mut c_void,
}

// SAFETY: the opcode and the argument go to the kernel as they are; the answer is the integer that
// it returns.
unsafe impl Ioctl for Call {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// # Safety
/// `argument` is what the call of this number takes.
unsafe fn call(fd: BorrowedFd<'_>, number: u8, argument: *mut c_void) -> io::Result<i32> {
    let call = Call {
        opcode: opcode::none(vfio::VFIO_TYPE, number),
        argument,
    };
    // SAFETY: by the caller's promise.
    Ok(unsafe { rustix::ioctl::ioctl(fd, call) }?)
}

/// VFIO's numbers count from 100.
const fn vfio_number(number: u8) -> u8 {
    vfio::VFIO_BASE as u8 + number
}

/// Makes a call with `words`, which begin behind the size, and gives the words that the kernel left
/// there, the size among them, with its answer.
pub(super) fn ask(
    fd: BorrowedFd<'_>,
    request: Request,
    words: &[u32],
    room_bytes: usize,
) -> io::Result<(i32, Vec<u8>)> {
    let stated = room_bytes.max(4 + words.len() * 4);
    let size = u32::try_from(stated).map_err(io::Error::other)?;
    // Of u64, as the structures' alignment is 8.
    let mut argument = vec![0_u64; stated.max(LEAST_BYTES).div_ceil(8)];
    let values = std::iter::once(&size).chain(words);
    for (at, value) in values.enumerate() {
        if let Some(word) = argument.get_mut(at / 2) {
            // The first of the two in memory.
            let shift = if (at % 2 == 0) == cfg!(target_endian = "little") {
                0
            } else {
                32
            };
            *word |= u64::from(*value) << shift;
        }
    }
    let pointer = argument.as_mut_ptr().cast();
    // SAFETY: the argument is at least as long as the size that it states and as the fixed part of
    // the structure, aligned for it, and holds values only: descriptors and numbers, no addresses.
    let answer = unsafe { call(fd, vfio_number(request.number()), pointer) }?;
    let bytes = argument.into_iter().flat_map(u64::to_ne_bytes);
    Ok((answer, bytes.collect()))
}

/// A container's descriptor, for the calls that `vfio-ioctls` does not make.
pub(super) fn container(container: &VfioContainer) -> BorrowedFd<'_> {
    // SAFETY: it has this descriptor open as long as it lives.
    unsafe { BorrowedFd::borrow_raw(container.as_raw_fd()) }
}

/// An iommufd's descriptor.
pub(super) fn iommufd(iommufd: &VfioIommufd) -> BorrowedFd<'_> {
    // SAFETY: it has this descriptor open as long as it lives.
    unsafe { BorrowedFd::borrow_raw(iommufd.iommufd().as_raw_fd()) }
}

/// Its number, for a structure.
pub(super) fn iommufd_number(iommufd: &VfioIommufd) -> u32 {
    iommufd.iommufd().as_raw_fd().cast_unsigned()
}

/// Puts a group into a container.
pub(super) fn set_container(group: &File, container: BorrowedFd<'_>) -> io::Result<()> {
    let mut container: RawFd = container.as_raw_fd();
    let pointer: *mut RawFd = &mut container;
    // SAFETY: the kernel reads one descriptor's number, which is there.
    unsafe { call(group.as_fd(), vfio_number(SET_CONTAINER), pointer.cast()) }?;
    Ok(())
}

/// Takes a group out of its container. `Ok` is proof that none of its devices is open any more.
pub(super) fn unset_container(group: &File) -> io::Result<()> {
    // SAFETY: the call takes no argument.
    unsafe {
        call(
            group.as_fd(),
            vfio_number(UNSET_CONTAINER),
            std::ptr::null_mut(),
        )
    }?;
    Ok(())
}

/// Gives a container that has a group its IOMMU.
pub(super) fn set_iommu(container: BorrowedFd<'_>, kind: u32) -> io::Result<()> {
    let argument = std::ptr::without_provenance_mut(kind as usize);
    // SAFETY: the argument is a number, which the kernel does not take for an address.
    unsafe { call(container, vfio_number(SET_IOMMU), argument) }?;
    Ok(())
}

/// Opens the device `name` of a group.
pub(super) fn device(group: &File, name: &CStr) -> io::Result<File> {
    let pointer = name.as_ptr().cast_mut().cast();
    // SAFETY: the kernel reads a string that ends with NUL.
    let fd = unsafe { call(group.as_fd(), vfio_number(GET_DEVICE), pointer) }?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Resets a device's function.
pub(super) fn reset(device: &File) -> io::Result<()> {
    // SAFETY: the call takes no argument.
    unsafe { call(device.as_fd(), vfio_number(RESET), std::ptr::null_mut()) }?;
    Ok(())
}

/// One range as iommufd has it: first and last address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct IovaRange {
    first: u64,
    last: u64,
}

/// `struct iommu_ioas_iova_ranges`.
#[repr(C)]
struct IovaRanges {
    size: u32,
    ioas: u32,
    count: u32,
    reserved: u32,
    ranges: u64,
    alignment: u64,
}

/// The ranges that every device attached to an IOAS can use.
pub(super) fn iova_ranges(iommufd: BorrowedFd<'_>, ioas: u32) -> io::Result<Vec<(u64, u64)>> {
    // More than any platform has; said again should it be too few.
    let mut ranges = vec![IovaRange::default(); 64];
    loop {
        let mut argument = IovaRanges {
            size: size_of::<IovaRanges>() as u32,
            ioas,
            count: ranges.len() as u32,
            reserved: 0,
            ranges: ranges.as_mut_ptr() as u64,
            alignment: 0,
        };
        let pointer: *mut IovaRanges = &mut argument;
        // SAFETY: the structure has the size that it states, and `ranges` is an array of as many
        // ranges as it says; both are ours alone until the call returns.
        let answer = unsafe { call(iommufd, IOVA_RANGES, pointer.cast()) };
        let count = argument.count as usize;
        match answer {
            Ok(_) => {
                let ranges = ranges.into_iter().take(count);
                return Ok(ranges.map(|range| (range.first, range.last)).collect());
            }
            Err(error)
                if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error())
                    && count > ranges.len()
                    && count <= 1 << 16 =>
            {
                ranges.resize(count, IovaRange::default());
            }
            Err(error) => return Err(error),
        }
    }
}

/// Makes the whole of `memory` reachable at `iova`.
pub(super) fn map(ops: &dyn VfioOps, iova: u64, memory: &Memory) -> Result<(), VfioError> {
    let address = std::ptr::with_exposed_provenance_mut(memory.host_address() as usize);
    // SAFETY: `Memory` is shared with devices by nature: nobody has a reference into it, its
    // accesses are atomic or volatile copies, and the space keeps it until it is unmapped, or for
    // ever.
    unsafe { ops.vfio_dma_map(iova, memory.len_bytes(), address) }
}
