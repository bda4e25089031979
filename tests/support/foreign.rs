//! The emulator behind the `vfio_user` crate's server: somebody else's protocol code between it and
//! the driver. One connection, as that server has it.
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use underpin::dma::rt::{self, Event, thread};
use underpin::dma::{Access, Iova, MapRequest, Memory};
use underpin::emulator::Emulator;
use vfio_bindings::bindings::vfio::{
    VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE, vfio_region_info,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion};

/// Their server, with our emulator behind it, in a thread.
pub(crate) struct Foreign {
    pub(crate) emulator: Emulator,
    pub(crate) socket: PathBuf,
    thread: thread::JoinHandle<Result<(), String>>,
}

impl Foreign {
    pub(crate) fn new(folder: &Path, config: &str) -> Self {
        let emulator = Emulator::new(config.parse().unwrap()).unwrap();
        emulator.start_thread().unwrap();
        let socket = folder.join("foreign.sock");
        let region = |index: u32, size: u64| ServerRegion {
            region_info: vfio_region_info {
                argsz: size_of::<vfio_region_info>() as u32,
                flags: VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE,
                index,
                size,
                ..vfio_region_info::default()
            },
            sparse_areas: Vec::new(),
            mmap_fd: None,
        };
        let regions = (0..9).map(|index| region(index, if index == 0 { 0x4000 } else { 0 }));
        let irq = |index| IrqInfo {
            index,
            flags: 1,
            count: if index == 2 {
                u32::from(emulator.vector_count())
            } else {
                0
            },
        };
        let irqs = (0..5).map(irq).collect();
        let server = Server::new(&socket, true, irqs, regions.collect()).unwrap();
        let mut backend = Backend(emulator.clone());
        let thread = thread::spawn("foreign", move || {
            server.run(&mut backend).map_err(|error| error.to_string())
        });
        Self {
            emulator,
            socket,
            thread: thread.unwrap(),
        }
    }

    /// Its only client is gone, and it has ended well.
    pub(crate) fn end(self) {
        self.thread.join().unwrap().unwrap();
        self.emulator.stop().unwrap();
    }
}

/// What their server asks of a device.
struct Backend(Emulator);

impl ServerBackend for Backend {
    fn region_read(&mut self, _region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let at = offset as usize;
        match data.len() {
            4 => data.copy_from_slice(&self.0.read32(at).to_le_bytes()),
            8 => data.copy_from_slice(&self.0.read64(at).to_le_bytes()),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(())
    }

    fn region_write(&mut self, _region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = offset as usize;
        match data.len() {
            4 => self
                .0
                .write32(at, u32::from_le_bytes(data.try_into().unwrap())),
            8 => self
                .0
                .write64(at, u64::from_le_bytes(data.try_into().unwrap())),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        _flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        let file = OwnedFd::from(fd.ok_or(io::ErrorKind::InvalidInput)?);
        let memory: Arc<Memory> =
            Memory::received("given", file, offset, size, false).map_err(io::Error::other)?;
        let request = MapRequest {
            iova: Iova::new(address),
            memory,
            access: Access::ReadWrite,
            name: "given".to_owned(),
        };
        self.0.mapper().map(&request).map_err(io::Error::other)
    }

    fn dma_unmap(&mut self, _flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        let unmapped = self.0.mapper().unmap(Iova::new(address), size);
        unmapped.map_err(io::Error::other)
    }

    fn reset(&mut self) -> io::Result<()> {
        self.0.write32(0x14, 0);
        rt::wait(None, |_now| (self.0.read32(0x1c) & 1 == 0).then_some(()))
            .map_err(io::Error::other)
    }

    fn set_irqs(
        &mut self,
        _index: u32,
        _flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        let mut fds = fds.into_iter();
        for vector in start..start + count {
            let event = fds
                .next()
                .map(|fd| Event::from_eventfd(fd.into()))
                .transpose()?;
            self.0.set_vector(vector as u16, event);
        }
        Ok(())
    }
}
