//! R23: no safe code has a `&[u8]` or a `&mut [u8]` to a frame. Each program in `tests/no_slices`
//! tries, and must not compile, for the reason that is kept beside it.

#[test]
fn a_frame_is_never_a_slice() {
    trybuild::TestCases::new().compile_fail("tests/no_slices/*.rs");
}
