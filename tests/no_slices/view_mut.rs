//! Nor one that could be written.
use underpin::dma::View;

fn bytes(mut view: View<'_>) -> &mut [u8] {
    view.as_mut()
}

fn main() {}
