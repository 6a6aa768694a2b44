//! The offline verbs as people meet them: `tests/cmd` holds commands, what they print and how they
//! end. `TRYCMD=overwrite` accepts what changed.

#[test]
fn offline_verbs() {
    trycmd::TestCases::new().case("tests/cmd/*.trycmd");
}
