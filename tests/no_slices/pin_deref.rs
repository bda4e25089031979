//! Nor does it give one.
use underpin::dma::pin::WritePin;

fn bytes(pin: &WritePin) -> &[u8] {
    pin
}

fn main() {}
