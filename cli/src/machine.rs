//! Where the kernel shows itself, and what is done to it: sysfs, proc and dev below one root, so
//! that tests bring trees of their own, and the few acts that change something.
use crate::{sysfs, text};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use underpin::dma::rt;

/// More than any file of proc that is read here has; a limit all the same.
const PROC_BYTES: u64 = 64 << 20;

/// The machine, or a tree that looks like one.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    root: PathBuf,
}

impl Machine {
    pub(crate) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Whether this is the machine itself and no tree that looks like one.
    pub(crate) fn is_real(&self) -> bool {
        self.root == Path::new("/")
    }

    pub(crate) fn sys(&self, path: &str) -> PathBuf {
        self.root.join("sys").join(path)
    }

    pub(crate) fn proc(&self, path: &str) -> PathBuf {
        self.root.join("proc").join(path)
    }

    pub(crate) fn dev(&self, path: &str) -> PathBuf {
        self.root.join("dev").join(path)
    }

    pub(crate) fn run(&self, path: &str) -> PathBuf {
        self.root.join("run").join(path)
    }

    /// A path as a person knows it: without the root of a tree.
    pub(crate) fn shown(&self, path: &Path) -> String {
        let path = path.strip_prefix(&self.root).unwrap_or(path);
        text::escape(&format!("/{}", path.display()))
    }

    /// A PCI function's directory.
    pub(crate) fn function(&self, address: &str) -> PathBuf {
        self.sys("bus/pci/devices").join(address)
    }

    /// The driver that is bound to a PCI function.
    pub(crate) fn driver(&self, address: &str) -> Option<String> {
        sysfs::link(&self.function(address).join("driver"))
    }

    /// A file of proc as text, what is no UTF-8 replaced; `None` if it cannot be read.
    pub(crate) fn proc_text(&self, path: &str) -> Option<String> {
        let path = self.proc(path);
        // Opening anything else than a file could wait for ever.
        if !fs::metadata(&path).ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        let file = File::open(&path).ok()?;
        file.take(PROC_BYTES).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The processes that can be seen, in order.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir(self.proc("")) else {
            return Vec::new();
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        let mut found: Vec<u32> = names
            .filter_map(|name| name.to_str()?.parse().ok())
            .collect();
        found.sort_unstable();
        found
    }

    /// A process as a person knows it: `pid 12 (dd)`.
    pub(crate) fn process(&self, pid: u32) -> String {
        match sysfs::attribute(&self.proc(&format!("{pid}/comm"))) {
            Some(name) => format!("pid {pid} ({})", text::escape(&name)),
            None => format!("pid {pid}"),
        }
    }
}

/// What changes the machine; tests record it, and let it fail.
pub(crate) trait Hands {
    /// Writes to an attribute of sysfs, all at once, as the kernel wants it.
    fn write(&mut self, attribute: &Path, text: &str) -> io::Result<()>;

    /// Opens a block device for this process alone: `EBUSY` if somebody else has it so.
    fn claim(&mut self, node: &Path) -> io::Result<File>;

    /// The major and minor number of a block device's node; `None` if it is the node of something
    /// else, or a file.
    fn number(&mut self, node: &Path) -> io::Result<Option<(u32, u32)>>;

    /// Gives a node to a user, and to a group if one is named.
    fn chown(&mut self, node: &Path, uid: u32, gid: Option<u32>) -> io::Result<()>;

    /// Lets others get on with their work.
    fn pause(&mut self, duration: Duration);
}

/// The hands that do it.
#[derive(Debug)]
pub(crate) struct Doing;

impl Hands for Doing {
    fn write(&mut self, attribute: &Path, text: &str) -> io::Result<()> {
        // Neither made nor cut short: an attribute is there, or it is not.
        if !fs::metadata(attribute)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
        }
        let mut file = OpenOptions::new().write(true).open(attribute)?;
        let written = file.write(text.as_bytes())?;
        if written == text.len() {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::WriteZero))
        }
    }

    fn claim(&mut self, node: &Path) -> io::Result<File> {
        // Without O_CREAT this means, for a block device, that nobody else may claim it.
        let exclusive = rustix::fs::OFlags::EXCL.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(exclusive).open(node)
    }

    fn number(&mut self, node: &Path) -> io::Result<Option<(u32, u32)>> {
        let found = fs::metadata(node)?;
        let is_block = found.file_type().is_block_device();
        Ok(is_block.then(|| device_number(found.rdev())))
    }

    fn chown(&mut self, node: &Path, uid: u32, gid: Option<u32>) -> io::Result<()> {
        std::os::unix::fs::chown(node, Some(uid), gid)
    }

    fn pause(&mut self, duration: Duration) {
        rt::thread::sleep(duration);
    }
}

/// The major and minor number in a `dev_t` as the C library has it.
pub(crate) fn device_number(dev: u64) -> (u32, u32) {
    (rustix::fs::major(dev), rustix::fs::minor(dev))
}
