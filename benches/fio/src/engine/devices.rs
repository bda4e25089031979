//! Devices that job threads share: one controller per distinct URL, all in one
//! DMA space, open until the run is over.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use underpin::dma::rt::sync::Mutex;
use underpin::nvme::DeviceAddress;
use underpin::{Controller, ControllerOptions, DeviceUrl, DmaSpace, Namespace};

use super::EngineError;

/// The process-wide registry of opened devices.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    space: DmaSpace,
    open: Mutex<HashMap<DeviceAddress, Controller>>,
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
        // Bringing a controller up waits for it, and a lock is not kept across
        // a wait: two first comers may both open it, and one is let go again.
        let known = self.open.lock().get(&parsed.device).cloned();
        let controller = match known {
            Some(controller) => controller,
            None => {
                let opened = Controller::open_device(
                    &parsed.device,
                    &self.space,
                    ControllerOptions::default(),
                )
                .map_err(|error| failed(&error))?;
                let mut open = self.open.lock();
                open.entry(parsed.device).or_insert(opened).clone()
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

    /// Where the I/O buffers come from.
    pub(crate) fn space(&self) -> &DmaSpace {
        &self.space
    }
}
