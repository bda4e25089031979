//! Devices and files that job threads share: one controller per distinct URL, all in one
//! DMA space, open until the run is over.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use underpin::dma::rt;
use underpin::dma::rt::sync::Mutex;
use underpin::nvme::DeviceAddress;
use underpin::{Controller, ControllerOptions, DeviceUrl, DmaSpace, Namespace};

use super::EngineError;
use super::targets::{CacheWish, OpenTarget, Targets};
use crate::job::Target;

/// The process-wide registry of opened devices.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    space: DmaSpace,
    known: Mutex<HashMap<DeviceAddress, Known>>,
    targets: Targets,
}

/// How far a device is.
#[derive(Debug, Clone)]
enum Known {
    /// A thread is bringing it up; the others wait.
    Opening,
    Open(Controller),
}

impl Devices {
    /// The controller and namespace that `url` names; the controller is opened
    /// when it is first asked for.
    pub(crate) fn open(&self, url: &str) -> Result<(Controller, Namespace), EngineError> {
        let failed = |error: &dyn std::fmt::Display| EngineError::Device {
            errno: libc::ENODEV,
            text: format!("cannot open '{url}': {error}"),
        };
        let parsed: DeviceUrl = url.parse().map_err(|error| failed(&error))?;
        let controller = match self.find(&parsed.device) {
            Some(controller) => controller,
            None => {
                // Put in order again whatever happens, or the others would wait for ever.
                let mut opening = Opening {
                    devices: self,
                    address: &parsed.device,
                    opened: None,
                };
                let opened = Controller::open_device(
                    &parsed.device,
                    &self.space,
                    ControllerOptions::default(),
                )
                .map_err(|error| failed(&error))?;
                opening.opened = Some(opened.clone());
                opened
            }
        };
        let namespace = controller
            .namespace(parsed.nsid)
            .map_err(|error| failed(&error))?;
        match namespace.unusable() {
            Some(why) => Err(failed(&why)),
            None => Ok((controller, namespace)),
        }
    }

    /// The device if it is open, after waiting for the thread that opens it; nothing if this
    /// thread is to open it. A second controller on the same file would find it locked.
    fn find(&self, address: &DeviceAddress) -> Option<Controller> {
        // Bringing a controller up has deadlines of its own, so this wait needs none.
        let found = rt::wait(None, |_now| {
            let mut known = self.known.lock();
            match known.get(address) {
                Some(Known::Open(controller)) => Some(Some(controller.clone())),
                Some(Known::Opening) => None,
                None => {
                    known.insert(address.clone(), Known::Opening);
                    Some(None)
                }
            }
        });
        found.ok().flatten()
    }

    /// The file that `target` names, with a cache in this space; opened when it is first asked for.
    pub(crate) fn target(
        &self,
        target: &Target,
        wish: CacheWish,
    ) -> Result<Arc<OpenTarget>, EngineError> {
        self.targets.open(target, wish, self)
    }

    /// Where the I/O buffers come from.
    pub(crate) fn space(&self) -> &DmaSpace {
        &self.space
    }

    /// Closes every file and then every device, after all job threads have ended; says which did
    /// not close well: what was written to it may be lost.
    pub(crate) fn close(&self) -> Vec<String> {
        let mut troubles = self.targets.close();
        let known = std::mem::take(&mut *self.known.lock());
        for (address, known) in known {
            if let Known::Open(controller) = known
                && let Err(error) = controller.close()
            {
                troubles.push(format!("closing '{address}' failed: {error}"));
            }
        }
        troubles.sort();
        troubles
    }
}

/// The place of a device that is being opened.
struct Opening<'a> {
    devices: &'a Devices,
    address: &'a DeviceAddress,
    opened: Option<Controller>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut known = self.devices.known.lock();
        match self.opened.take() {
            Some(controller) => known.insert(self.address.clone(), Known::Open(controller)),
            None => known.remove(self.address),
        };
    }
}
