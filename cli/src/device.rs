//! A device by URL, opened in an IOVA space that holds nothing of anybody else's, and closed again.
use crate::failure::{Failure, Problem};
use crate::output::Answer;
use underpin::{Controller, ControllerOptions, DeviceUrl, DmaSpace, Error, Namespace};

/// Brings up the controller that `url` names.
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

/// Opens a device, asks it, prints the answer, and closes it. A device that does not close well
/// fails the command, after the answer.
pub(crate) fn answer(
    url: &DeviceUrl,
    ask: impl FnOnce(&Controller) -> Result<Answer, Error>,
) -> Result<(), Failure> {
    let failed = |error| Failure::device(url, &error);
    let controller = open(url).map_err(failed)?;
    let answer = ask(&controller).map_err(failed)?;
    let closed = controller.close();
    answer.print()?;
    closed.map_err(|error| Failure::AfterAnswer(Problem::device(url, &error)))
}
