//! Pages that the processor writes in place are no slices either.
use underpin::fs::MappedPages;

fn bytes(pages: &MappedPages) -> &mut [u8] {
    pages.view(0).unwrap().into()
}

fn main() {}
