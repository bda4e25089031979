//! Any messages and descriptors of a vfio-user server against our client and the driver behind it.
//!
//! All that `host_device` wants, over a socket; and no descriptor is left open, whatever came.
use crate::Features;
use crate::host_device::{self, Input as HostInput};
use arbitrary::{Arbitrary, Unstructured};

/// One input.
#[derive(Arbitrary, Debug)]
struct Input {
    doorbells: bool,
    unsealed: bool,
    server: Vec<u8>,
    host: HostInput,
}

/// Runs one input.
///
/// # Panics
/// When it finds something.
pub fn run(bytes: &[u8]) -> Features {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(bytes)) else {
        return Features::default();
    };
    host_device::show(&input);
    let served = host_device::Served {
        doorbells: input.doorbells,
        unsealed: input.unsealed,
        script: input.server,
    };
    host_device::run_input(input.host, Some(served))
}
