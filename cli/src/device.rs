//! Opening a device by URL, in an IOVA space that holds nothing of anybody else's.
use underpin::{Controller, ControllerOptions, DeviceUrl, DmaSpace, Error, Namespace};

/// Brings up the controller that `url` names. It shuts down when dropped.
pub(crate) fn open(url: &DeviceUrl) -> Result<Controller, Error> {
    let options = ControllerOptions::default();
    Controller::open_device(&url.device, &DmaSpace::isolated(), options)
}

/// The namespaces that `url` means: the one it names, or all.
pub(crate) fn namespaces(
    url: &DeviceUrl,
    controller: &Controller,
) -> Result<Vec<Namespace>, Error> {
    match url.nsid {
        Some(nsid) => Ok(vec![controller.namespace(Some(nsid))?]),
        None => Ok(controller.namespaces().to_vec()),
    }
}
