//! placeholder
/// x
pub fn embedded() -> Option<&'static [u8]> {
    #[repr(align(32))]
    struct Aligned<T: ?Sized>(T);
    static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../target/bpf/splitter.o"));
    (!OBJECT.0.is_empty()).then_some(&OBJECT.0)
}
