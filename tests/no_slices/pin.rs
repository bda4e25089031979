//! A pin is no slice.
use underpin::dma::pin::WritePin;

fn bytes(pin: &WritePin) -> &[u8] {
    pin.as_ref()
}

fn main() {}
